"""Whether two opened models are the same function: what an export must show before it is kept. Numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from toolkit.diffusion.model import Model, Spec
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Error

__all__ = ["TOLERANCE", "Parity", "verify"]

TOLERANCE = 1e-4
"""Largest error in fp32, in standard deviations of the reference's output; for D times max(1, sigma / sigma_data)."""

SIGMAS = (0.05, 1.0, 40.0)
ROWS = 3


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of one output at one noise level, in standard deviations of the reference's."""

    output: str
    sigma: float
    error: float
    allowed: float


def verify(reference: Model, candidate: Model) -> list[Parity]:
    """Compare denoiser, classifier and gradient of two backends on the same noise, and raise where they part.

    Errors: an output that is not finite or differs by more than the tolerance.
    """
    found = []
    spec = reference.denoiser.spec
    for sigma in SIGMAS:
        for name, (first, second) in _outputs(reference, candidate, spec, sigma):
            spread = float(first.std())
            error = float(np.abs(first - second).max()) / max(spread, 1e-12) if np.isfinite(second).all() else np.inf
            allowed = TOLERANCE * (max(1.0, sigma / spec.sigma_data) if name == "denoised" else 1.0)
            found.append(Parity(name, sigma, error, allowed))
            if not error <= allowed:
                raise Error(
                    f"An export must agree with its model to {allowed:.0e} of the output's spread; {name} at sigma "
                    f"{sigma} differs by {error:.1e}. Nothing was kept; report this with the model.json."
                )
    return found


def _outputs(reference: Model, candidate: Model, spec: Spec, sigma: float) -> Iterator[tuple[str, list[np.ndarray]]]:
    rows = range(ROWS)
    x = np.float32((sigma**2 + spec.sigma_data**2) ** 0.5) * gaussian(spec.shape, 0, rows, Purpose.START, 0)
    cond = {
        name: np.array([int(row) % (int(f.null) + 1) if f.dtype == "int64" else row / 3 for row in rows], f.dtype)
        for name, f in spec.fields.items()
    }

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
