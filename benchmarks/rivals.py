"""Who takes part in speed.py, in which environment, and the processes they run in."""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TASKS", "Contender", "Process", "Rival", "Task", "Unavailable"]

PEERS = Path(__file__).resolve().parent / "peers"
PATIENCE = 600.0
"""Seconds in which a contender has to answer."""


STUDENT = ("onnx", "openvino:bf16")
"""What a few-step student is run with."""


class Unavailable(Exception):
    """Why a contender cannot take part, in one line."""


@dataclass(frozen=True)
class Contender:
    """function: module:function[=option] in peers/. peer: its requirements, where it needs an environment of its own.

    other_work: it takes other steps or has other weights, so that its images are not compared.
    """

    label: str
    function: str
    peer: str = ""
    precision: str = "fp32"
    other_work: bool = False


@dataclass(frozen=True)
class Task:
    model: str
    title: str
    contenders: tuple[Contender, ...]


def _ours(task: str) -> tuple[Contender, ...]:
    backends = ("torch", "onnx", "openvino:fp32", "openvino:bf16", "openvino:int8")
    return (
        *(Contender(f"ours, {b}", f"{task}:ours={b}", precision=b.partition(":")[2] or "fp32") for b in backends),
        Contender("ours, auto", f"{task}:ours=auto"),
        Contender("ours, one graph, onnx", f"{task}:fused=onnx"),
        Contender("ours, one graph, openvino:fp32", f"{task}:fused=openvino:fp32"),
        *(Contender(f"ours, few-step student, {b}", f"{task}:fast={b}", other_work=True) for b in STUDENT),
    )


TASKS = {
    "generate": Task(
        "chest_xray",
        "Films from prompts: DDIM, {steps} steps, guided, 128 x 128, text encoder and decoder included",
        (
            Contender("diffusers, eager", "generate:eager"),
            Contender("diffusers, torch.compile", "generate:compiled"),
            Contender("optimum-onnx", "generate:optimum_onnx", "optimum-onnx"),
            Contender("optimum-intel, fp32", "generate:optimum_intel=f32", "optimum-intel"),
            Contender("optimum-intel, bf16", "generate:optimum_intel=bf16", "optimum-intel", "bf16"),
            Contender("numpy loop around ONNX Runtime", "generate:numpy_loop"),
            *_ours("generate"),
        ),
    ),
    "counterfactual": Task(
        "brain_mri",
        "Counterfactual of MR slices: DDIM up and down, {steps} steps each, gradient of a classifier, 64 x 64",
        (
            Contender("torch and diffusers' schedulers, eager", "counterfactual:eager"),
            Contender("the same, torch.compile", "counterfactual:eager=compile"),
            Contender("torch and MONAI's scheduler", "counterfactual:monai"),
            Contender("numpy loop around ONNX Runtime", "counterfactual:numpy_loop"),
            *_ours("counterfactual"),
        ),
    ),
}


class Process:
    """A contender that is open. cold: seconds from the start of the process to its first image."""

    def __init__(self, command: list[str], environment: Mapping[str, str], cores: int) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        begun = time.perf_counter()
        self.body = subprocess.Popen(
            command, cwd=PEERS, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )  # fmt: skip
        self._answer()
        self.cold = time.perf_counter() - begun

    def run(self, batch: int, keep: Path | None) -> float:
        """Seconds of one run; keep: where its images are saved."""
        return self._ask(f"{batch} {keep or '-'}")["seconds"]

    def end(self) -> float:
        """Ask for the peak memory in MiB, and end."""
        memory = self._ask("end")["memory"]
        self.body.wait()
        return memory

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.body.stdin is not None
        try:
            self.body.stdin.write(line + "\n")
            self.body.stdin.flush()
        except BrokenPipeError:
            raise Unavailable(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.body.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.body.stdout, selectors.EVENT_READ)
            if not waiting.select(PATIENCE):
                self.body.kill()
                raise Unavailable(f"no answer in {PATIENCE:g} s")
        line = self.body.stdout.readline()
        if not line:
            self.body.wait()
            raise Unavailable(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return (lines[-1].removeprefix("toolkit.example.Error: ") if lines else "it ended without a word")[:240]


@dataclass(frozen=True)
class Rival:
    """How contenders are started. job: what they are asked. made: folder of what is exported for them."""

    job: Path
    made: Path
    cache: Path
    torch_index: str
    cores: int
    environment: Mapping[str, str]

    def start(self, contender: Contender) -> Process:
        """Errors: Unavailable, with the last line that the contender wrote."""
        python = self._environment(contender.peer) if contender.peer else Path(sys.executable)
        if contender.peer:
            self._exported(contender, python)
        return Process(
            [str(python), "worker.py", contender.function, str(self.job)], self._variables(contender), self.cores
        )

    def machine(self, task: str) -> dict[str, Any]:
        """What the matrix products of this machine reach, and what a run of the task takes."""
        command = [sys.executable, "machine.py", task, str(self.job)]
        told = subprocess.run(command, cwd=PEERS, env=self._variables(None), capture_output=True, text=True, check=True)
        return json.loads(told.stdout.splitlines()[-1])

    def _variables(self, contender: Contender | None) -> dict[str, str]:
        own = {} if contender and contender.peer else {"PYTHONPATH": str(PEERS.parent.parent)}
        return {**self.environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **own}

    def _environment(self, peer: str) -> Path:
        """The python of a peer's own environment, which is made if it is not there."""
        wanted = PEERS / f"{peer}.txt"
        digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:12]
        place = self.cache / f"{peer}-{digest}"
        python, ready = place / "bin" / "python", place / "ready"
        if ready.is_file():
            return python
        print(f"{peer}: making its environment in {place} ...", file=sys.stderr)
        index = ["--extra-index-url", self.torch_index] if self.torch_index else []
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(place)],
            [*pip, *index, "torch"],
            [*pip, "-r", str(wanted)],
        ):
            self._done(command, peer)
        ready.touch()
        return python

    def _exported(self, contender: Contender, python: Path) -> None:
        """The pipeline in the peer's own form, exported by its own means."""
        out = self.made / contender.peer
        if out.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=self.made) as fresh:
            place, function = Path(fresh) / "pipeline", f"{contender.peer.replace('-', '_')}_export"
            code = f"import generate, json; generate.{function}(json.load(open({str(self.job)!r})), {str(place)!r})"
            self._done([str(python), "-c", code], contender.peer)
            place.rename(out)

    def _done(self, command: list[str], peer: str) -> None:
        ended = subprocess.run(command, cwd=PEERS, env=dict(self.environment), capture_output=True, text=True)
        if ended.returncode:
            lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
            raise Unavailable(f"{peer}: {(lines[-1] if lines else 'failed')[:240]}")
