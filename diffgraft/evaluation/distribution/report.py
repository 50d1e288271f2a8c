"""The report of a comparison of synthetic with real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffgraft import reporting
from diffgraft.evaluation import blocks
from diffgraft.evaluation.distribution.result import FLOOR, SYNTHETIC, DistributionEvaluation, ImageSet, format_rate

__all__ = ["write"]

SHOWN, PAIRS = 8, 16
"""Images of each class, and synthetic images beside their nearest real one."""


def write(
    path: Path, result: DistributionEvaluation, sets: Mapping[str, ImageSet], held_out: ImageSet, run: reporting.Run
) -> None:
    """report.html. sets: the images of each row, by its name."""
    first = result.rows[0]
    note = (
        "KID and FID: lower is nearer. Class named: by the feature network, averaged over classes; "
        f"{format_rate(result.held_out_named, 0)} of the held-out real images."
    )
    nearest = f"A synthetic image beside the {'training' if FLOOR in sets else 'real'} image with the nearest features."
    figures = [_figures(result), _classes(result), *(reporting.Text(warning) for warning in result.warnings)]
    sections = [
        reporting.Section("Numbers", [block for block in figures if block is not None], note),
        reporting.Section(
            "Parts", [blocks.subgroup_table(result.parts)] if result.parts else [], blocks.SUBGROUPS_NOTE
        ),
        reporting.Section("Real beside synthetic", _sheets(sets[SYNTHETIC], held_out)),
        reporting.Section("Nearest neighbours", [_pairs(sets[SYNTHETIC], sets.get(FLOOR, held_out))], nearest),
        reporting.protocol_section(result.protocol),
    ]
    floor = "".join(f"; {row.name}: {row.kid:.4f}" for row in result.rows[1:] if row.name == FLOOR)
    reporting.write(
        path, "Synthetic against real images", f"KID {first.kid:.4f} ± {first.kid_error:.4f}{floor}", sections, run,
        notice=reporting.RESEARCH_USE,
        next_step="Look for copies before these numbers are believed: diffgraft audit TRAIN FAKE",
    )  # fmt: skip


def _figures(result: DistributionEvaluation) -> reporting.Table:
    header = ("images", "KID", "error", "FID", "precision", "recall", "density", "coverage", "class named")
    rows = [
        (r.name, r.kid, r.kid_error, r.fid, r.precision, r.recall, r.density, r.coverage, r.named) for r in result.rows
    ]
    caption = f"Against {result.protocol['held_out_images']} held-out real images, {result.rows[0].images} a row"
    return reporting.Table(header, rows, caption)


def _classes(result: DistributionEvaluation) -> reporting.Table | None:
    kinds = list(dict.fromkeys(kind for row in result.rows for kind in row.classes))
    rows = [
        (row.name, *("{:.4f} ± {:.4f}".format(*row.classes[kind]) if kind in row.classes else None for kind in kinds))
        for row in result.rows
    ]
    return reporting.Table(("images", *kinds), rows, "KID of every class alone") if kinds else None


def _sheets(synthetic: ImageSet, held_out: ImageSet) -> list[reporting.Block]:
    """Of every class, real images above synthetic ones."""
    sheets: list[reporting.Block] = []
    for kind in np.unique(held_out.class_names):
        for name, each in {"held-out real": held_out, SYNTHETIC: synthetic}.items():
            images = [image.astype(np.float32) for image in each.images[each.class_names == kind][:SHOWN]]
            if images:
                sheets.append(reporting.Sheet(images, (), SHOWN, f"{kind or 'class unknown'}, {name}"))
    return sheets


def _pairs(synthetic: ImageSet, real: ImageSet) -> reporting.Sheet:
    """Synthetic images, evenly spread over the set, beside the real ones with the nearest features."""
    spread = np.linspace(0, len(synthetic.images) - 1, min(PAIRS, len(synthetic.images))).astype(int)
    nearest = ((synthetic.features[spread, None] - real.features) ** 2).sum(2).argmin(1)
    pairs = list(zip(spread, nearest, strict=True))
    images = [reporting.side_by_side(synthetic.images[n], real.images[k]) for n, k in pairs]
    return reporting.Sheet(images, [f"{synthetic.class_names[n]} | {real.class_names[k]}" for n, k in pairs], 4)
