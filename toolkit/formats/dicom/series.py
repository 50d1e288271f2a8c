"""MR series as volumes: classic MR Image Storage, one file a slice, and Enhanced MR, all slices in one file.

Contract. `find` lists the MR series of a folder without reading a pixel; `load` returns one as a volume only when its
place in the patient is certain. Slices are sorted by their position along the normal of the slice plane, never by
number, and each has its own rescale applied. Gaps, uneven steps, a slice that cannot be read, two images at one place
(echoes, repetitions, a file twice), slices that shift sideways, two orientations, sizes, studies or frames of reference
in one series, and localizers are refused, each with its reason.

DICOM counts millimetres toward the patient's left, posterior and superior (LPS); everything here that is called affine
leads to RAS, as in `toolkit.formats.nifti`. Axes of the array are (column, row, slice): X along a row of the image.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from toolkit.example import Error
from toolkit.formats.contrast import Timing, shown_contrast
from toolkit.formats.dicom import elements
from toolkit.formats.dicom.beside import SIDE, lost_slices
from toolkit.formats.dicom.elements import code_string, items, numbers, text
from toolkit.formats.dicom.files import is_bare, is_dicom, read_file, refuse
from toolkit.formats.dicom.pixels import stored_pixels
from toolkit.formats.dicom.stack import fit
from toolkit.formats.folders import Aside

__all__ = ["Series", "SeriesFiles", "contrast_of", "find", "load", "load_all"]

CLASSES = (uid.MRImageStorage, uid.EnhancedMRImageStorage)

FEWEST = 3
"""A series with fewer slices is a localizer, or part of a series."""

TO_RAS = np.diag([-1.0, -1.0, 1.0])

_LISTED = (
    "SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "ImageType", "PatientID",
    "IssuerOfPatientID", "StudyInstanceUID", "SyntheticData", "RepetitionTime", "EchoTime", "InversionTime", "ContrastBolusAgent",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True)
class SeriesFiles:
    """A series that `find` met. contrast: see `contrast_of`. group: the patient's key, which is not the ID.

    lost: names of files beside the others that are slices of it by their names and cannot be read.
    """

    uid: str
    paths: tuple[Path, ...]
    number: str
    description: str
    contrast: str
    group: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One MR series as a volume.

    voxels: (X, Y, Z) float32, rescale applied: column, row and slice of the images. affine: (4, 4) float64, voxel index
    to RAS millimetres. uid: SeriesInstanceUID. sources: the dataset of every slice in order of the third axis, without
    pixels - one and the same Z times where all frames are in one file. frames: the frame number of every slice, from 1,
    or () for classic files. description: SeriesDescription. frame_of_reference: its UID. contrast: see `contrast_of`.
    """

    voxels: np.ndarray
    affine: np.ndarray
    uid: str
    sources: tuple[Dataset, ...]
    frames: tuple[int, ...]
    description: str
    frame_of_reference: str
    contrast: str = "unknown"
    group: str = ""


@dataclass(frozen=True)
class _Slice:
    """Where a frame lies, in LPS, and what its numbers mean. plane: (3, 3) as elements.orientation gives it."""

    name: str
    source: Dataset
    frame: int
    image: np.ndarray
    plane: np.ndarray
    position: np.ndarray
    spacing: tuple[float, float]
    slope: float
    intercept: float


def load_all(root: str | Path, aside: Aside | None = None) -> Iterator[Series]:
    """Every MR series under root, one volume at a time. aside(name, reason) is told what is left out, else an Error is."""
    for found in find(root, aside):
        try:
            yield load(found)
        except Error as problem:
            if aside is None:
                raise
            aside(found.uid, str(problem))


def find(root: str | Path, aside: Aside | None = None) -> list[SeriesFiles]:
    """The MR series of a folder, at any depth, or of one file; by patient, study and number.

    DICOM without its preamble is read as well. aside(name, reason) is told, once a series, of DICOM that is no acquired
    MR image, of damaged files, and of what is no DICOM and no text; without it damage is an Error, and the rest is
    passed over.
    """
    root = Path(root)
    every = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else []
    # The ._ twins that macOS leaves on shared disks are no slices.
    paths = [p for p in every if p == root or not any(part.startswith(".") for part in p.relative_to(root).parts)]
    if not paths:
        raise Error(f"A series is read from a folder of DICOM files or from one; '{root}' is neither. Check the path.")
    members: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    others: dict[tuple[str, str], int] = defaultdict(int)
    broken: list[Path] = []
    for path in paths:
        if not (is_dicom(path) or is_bare(path)):
            if path.suffix.lower() not in SIDE:
                broken.append(path)
                _tell(aside, path.name, "A DICOM file begins with DICM at byte 128; this one is none, and is not read.")
            continue
        try:
            data = read_file(path, pixels=False, only=_LISTED, bare=True)
        except Error as problem:
            if aside is None:
                raise
            broken.append(path)
            aside(path.name, str(problem))
            continue
        kind = elements.identifier(data, "SOPClassUID")
        key = elements.identifier(data, "SeriesInstanceUID")
        if kind in CLASSES and key and not elements.is_synthetic(data):
            members[key].append((path, data))
        elif kind != uid.MediaStorageDirectoryStorage:
            what = (
                "MR made artificially (Synthetic Data YES)" if kind in CLASSES and key else kind.name or "no SOP class"
            )
            others[key or path.name, what] += 1
            if not (kind and key):  # cut before them: pydicom reads what is there
                broken.append(path)
    for (name, what), count in others.items():
        _tell(aside, name, f"A series is of acquired MR images; this is {what}, {count} file(s).")
    lost = lost_slices({path: key for key, rows in members.items() for path, _ in rows}, broken)
    listed = [(_order(rows[0][1]), key, rows) for key, rows in members.items()]
    return [_found(key, rows, lost.get(key, ())) for _, key, rows in sorted(listed, key=lambda row: row[:2])]


def _tell(aside: Aside | None, name: str, reason: str) -> None:
    if aside is not None:
        aside(name, reason)


def _order(data: Dataset) -> tuple[str, str, int]:
    digits = re.search(r"\d+", text(data, "SeriesNumber"))
    return elements.patient_key(data), text(data, "StudyInstanceUID"), int(digits[0]) if digits else 0


def _found(key: str, rows: Sequence[tuple[Path, Dataset]], lost: Sequence[Path]) -> SeriesFiles:
    data = rows[0][1]
    return SeriesFiles(
        uid=key,
        paths=tuple(path for path, _ in rows),
        number=code_string(data, "SeriesNumber"),
        description=text(data, "SeriesDescription"),
        contrast=contrast_of(data),
        group=elements.patient_key(data),
        lost=tuple(path.name for path in lost),
    )


def load(found: SeriesFiles) -> Series:
    """A series as a volume. Raises Error, with the reason, where its place in the patient is in doubt."""
    name = f"series {found.number or found.uid}"
    if found.lost:
        raise refuse(
            name,
            "A series is treated whole",
            f"has {len(found.lost)} file(s) beside its {len(found.paths)} that cannot be read, '{found.lost[0]}' for one",
            "Export it again, or move what is no slice elsewhere.",
        )
    frames = [each for path in found.paths for each in _frames(path)]
    _refuse_localizer(frames, name)
    for what, values in {
        "frame of reference": {text(s.source, "FrameOfReferenceUID") for s in frames},
        "study": {text(s.source, "StudyInstanceUID") for s in frames},
        "patient": {elements.patient_key(s.source) for s in frames},
        "matrix": {s.image.shape for s in frames},
        "pixel spacing": {tuple(np.round(s.spacing, 4)) for s in frames},
    }.items():
        if len(values) != 1 or not all(values):
            words = f"has {len(values)}" if all(values) else "has images that name none"
            raise refuse(name, f"All slices of a series have one {what}", words, "Split it, or export it again.")
    first = frames[0]
    if any(np.abs(other.plane - first.plane).max() > elements.SQUARE for other in frames):
        raise refuse(name, "All slices of a series have one orientation", "has several", "Split it.")
    depth = np.array([first.plane[2] @ s.position for s in frames])
    frames = [frames[k] for k in np.argsort(depth, kind="stable")]
    place, step = fit(np.stack([s.position for s in frames]), first.plane[2], [s.name for s in frames], name)
    affine = np.eye(4)
    height, width = frames[0].spacing
    row, column, _ = frames[0].plane
    affine[:3, :3] = TO_RAS @ np.stack([row * width, column * height, step], axis=1)
    affine[:3, 3] = TO_RAS @ place
    voxels = np.stack(
        [(s.image.astype(np.float64) * s.slope + s.intercept).astype(np.float32).T for s in frames], axis=2
    )
    if not np.isfinite(voxels).all():
        raise refuse(name, "Voxels are finite numbers", "has others after its rescale", "Export it again.")
    return Series(
        voxels=np.ascontiguousarray(voxels),
        affine=affine,
        uid=found.uid,
        sources=tuple(s.source for s in frames),
        frames=tuple(s.frame for s in frames) if any(s.frame for s in frames) else (),
        description=found.description,
        frame_of_reference=text(frames[0].source, "FrameOfReferenceUID"),
        contrast=found.contrast,
        group=found.group,
    )


def _refuse_localizer(frames: list[_Slice], name: str) -> None:
    kinds = {word for s in frames for word in text(s.source, "ImageType").upper().split("\\")}
    if len(frames) < FEWEST or kinds & {"LOCALIZER", "SCOUT"}:
        found = "is a localizer" if kinds & {"LOCALIZER", "SCOUT"} else f"has {len(frames)}"
        raise refuse(
            name, f"A series to be treated has at least {FEWEST} slices and is no localizer", found, "Leave it out."
        )


# ------------------------------------------------------------------------------------------------------------ slices


def _frames(path: Path) -> Iterator[_Slice]:
    """The slices of a file; its pixels are taken out of the dataset that they share."""
    data, name = read_file(path, bare=True), path.name
    images = stored_pixels(data, name)
    if images.ndim != 3:
        raise refuse(name, "An MR image is grey", "has colours", "Leave it out.")
    if items(data, "ModalityLUTSequence", name) or code_string(data, "PhotometricInterpretation") != "MONOCHROME2":
        found = "has another photometric interpretation or a modality LUT"
        raise refuse(name, "An MR image is MONOCHROME2 with a linear rescale", found, "Export it again.")
    del data.PixelData
    if elements.identifier(data, "SOPClassUID") == uid.EnhancedMRImageStorage:
        groups = items(data, "PerFrameFunctionalGroupsSequence", name)
        if len(groups) != len(images):
            found = f"has {len(images)} frames and groups for {len(groups)}"
            raise refuse(name, "Every frame has its functional groups", found, "Export it again.")
        for number, (image, own) in enumerate(zip(images, groups, strict=True), 1):
            yield _slice(name, data, number, image, _merged(data, own, name))
    elif len(images) > 1:
        raise refuse(name, "A classic MR file holds one slice", f"holds {len(images)}", "Export it again.")
    else:
        yield _slice(name, data, 0, images[0], data)


def _merged(data: Dataset, own: Dataset, name: str) -> Dataset:
    """What applies to one frame, flat: from its own functional groups, else from the shared ones (PS3.3 C.7.6.16)."""
    shared = (items(data, "SharedFunctionalGroupsSequence", name) or [Dataset()])[0]
    flat = Dataset()
    for keyword in (
        "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    ):  # fmt: skip
        for item in (items(own, keyword, name) or items(shared, keyword, name))[:1]:
            flat.update(item)
    return flat


def _slice(name: str, source: Dataset, frame: int, image: np.ndarray, data: Dataset) -> _Slice:
    name = f"{name} frame {frame}" if frame else name
    position, spacing = numbers(data, "ImagePositionPatient", 3, name), elements.spacing(data, "PixelSpacing", name)
    if position is None or spacing is None:
        missing = "ImagePositionPatient" if position is None else "PixelSpacing"
        raise refuse(
            name, "A slice says where it lies and how large its pixels are", f"has no {missing}", "Export it again."
        )
    slope, intercept = elements.rescale(data, name)
    plane = elements.orientation(data, name)
    return _Slice(name, source, frame, image, plane, np.array(position), spacing, slope, intercept)


# ---------------------------------------------------------------------------------------------------------- contrast


def contrast_of(data: Dataset) -> str:
    """What a series shows, in the spelling of `nifti.CONTRASTS`, or "unknown"; see `contrast.shown_contrast`."""
    words = [text(data, keyword) for keyword in ("SeriesDescription", "ProtocolName")]
    return shown_contrast(words, _timing(data), bool(text(data, "ContrastBolusAgent")))


def _timing(data: Dataset) -> Timing:
    """Of the elements of a classic image, or of the functional groups of an enhanced one (PS3.3 C.8.13)."""
    groups = [
        item
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for item in _items(data, keyword)[:1]
    ]

    def stated(keyword: str, sequence: str, within: str) -> float | None:
        places = [(data, keyword), *((item, within) for group in groups for item in _items(group, sequence)[:1])]
        found = (_positive(source, name) for source, name in places)
        return next((value for value in found if value), None)

    return Timing(
        stated("InversionTime", "MRModifierSequence", "InversionTimes"),
        stated("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
        stated("RepetitionTime", "MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    )


def _items(data: Dataset, keyword: str) -> list[Dataset]:
    try:
        return items(data, keyword, "")
    except Error:
        return []


def _positive(data: Dataset, keyword: str) -> float | None:
    """A number alone; None of an element that is absent, damaged or several (two inversions are no FLAIR)."""
    try:
        return (numbers(data, keyword, 1, "") or (None,))[0]
    except Error:
        return None
