"""Int8 for OpenVINO: the convolutions of a denoiser, calibrated on what it meets while it samples.

Post-training quantisation by NNCF (openvino). No data set is needed: the model is sampled from seeded noise along its own
levels, and what its network is given on the way is what the ranges of its activations are taken from.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from export.verify import PROMPTS, sample_conditions
from toolkit.diffusion.model import TEXT, Model, Spec
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.diffusion.schedule import karras
from toolkit.example import Error
from toolkit.models.folder import read_meta

__all__ = ["quantize", "trajectories"]

QUANTISED = ("Convolution",)
"""What is computed in int8; products of matrices gain nothing by it, and the preconditioning must not be touched."""

ROWS, STEPS = 6, 16


def quantize(
    root: str | os.PathLike[str], conditions: Mapping[str, np.ndarray] | None = None, into: Path | None = None,
    seed: int = 0,
) -> list[Path]:  # fmt: skip
    """Write <graph>.int8.xml and .bin of the denoiser, and of the student if there is one; returns them.

    conditions: fields that are asked for while it samples, ROWS rows or more; made up by their kinds unless given. into:
    another folder than the model's own. The files name the weights they are of and nothing of this machine.
    Errors: without openvino and nncf, or without denoiser.onnx.
    """
    nncf, openvino = _libraries()
    from export.runtime import openvino as runtime

    root = Path(root)
    model = runtime.open(root)
    graphs = [("denoiser", model.denoiser)] + ([("student", model.student)] if model.student else [])
    written = []
    for name, denoiser in graphs:
        levels = read_meta(root)["parts"][name].get("levels") if name == "student" else None
        feeds = trajectories(model, denoiser, conditions, levels, seed)
        graph = openvino.Core().read_model(root / f"{name}.onnx")
        path = (into or root) / f"{name}.int8.xml"
        _save(openvino, _quantized(nncf, graph, feeds), path, model.fingerprint)
        written += [path, path.with_suffix(".bin")]
    return written


def trajectories(
    model: Model, denoiser: Any, conditions: Mapping[str, np.ndarray] | None = None,
    levels: Sequence[float] | None = None, seed: int = 0, steps: int = STEPS,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """What a denoiser is given at each step of sampling from noise: x, sigma and its fields, ROWS rows.

    Every second step it is asked with nothing stated, as classifier-free guidance does. levels: decreasing; those of
    Karras et al. 2022 unless given.
    """
    spec = denoiser.spec
    cond = _conditions(model, spec) if conditions is None else {k: v[:ROWS] for k, v in conditions.items()}
    nothing = {k: np.full_like(cond[k], f.null) for k, f in spec.fields.items() if k != TEXT}
    if TEXT in spec.fields and model.text is not None:
        nothing[TEXT] = model.text([""] * ROWS)
    sigmas = list(levels or karras(steps, spec.sigma_max, max(spec.sigma_min, 0.01)))
    x = np.float32(spec.initial_scale(sigmas[0])) * gaussian(spec.shape, seed, range(ROWS), Purpose.START, 0)
    feeds = []
    for number, (sigma, lower) in enumerate(pairwise(sigmas)):
        asked = nothing if number % 2 and levels is None else cond
        feeds.append({"x": x, "sigma": np.full(ROWS, sigma, np.float32), **asked})
        denoised = denoiser(x, sigma, asked)
        x = (denoised + np.float32(lower / sigma) * (x - denoised)).astype(np.float32)
    return feeds


def _conditions(model: Model, spec: Spec) -> dict[str, np.ndarray]:
    """Values of every field by its kind; a text is what the model's own encoder says of some prompts."""
    cond = sample_conditions(spec, ROWS)
    if TEXT in cond and model.text is not None:
        cond[TEXT] = model.text([PROMPTS[n % len(PROMPTS)] for n in range(ROWS)])
    return cond


def _quantized(nncf: Any, graph: Any, feeds: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """The graph in int8, but for its first and last convolution and all that is none."""
    convolutions = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution"]
    ends = [convolutions[0].get_friendly_name(), convolutions[-1].get_friendly_name()]
    others = {node.get_type_name() for node in graph.get_ordered_ops()} - {
        *QUANTISED,
        "Constant",
        "Parameter",
        "Result",
    }
    scope = nncf.IgnoredScope(names=ends, types=sorted(others), validate=False)
    # The whole range at every noise level: the mean of the levels' ranges cuts off what only one level has.
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        return nncf.quantize(
            graph, nncf.Dataset(list(feeds)), subset_size=len(feeds), ignored_scope=scope,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges),
        )  # fmt: skip


def _save(openvino: Any, graph: Any, path: Path, weights: str) -> None:
    for key in list(graph.get_rt_info()):
        del graph.rt_info[key]
    # Names hold counters of the process.
    for number, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    graph.set_rt_info(weights, ["diffgraft", "weights"])
    partial = path.with_name(f".{path.name}")
    openvino.save_model(graph, partial, compress_to_fp16=True)
    os.replace(partial.with_suffix(".bin"), path.with_suffix(".bin"))
    os.replace(partial, path)


def _libraries() -> tuple[Any, Any]:
    # NNCF reports its use to its makers unless it believes to be tested.
    os.environ.setdefault("NNCF_CI", "1")
    try:
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    except ImportError as problem:
        raise Error(
            f"Quantising needs openvino and nncf; {problem.name} is not installed: pip install 'diffgraft[int8]'"
        ) from problem
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf, openvino
