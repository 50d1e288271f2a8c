"""Whether two opened models are the same function: what an export must show before it is kept. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from toolkit.diffusion.model import Array, Model, Spec
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


def _outputs(
    reference: Model, candidate: Model, spec: Spec, sigma: float
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    rows = range(ROWS)
    x = np.float32((sigma**2 + spec.sigma_data**2) ** 0.5) * gaussian(spec.shape, 0, rows, Purpose.START, 0)
    cond = {
        name: np.array([int(row) % (int(f.null) + 1) if f.dtype == "int64" else row / 3 for row in rows], f.dtype)
        for name, f in spec.fields.items()
    }

    def both(call: Callable[[Model, Callable[[np.ndarray], Array]], Array]) -> tuple[np.ndarray, np.ndarray]:
        first, second = (m.asnumpy(call(m, m.asarray)) for m in (reference, candidate))
        return first, second

    yield "denoised", both(lambda m, put: m.denoiser(put(x), sigma, {k: put(v) for k, v in cond.items()}))
    if reference.classifier is not None and candidate.classifier is not None:
        yield "log_probability", both(lambda m, put: m.classifier(put(x), sigma))
    if reference.gradient is not None and candidate.gradient is not None:
        classes = reference.meta["parts"]["classifier"]["classes"]
        target = np.eye(classes, dtype=np.float32)[np.arange(ROWS) % classes]
        yield "gradient", both(lambda m, put: m.gradient(put(x), sigma, put(target)))
