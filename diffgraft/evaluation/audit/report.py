"""The report of an audit: every copy beside its training image, the rates, and whether copies would have been found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation.audit.result import NAMES, AuditResult
from toolkit.evaluation.memorization import LEVEL, LOWER, Audit

__all__ = ["write"]

SHOWN, SIMILAR = 48, 16
"""Copies, and most similar images that are none, that a report shows."""


def write(path: Path, result: AuditResult, synthetic: np.ndarray, training: np.ndarray, run: reporting.Run) -> None:
    """report.html. synthetic, training: images (N, C, H, W)."""
    found = result.audit
    order = np.argsort(-found.nearness, kind="stable")
    copies, others = order[found.copy[order]], order[~found.copy[order]]
    few = found.mistaken.of < 1 / (1 - LEVEL) - 1e-9

    def sheet(chosen: np.ndarray, caption: str) -> reporting.Block:
        if not len(chosen):
            return reporting.Text(f"{caption}: none.")
        pairs = [reporting.side_by_side(synthetic[n], training[found.nearest[n]]) for n in chosen]
        return reporting.Sheet(pairs, [_caption(result, n) for n in chosen], 4, caption)

    sections = [
        reporting.Section(
            "Copies",
            [sheet(copies[:SHOWN], "Each copy beside its training image, the clearest first")],
            f"{len(copies)} in all{f', {SHOWN} shown' if len(copies) > SHOWN else ''}.",
        ),
        reporting.Section(
            "The most similar that are no copies",
            [sheet(others[:SIMILAR], "Each image beside the training image it is most like")],
            "Look whether they show another leaf, slice or patient, or a copy that the thresholds pass over.",
        ),
        reporting.Section(
            "Rates",
            [_rates(found), _limits(found), _planted(found)],
            f"Threshold: {'the largest' if few else f'the {LEVEL:.1%} percentile'} of {found.mistaken.of} held-out "
            f"images, which tells rates no finer than {found.resolution:.2%}. Each held-out image is judged by "
            "thresholds that are found without it.",
        ),
        reporting.Section("How similar", [_curve(found, measure) for measure in found.fake.measures]),
        reporting.protocol_section({k: v for k, v in result.protocol.items() if k != "lines"}),
    ]
    reporting.write(
        path, "Memorisation audit", result.verdict, sections, run, notice=reporting.RESEARCH_USE,
        next_step="Leave the copies out before the images are used: diffgraft generate MODEL OUT --reject-copies TRAIN",
    )  # fmt: skip


def _caption(result: AuditResult, number: int) -> str:
    fake = result.audit.fake
    values = zip(fake.measures, fake.similarity[number], strict=True)
    return f"{result.ids[number]}: " + ", ".join(f"{NAMES[name].split()[0]} {value:.3f}" for name, value in values)


def _rates(found: Audit) -> reporting.Table:
    fake, real = found.above["any"]
    header = ("images", "above the threshold: copies", f"any measure above its {LOWER:.0%} percentile")
    rows = [("fake", str(found.copies), str(fake)), ("held-out real", str(found.mistaken), str(real))]
    return reporting.Table(header, rows, "Rates with 95% intervals")


def _limits(found: Audit) -> reporting.Table:
    header = (
        "measure", "median held-out", f"{LOWER:.0%} percentile", "threshold", "median fake", "largest fake",
        "fake above 95%",
    )  # fmt: skip
    rows = [
        (
            NAMES[name], float(np.median(found.held_out.column(name))), found.lower[name], found.thresholds[name],
            float(np.median(found.fake.column(name))), float(found.fake.column(name).max()), str(found.above[name][0]),
        )
        for name in found.fake.measures
    ]  # fmt: skip
    return reporting.Table(header, rows, "Similarity with the nearest training image")


def _planted(found: Audit) -> reporting.Table:
    rows = [(kind, str(rate)) for kind, rate in [*found.planted.items(), ("all", found.recall)]]
    return reporting.Table(("planted copies", "found"), rows, "Positive control")


def _curve(found: Audit, measure: str) -> reporting.Curve:
    def steps(values: np.ndarray) -> list[tuple[float, float | None]]:
        return [(float(v), (k + 1) / len(values)) for k, v in enumerate(np.sort(values))]

    series = {"held-out real": steps(found.held_out.column(measure)), "fake": steps(found.fake.column(measure))}
    return reporting.Curve(series, f"{NAMES[measure]} with the nearest training image", "part of the images below")
