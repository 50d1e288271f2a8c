"""The feature network that a metric measures with: that of a model folder, or any ONNX file.

Only this part of a model is opened, so a folder whose denoiser is not trained yet will do. Features are kept from run to
run under the user's cache folder (XDG_CACHE_HOME), named by network and content; see toolkit.evaluation.features.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.diffusion.model import Model
from toolkit.evaluation.features import cached_features
from toolkit.evaluation.finite import check_finite
from toolkit.example import Error
from toolkit.models.folder import read_meta

__all__ = ["Backbone", "cache_folder", "extract_features", "load_backbone"]

BATCH = 64

Extract = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Images (n, C, H, W) in [-1, 1] -> features (n, D) and, if the network names classes, log_probability (n, classes)."""


@dataclass(frozen=True)
class Backbone:
    """A feature network with what has to be said beside its numbers.

    classes: names of the values of the label `target` that it was trained to tell; none for a foreign network.
    """

    name: str
    fingerprint: str
    extract: Extract
    target: str = ""
    classes: Sequence[str] = ()
    cache: Path | None = None

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Features (n, D) of images (n, C, H, W)."""
        return self.predict(images)[0]

    def predict(
        self, images: np.ndarray, watch: Callable[[int], object] = lambda _: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, D) and log-probabilities (n, classes), from the cache where it has them."""

        def joined(batch: np.ndarray) -> np.ndarray:
            found = self.extract(batch)
            named = [found["log_probability"]] if self.classes else []
            return np.concatenate([found["features"], *named], 1)

        values = cached_features(joined, images, self.fingerprint, self.cache, watch=watch).values
        dimensions = values.shape[1] - len(self.classes)
        return values[:, :dimensions], values[:, dimensions:]


def load_backbone(model: Path | None, features: Path | None, cache: Path | None = None) -> Backbone:
    """The ONNX file `features` if there is one, else the feature network of the folder `model`.

    cache: where features are kept; None keeps nothing. Errors: neither given, a model without a feature network, a
    graph that does not take images.
    """
    if features is not None:
        return _foreign(Path(features), cache)
    if model is None:
        raise Error("Measuring needs a feature network; none was named. Add --model MODEL, or --features FILE.onnx.")
    root, meta = Path(model), read_meta(Path(model))
    if "features" not in meta["parts"]:
        train = f"diffgraft train {meta['domain']} DATA {root} --part features"
        raise Error(f"Measuring needs a feature network, which {root} lacks. Train one: {train}")
    target = meta["parts"]["features"]["target"]
    classes = meta.get("labels", {}).get(target, ())
    ready = (root / "features.onnx").is_file() and importlib.util.find_spec("onnxruntime")
    if not ready and importlib.util.find_spec("torch") is None:
        raise Error(
            f"The feature network of {root} runs without torch once exported: diffgraft export {root} --to onnx"
        )
    extract = _graph(root / "features.onnx") if ready else _module(root)
    weights = hashlib.sha256((root / "features.safetensors").read_bytes()).hexdigest()
    return Backbone(f"features of {root.name}", weights, extract, target, tuple(classes), cache)


def extract_features(model: Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the network of an opened model says of images (n, C, H, W), but for its maps, a batch at a time.

    Errors: a model without a feature network, an answer that is not finite.
    """
    if model.features is None:
        raise Error(
            "Judging images needs the model's feature network, which it lacks. Train one: "
            f"diffgraft train {model.meta['domain']} DATA MODEL --part features"
        )
    parts = [model.features(model.asarray(images[n : n + BATCH])) for n in range(0, len(images), BATCH)]
    names = [name for name in parts[0] if not name.startswith("level")]  # its maps would fill the memory
    found = {name: np.concatenate([model.asnumpy(part[name]) for part in parts]) for name in names}
    return {name: check_finite(value, "values of a feature network") for name, value in found.items()}


def cache_folder() -> Path:
    """Where features are kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffgraft" / "features"


def _foreign(path: Path, cache: Path | None) -> Backbone:
    """Any graph: its first input is the image (n, C, H, W) in [-1, 1], its first output, flattened, the features."""
    extract = _graph(path)

    def flattened(images: np.ndarray) -> dict[str, np.ndarray]:
        first = next(iter(extract(images).values()))
        return {"features": first.reshape(len(images), -1)}

    return Backbone(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), flattened, cache=cache)


def _graph(path: Path) -> Extract:
    if not path.is_file():
        raise Error(f"A feature network is an ONNX file; '{path}' is not there.")
    try:
        import onnxruntime
    except ImportError as problem:
        raise Error(
            "An ONNX file needs onnxruntime, which is not installed: pip install 'diffgraft[edge]'"
        ) from problem
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's errors share no class
        words = " ".join(str(problem).split())[:200]
        raise Error(f"A feature network is an ONNX graph; {path} is none that runs: {words}.") from problem
    image, outputs = session.get_inputs()[0], [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return dict(zip(outputs, session.run(None, {image.name: np.asarray(images, np.float32)}), strict=True))
        except Exception as problem:
            words = " ".join(str(problem).split())[:200]
            raise Error(
                f"A feature network takes images {images.shape} as its first input; {path.name} takes {image.shape}: {words}."
            ) from problem

    return run


def _module(root: Path) -> Extract:
    import torch

    from toolkit.networks.folder import load_part

    network = load_part(root, "features")

    @torch.inference_mode()
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = network(torch.from_numpy(np.ascontiguousarray(images, np.float32)))
        return {name: found[name].numpy() for name in ("features", "log_probability")}

    return run
