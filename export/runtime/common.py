"""What the runtimes share: which files the graphs of a model folder are, and how they become a Model over numpy arrays.

A runtime opens one graph as a function of named arrays (`Run`) and knows nothing of codecs, texts or guidance. Every
graph of a folder is looked at when the folder is opened, so that a missing or damaged one is named then, and is opened
at its first call: much of what a folder holds is not needed by most runs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.diffusion.finite import check_inputs
from toolkit.diffusion.model import Cond, Identity, Model, Spec
from toolkit.example import Error
from toolkit.language import tokenizer
from toolkit.models.folder import fingerprint, spec_of
from toolkit.models.weights import header

__all__ = [
    "INTEGER",
    "ONNX_INTEGER",
    "PRECISIONS",
    "Run",
    "assemble",
    "check_graph_file",
    "checked",
    "onnx_file",
    "onnx_name",
    "open_lazily",
]

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""One opened graph: arrays by input name -> arrays of their own by output name, in the graph's order."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8")

INTEGER = ("denoiser", "student")
"""Graphs that there are in int8: a model in int8 has the others in fp32."""

ONNX_INTEGER = ("denoiser",)
"""Those that there are as ONNX: of a student's weights, sums that are in no file, a graph in int8 would hold a copy."""

JUDGES = ("classifier", "features", "detector", "text", "look")
"""Graphs that are fp32 in every precision: what tells, measures or is compared with a threshold of the folder."""

WHOLE = {"fp16": JUDGES, "bf16": (*JUDGES, "gradient")}
"""Precision -> ONNX graphs that stay in fp32; eight bits are too few for a derivative too."""

GRAPH_FIELD = 7
"""Of the graph in an ONNX ModelProto (onnx.proto3)."""


def onnx_file(root: Path, name: str, backend: str, precision: str = "fp32") -> Path:
    """The ONNX file of a graph, looked at: <graph>.<precision>.onnx of one that there is in it, else <graph>.onnx."""
    return check_graph_file(root / onnx_name(name, precision), backend, precision)


def onnx_name(name: str, precision: str = "fp32") -> str:
    """What the ONNX file of a graph is called in a precision."""
    own = name in ONNX_INTEGER if precision == "int8" else precision != "fp32" and name not in WHOLE[precision]
    return f"{name}.{precision}.onnx" if own else f"{name}.onnx"


def check_graph_file(path: Path, backend: str, precision: str = "fp32") -> Path:
    """That path, if a whole graph lies there; else an Error that names it and says how it is written."""
    remedy = f"diffgraft export {path.parent} --to {backend}" + f" --precision {precision}" * (precision != "fp32")
    if not path.is_file():
        raise Error(f"The {backend} backend needs {path.name}, which {path.parent} lacks. Write it: {remedy}")
    if path.suffix == ".onnx" and (fault := _fault(path.read_bytes())):
        raise Error(f"A graph must be one that diffgraft wrote; {path} {fault}. Write it: {remedy}")
    return path


def open_lazily(path: Path, backend: str, open_: Callable[[Path], Run]) -> Run:
    """A graph that is opened at its first call; what a runtime then refuses is an Error that names the file."""

    @functools.cache
    def opened() -> Run:
        try:
            return open_(path)
        except Error:
            raise
        except Exception as problem:  # the errors of the runtimes share no class
            words = " ".join(str(problem).split())[:200]
            raise Error(
                f"A graph must fit the weights beside it; {path} does not: {words}. "
                f"Write it: diffgraft export {path.parent} --to {backend}"
            ) from problem

    return lambda feed: opened()(feed)


def assemble(root: str | os.PathLike[str], meta: Mapping[str, Any], run: Callable[[str], Run], backend: str) -> Model:
    """The Model of a folder from its graphs. meta: its model.json; run: opens one graph by name.

    backend: what the Model calls itself, "onnx:cpu". Errors: a folder without a denoiser, or whose weights are not whole.
    """
    root, parts = Path(root), meta["parts"]
    weights, run = fingerprint(root), checked(run)
    if "denoiser" not in parts:
        train = f"diffgraft train {meta['domain']} DATA {root} --part denoiser"
        raise Error(f"A model has a denoiser, which {root} lacks. Train one: {train}")
    for part in parts:
        _whole(root / f"{part}.safetensors")
    text = likeness = None
    if "text" in parts:
        plan = parts["text"]
        look = run("look") if plan["features"] else None
        text, likeness = _text(run("text"), look, tokenizer.open(root, plan["tokens"]))
    return Model(
        denoiser=_Denoiser(run("denoiser"), spec_of(meta)),
        codec=_Codec(run("encoder"), run("decoder")) if "codec" in parts else Identity(),
        asarray=np.asarray,
        asnumpy=np.asarray,
        backend=backend,
        fingerprint=weights,
        student=_Denoiser(run("student"), spec_of(meta)) if "student" in parts else None,
        classifier=_call(run("classifier")) if "classifier" in parts else None,
        gradient=_call(run("gradient")) if "classifier" in parts else None,
        features=_features(run("features")) if "features" in parts else None,
        detector=_features(run("detector")) if "detector" in parts else None,
        text=text,
        likeness=likeness,
        meta=meta,
    )


def checked(open_: Callable[[Any], Run]) -> Callable[[Any], Run]:
    """What opens a graph, of which the graph refuses numbers that are not finite."""

    def opened(place: Any) -> Run:
        run = open_(place)

        def call(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            check_inputs(feed)
            return run(feed)

        return call

    return opened


class _Denoiser:
    def __init__(self, run: Run, spec: Spec) -> None:
        self.run, self.spec = run, spec

    def __call__(self, x: np.ndarray, sigma: float | np.ndarray, *conds: Cond) -> Any:
        level = _levels(sigma, x)
        if len(conds) < 2:
            return _only(self.run({"x": x, "sigma": level, **(conds[0] if conds else {})}))
        joined = {name: np.concatenate([cond[name] for cond in conds]) for name in conds[0]}
        feed = {"x": np.concatenate([x] * len(conds)), "sigma": np.concatenate([level] * len(conds)), **joined}
        return tuple(np.split(_only(self.run(feed)), len(conds)))


class _Codec:
    def __init__(self, encoder: Run, decoder: Run) -> None:
        self.encoder, self.decoder = encoder, decoder

    def encode(self, image: np.ndarray, /) -> np.ndarray:
        return _only(self.encoder({"image": image}))

    def decode(self, latent: np.ndarray, /) -> np.ndarray:
        return _only(self.decoder({"latent": latent}))


def _features(run: Run) -> Any:
    def describe(image: np.ndarray, /) -> dict[str, np.ndarray]:
        return run({"image": image})

    return describe


def _text(run: Run, look: Run | None, tokens: tokenizer.Tokenizer) -> tuple[Any, Any]:
    def read(texts: Sequence[str], /) -> np.ndarray:
        return run({"ids": tokens(texts)})["hidden"]

    def likeness(features: np.ndarray, texts: Sequence[str], /) -> np.ndarray:
        assert look is not None
        words = run({"ids": tokens(texts)})["embedding"]
        return (_only(look({"features": features})) * words).sum(1)

    return read, likeness if look is not None else None


def _call(run: Run) -> Any:
    def call(x: np.ndarray, sigma: float | np.ndarray, target: np.ndarray | None = None, /) -> np.ndarray:
        return _only(run({"x": x, "sigma": _levels(sigma, x)} | ({} if target is None else {"target": target})))

    return call


def _only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    (array,) = outputs.values()
    return array


def _levels(sigma: float | np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(sigma, np.float32), (len(x),)))


def _whole(path: Path) -> None:
    """Refuse a safetensors file that is not there or is shorter than its header says."""
    if not path.is_file():
        raise Error(f"A model folder has {path.name}, which {path.parent} lacks. Copy the whole folder.")
    if not header(path)[0]:
        raise Error(f"Weights are a safetensors file with tensors; {path} has none. Copy the whole folder.")


def _fault(content: bytes) -> str | None:
    """What is wrong with an ONNX file at first sight, or None: it is walked by its outermost fields alone."""
    place, fields = 0, set()
    try:
        while place < len(content):
            key, place = _varint(content, place)
            fields.add(key >> 3)
            if key & 7 == 0:
                _, place = _varint(content, place)
            elif key & 7 == 2:
                length, place = _varint(content, place)
                place += length
            else:
                return "is no ONNX file"
    except IndexError:
        return "is cut off"
    if place > len(content):
        return "is cut off"
    return None if GRAPH_FIELD in fields else "holds no graph"


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A base-128 number of protobuf at that place, and the place after it."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
