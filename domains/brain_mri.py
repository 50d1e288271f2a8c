"""Brain MRI: healthy counterfactuals of axial slices and anomaly maps on the grid of the scan.

A scan is cut into axial slices, each cropped to the head's physically square box and windowed so that the brain's
median has one level. Training sees image-level labels only - does this slice show a lesion? - never a mask.

    fields  lesion (0 healthy, 1 lesion, 2 not stated), position (0 lowest .. 1 highest head slice)
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data import labels
from toolkit.data.background import level_background
from toolkit.data.head import head_mask, inner_head
from toolkit.data.labels import Range, Vocabulary
from toolkit.data.transforms import Box, fit, square_box, to_window, unfit
from toolkit.diffusion.model import Field, Model
from toolkit.diffusion.noise import Purpose, gaussian
from toolkit.example import Annotation, Error, Example, Geometry, Note
from toolkit.formats import nifti
from toolkit.formats.slice_table import read_slice_labels
from toolkit.methods.anomaly_map import MapSettings, anomaly_map, asymmetric, rim_weight, slice_probability
from toolkit.methods.counterfactual import counterfactual
from toolkit.settings import Augmentation, Counterfactual, Network, Training

__all__ = [
    "AUGMENTATION", "CLASSES", "CONTRAST", "FIELDS", "LABELS", "NOTICE", "PRESETS", "QUALITY", "TARGET", "UNITS",
    "VOCABULARY", "Explanation", "PreparedScan", "assemble_volume", "condition", "explain", "fields", "input_warnings",
    "novelty", "parse_prompt", "preprocess", "read", "slice_conditions", "slice_labels", "training_summary",
    "vocabulary",
]  # fmt: skip

SIZE = 64
UNITS = ("slices", "patients")
"""What a sample and a group of samples are called."""

NOTICE = "Research use only. Not a medical device."
"""What every report of this domain says."""

CONTRAST = "FLAIR"
TARGET = "lesion"
CLASSES = ("healthy", "lesion")
VOCABULARY: dict[str, tuple[str, ...] | Range] = {"lesion": CLASSES, "position": Range(0.0, 1.0)}
LABELS = ("lesion", "position")
"""The labels that become condition fields."""

FIELDS = labels.fields(VOCABULARY, LABELS)

AUGMENTATION = Augmentation(flip=0.5, rotate=10.0, scale=0.1, shift=0.05, gamma=0.25, gain=0.1)
PRESETS = {
    "denoiser": {
        "small": (Network((24, 48, 80, 96)), Training(steps=2600, sigma_mean=-0.2, sigma_std=1.4)),
        "probe": (Network((24, 48, 80, 96)), Training(steps=1500, sigma_mean=-0.2, sigma_std=1.4)),
    },
    "classifier": {
        "small": (Network((24, 32, 64), dropout=0.1), Training(steps=800, batch=32, sigma_mean=-0.5, sigma_std=1.6)),
    },
}
"""Part -> preset -> network and training. Measured on two CPU cores; see the model card."""

QUALITY = {
    "fast": Counterfactual(strengths=(0.5,), steps=10, mirror=False),
    "default": Counterfactual(strengths=(0.5, 0.7), steps=10, mirror=True),
    "best": Counterfactual(strengths=(0.4, 0.5, 0.6, 0.7), steps=16, mirror=True),
}
"""How much work a counterfactual is given; see models/brain_mri/README.md for what the default reaches."""

MOST_SLICES = 48
"""A scan with more usable slices is sampled evenly and interpolated between: its slices are thin and much alike."""

WEAKEST_CLASSIFIER = 0.8
"""Slice AUROC on unseen patients below which a classifier may not guide."""

NOVELTY_SIGMAS = (0.5, 2.0)

SMALLEST_HEAD = 0.1
"""A slice is used when the head covers at least this fraction of it: the ends of a scan show no brain."""

SERIES = (0.15, 0.9)
"""Where a synthetic head begins and ends: beyond lie slices of which the model has seen the fewest kinds."""

LESION = (0.4, 0.7)
"""The positions of a synthetic head that show its lesion."""

PIXELS, BRIGHTEST = 128, 255
"""Rows and columns of a synthetic scan, and its brightest value."""

BRAIN_LEVEL = 0.4
"""Where the brain lies in the window: its median at 0.4 of the way up, so that a lesion twice as bright fits."""


@dataclass(frozen=True)
class PreparedScan:
    """One scan, ready for the model, with the way back.

    stack (S, rows, cols) in source units and radiological display; level, the same with its background at the level of
    air; head, its mask; images (N, 1, SIZE, SIZE) in [-1, 1] of the N slices `index`, evenly spaced; position (N,) in
    0..1; box and window as in Geometry; spacing (slice, row, col) mm.
    """

    volume: nifti.Volume
    stack: np.ndarray
    level: np.ndarray
    head: np.ndarray
    images: np.ndarray
    index: np.ndarray
    position: np.ndarray
    box: Box
    window: tuple[float, float]
    spacing: tuple[float, float, float]


def preprocess(volume: nifti.Volume, size: int = SIZE) -> PreparedScan:
    """Crop and window a scan. Raises Error when there is no head in it.

    The units of the scan make no difference: one whose values are a + b times those of another, b > 0, gives the same
    images, head and box, and a + b times its window.
    """
    stack, _ = nifti.display(volume.array, volume.affine)
    level = level_background(stack)
    spacing = nifti.display_spacing(volume.affine)
    head = head_mask(level)
    covered = head.mean((1, 2))
    usable = np.flatnonzero(covered > SMALLEST_HEAD)
    if len(usable) < 3:
        raise Error(
            f"A brain scan has at least 3 axial slices with a head over {SMALLEST_HEAD:.0%} of them; "
            f"{volume.path.name} has {len(usable)}. Check the orientation and that this is a head scan."
        )
    window = _window(level, head)
    box = square_box(np.any(head, 0), (spacing[1], spacing[2]))
    first, last = usable[0], usable[-1]
    usable = usable[:: -(-len(usable) // MOST_SLICES)]
    images = np.stack([fit(to_window(level[k], window), box, (size, size), -1.0) for k in usable])[:, None]
    position = (usable - first) / max(1, last - first)
    return PreparedScan(volume, stack, level, head, images, usable, position.astype(np.float32), box, window, spacing)


def vocabulary(root: Path, **_: object) -> Vocabulary:
    """The labels of raw files and their values: the same for all."""
    return VOCABULARY


def read(
    root: Path,
    contrast: str = CONTRAST,
    aside: Callable[[str, str], None] | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[Example]:
    """Every usable axial slice of every scan under root, with its image-level label and, if there is one, its mask.

    The label comes from slices.csv (columns patient, slice, label; slice = index along the third array axis), else
    from whether the mask marks anything, else it is unknown. aside(name, reason) is told of a scan that cannot be used and
    of what lies there and is not read, and the rest is read; without it a bad scan is an Error. watch(done, of) is
    called once a scan. Notes of reading are warned of at the end.
    """
    tables = read_slice_labels(root)
    scans = nifti.find(root, contrast, aside)
    notes: dict[str, list[str]] = {}
    for number, scan in enumerate(scans, 1):
        watch(number, len(scans))
        try:
            volume = dataclasses.replace(nifti.load(scan.path), label=scan.label)
            case, mask, decided = preprocess(volume), None, [(scan.path.name, note) for note in volume.notes]
            if scan.mask is not None:
                marked, said = scan.marked(volume)
                mask, _ = nifti.display(marked, volume.affine)
                decided += [(scan.mask.name, note) for note in said]
        except Error as problem:
            if aside is None:
                raise
            aside(scan.path.relative_to(root).as_posix() if root.is_dir() else scan.path.name, str(problem))
            continue
        for name, note in decided:
            notes.setdefault(note, []).append(name)
        for image, k, position in zip(case.images, case.index, case.position, strict=True):
            stored = nifti.stored_index(volume, int(k))
            label = tables.get((volume.label, stored), float("nan") if mask is None else float(mask[k].any()))
            small = None if mask is None else fit(mask[k].astype(np.float32), case.box, image.shape[1:], 0.0) > 0.5
            yield Example(
                id=f"{volume.label}-{int(k):03d}",
                image=image,
                annotation=Annotation(labels={"lesion": label, "position": float(position)}, mask=small),
                group=scan.group,
                geometry=Geometry(volume.affine, volume.array.shape, case.window, int(k), case.box),
            )
    for note, names in notes.items():
        others = f" and of {len(names) - 1} other(s)" if len(names) > 1 else ""
        warnings.warn(f"Of {names[0]}{others}: {note}.", Note, stacklevel=2)


@dataclass(frozen=True)
class Explanation:
    """What the model says of a study, on the source grid in display order, (S, rows, cols) each.

    counterfactual: source units; the scan itself outside the head and at its rim. anomaly: non-negative, larger is more
    abnormal, one scale for all scans. probability: (S,) of a lesion in the slice.
    """

    counterfactual: np.ndarray
    anomaly: np.ndarray
    probability: np.ndarray


def explain(
    model: Model,
    case: PreparedScan,
    settings: Counterfactual,
    maps: MapSettings,
    target: Annotation,
    watch: Callable[[], object] = lambda: None,
) -> Explanation:
    """The scan as if it were of the target class, and the map of what had to change."""
    wanted = int(target.labels["lesion"])
    null, goal = _asked(case, FIELDS["lesion"].null), _asked(case, wanted)
    weights = np.zeros((len(case.index), len(CLASSES)), np.float32)
    weights[:, wanted] = 1
    changed = counterfactual(model, case.images, null, goal, weights, settings, watch)
    probability = np.ones(len(case.stack)) if model.classifier is None else _spread(
        case, slice_probability(model, case.images, maps, watch)
    )  # fmt: skip
    difference = (case.images - changed)[:, 0]
    weight = rim_weight(case.head, maps)
    anomaly = anomaly_map(_to_source(case, asymmetric(difference, maps)), weight, probability, maps)
    # The model sees the slice at its own, coarser resolution: only the change is brought back, onto the scan itself,
    # so that what is not changed keeps every voxel and what is changed keeps its texture.
    change = _to_source(case, difference) * weight * probability[:, None, None]
    low, high = case.window
    return Explanation((case.stack - change * ((high - low) / 2)).astype(np.float32), anomaly, probability)


def novelty(model: Model, case: PreparedScan) -> float:
    """How unlike the training scans a study is: mean log10 of the denoising error over slices and noise levels.

    Finds what is no head at all (noise, inverted grey levels); for orientation and contrast see `input_warnings`.
    """
    null = {k: model.asarray(v) for k, v in _asked(case, FIELDS["lesion"].null).items()}
    errors = []
    for sigma in NOVELTY_SIGMAS:
        noise = gaussian(case.images.shape[1:], 0, range(len(case.images)), Purpose.START, 0)
        denoised = model.asnumpy(model.denoiser(model.asarray(case.images + np.float32(sigma) * noise), sigma, null))
        errors.append(np.log10(((denoised - case.images) ** 2).mean((1, 2, 3))))
    return float(np.mean(errors))


def training_summary(examples: Iterable[Example]) -> dict[str, list]:
    """What the training scans look like, coarsely, for `input_warnings`; plain lists, kept in model.json.

    heads: (LEVELS, 16, 16) mean of the scans and their mirror images.
    """
    scans: dict[str, list[Example]] = {}
    for example in examples:
        scans.setdefault(example.id.rpartition("-")[0], []).append(example)
    found = [
        _coarse(np.stack([e.image for e in rows]), np.array([e.annotation.labels["position"] for e in rows]))
        for rows in scans.values()
    ]
    mean = np.mean(found, axis=0)
    return {"heads": np.round((mean + mean[..., ::-1]) / 2, 3).tolist()}


def input_warnings(model: Model, case: PreparedScan) -> list[str]:
    """Reasons to believe that a scan is not what the model was trained on: contrast and orientation.

    Orientation: turned or flipped, it would resemble the mean training head more. Contrast: the name says another; the
    grey levels themselves do not tell FLAIR from T1 or T2 well enough to refuse a scan by them.
    """
    found = []
    if case.volume.contrast not in (CONTRAST, "unknown"):
        found.append(f"its name says {case.volume.contrast}, the model was trained on {CONTRAST}")
    known = model.meta.get("typical")
    if not known:
        return found
    coarse = _coarse(case.images, case.position)
    fits = {name: _correlation(turn(coarse), np.array(known["heads"])) for name, turn in _TURNS.items()}
    best = max(fits, key=lambda name: fits[name])
    if fits[best] > fits["as it is"] + TURN_MARGIN:
        found.append(f"{best} it would resemble a head more ({fits[best]:.2f}) than as it is ({fits['as it is']:.2f})")
    return found


TURN_MARGIN = 0.02
"""By how much the correlation must be higher for a turn to be believed."""

LEVELS = (0.15, 0.35, 0.55, 0.75)
"""Positions at which heads are compared."""

_TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda a: a,
    "upside down (head to foot)": lambda a: a[::-1],
    "back to front": lambda a: a[:, ::-1],
    "turned by 90 degrees": lambda a: np.rot90(a, 1, (1, 2)),
    "turned by -90 degrees": lambda a: np.rot90(a, -1, (1, 2)),
    "back to front and upside down": lambda a: a[::-1, ::-1],
}


def _coarse(images: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(N, 1, SIZE, SIZE) at positions (N,) -> (LEVELS, 16, 16): the head at four heights."""
    side = images.shape[-1] // 16
    small = images.reshape(len(images), 16, side, 16, side).mean((2, 4))
    weights = np.exp(-0.5 * ((np.asarray(position)[None] - np.array(LEVELS)[:, None]) / 0.1) ** 2) + 1e-9
    return np.einsum("ln,nij->lij", weights / weights.sum(1, keepdims=True), small)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _asked(case: PreparedScan, lesion: float) -> Mapping[str, np.ndarray]:
    return condition(Annotation(labels={"lesion": lesion, "position": float(p)}) for p in case.position)


def _to_source(case: PreparedScan, images: np.ndarray) -> np.ndarray:
    """(N, SIZE, SIZE) in model space -> (S, rows, cols), linear between the slices that were looked at."""
    shape = case.stack.shape
    placed = np.stack([unfit(image, case.box, shape[1:], 0.0) for image in images])
    out = np.zeros(shape, np.float32)
    for k in range(case.index[0], case.index[-1] + 1):
        right = int(np.searchsorted(case.index, k))
        left = right if case.index[right] == k else right - 1
        part = 0.0 if left == right else (k - case.index[left]) / (case.index[right] - case.index[left])
        out[k] = (1 - part) * placed[left] + part * placed[right]
    return out


def _spread(case: PreparedScan, values: np.ndarray) -> np.ndarray:
    """(N,) of the slices looked at -> (S,) of all slices; 0 where there is no usable slice."""
    every = np.arange(len(case.stack))
    return np.interp(every, case.index, values, left=0.0, right=0.0)


def _window(stack: np.ndarray, head: np.ndarray) -> tuple[float, float]:
    """From the head's 2nd percentile to where the median of the inner head lies at BRAIN_LEVEL.

    Percentiles of the whole head follow the skin's fat, whose brightness says nothing about the brain's.
    """
    low = float(np.percentile(stack[head], 2))
    middle = float(np.median(stack[inner_head(head)]))
    return low, low + (middle - low) / BRAIN_LEVEL


def slice_conditions(count: int, wanted: Mapping[str, float]) -> list[Annotation]:
    """What to ask for slice by slice to get one head, low to high; a lesion in the middle unless lesion 0 is wanted."""
    if "position" in wanted:
        raise Error("The slices of a volume have positions of their own; found one position for all. Do not set it.")
    positions = np.linspace(*SERIES, count) if count > 1 else [sum(SERIES) / 2]
    sick = wanted.get("lesion", 1.0)
    return [
        Annotation(labels={"lesion": sick * float(LESION[0] <= p <= LESION[1]), "position": round(float(p), 4)})
        for p in positions
    ]


def assemble_volume(images: np.ndarray, path: Path) -> nifti.Volume:
    """Slices (S, 1, SIZE, SIZE), low to high, as a volume of the size of a head, whole numbers from 0 to BRIGHTEST."""
    box = (0, 0, PIXELS, PIXELS)
    stack = np.stack([unfit((image[0] + 1) * (BRIGHTEST / 2), box, (PIXELS, PIXELS), 0.0) for image in images])
    stack = np.clip(np.rint(stack), 0, BRIGHTEST)
    pixel = 3.0 * SIZE / PIXELS
    affine = np.diag([-pixel, -pixel, 6.0, 1.0])
    affine[:3, 3] = [PIXELS * pixel / 2, PIXELS * pixel / 2, -3.0 * len(images)]
    array = nifti.restore(stack, affine, (PIXELS, PIXELS, len(images)))
    return nifti.Volume(array, affine, path, *nifti.parse_file_name(path), acquired=False)


def parse_prompt(words: str) -> Annotation:
    """What a person asks for: "healthy" or "lesion"."""
    if words not in CLASSES:
        raise Error(f"A brain MRI target is one of {', '.join(CLASSES)}; found '{words}'.")
    return Annotation(labels={"lesion": float(CLASSES.index(words))})


def fields(vocabulary: Vocabulary) -> dict[str, Field]:
    """The model's condition."""
    return labels.fields(vocabulary, LABELS)


def condition(
    annotations: Iterable[Annotation], fields: Mapping[str, Field] = FIELDS, vocabulary: Vocabulary | None = None
) -> Mapping[str, np.ndarray]:
    """The model's fields, one row an annotation; a label that is unknown or absent becomes null."""
    return labels.condition(fields, annotations)


def slice_labels(root: Path, volume: nifti.Volume) -> np.ndarray:
    """(S,) label of every axial slice of a scan under root, in display order: 1 lesion, 0 no lesion, NaN not stated.

    From slices.csv alone; a mask says nothing here.
    """
    tables = read_slice_labels(root)
    count = len(nifti.display(volume.array, volume.affine)[0])
    return np.array([tables.get((volume.label, nifti.stored_index(volume, k)), np.nan) for k in range(count)])
