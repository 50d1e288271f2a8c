"""Which generated images are copies of training images, and whether the search would have found copies at all.

    TRAIN   data set of the training     FAKE   data set of what the model made     held-out   real, never trained on

Copies are no gain for whoever trains with them, and a disclosure where an image is a patient. The figures are those of
toolkit.evaluation.memorization; the report shows every copy beside its training image.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import reporting
from diffgraft.generation.copies import largest_shift, mirror_axes, parted, stacked
from diffgraft.models import features as networks
from diffgraft.models.features import Backbone
from toolkit.data import dataset
from toolkit.evaluation import memorization
from toolkit.evaluation.memorization import LEVEL, LOWER, RECALL, Audit
from toolkit.models.folder import read_meta

__all__ = ["Outcome", "audit"]

NAMES = {"ncc": "NCC", "cosine": "cosine of features", "ssim": "SSIM", "any": "any of them"}
SHOWN, SIMILAR = 48, 16
"""Copies, and most similar images that are none, that a report shows."""


@dataclass(frozen=True)
class Outcome:
    """What an audit of two folders found; str() is for the terminal.

    ids: of the fake images. protocol: what makes the figures readable.
    """

    audit: Audit
    ids: Sequence[str]
    protocol: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """One sentence."""
        found = self.audit
        if not found.valid:
            return (
                f"INVALID: of the planted copies {found.recall} were found, and an audit needs {RECALL:.0%}; "
                "these rates say nothing."
            )
        return (
            f"{found.copies.count} of {found.copies.of} images are copies: {found.copies}; the same rule calls "
            f"{found.mistaken} of the held-out real images copies."
        )

    def __str__(self) -> str:
        found, lines = self.audit, [self.verdict]
        for name, limit in found.thresholds.items():
            fake, real = found.above[name]
            lines.append(
                f"{NAMES[name]:20} threshold {limit:.4f}; above the 95th percentile {found.lower[name]:.4f}: "
                f"fake {fake}, held-out {real}"
            )
        fake, real = found.above["any"]
        lines.append(f"{'any of them':20} above its 95th percentile: fake {fake}, held-out {real}")
        lines.append("planted copies found: " + ", ".join(f"{kind} {rate}" for kind, rate in found.planted.items()))
        lines.append(f"resolution 1/{found.mistaken.of} = {found.resolution:.2%}; " + str(self.protocol["held_out"]))
        return "\n".join(lines)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON. A training image is named by its line in TRAIN's manifest, from 0."""
        found, lines = self.audit, self.protocol["lines"]
        return {
            "valid": found.valid,
            "copies": _rate(found.copies),
            "mistaken": _rate(found.mistaken),
            "resolution": found.resolution,
            "thresholds": dict(found.thresholds),
            "percentile_95": dict(found.lower),
            "above_95": {n: {"fake": _rate(f), "held_out": _rate(r)} for n, (f, r) in found.above.items()},
            "planted": {kind: _rate(rate) for kind, rate in found.planted.items()} | {"all": _rate(found.recall)},
            "samples": [
                {
                    "id": ident,
                    "copy": bool(copy),
                    "train": lines[nearest],
                    **{m: round(float(v), 5) for m, v in zip(found.fake.measures, values, strict=True)},
                }
                for ident, copy, nearest, values in zip(
                    self.ids, found.copy, found.nearest, found.fake.similarity, strict=True
                )
            ],
            "protocol": {k: v for k, v in self.protocol.items() if k != "lines"},
        }


def audit(
    train: str | Path,
    fake: str | Path,
    *,
    holdout: str | Path | None = None,
    model: str | Path | None = None,
    features: str | Path | None = None,
    out: str | Path | None = None,
    cache: Path | None = None,
    plant: int = 100,
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], object] = lambda *_: None,
) -> Outcome:
    """Audit the data set `fake` against the training data set `train`.

    holdout: data set of real images that were not trained on; without it, what `model` did not train on of `train`, or
    else the fold that a training keeps back. model: its feature network is the embedding, unless `features`, an ONNX
    file, is; with neither, there are two measures instead of three. out: new folder for report.html and metrics.json.
    cache: folder where features are kept. plant: planted copies of each kind.
    """
    begun = time.monotonic()
    needed = [Path(path) for path in (train, fake, holdout, model, features) if path is not None]
    signs = ("metrics.json", "report.html")
    with dataset.staged(out, overwrite, signs, needed) if out is not None else contextlib.nullcontext() as folder:
        judged = list(dataset.read(fake))
        seen, unseen, how = parted(train, model, holdout)
        network = _network(model, features, cache)
        flips = mirror_axes(dataset.info(train))
        fakes, seen_images = stacked(judged), stacked(example for _, example in seen)
        found = memorization.audit(
            seen_images, fakes, stacked(unseen), network.embed if network else None, flips,
            shifts=largest_shift(fakes.shape), plant=plant, watch=watch,
        )  # fmt: skip
        protocol = {
            "held_out": how,
            "training_images": len(seen),
            "held_out_images": len(unseen),
            "fake_images": len(judged),
            "image_shape": list(fakes.shape[1:]),
            "measures": [NAMES[measure] for measure in found.fake.measures],
            "mirror_images": [n for n, on in zip(("left-right", "up-down"), flips, strict=True) if on],
            "shifts": largest_shift(fakes.shape),
            "embedding": network.name if network else "none: two measures; --model or --features gives a third",
            "backbone": network.fingerprint[:16] if network else None,
            "lines": [line for line, _ in seen],
        }
        result = Outcome(found, [each.id for each in judged], protocol)
        if folder is not None:
            text = json.dumps(result.numbers, indent=1, allow_nan=False)
            (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
            run = reporting.Run(
                command, {k: v for k, v in protocol.items() if k != "lines"}, 0, time.monotonic() - begun
            )
            _report(folder / "report.html", result, fakes, seen_images, run)
    return result


def _network(model: str | Path | None, features: str | Path | None, cache: Path | None) -> Backbone | None:
    if features is None and (model is None or "features" not in read_meta(Path(model))["parts"]):
        return None
    return networks.backbone(
        None if model is None else Path(model), None if features is None else Path(features), cache
    )


def _rate(rate: memorization.Rate) -> dict[str, Any]:
    return {"count": rate.count, "of": rate.of, "value": rate.value, "interval": rate.interval}


def _report(path: Path, result: Outcome, fakes: np.ndarray, seen: np.ndarray, run: reporting.Run) -> None:
    found = result.audit
    copies = np.flatnonzero(found.copy)
    copies = copies[np.argsort(-found.nearness[copies], kind="stable")]
    others = np.flatnonzero(~found.copy)
    others = others[np.argsort(-found.nearness[others], kind="stable")]

    def sheet(chosen: np.ndarray, caption: str) -> reporting.Block:
        if not len(chosen):
            return reporting.Text(f"{caption}: none.")
        pairs, captions = [], []
        for n in chosen:
            pairs.append(_pair(fakes[n], seen[found.nearest[n]]))
            values = ", ".join(
                f"{NAMES[m].split()[0]} {v:.3f}"
                for m, v in zip(found.fake.measures, found.fake.similarity[n], strict=True)
            )
            captions.append(f"{result.ids[n]}: {values}")
        return reporting.Sheet(pairs, captions, 4, caption)

    rates = reporting.Table(
        ("images", "above the threshold: copies", f"any measure above its {LOWER:.0%} percentile"),
        [
            ("fake", str(found.copies), str(found.above["any"][0])),
            ("held-out real", str(found.mistaken), str(found.above["any"][1])),
        ],
        "Rates with 95% intervals",
    )  # fmt: skip
    limits = reporting.Table(
        ("measure", "median held-out", f"{LOWER:.0%} percentile", "threshold", "median fake", "largest fake", "fake above 95%"),
        [
            (
                NAMES[m], float(np.median(found.held_out.column(m))), found.lower[m], found.thresholds[m],
                float(np.median(found.fake.column(m))), float(found.fake.column(m).max()), str(found.above[m][0]),
            )
            for m in found.fake.measures
        ],
        "Similarity with the nearest training image",
    )  # fmt: skip
    planted = reporting.Table(
        ("planted copies", "found"),
        [*((kind, str(rate)) for kind, rate in found.planted.items()), ("all", str(found.recall))],
        "Positive control",
    )
    few = found.mistaken.of < 1 / (1 - LEVEL) - 1e-9
    reporting.write(
        path,
        "Memorisation audit",
        result.verdict,
        [
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
                [rates, limits, planted],
                f"Threshold: {'the largest' if few else f'the {LEVEL:.1%} percentile'} of {found.mistaken.of} held-out "
                f"images, which tells rates no finer than {found.resolution:.2%}. Each held-out image is judged by "
                "thresholds that are found without it.",
            ),
            reporting.Section("How similar", [_curve(found, m) for m in found.fake.measures]),
            reporting.Section(
                "Protocol", [reporting.Facts({k: v for k, v in result.protocol.items() if k != "lines"})]
            ),
        ],
        run,
        notice=reporting.RESEARCH_USE,
        next_step="Leave the copies out before the images are used: diffgraft generate MODEL OUT --reject-copies TRAIN",
    )


def _curve(found: Audit, measure: str) -> reporting.Curve:
    def steps(values: np.ndarray) -> list[tuple[float, float]]:
        return [(float(v), (k + 1) / len(values)) for k, v in enumerate(np.sort(values))]

    series = {"held-out real": steps(found.held_out.column(measure)), "fake": steps(found.fake.column(measure))}
    return reporting.Curve(series, f"{NAMES[measure]} with the nearest training image", "part of the images below")


def _pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.ones((left.shape[0], left.shape[1], 2), np.float32)
    return np.concatenate([left.astype(np.float32), gap, right.astype(np.float32)], 2)
