"""Whether two opened models are the same function: what an export must show before it is kept. Numpy only.

Of a denoiser the network's own output is compared: at a small sigma D hides it, and at a large one D cancels it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.diffusion.model import BOXES, Denoiser, Field, Model, Spec
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Error
from toolkit.models.folder import image_shape

__all__ = ["LIMITS", "Limit", "Parity", "compare", "require", "verify"]


@dataclass(frozen=True)
class Limit:
    """measure: "max/std" or "rmse/std", of the difference, in standard deviations of the reference's output."""

    measure: str
    allowed: float


LIMITS = {
    "fp32": Limit("max/std", 1e-4),
    "fp16": Limit("rmse/std", 5e-3),
    "bf16": Limit("rmse/std", 8e-2),
    "int8": Limit("rmse/std", 8e-2),
}
"""Precision -> how far an export may be from its model."""

SIGMAS = (0.05, 1.0, 40.0)
ROWS = 3
PROMPTS = ("", "PA view", "right pleural effusion, no pneumothorax")


@dataclass(frozen=True)
class Parity:
    """How far one output is from the reference's at one noise level.

    output: of a denoiser ("denoised", "student") its network's own, F in D = c_skip x + c_out F. sigma: None for what
    knows no noise: codec, features and detector, or a whole run.
    """

    output: str
    sigma: float | None
    error: float
    allowed: float
    measure: str = "max/std"


def verify(
    reference: Model, candidate: Model, precision: str = "fp32", sigmas: Sequence[float] = SIGMAS
) -> list[Parity]:
    """Compare all parts of two backends on the same noise, and raise where they part.

    Errors: an output that is not finite or differs by more than the precision's limit.
    """
    found = []
    for name, sigma, ours, theirs in _every(reference, candidate, sigmas):
        row = compare(name, ours, theirs, LIMITS[precision], sigma)
        require(row)
        found.append(row)
    return found


def compare(name: str, ours: np.ndarray, theirs: np.ndarray, limit: Limit, sigma: float | None = None) -> Parity:
    """How far `theirs` is from `ours`; infinitely where it is not finite."""
    spread = max(float(ours.std()), 1e-12)
    away = theirs.astype(np.float64) - ours
    error = MEASURES[limit.measure](away) / spread if np.isfinite(theirs).all() else math.inf
    return Parity(name, sigma, error, limit.allowed, limit.measure)


MEASURES: Mapping[str, Callable[[np.ndarray], float]] = {
    "max/std": lambda away: float(np.abs(away).max()),
    "rmse/std": lambda away: float(np.sqrt((away**2).mean())),
}


def require(row: Parity) -> None:
    """Raise the Error of a row that is beyond what is allowed."""
    if not row.error <= row.allowed:
        where = "" if row.sigma is None else f" at sigma {row.sigma:.3g}"
        found = f"differs by {row.error:.1e}" if math.isfinite(row.error) else "is not finite"
        raise Error(
            f"An export must agree with its model to {row.allowed:.0e} of the output's spread ({row.measure}); {row.output}"
            f"{where} {found}. Nothing was kept; take another --precision, or report this with the model.json."
        )


def _every(
    reference: Model, candidate: Model, sigmas: Sequence[float]
) -> Iterator[tuple[str, float | None, np.ndarray, np.ndarray]]:
    """(output, sigma, the reference's answer, the candidate's) of all that both models have."""
    spec = reference.denoiser.spec
    for name, (ours, theirs) in _clean_outputs(reference, candidate, spec):
        yield name, None, ours, theirs
    for sigma in sigmas:
        for name, (ours, theirs) in _outputs(reference, candidate, spec, sigma):
            yield name, sigma, ours, theirs
    pair = [(m, m.student) for m in (reference, candidate) if m.student is not None]
    if len(pair) == 2:
        # It knows the levels that it takes its steps from and no other.
        levels = reference.meta["parts"]["student"]["levels"][:-1]
        for sigma in sorted({levels[0], levels[len(levels) // 2], levels[-1]}):
            ours, theirs = _predicted(pair, spec, sigma, reference.meta)
            yield "student", sigma, ours, theirs


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
    models = (reference, candidate)
    yield "denoised", _predicted([(m, m.denoiser) for m in models], spec, sigma, reference.meta)
    x = noisy_input(spec, sigma, range(ROWS))
    classify = [(m, m.classifier) for m in models if m.classifier is not None]
    if len(classify) == 2:
        yield "log_probability", [m.asnumpy(call(m.asarray(x), sigma)) for m, call in classify]
    differentiate = [(m, m.gradient) for m in models if m.gradient is not None]
    if len(differentiate) == 2:
        classes = reference.meta["parts"]["classifier"]["classes"]
        target = np.eye(classes, dtype=np.float32)[np.arange(ROWS) % classes]
        yield "gradient", [m.asnumpy(call(m.asarray(x), sigma, m.asarray(target))) for m, call in differentiate]


def _predicted(
    pair: Sequence[tuple[Model, Denoiser]], spec: Spec, sigma: float, meta: Mapping[str, Any]
) -> list[np.ndarray]:
    """F of both denoisers at one noise level, from D = c_skip x + c_out F."""
    x, cond = noisy_input(spec, sigma, range(ROWS)), sample_conditions(spec, ROWS)
    skip, out = COEFFICIENTS[meta["parts"]["denoiser"]["parameterisation"]](sigma, spec.sigma_data)
    answers = []
    for model, denoiser in pair:
        denoised = model.asnumpy(denoiser(model.asarray(x), sigma, {k: model.asarray(v) for k, v in cond.items()}))
        answers.append((np.asarray(denoised, np.float64) - skip * x) / out)
    return answers


COEFFICIENTS: Mapping[str, Callable[[float, float], tuple[float, float]]] = {
    "edm": lambda s, data: (data**2 / (s**2 + data**2), s * data / math.sqrt(s**2 + data**2)),
    "epsilon": lambda s, _: (1.0, -s),
    "velocity": lambda s, _: (1 / (1 + s**2), -s / math.sqrt(1 + s**2)),
    "sample": lambda s, _: (0.0, 1.0),
    "flow": lambda s, _: (1 / (1 + s), -s / (1 + s)),
}
"""Parameterisation -> (sigma, sigma_data) -> c_skip, c_out, as toolkit.networks.preconditioning has them."""


def noisy_input(spec: Spec, sigma: float, rows: Sequence[int]) -> np.ndarray:
    """Noise of the spread that x has at a noise level, float32."""
    return np.float32((sigma**2 + spec.sigma_data**2) ** 0.5) * gaussian(spec.shape, 0, rows, Purpose.START, 0)


def sample_conditions(spec: Spec, rows: int) -> dict[str, np.ndarray]:
    """Values of every condition field: of a class each in turn, of boxes some that lie in the image."""
    return {name: _told(name, field, rows) for name, field in spec.fields.items()}


def _told(name: str, field: Field, rows: int) -> np.ndarray:
    count = rows * math.prod(field.shape)
    if field.dtype == "int64":
        return (np.arange(count) % (int(field.null) + 1)).reshape(rows, *field.shape)
    if not field.shape:
        return np.arange(rows, dtype=field.dtype) / rows
    values = gaussian(field.shape, 1, range(rows), Purpose.START, 0)
    if name != BOXES:
        return values
    low = 0.7 / (1 + np.exp(-values[..., :2]))
    return np.concatenate([low, low + 0.25], -1).astype(field.dtype)
