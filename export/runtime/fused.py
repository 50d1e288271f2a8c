"""Run the fused graphs of a model folder: a whole sampler run in one call, or a loop of the step graph.

`open` answers what the graph was made for: `Images`, (seed, samples, cond) -> images, the very images that a loop over
the denoiser gives for those seeds; or `Changes`, (images, cond) -> counterfactuals and anomaly maps. numpy in and out.
The loop hands its arrays to and fro between two sets of buffers that are bound once for a batch size, and copies none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime import common, engines
from export.runtime.engines import Engine
from export.sampling import plan as plans
from export.sampling.plan import Plan
from toolkit.diffusion.finite import check_inputs
from toolkit.diffusion.model import TEXT, Cond, Spec
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.language import tokenizer
from toolkit.models.folder import read_meta, spec_of

__all__ = ["Changes", "Images", "open"]

Run = common.Run


def open(
    root: str | os.PathLike[str],
    name: str = "sampler",
    precision: str = "fp32",
    backend: str = "onnx",
    threads: int = 0,
) -> Any:
    """Open <name>.onnx of a model folder, "sampler" or "step": an `Images` or a `Changes`, as it was made.

    Errors: a graph, its plan or a runtime that is missing.
    """
    connect = engines.connect(backend, threads, precision)
    root = Path(root)
    path = common.onnx_file(root, name, backend, precision)
    plan, beside = plans.read(path)
    meta = read_meta(root)

    def side(graph: str) -> Run:
        own = graph if (root / f"{graph}.{precision}.onnx").is_file() else ""
        return common.open_lazily(
            common.onnx_file(root, graph, backend, precision if own else "fp32"), backend, common.checked(connect)
        )

    whole = beside["form"] != "step"
    engine = connect(path)
    spec = spec_of(meta)
    loop = None if whole else _Loop(engine, plan, beside["table"], spec)
    codec = (side("encoder"), side("decoder")) if "codec" in meta["parts"] and not whole else None
    if plan.healing is not None:
        up = loop
        if loop is not None and plan.encoding is not None:
            above = common.onnx_file(root, f"{name}_encode", backend, precision)
            up = _Loop(connect(above), plan.encoding, beside["table"], spec)
        return Changes(engine, plan, spec, loop, up, codec, meta)
    empty = _empty(root, meta, side("text")) if TEXT in spec.fields else None
    return Images(engine, plan, spec, loop, codec, tuple(beside["draws"]), empty)


@dataclass(frozen=True)
class Images:
    """New images from noise: (seed, samples, cond) -> (len(samples), C, H, W) in [-1, 1].

    samples: index of each in the whole run, of which its noise is a function (toolkit.diffusion.noise). cond: the
    fields, a row a sample. null: what is driven away from, in place of the unstated; of a text alone in a whole graph.
    """

    engine: Engine
    plan: Plan
    spec: Spec
    loop: _Loop | None
    codec: tuple[Run, Run] | None
    draws: tuple[int, ...]
    empty: Callable[[], np.ndarray] | None

    def __call__(self, seed: int, samples: Sequence[int], cond: Cond, null: Cond | None = None) -> np.ndarray:
        def noise(step: int, purpose: int = Purpose.SAMPLER) -> np.ndarray:
            return gaussian(self.spec.shape, seed, samples, purpose, step)

        feed = _typed(self.spec, cond)
        guided = self.plan.guidance != 1 if self.loop is None else self.plan.guidance not in (0, 1)
        if self.empty is not None and guided:
            told = None if null is None else null.get(TEXT)
            feed[f"null_{TEXT}"] = np.repeat(self.empty(), len(samples), 0) if told is None else told
        check_inputs(feed)
        start = noise(0, Purpose.START)
        if self.loop is None:
            drawn = {"draws": np.stack([noise(step) for step in self.draws])} if self.draws else {}
            return self.engine({"noise": start, **drawn, **feed})["image"]
        if self.plan.guidance == 0:
            feed = _unstated(self.spec, feed, list(self.spec.fields), self.empty)
        x = self.loop(
            np.float32(self.plan.initial_scale) * start, self.loop.table["down"][0], feed, self.plan.guidance, noise
        )
        x = x / np.float32(self.plan.final_scale)
        return np.clip(x if self.codec is None else self.codec[1]({"latent": x})["image"], -1, 1)


@dataclass(frozen=True)
class Changes:
    """Images as they would be with another label: (images, cond) -> counterfactuals (B, C, H, W), anomaly maps (B, 1, H, W).

    cond: the fields with the label as wanted. The map is that of one slice; a loop of steps gives None in its place.
    """

    engine: Engine
    plan: Plan
    spec: Spec
    loop: _Loop | None
    up: _Loop | None
    codec: tuple[Run, Run] | None
    meta: Mapping[str, Any]

    def __call__(self, images: np.ndarray, cond: Cond) -> tuple[np.ndarray, np.ndarray | None]:
        feed = _typed(self.spec, cond)
        check_inputs({"image": images, **feed})
        if self.loop is None or self.up is None:
            found = self.engine({"image": np.ascontiguousarray(images, np.float32), **feed})
            return found["counterfactual"], found["anomaly"]
        healing = self.plan.healing
        assert healing is not None
        null = _unstated(self.spec, feed, [healing.label], None)
        wanted = null if self.plan.guidance == 0 else feed
        if self.plan.classifier_guidance:
            classes = self.meta["parts"]["classifier"]["classes"]
            wanted = {**wanted, "target": np.eye(classes, dtype=np.float32)[feed[healing.label]]}
        turns = (1, -1) if healing.mirror else (1,)
        total = np.zeros(images.shape, np.float32)
        for up, down in zip(self.loop.table["up"], self.loop.table["down"], strict=True):
            for turn in turns:
                x = np.ascontiguousarray(images[..., ::turn], np.float32)
                x = x if self.codec is None else self.codec[0]({"image": x})["latent"]
                x = self.up(x, up, null, 1.0)
                x = self.loop(x, down, wanted, self.plan.guidance)
                x = x if self.codec is None else self.codec[1]({"latent": x})["image"]
                total += x[..., ::turn]
        return total / np.float32(len(turns) * len(self.loop.table["up"])), None


class _Loop:
    """The step graph, once an evaluation: next and denoised of one call are x and previous of the following."""

    def __init__(self, engine: Engine, plan: Plan, table: Mapping[str, Any], spec: Spec) -> None:
        self.engine, self.plan, self.table, self.spec = engine, plan, table, spec
        self.bound: dict[int, tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], list[Any]]] = {}

    def __call__(
        self, x: np.ndarray, walk: Mapping[str, Any], fields: Mapping[str, np.ndarray], guidance: float,
        noise: Callable[[int], np.ndarray] | None = None,
    ) -> np.ndarray:  # fmt: skip
        if len(x) not in self.bound:
            self.bound = {len(x): self._buffers(len(x), fields)}
        common_, sets, calls = self.bound[len(x)]
        for name, values in fields.items():
            common_[name][...] = values
        if "guidance" in common_:
            common_["guidance"][...] = guidance
        sets[0]["x"][...], sets[0]["previous"][...] = x, 0
        rows = zip(walk["sigma"], walk["coefficients"], walk["draw"], walk["classifier_guidance"], strict=True)
        turn = 0
        for sigma, coefficients, draw, scale in rows:
            common_["sigma"][...], common_["coefficients"][...] = sigma, coefficients
            common_["noise"][...] = 0 if draw is None or noise is None else noise(draw)
            if "classifier_guidance" in common_:
                common_["classifier_guidance"][...] = scale
            calls[turn]()
            turn = 1 - turn
        return sets[turn]["x"].copy()

    def _buffers(self, rows: int, fields: Mapping[str, np.ndarray]) -> Any:
        """Inputs that stay in place, two pairs of states, and the calls from the one to the other and back."""
        state = (rows, *self.spec.shape)
        shapes = {"sigma": (rows,), "coefficients": (4,), "noise": state}
        shapes |= {"guidance": (1,)} if self.plan.guidance not in (0, 1) else {}
        shapes |= {"classifier_guidance": (1,)} if self.plan.classifier_guidance else {}
        fixed = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        fixed |= {name: np.array(values) for name, values in fields.items()}
        sets = [{name: np.zeros(state, np.float32) for name in ("x", "previous")} for _ in range(2)]
        calls = [
            self.engine.bind({**fixed, **here}, {"next": there["x"], "denoised": there["previous"]})
            for here, there in (sets, sets[::-1])
        ]
        return fixed, sets, calls


def _typed(spec: Spec, cond: Cond) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(cond[name], field.dtype) for name, field in spec.fields.items()}


def _unstated(
    spec: Spec, feed: Mapping[str, np.ndarray], names: Sequence[str], empty: Callable[[], np.ndarray] | None
) -> dict[str, np.ndarray]:
    null = {name: np.full_like(feed[name], spec.fields[name].null) for name in names}
    if TEXT in null and empty is not None:
        null[TEXT] = np.repeat(empty(), len(feed[TEXT]), 0)
    return {**feed, **null}


def _empty(root: Path, meta: Mapping[str, Any], text: Run) -> Callable[[], np.ndarray]:
    """What the text encoder answers for the empty prompt, (1, tokens, width), asked for once."""
    tokens = tokenizer.open(root, meta["parts"]["text"]["tokens"])
    found: list[np.ndarray] = []

    def empty() -> np.ndarray:
        if not found:
            found.append(text({"ids": tokens([""])})["hidden"])
        return found[0]

    return empty
