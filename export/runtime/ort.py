"""ONNX Runtime on the CPU: a model folder as a Model over numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import tokenizer
from toolkit.diffusion.model import Cond, Identity, Model, Spec
from toolkit.example import Error
from toolkit.folder import fingerprint, read_meta, spec_of

__all__ = ["open"]


def open(root: str | os.PathLike[str], threads: int = 0) -> Model:
    """Open the exported graphs of a model folder. threads: of one operator; 0 takes all cores.

    Raises Error when onnxruntime or a graph is missing.
    """
    try:
        import onnxruntime
    except ImportError as problem:
        raise Error(
            "The onnx backend needs onnxruntime, which is not installed: pip install 'diffgraft[edge]'"
        ) from problem
    root = Path(root)
    meta = read_meta(root)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Denoiser and classifier take turns: a spinning pool of the one would starve the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3

    def session(name: str) -> Any:
        path = root / f"{name}.onnx"
        if not path.is_file():
            raise Error(f"The onnx backend needs {path.name}, which {root} lacks. Write it: {remedy}")
        # By path, not by bytes: the weights are external and lie beside the graph.
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's errors share no class
            words = " ".join(str(problem).split())[:200]
            found = f"{path} does not: {words}"
            raise Error(f"A graph must fit the weights beside it; {found}. Write it: {remedy}") from problem

    remedy = f"diffgraft export {root} --to onnx"
    weights = fingerprint(root)
    if "denoiser" not in meta["parts"]:
        train = f"diffgraft train {meta['domain']} DATA {root} --part denoiser"
        raise Error(f"A model has a denoiser, which {root} lacks. Train one: {train}")
    for part in meta["parts"]:
        if not (root / f"{part}.safetensors").is_file():
            raise Error(f"A model folder has {part}.safetensors, which {root} lacks. Copy the whole folder.")
    has_classifier = "classifier" in meta["parts"]
    text = likeness = None
    if "text" in meta["parts"]:
        plan = meta["parts"]["text"]
        look = session("look") if plan["features"] else None
        text, likeness = _text(session("text"), look, tokenizer.open(root, plan["tokens"]))
    return Model(
        denoiser=_Denoiser(session("denoiser"), spec_of(meta)),
        codec=_Codec(session("encoder"), session("decoder")) if "codec" in meta["parts"] else Identity(),
        asarray=np.asarray,
        asnumpy=np.asarray,
        backend="onnx:cpu",
        fingerprint=weights,
        classifier=_call(session("classifier")) if has_classifier else None,
        gradient=_call(session("gradient")) if has_classifier else None,
        features=_features(session("features")) if "features" in meta["parts"] else None,
        detector=_features(session("detector")) if "detector" in meta["parts"] else None,
        text=text,
        likeness=likeness,
        meta=meta,
    )


class _Codec:
    def __init__(self, encoder: Any, decoder: Any) -> None:
        self.encoder, self.decoder = encoder, decoder

    def encode(self, image: np.ndarray, /) -> np.ndarray:
        return self.encoder.run(None, {"image": image})[0]

    def decode(self, latent: np.ndarray, /) -> np.ndarray:
        return self.decoder.run(None, {"latent": latent})[0]


def _features(session: Any) -> Any:
    names = [output.name for output in session.get_outputs()]

    def describe(image: np.ndarray, /) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {"image": image}), strict=True))

    return describe


def _text(session: Any, look: Any, tokens: tokenizer.Tokenizer) -> tuple[Any, Any]:
    def read(texts: Sequence[str], /) -> np.ndarray:
        return session.run(["hidden"], {"ids": tokens(texts)})[0]

    def likeness(features: np.ndarray, texts: Sequence[str], /) -> np.ndarray:
        words = session.run(["embedding"], {"ids": tokens(texts)})[0]
        return (look.run(None, {"features": features})[0] * words).sum(1)

    return read, likeness if look is not None else None


class _Denoiser:
    def __init__(self, session: Any, spec: Spec) -> None:
        self.session, self.spec = session, spec

    def __call__(self, x: np.ndarray, sigma: float | np.ndarray, *conds: Cond) -> Any:
        level = _levels(sigma, x)
        if len(conds) < 2:
            return self.session.run(None, {"x": x, "sigma": level, **(conds[0] if conds else {})})[0]
        joined = {name: np.concatenate([cond[name] for cond in conds]) for name in conds[0]}
        feed = {"x": np.concatenate([x] * len(conds)), "sigma": np.concatenate([level] * len(conds)), **joined}
        return tuple(np.split(self.session.run(None, feed)[0], len(conds)))


def _call(session: Any) -> Any:
    def call(x: np.ndarray, sigma: float | np.ndarray, target: np.ndarray | None = None, /) -> np.ndarray:
        feed = {"x": x, "sigma": _levels(sigma, x)} | ({} if target is None else {"target": target})
        return session.run(None, feed)[0]

    return call


def _levels(sigma: float | np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(sigma, np.float32), (len(x),)))
