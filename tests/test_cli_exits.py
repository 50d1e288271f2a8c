"""How a run ends: the exit codes, and Ctrl-C in every verb."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import heads
import pytest
from box_sets import annotation, picture, text
from commands import BRAIN, ENVIRONMENT, MODELS, PLANT, START, answer, diffgraft

from diffgraft.cli.exits import Exit, Stopped, code_of
from toolkit.example import Error


def test_done_refused_and_usage(tmp_path):
    diffgraft("methods", code=0)
    diffgraft("generate", tmp_path / "none", tmp_path / "out", code=1)
    diffgraft("generate", "--count", "many", code=2)
    diffgraft("invent", code=2)
    assert "Usage: diffgraft" in diffgraft(code=2).stdout


def test_quarantined_inputs_are_a_code_of_their_own(tmp_path):
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png")
    text(tmp_path / "in" / "a.xml", annotation(("x", 2, 3, 9, 9), name="a.png"))
    text(tmp_path / "in" / "b.xml", annotation(("x", 4, 4, 8, 9), ("x", 2, 2, 2, 9), name="b.png"))
    found = answer("convert", tmp_path / "in", tmp_path / "out", "--to", "yolo", code=3)
    assert found["status"] == "quarantined" and found["quarantined"] == 1 and found["figures"]["boxes"] == 2
    done = diffgraft("convert", tmp_path / "in", tmp_path / "again", "--to", "yolo", code=3)
    assert "put aside: " in done.stderr and done.stdout.splitlines()[-1].startswith("next: ")
    quiet = diffgraft("convert", tmp_path / "in", tmp_path / "quiet", "--to", "yolo", "-q", code=3)
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_a_full_disk_is_told_from_what_is_refused(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*START, "methods"], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 75
    assert done.stderr == "diffgraft: [Errno 28] No space left on device\n"


def wrapped(problem: Exception) -> Exception:
    """As a module raises it that says what it was doing."""
    try:
        try:
            raise problem
        except Exception as cause:
            raise Error("A report is written whole.") from cause
    except Error as found:
        return found


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Error("No."), Exit.REFUSED),
        (FileNotFoundError(errno.ENOENT, "gone"), Exit.REFUSED),
        (OSError(errno.ENOSPC, "full"), Exit.DISK_FULL),
        (OSError(errno.EDQUOT, "quota"), Exit.DISK_FULL),
        (wrapped(OSError(errno.ENOSPC, "full")), Exit.DISK_FULL),
        (wrapped(ValueError("no")), Exit.REFUSED),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), Exit.DISK_FULL),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (Stopped(signal.SIGTERM), Exit.TERMINATED),
        (Stopped(signal.SIGHUP), Exit.HUNG_UP),
        (ZeroDivisionError(), None),
    ],
)
def test_a_problem_has_its_code(problem, code):
    assert code_of(problem) == code


def test_a_pipe_that_closes_early_is_no_error(tmp_path):
    command = f"{' '.join(START)} methods | head -1"
    done = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


# ------------------------------------------------------------------------------------------------------------- Ctrl-C


def interrupted(*words: object, folder: Path, number: int = signal.SIGINT) -> subprocess.Popen[str]:
    """A verb that gets Ctrl-C, or another signal, as soon as it has begun, which -v says."""
    process = subprocess.Popen(
        [*START, *map(str, words), "-v"],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "INFO diffgraft.cli.command: " in first, first + process.stderr.read()
    for _ in range(3):  # one that falls into a destructor is lost
        process.send_signal(number)
        try:
            process.wait(20)
            break
        except subprocess.TimeoutExpired:
            continue
    return process


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """What the commands below read."""
    root = tmp_path_factory.mktemp("inputs")
    heads.raw_folder(root / "scans")
    for number in range(60):
        picture(root / "pictures" / f"{number}.png")
        text(root / "pictures" / f"{number}.xml", annotation(("x", 2, 3, 9, 9), name=f"{number}.png"))
    diffgraft("generate", PLANT, root / "leaves", "-n", 1, "--steps", 2, "--each", "condition")
    diffgraft("prepare", "brain_mri", root / "scans", root / "mri")
    return root


VERBS = [
    "prepare brain_mri scans OUT",
    "convert pictures OUT --to yolo",
    f"generate {PLANT} OUT -n 64",
    f"edit {PLANT} leaves OUT --set condition=rust",
    f"counterfactual {BRAIN} scans OUT",
    "evaluate anomaly scans leaves --out OUT",
    f"evaluate distribution leaves leaves --model {PLANT} --out OUT",
    f"evaluate steps leaves {PLANT} --out OUT",
    f"audit leaves leaves --model {PLANT} --out OUT",
    "replay leaves OUT",
    f"demo --out OUT --models {MODELS}",
    f"doctor --models {MODELS}",
]
WITH_TORCH = [
    "train brain_mri mri OUT",
    f"distill {PLANT} OUT",
    "evaluate classify leaves leaves --out OUT",
    "evaluate detect leaves leaves --out OUT",
    "evaluate alignment leaves leaves --out OUT",
    f"export {PLANT} OUT",
]


def stops(command: str, inputs: Path, out: Path, number: int = signal.SIGINT) -> None:
    process = interrupted(*command.replace("OUT", str(out)).split(), folder=inputs, number=number)
    shown, errors = process.communicate()
    assert process.returncode == 128 + number, (process.returncode, shown, errors)
    assert errors.endswith("diffgraft: stopped\n") and "Traceback" not in errors
    assert [path for path in out.parent.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("command", VERBS)
def test_ctrl_c_is_130_and_leaves_nothing(command, inputs, tmp_path):
    stops(command, inputs, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("command", WITH_TORCH)
def test_ctrl_c_is_130_in_what_trains_too(command, inputs, tmp_path):
    stops(command, inputs, tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", VERBS[:6])
def test_other_signals_end_a_verb_as_ctrl_c_does(command, number, inputs, tmp_path):
    stops(command, inputs, tmp_path / "out", number)


@pytest.mark.slow
@pytest.mark.parametrize("command", WITH_TORCH)
def test_sigterm_ends_what_trains_too(command, inputs, tmp_path):
    stops(command, inputs, tmp_path / "out", signal.SIGTERM)


def test_a_run_under_nohup_outlives_its_terminal(inputs, tmp_path):
    process = subprocess.Popen(
        ["nohup", *START, "prepare", "brain_mri", "scans", str(tmp_path / "out"), "-v"],
        cwd=inputs, env=ENVIRONMENT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    while "INFO diffgraft.cli.command: " not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "out" / "manifest.jsonl").is_file()


def test_ctrl_c_while_images_are_drawn_leaves_no_part_of_them(tmp_path):
    process = subprocess.Popen(
        [*START, "generate", str(PLANT), str(tmp_path / "out"), "-n", "500", "--json", "-vv"],
        env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    while "DEBUG" not in (line := process.stderr.readline()) or "sampling" not in line:
        assert line
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.endswith("diffgraft: stopped\n")
    assert json.loads(shown)["status"] == "interrupted"
    assert list(tmp_path.iterdir()) == []
