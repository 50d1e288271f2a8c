"""TensorRT: a model folder as a Model over numpy arrays, its engines built on the device and kept in the user's cache.

Engines are accepted only after they agreed with ONNX Runtime in fp32, run once directly and once as a CUDA graph. Where
TensorRT cannot be used, ONNX Runtime on CUDA is, else ONNX Runtime on the CPU, and a Note says why in one line. The
calls that need a GPU stand in nvidia.py and are not yet run on hardware; what stands here is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.engines import signing
from export.engines.engine import Batch, digest, engine, fingerprint, gpu, library
from export.engines.progress import Watch
from export.runtime import common, nvidia, ort
from export.verify import LIMITS, compare, require, verify
from toolkit.diffusion.finite import check_inputs
from toolkit.diffusion.model import Model
from toolkit.example import Error, Note
from toolkit.models.folder import fingerprint as weights_of
from toolkit.models.folder import read_meta

__all__ = ["CARRY", "LABELS", "Stepper", "host_loop", "open", "split_batches", "stepper"]

LABELS = {
    "engines": "TensorRT and TensorRT-RTX engines are run",
    "replay": "the calls of an engine are captured as a CUDA graph and replayed",
    "onnx-cuda": "ONNX Runtime on CUDA, bound to buffers on the GPU",
    "jetson": "Jetson: JetPack 6 has Python 3.10, so there trtexec builds and runs the ONNX graphs",
}
"""What has not yet been run on hardware; whoever ran benchmarks/gpu.sh removes the lines that it cleared."""

CARRY = {"x": "next", "previous": "denoised"}
"""Input of a step graph -> the output that it is given in the next step."""

Stepper = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""(what stays, {name: one value a step}) -> the outputs of the last step. See `stepper`."""


def open(
    root: str | os.PathLike[str], precision: str = "fp16", batch: Batch | None = None, watch: Watch | None = None
) -> Model:
    """Open a model folder with TensorRT, or with the next best that is there.

    batch: sizes that engines are built for; a larger batch is run in pieces. watch: told how far a build is. Engines
    that are not in the cache are built now, each in seconds to minutes. Errors: a folder that no backend can open.
    """
    root, batch = Path(root), batch or Batch()
    meta = read_meta(root)
    ladder: dict[str, Callable[[], Model]] = {
        "TensorRT": lambda: _tensorrt(root, meta, precision, batch, watch),
        "ONNX Runtime on CUDA": lambda: _cuda(root, meta, precision),
        "ONNX Runtime on the CPU": lambda: ort.open(root),
    }
    return _first(root, ladder)


def stepper(
    root: str | os.PathLike[str], precision: str = "fp16", batch: Batch | None = None, watch: Watch | None = None
) -> Stepper:
    """The step graph of a folder, called once a step with nothing between: (fixed, each) -> outputs of the last step.

    fixed: x, previous, the condition fields and guidance; each: sigma (K, B), coefficients (K, 4), noise (K, B, ...), as
    the plan beside the graph has them. In TensorRT all K calls are one CUDA graph. The ladder is that of `open`.
    """
    root, batch = Path(root), batch or Batch()

    def on_tensorrt() -> Stepper:
        lib, target = library(), gpu()
        path = common.onnx_file(root, "step", "tensorrt", precision)
        own = nvidia.Engine(lib.module, engine(path, weights_of(root), lib, target, batch, precision, watch))

        def run(fixed: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
            carry = {state: output for state, output in CARRY.items() if state in own.inputs}
            return own.loop(fixed, len(next(iter(each.values()))), carry, each)

        return _agreed(run, host_loop(_on_cpu(common.onnx_file(root, "step", "onnx")), CARRY), precision)

    def on_cuda() -> Stepper:
        _has_cuda()
        return host_loop(nvidia.cuda_run(common.onnx_file(root, "step", "onnx", precision)), CARRY)

    def on_cpu() -> Stepper:
        return host_loop(_on_cpu(common.onnx_file(root, "step", "onnx")), CARRY)

    ladder = {"TensorRT": on_tensorrt, "ONNX Runtime on CUDA": on_cuda, "ONNX Runtime on the CPU": on_cpu}
    steps: Stepper = _first(root, ladder)

    def checked(fixed: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        check_inputs({**fixed, **each})
        return steps(fixed, each)

    return checked


def host_loop(run: common.Run, carry: Mapping[str, str]) -> Stepper:
    """A step graph in a loop on the host: what the CUDA graph of all steps has to agree with."""

    def steps(fixed: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        feed, outputs = dict(fixed), {}
        for number in range(len(next(iter(each.values())))):
            outputs = run(feed | {name: np.ascontiguousarray(values[number]) for name, values in each.items()})
            feed |= {state: outputs[output] for state, output in carry.items() if state in fixed}
        return outputs

    return steps


def split_batches(run: common.Run, dynamic: frozenset[str], most: int) -> common.Run:
    """A graph that takes any batch, of a graph that takes at most that many rows. dynamic: its inputs with a batch axis."""

    def pieces(feed: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        rows = next(len(feed[name]) for name in feed if name in dynamic)
        if rows <= most:
            return run(feed)
        found = [
            run({name: value[low : low + most] if name in dynamic else value for name, value in feed.items()})
            for low in range(0, rows, most)
        ]
        return {name: np.concatenate([piece[name] for piece in found]) for name in found[0]}

    return pieces


def _first(root: Path, ladder: Mapping[str, Callable[[], Any]]) -> Any:
    """What the first rung that holds gives; a Note says why those above it did not."""
    reasons = []
    for name, rung in ladder.items():
        try:
            found = rung()
        except Error as problem:
            reasons.append(f"{name}: {problem}")
            continue
        if reasons:
            warnings.warn(f"{root} runs with {name}. {' '.join(reasons)}", Note, stacklevel=3)
        return found
    raise Error(f"A model runs with one of {', '.join(ladder)}; {root} with none. {' '.join(reasons)}")


def _tensorrt(root: Path, meta: Mapping[str, Any], precision: str, batch: Batch, watch: Watch | None) -> Model:
    lib, target, weights = library(), gpu(), weights_of(root)
    made_for: list[Mapping[str, Any]] = []

    def run(name: str) -> common.Run:
        path = common.onnx_file(root, name, "tensorrt", precision)
        made_for.append(fingerprint(path, weights, lib, target, batch, precision))
        opened = nvidia.Engine(lib.module, engine(path, weights, lib, target, batch, precision, watch))
        return split_batches(opened, opened.dynamic, batch.most)

    model = common.assemble(root, meta, run, f"tensorrt:{precision}")
    _accept(ort.open(root), model, precision, {"engines": made_for})
    return model


def _cuda(root: Path, meta: Mapping[str, Any], precision: str) -> Model:
    _has_cuda()

    def run(name: str) -> common.Run:
        return nvidia.cuda_run(common.onnx_file(root, name, "onnx", precision))

    model = common.assemble(root, meta, run, f"onnx-cuda:{precision}")
    verify(ort.open(root), model, precision)
    return model


def _has_cuda() -> None:
    """Refuse an ONNX Runtime without CUDA, or with it and no GPU: it lists CUDA whether there is a GPU or not."""
    try:
        import onnxruntime
    except ImportError as problem:
        raise Error("It is not installed: pip install 'diffgraft[gpu]'") from problem
    known = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in known:
        raise Error(
            "The onnxruntime that is installed is the one for CPUs. Replace it: pip uninstall onnxruntime; pip install 'diffgraft[gpu]'"
        )
    gpu()


def _accept(reference: Model, candidate: Model, precision: str, made_for: Mapping[str, Any]) -> None:
    """Keep engines that agree with the reference, and remember that they did.

    Errors: they differ or are not finite, at the first run or at the second, which is the replay of a CUDA graph.
    """
    folder = signing.cache_folder()
    place = folder / f"accepted-{digest(made_for)[:32]}"
    if place.is_file():
        try:
            signing.unseal(place, made_for)
            return
        except Error as problem:
            warnings.warn(f"{problem} The engines are checked anew.", Note, stacklevel=2)
    for _ in range(2):
        verify(reference, candidate, precision)
    signing.seal(place, made_for, b"")


def _agreed(candidate: Stepper, reference: Stepper, precision: str) -> Stepper:
    """A stepper whose first run of each kind is compared with the reference, direct and replayed, before it counts.

    A step graph is checked by what it is asked, since its guidance and coefficients decide what it computes. One that
    differs gives way to the reference, and a Note says so.
    """
    checked: set[Any] = set()
    refused: list[Error] = []

    def run(fixed: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        kind = tuple(sorted((name, value.shape) for name, value in (*fixed.items(), *each.items())))
        if kind not in checked and not refused:
            wanted = reference(fixed, each)
            try:
                for _ in range(2):
                    for name, found in candidate(fixed, each).items():
                        require(compare(name, wanted[name], found, LIMITS[precision]))
                checked.add(kind)
            except Error as problem:
                refused.append(problem)
                warnings.warn(f"Steps run with ONNX Runtime on the CPU. TensorRT: {problem}", Note, stacklevel=2)
                return wanted
        return (reference if refused else candidate)(fixed, each)

    return run


def _on_cpu(path: Path) -> common.Run:
    try:
        import onnxruntime
    except ImportError as problem:
        raise Error("It is not installed: pip install 'diffgraft[edge]'") from problem
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))
