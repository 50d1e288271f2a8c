"""Whether two opened models are the same function: what an export must show before it is kept. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.diffusion.model import BOXES, Field, Model, Spec
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Error
from toolkit.folder import image_shape

__all__ = ["TOLERANCE", "Parity", "verify"]

TOLERANCE = 1e-4
"""Largest error in fp32, in standard deviations of the reference's output; for D times max(1, sigma / sigma_data)."""

SIGMAS = (0.05, 1.0, 40.0)
ROWS = 3
PROMPTS = ("", "PA view", "right pleural effusion, no pneumothorax")


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of one output at one noise level, in standard deviations of the reference's.

    sigma: None for what knows no noise: codec, features and detector.
    """

    output: str
    sigma: float | None
    error: float
    allowed: float


def verify(reference: Model, candidate: Model) -> list[Parity]:
    """Compare all parts of two backends on the same noise, and raise where they part.

    Errors: an output that is not finite or differs by more than the tolerance.
    """
    spec = reference.denoiser.spec
    found = [_parity(*row, None, 1.0) for row in _clean_outputs(reference, candidate, spec)]
    for sigma in SIGMAS:
        for name, pair in _outputs(reference, candidate, spec, sigma):
            found.append(_parity(name, pair, sigma, max(1.0, sigma / spec.sigma_data) if name == "denoised" else 1.0))
    return found


def _parity(name: str, pair: Sequence[np.ndarray], sigma: float | None, looser: float) -> Parity:
    first, second = pair
    spread = float(first.std())
    error = float(np.abs(first - second).max()) / max(spread, 1e-12) if np.isfinite(second).all() else np.inf
    if not error <= TOLERANCE * looser:
        where = "" if sigma is None else f" at sigma {sigma}"
        raise Error(
            f"An export must agree with its model to {TOLERANCE * looser:.0e} of the output's spread; {name}{where} "
            f"differs by {error:.1e}. Nothing was kept; report this with the model.json."
        )
    return Parity(name, sigma, error, TOLERANCE * looser)


def _clean_outputs(reference: Model, candidate: Model, spec: Spec) -> Iterator[tuple[str, list[np.ndarray]]]:
    """What codec, features and detector make of noise of the spread of their data."""
    models = (reference, candidate)
    image = 0.5 * gaussian(image_shape(reference.meta), 0, range(ROWS), Purpose.START, 0)
    if "codec" in reference.meta["parts"]:
        yield "latent", [m.asnumpy(m.codec.encode(m.asarray(image))) for m in models]
        latent = spec.sigma_data * gaussian(spec.shape, 0, range(ROWS), Purpose.START, 0)
        yield "image", [m.asnumpy(m.codec.decode(m.asarray(latent))) for m in models]
    read = [(m, m.text) for m in models if m.text is not None]
    if len(read) == 2:
        yield "text", [m.asnumpy(call(PROMPTS)) for m, call in read]
    detect = [(m, m.detector) for m in models if m.detector is not None]
    if len(detect) == 2:
        ours, theirs = ({k: m.asnumpy(v) for k, v in call(m.asarray(image)).items()} for m, call in detect)
        for name in ours:
            yield name, [ours[name], theirs[name]]
    describe = [(m, m.features) for m in models if m.features is not None]
    if len(describe) == 2:
        ours, theirs = ({k: m.asnumpy(v) for k, v in call(m.asarray(image)).items()} for m, call in describe)
        for name in ours:
            yield name, [ours[name], theirs[name]]
        compare = [(m, m.likeness) for m in models if m.likeness is not None]
        if len(compare) == 2:
            shown = ours["features"]
            yield "likeness", [m.asnumpy(call(m.asarray(shown), PROMPTS)) for m, call in compare]


def _outputs(reference: Model, candidate: Model, spec: Spec, sigma: float) -> Iterator[tuple[str, list[np.ndarray]]]:
    rows = range(ROWS)
    x = np.float32((sigma**2 + spec.sigma_data**2) ** 0.5) * gaussian(spec.shape, 0, rows, Purpose.START, 0)
    cond = {name: _told(name, field) for name, field in spec.fields.items()}
    models = (reference, candidate)
    asked = [{k: m.asarray(v) for k, v in cond.items()} for m in models]
    yield "denoised", [m.asnumpy(m.denoiser(m.asarray(x), sigma, c)) for m, c in zip(models, asked, strict=True)]
    classify = [(m, m.classifier) for m in models if m.classifier is not None]
    if len(classify) == 2:
        yield "log_probability", [m.asnumpy(call(m.asarray(x), sigma)) for m, call in classify]
    differentiate = [(m, m.gradient) for m in models if m.gradient is not None]
    if len(differentiate) == 2:
        classes = reference.meta["parts"]["classifier"]["classes"]
        target = np.eye(classes, dtype=np.float32)[np.arange(ROWS) % classes]
        yield "gradient", [m.asnumpy(call(m.asarray(x), sigma, m.asarray(target))) for m, call in differentiate]


def _told(name: str, field: Field) -> np.ndarray:
    """ROWS values of a condition field: of a class each in turn, of boxes some that lie in the image."""
    count = ROWS * math.prod(field.shape)
    if field.dtype == "int64":
        return (np.arange(count) % (int(field.null) + 1)).reshape(ROWS, *field.shape)
    if not field.shape:
        return np.arange(ROWS, dtype=field.dtype) / ROWS
    values = gaussian(field.shape, 1, range(ROWS), Purpose.START, 0)
    if name != BOXES:
        return values
    low = 0.7 / (1 + np.exp(-values[..., :2]))
    return np.concatenate([low, low + 0.25], -1).astype(field.dtype)
