"""What an evaluation of anomaly maps found, as values and as lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffgraft.reporting import format_difference
from toolkit.evaluation.anomaly import AnomalyReport, Difference, Stratum
from toolkit.evaluation.interval import Interval

__all__ = ["OURS", "AnomalyEvaluation", "SliceFigures", "chance_dice", "count_of", "describe_stratum"]

OURS = "anomaly map"
"""The name of the evaluated map among the others."""


@dataclass(frozen=True)
class SliceFigures:
    """How well one number a slice tells slices with a lesion from those without: AUROC, pooled and per patient."""

    pooled: Interval
    mean_per_patient: float | None
    patients: int
    slices: int


@dataclass(frozen=True)
class AnomalyEvaluation:
    """What `evaluate_anomaly` found; str() is for the terminal.

    reports: map -> its figures, the evaluated one first. differences: other map -> region -> the evaluated one less
    the other, paired. slices: what tells slices apart -> its figures. protocol: what makes the figures readable. left_out:
    scan -> reason. warnings: what makes the figures less than they look; notes: what was decided on the way.
    calibration: what was written into the model's model.json.
    """

    reports: Mapping[str, AnomalyReport]
    differences: Mapping[str, Mapping[str, Difference]]
    slices: Mapping[str, SliceFigures]
    protocol: Mapping[str, Any]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON, without NaN: undefined is None."""
        others = asdict(replace(self, reports={}))
        del others["reports"]
        return {"maps": {name: each.as_dict() for name, each in self.reports.items()}, **others}

    @property
    def written(self) -> dict[str, Any]:
        """The calibration without the patients it was made on."""
        return {key: value for key, value in self.calibration.items() if key != "calibrated_on"}

    @property
    def dice_title(self) -> str:
        return "Validation-tuned Dice" if self.protocol["threshold_from_other_patients"] else "Dice at threshold"

    def dice(self, name: str, region: str) -> Interval:
        """Dice of the evaluated map at its own threshold; the other maps have none."""
        known = name == OURS and self.protocol["threshold"] is not None
        return self.reports[name].regions[region].dice if known else Interval(None, None, None)

    def __str__(self) -> str:
        facts, ours = self.protocol, self.reports[OURS].regions
        lines = [
            f"{count_of(facts['patients'], 'patient')}, {count_of(facts['scans'], 'scan')}, {facts['slices']} slices "
            f"({facts['slices_with_lesion']} with lesion, {facts['slices_healthy']} healthy)"
        ]
        for reason in dict.fromkeys(self.left_out.values()):
            names = [label for label, why in self.left_out.items() if why == reason]
            more = f" and {len(names) - 12} more" * (len(names) > 12)
            lines.append(f"left out, {reason}: {', '.join(names[:12])}{more}")
        lines += [f"WARNING: {each}" for each in self.warnings]
        for region in ours:
            lines += ["", *self._lines(region)]
        lines += [""]
        for size in ours["head"].lesions:
            lines.append(f"{describe_stratum(size)}: {size.recall:.0%} of their voxels, {size.found:.0%} of them found")
        if (false := ours["head"].false_positives.voxels_per_slice) is not None:
            lines.append(f"{false:.0f} false voxels a healthy slice")
        for name, each in self.slices.items():
            mean = f"{_decimal(each.mean_per_patient)} mean of {count_of(each.patients, 'patient')}"
            lines.append(f"slice AUROC, {name}: {each.pooled} pooled, {mean}")
        lines += ["", "* at the threshold that is best on these very scans: optimistic"]
        shown = ("mask", "split", "threshold", "threshold_origin", "lesions", "interval", "pooling", "slice_auroc_over")
        lines += [f"{key.replace('_', ' ')}: {facts[key]}" for key in shown if facts[key] is not None]
        lines += [f"note: {each}" for each in self.notes]
        return "\n".join(lines + [f"calibrated: {key} {value}" for key, value in self.written.items()])

    def _lines(self, region: str) -> list[str]:
        """Every map in a region, a line each, chance last."""
        ours, wide = self.reports[OURS].regions[region], max(len(name) for name in self.reports)
        lines = [
            f"{region}: prevalence {_decimal(ours.prevalence, 4)}, {ours.outside} lesion voxels outside, not counted",
            f"  {'':{wide}}  {'AUPRC':20} {'best Dice *':20} {self.dice_title:22} {'AUPRC/patient':14} "
            f"{OURS} less this, AUPRC",
        ]
        for name, report in self.reports.items():
            here, gap = report.regions[region], ""
            if name in self.differences:
                gap = format_difference(self.differences[name][region].average_precision) or "-"
            lines.append(
                f"  {name:{wide}}  {here.average_precision!s:20} {here.best_dice!s:20} {self.dice(name, region)!s:22} "
                f"{_decimal(here.mean_patient_average_precision):14} {gap}".rstrip()
            )
        if ours.prevalence is not None:
            lines.append(f"  {'chance':{wide}}  {ours.prevalence:<20.3f} {chance_dice(ours.prevalence):.3f}")
        return lines


def chance_dice(prevalence: float) -> float:
    """Dice of calling every voxel abnormal."""
    return 2 * prevalence / (1 + prevalence)


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def describe_stratum(lesions: Stratum) -> str:
    """How many lesions of which size, in words."""
    size = f"{lesions.low:.3g}" if lesions.low == lesions.high else f"{lesions.low:.3g} to {lesions.high:.3g}"
    return f"{count_of(lesions.lesions, 'lesion')} of {size} {lesions.unit}"


def _decimal(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
