"""How far synthetic images are from real ones, beside what real and trivially made images reach.

Every row is measured against the same held-out real images, with the same number of images and, where all have them,
the same share of every class: each of these figures moves with both. The floor is the real training part; no model can
be expected below it, and copies of it are there as well, so the audit stands beside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffgraft import models, reporting
from diffgraft.evaluation import subgroups
from diffgraft.evaluation.pools import findings
from diffgraft.evaluation.subgroups import Distance
from diffgraft.generation.copies import parted, stacked
from diffgraft.models import features as networks
from diffgraft.models.features import Backbone
from toolkit.data import dataset, labels
from toolkit.evaluation.distribution import frechet_distance, kernel_distance, precision_recall
from toolkit.example import Annotation, Error, Example
from toolkit.methods.mixing import cutmix, mixup

__all__ = ["FLOOR", "SYNTHETIC", "Comparison", "Row", "distribution"]

SYNTHETIC, FLOOR = "synthetic", "real, training part (floor)"
MIXUP, CUTMIX = "mixup of two of a class", "CutMix of two of a class"
ALL = "all"
K = 5
"""Neighbours that a ball of precision and recall reaches to."""

FEWEST = K + 1
SHOWN = 8


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
class Comparison:
    """What `distribution` found; str() is for the terminal. held_out_named: Row.named of the held-out images.

    parts: of films with findings, the distance of each finding, class and age (diffgraft.evaluation.subgroups).
    """

    rows: Sequence[Row]
    held_out_named: float | None
    protocol: Mapping[str, Any]
    warnings: Sequence[str] = ()
    parts: Sequence[Distance] = ()

    def __str__(self) -> str:
        lines = [f"{'':28} {'KID':>17} {'FID':>8} {'prec':>6} {'recall':>6} {'dens':>6} {'cover':>6} {'named':>6}"]
        for row in self.rows:
            numbers = (row.precision, row.recall, row.density, row.coverage)
            lines.append(
                f"{row.name:28} {row.kid:9.4f} ±{row.kid_error:6.4f} {_plain(row.fid, 8)} "
                + " ".join(f"{each:6.2f}" for each in numbers)
                + f" {_plain(row.named, 6)}"
            )
        lines.append(
            f"against {self.protocol['held_out_images']} held-out real images "
            f"(class named: {_plain(self.held_out_named, 0)}); {self.protocol['images_a_row']} a row; "
            f"{self.protocol['feature_network']}, {self.protocol['backbone']}"
        )
        if self.parts:
            lines.append("KID of every part, beside that of the training films (floor):")
        lines += [
            f"  {p.name:28} {subgroups.cell(p.kid) or '-':>18} floor {subgroups.cell(p.floor) or '-':>18}   "
            f"{p.fake} synthetic, {p.held_out} held-out, {p.training} training"
            for p in self.parts
        ]
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings)])

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN."""
        return {
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "held_out_named": self.held_out_named,
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "protocol": dict(self.protocol),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class _Set:
    """Images (n, C, H, W), the names of their classes (n,), and what the network says of them."""

    images: np.ndarray
    kinds: np.ndarray
    features: np.ndarray
    named: np.ndarray

    def part(self, chosen: np.ndarray) -> _Set:
        return _Set(self.images[chosen], self.kinds[chosen], self.features[chosen], self.named[chosen])


def distribution(
    real: str | Path,
    fake: str | Path,
    *,
    model: str | Path | None = None,
    features: str | Path | None = None,
    split: str = "held-out",
    out: str | Path | None = None,
    cache: Path | None = None,
    beside: Mapping[str, str | Path] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    command: str = "",
    watch: Callable[[str, int, int], object] = lambda *_: None,
) -> Comparison:
    """Compare the data set `fake` with the real data set `real`.

    model: whose feature network measures, and what it was not trained on is held out (`diffgraft.audit.parted`);
    features: an ONNX file instead. split: "held-out" compares with that part, "all" with every real image, for which
    there is no floor. beside: name -> another synthetic data set, a row of its own. seed: of the draws and mixtures.
    out: new folder for report.html and metrics.json. Errors: samples that `fake` and `real` share, too few images.
    """
    begun = time.monotonic()
    if split not in ("held-out", "all"):
        raise Error(f"A split is held-out or all; found '{split}'.")
    network = networks.backbone(*(None if each is None else Path(each) for each in (model, features)), cache)
    needed = [Path(each) for each in (real, fake, model, features, *(beside or {}).values()) if each is not None]
    signs = ("metrics.json", "report.html")
    with dataset.staged(out, overwrite, signs, needed) if out is not None else contextlib.nullcontext() as folder:
        facts = dataset.info(real)
        label = network.target or (models.domain(facts["domain"]).TARGET if "domain" in facts else "")
        lines, unseen, how = parted(real, model)
        seen = [example for _, example in lines]
        if split == "all":
            seen, unseen, how = [], [*seen, *unseen], "every real image: none is held out, there is no floor"
        if not seen and not unseen:
            raise Error(f"A comparison needs real images; {real} has none.")
        sets = {SYNTHETIC: list(dataset.read(fake))}
        sets |= {name: list(dataset.read(folder)) for name, folder in (beside or {}).items()}
        for name, path in {SYNTHETIC: fake, **(beside or {})}.items():
            _refuse_shared(sets[name], [*seen, *unseen], path, real)
        described = {SYNTHETIC: fake, **(beside or {})}
        measured = {
            name: _measured(network, stacked(examples), _kinds(examples, described[name], label), name, watch)
            for name, examples in sets.items()
        }
        held_out = _measured(network, stacked(unseen), _kinds(unseen, real, label), "held-out", watch)
        if seen:
            floor = _measured(network, stacked(seen), _kinds(seen, real, label), "training part", watch)
            measured |= {FLOOR: floor}
            for name, mixed in _mixtures(floor, seed).items():
                measured[name] = _measured(network, mixed, floor.kinds, name, watch)
        chosen, matching = _matched(measured, held_out.kinds, seed)
        rows = [_row(name, measured[name].part(chosen[name]), held_out, network.classes) for name in measured]
        protocol = {
            "feature_network": network.name,
            "backbone": network.fingerprint[:16],
            "dimensions": held_out.features.shape[1],
            "image_shape": list(held_out.images.shape[1:]),
            "resize_filter": "none here; images as the data set has them",
            "prepared_with": facts.get("options", {}),
            "file_format": {"real": _format(real), "fake": _format(fake)},
            "split": how,
            "held_out_images": len(unseen),
            "images_a_row": rows[0].images,
            "images_there": {name: len(each.images) for name, each in measured.items()},
            "matching": matching,
            "neighbours": K,
            "mixing": "lam ~ Beta(1, 1), pairs of one class",
            "seed": seed,
        }
        parts = _parts(facts, (sets[SYNTHETIC], fake), (unseen, real), (seen, real), measured, held_out)
        warnings = _warnings(rows, held_out)
        result = Comparison(rows, _accuracy(held_out, network.classes), protocol, warnings, parts)
        if folder is not None:
            text = json.dumps(result.numbers, indent=1, allow_nan=False)
            (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
            run = reporting.Run(command, protocol, seed, time.monotonic() - begun)
            _report(folder / "report.html", result, measured, held_out, run)
    return result


def _refuse_shared(fake: Sequence[Example], real: Sequence[Example], fake_root: Any, real_root: Any) -> None:
    """The same image in both would be measured against itself; under whatever name, and under one name whatever it is."""
    known = {_content(example) for example in real} | {example.id for example in real}
    shared = [e.id for e in fake if _content(e) in known or (e.provenance is None and e.id in known)]
    if shared:
        raise Error(
            f"Synthetic and real samples are compared apart; {len(shared)} of {fake_root} are in {real_root} as well, "
            f"such as '{shared[0]}'. Leave them out; diffgraft audit finds near copies, too."
        )


def _content(example: Example) -> str:
    """Of the image in the 8 bits of a file: the same before and after it was written."""
    levels = np.rint((np.clip(example.image, -1, 1) + 1) * 127.5).astype(np.uint8)
    return hashlib.sha256(repr(levels.shape).encode() + levels.tobytes()).hexdigest()


def _kinds(examples: Sequence[Example], root: str | Path, label: str) -> np.ndarray:
    """The name of each sample's class: data sets may number their classes differently."""
    facts = dataset.info(root)
    if not label or "domain" not in facts:
        return np.full(len(examples), ALL)
    vocabulary = labels.of(facts, models.domain(facts["domain"]))
    spelled = [labels.spell(vocabulary, e.annotation.labels).get(label, "") for e in examples]
    return np.array(spelled) if any(spelled) else np.full(len(examples), ALL)


def _measured(
    network: Backbone, images: np.ndarray, kinds: np.ndarray, text: str, watch: Callable[[str, int, int], object]
) -> _Set:
    features, named = network.measured(images, lambda done: watch(text, done, len(images)))
    return _Set(images, kinds, features, named)


def _mixtures(floor: _Set, seed: int) -> dict[str, np.ndarray]:
    """Images made of two training images of one class, in the order of the first."""
    made = {}
    for name, mix in {MIXUP: mixup, CUTMIX: cutmix}.items():
        random, mixed = np.random.default_rng(seed), np.empty_like(floor.images)
        for kind in np.unique(floor.kinds):
            here = np.flatnonzero(floor.kinds == kind)
            images = floor.images[here].astype(np.float32)
            mixed[here] = mix(images, np.ones((len(here), 1), np.float32), random, alpha=1.0)[0]
        made[name] = mixed
    return made


def _matched(sets: Mapping[str, _Set], kinds: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], str]:
    """Which images of each set are measured: as many of each, in the class shares of the held-out images if possible."""
    random = np.random.default_rng(seed)
    least = min(len(each.images) for each in sets.values())
    if least < FEWEST or len(kinds) < FEWEST:
        raise Error(
            f"Distributions are compared with {FEWEST} or more images each; found {least} and {len(kinds)} held out. "
            "Generate more."
        )
    names, counts = np.unique(kinds, return_counts=True)
    share = counts / counts.sum()
    times = min((each.kinds == n).sum() / s for each in sets.values() for n, s in zip(names, share, strict=True))
    wanted = np.floor(times * share + 1e-9).astype(int)
    if wanted.sum() >= max(FEWEST, 0.3 * least):
        chosen = {
            name: np.concatenate(
                [
                    random.permutation(np.flatnonzero(each.kinds == kind))[:count]
                    for kind, count in zip(names, wanted, strict=True)
                ]
            )
            for name, each in sets.items()
        }
        return chosen, "as many images of every class, in the shares of the held-out ones"
    chosen = {name: random.permutation(len(each.images))[:least] for name, each in sets.items()}
    return chosen, "as many images, classes as they come: the shares of the held-out ones could not be met"


def _row(name: str, part: _Set, held_out: _Set, names: Sequence[str]) -> Row:
    kernel = kernel_distance(held_out.features, part.features)
    manifold = precision_recall(held_out.features, part.features, K)
    classes = {}
    for kind in np.unique(held_out.kinds):
        real, fake = (each.features[each.kinds == kind] for each in (held_out, part))
        if kind != ALL and kind and min(len(real), len(fake)) >= 3:
            classes[str(kind)] = tuple(kernel_distance(real, fake))
    return Row(
        name, len(part.images), frechet_distance(held_out.features, part.features), kernel.value, kernel.error,
        *manifold, classes=classes, named=_accuracy(part, names),
    )  # fmt: skip


def _accuracy(part: _Set, names: Sequence[str]) -> float | None:
    """Balanced accuracy of the feature network on the classes that were asked for."""
    index = {name: k for k, name in enumerate(names)}
    rates = [
        float((part.named[part.kinds == kind].argmax(1) == index[kind]).mean())
        for kind in np.unique(part.kinds)
        if kind in index
    ]
    return sum(rates) / len(rates) if rates else None


def _parts(
    facts: Mapping[str, Any],
    fake: tuple[Sequence[Example], str | Path],
    held_out: tuple[Sequence[Example], str | Path],
    training: tuple[Sequence[Example], str | Path],
    measured: Mapping[str, _Set],
    unseen: _Set,
) -> list[Distance]:
    """Of films with findings, the distance of every part: all films that there are, not as many of each."""
    domain = models.domain(facts["domain"]) if "domain" in facts else None
    if domain is None or not findings(labels.of(facts, domain)):
        return []
    known = labels.of(facts, domain)
    sides = []
    for (examples, root), each in ((fake, measured[SYNTHETIC]), (held_out, unseen), (training, measured.get(FLOOR))):
        theirs = labels.of(dataset.info(root), domain)
        same = [
            dataclasses.replace(e, annotation=Annotation(labels=labels.translated(e.annotation.labels, theirs, known)))
            for e in examples
        ]
        if each is not None:
            sides.append((each.features, subgroups.parts(same, known, domain.LABELS)))
    return subgroups.distances(*sides)


def _warnings(rows: Sequence[Row], held_out: _Set) -> list[str]:
    found = []
    if any(row.fid is None for row in rows):
        found.append(
            f"no FID: it needs more than {held_out.features.shape[1]} images, the dimensions of the features, on both sides"
        )
    if rows[0].images < 100 or len(held_out.images) < 100:
        found.append(
            "below 100 images precision, recall, density and coverage are rough; compare within this table only"
        )
    return found


def _format(root: str | Path) -> str:
    """How the files of a data set are stored, which a distance between two data sets may see."""
    with (Path(root) / "manifest.jsonl").open(encoding="utf-8") as manifest:
        return Path(json.loads(next(manifest))["file"]).suffix.lstrip(".")


def _plain(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>{width}}"


def _report(path: Path, result: Comparison, sets: Mapping[str, _Set], held_out: _Set, run: reporting.Run) -> None:
    table = reporting.Table(
        ("images", "KID", "error", "FID", "precision", "recall", "density", "coverage", "class named"),
        [
            (r.name, r.kid, r.kid_error, r.fid, r.precision, r.recall, r.density, r.coverage, r.named)
            for r in result.rows
        ],
        f"Against {len(held_out.images)} held-out real images, {result.rows[0].images} a row",
    )
    kinds = list(dict.fromkeys(kind for row in result.rows for kind in row.classes))
    blocks: list[reporting.Block] = [table]
    if kinds:
        rows = [
            (r.name, *(f"{r.classes[k][0]:.4f} ± {r.classes[k][1]:.4f}" if k in r.classes else None for k in kinds))
            for r in result.rows
        ]
        blocks.append(reporting.Table(("images", *kinds), rows, "KID of every class alone"))
    blocks += [reporting.Text(warning) for warning in result.warnings]
    fake = sets[SYNTHETIC]
    parts = [reporting.Section("Parts", [subgroups.table(result.parts)], subgroups.NOTE)] if result.parts else []
    sheets: list[reporting.Block] = []
    for kind in np.unique(held_out.kinds):
        for name, each in {"held-out real": held_out, SYNTHETIC: fake}.items():
            images = [image.astype(np.float32) for image in each.images[each.kinds == kind][:SHOWN]]
            if images:
                sheets.append(reporting.Sheet(images, (), SHOWN, f"{kind or 'class unknown'}, {name}"))
    nearest = sets.get(FLOOR, held_out)
    spread = np.linspace(0, len(fake.images) - 1, min(16, len(fake.images))).astype(int)
    apart = ((fake.features[spread, None] - nearest.features) ** 2).sum(2)
    pairs, captions = [], []
    for n, k in zip(spread, apart.argmin(1), strict=True):
        gap = np.ones((*fake.images.shape[1:3], 2), np.float32)
        pairs.append(np.concatenate([fake.images[n], gap, nearest.images[k]], 2).astype(np.float32))
        captions.append(f"{fake.kinds[n]} | {nearest.kinds[k]}")
    reporting.write(
        path,
        "Synthetic against real images",
        f"KID {result.rows[0].kid:.4f} ± {result.rows[0].kid_error:.4f}"
        + "".join(f"; {r.name}: {r.kid:.4f}" for r in result.rows[1:] if r.name == FLOOR),
        [
            reporting.Section(
                "Numbers",
                blocks,
                "KID and FID: lower is nearer. Class named: by the feature network, averaged over classes; "
                f"{_plain(result.held_out_named, 0)} of the held-out real images.",
            ),
            *parts,
            reporting.Section("Real beside synthetic", sheets),
            reporting.Section(
                "Nearest neighbours",
                [reporting.Sheet(pairs, captions, 4)],
                f"A synthetic image beside the {'training' if FLOOR in sets else 'real'} image with the nearest features.",
            ),
            reporting.Section("Protocol", [reporting.Facts(result.protocol)]),
        ],
        run,
        notice=reporting.RESEARCH_USE,
        next_step="Look for copies before these numbers are believed: diffgraft audit TRAIN FAKE",
    )
