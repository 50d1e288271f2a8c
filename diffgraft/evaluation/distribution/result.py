"""What a comparison of synthetic with real images found, as values and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffgraft.evaluation import subgroups
from diffgraft.evaluation.subgroups import Distance

__all__ = ["FLOOR", "SYNTHETIC", "DistributionEvaluation", "ImageSet", "Row", "format_rate"]

SYNTHETIC, FLOOR = "synthetic", "real, training part (floor)"


@dataclass(frozen=True)
class Row:
    """One set of images against the held-out real ones; what cannot be told is None.

    kid, kid_error: unbiased, with its standard error. classes: name -> (KID, error) of that class alone. named: part of
    the images whose class the feature network names as it was asked for, averaged over classes.
    """

    name: str
    images: int
    fid: float | None
    kid: float
    kid_error: float
    precision: float
    recall: float
    density: float
    coverage: float
    classes: Mapping[str, tuple[float, float]]
    named: float | None


@dataclass(frozen=True)
class DistributionEvaluation:
    """What `evaluate_distribution` found; str() is for the terminal. held_out_named: Row.named of the held-out images.

    parts: of films with findings, the distance of each finding, class and age (diffgraft.evaluation.subgroups).
    """

    rows: Sequence[Row]
    held_out_named: float | None
    parts: Sequence[Distance]
    protocol: Mapping[str, Any]
    warnings: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [f"{'':28} {'KID':>17} {'FID':>8} {'prec':>6} {'recall':>6} {'dens':>6} {'cover':>6} {'named':>6}"]
        for row in self.rows:
            numbers = (row.precision, row.recall, row.density, row.coverage)
            lines.append(
                f"{row.name:28} {row.kid:9.4f} ±{row.kid_error:6.4f} {format_rate(row.fid, 8)} "
                + " ".join(f"{each:6.2f}" for each in numbers)
                + f" {format_rate(row.named, 6)}"
            )
        lines.append(
            f"against {self.protocol['held_out_images']} held-out real images "
            f"(class named: {format_rate(self.held_out_named, 0)}); {self.protocol['images_a_row']} a row; "
            f"{self.protocol['feature_network']}, {self.protocol['backbone']}"
        )
        if self.parts:
            lines.append("KID of every part, beside that of the training films (floor):")
        lines += [
            f"  {p.name:28} {subgroups.format_distance(p.kid) or '-':>18} floor {subgroups.format_distance(p.floor) or '-':>18}   "
            f"{p.fake} synthetic, {p.held_out} held-out, {p.training} training"
            for p in self.parts
        ]
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return asdict(self)


@dataclass(frozen=True)
class ImageSet:
    """Images (n, C, H, W), the names of their classes (n,), and the network's features and log-probabilities of them."""

    images: np.ndarray
    class_names: np.ndarray
    features: np.ndarray
    log_probability: np.ndarray

    def take(self, chosen: np.ndarray) -> ImageSet:
        return ImageSet(
            self.images[chosen], self.class_names[chosen], self.features[chosen], self.log_probability[chosen]
        )


def format_rate(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>{width}}"
