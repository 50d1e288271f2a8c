"""A projection radiograph - CR, DX or Secondary Capture - as a radiologist sees it, with what its file states.

Contract. `read_film` answers grey levels in [0, 1] as `display` has them, bright is dense. A film whose PatientOrientation
says that it lies mirrored or turned is put upright, and pixels that are not square are resampled to squares of the shorter
side: a model is to see no shape that the patient has not. What is decided is in `notes`. What is raw detector data, several
frames or another modality is refused, and what says that it shows no chest (see `body`).
"""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from toolkit.formats.dicom import body, elements
from toolkit.formats.dicom.display import presentation_levels
from toolkit.formats.dicom.elements import code_string, items, numbers, text
from toolkit.formats.dicom.files import read_file, refuse

__all__ = ["Film", "read_film"]

CLASSES = {
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
}
MODALITIES = ("CR", "DX", "RG", "OT", "")
"""What a secondary capture may be of: other modalities are captured on a screen too."""

OLDEST = 120.0

SQUARE, LONGEST = 0.01, 4.0
"""Pixels whose sides differ by less are square; by more than this they are damaged."""

# PS3.3 C.8.7.1.1.1 (View Position) and CID 4010 DX View: code values in SNOMED CT and SNOMED RT.
VIEW_POSITIONS = {"PA": "PA", "AP": "AP", "LL": "L", "RL": "L", "L": "L", "LAT": "L", "LATERAL": "L"}
VIEW_CODES = {
    "399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-10214": "PA", "R-40888": "PA",
    "399067008": "L", "R-102CD": "L", "399173006": "L", "R-10236": "L", "399198007": "L", "R-10232": "L",
}  # fmt: skip
SUPINE_CODES = ("40199007", "F-10340")
VIEW_WORDS = re.compile(r"(?<![A-Za-z])(?:(PA|P\.A\.)|(AP|A\.P\.)|(LAT|LATERAL|LL|RL))(?![A-Za-z])", re.I)
SUPINE_WORDS = re.compile(r"(?<![A-Za-z])supine(?![A-Za-z])", re.I)
DESCRIPTIONS = ("SeriesDescription", "AcquisitionDeviceProcessingDescription", "ProtocolName")
AGE = re.compile(r"(\d{1,3})\s*([DWMY]?)", re.I)
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}


@dataclass(frozen=True)
class Film:
    """One film. pixels: (H, W) float32 in [0, 1], square pixels, bright is dense.

    view: PA, AP, AP Supine, L or "" for not stated; sex: M, F or ""; age: years or NaN; body: BodyPartExamined or "".
    patient: a key that is the same for all films of one (see elements.patient_key). synthetic: the file says that it was
    not acquired. text: a report, which no element of a film is trusted to be. notes: what reading had to decide. doubts: those
    of them that a user should know, for another reader might show or sort the film otherwise.
    """

    pixels: np.ndarray
    view: str = ""
    sex: str = ""
    age: float = math.nan
    patient: str = ""
    synthetic: bool = False
    body: str = ""
    text: str = ""
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def read_film(path: str | Path) -> Film:
    """The film of a file. Raises Error for what is no projection radiograph and for what is doubtful."""
    path = Path(path)
    data = read_file(path)
    _refuse_others(data, path.name)
    unsaid = body.refuse_others(data, path.name)
    levels, notes = presentation_levels(data, path.name)
    doubts = (*unsaid, *notes)
    levels, turned = _upright(levels, data)
    # Sides before turning: a quarter turn exchanges them.
    high, wide, said = _sides(data, path.name)
    levels = _squared(levels, *((wide, high) if "quarter" in turned else (high, wide)))
    sex = code_string(data, "PatientSex")
    return Film(
        pixels=np.ascontiguousarray(levels, np.float32),
        view=_view(data, path.name),
        sex=sex if sex in ("M", "F") else "",
        age=_age(data),
        patient=elements.patient_key(data),
        synthetic=elements.is_synthetic(data),
        body=code_string(data, "BodyPartExamined"),
        notes=(*notes, *unsaid, *(n for n in (said, turned) if n)),
        doubts=doubts,
    )


def _refuse_others(data: Dataset, name: str) -> None:
    kind, modality = elements.identifier(data, "SOPClassUID"), code_string(data, "Modality")
    if kind not in CLASSES or modality not in MODALITIES:
        words = f"is {kind.name or 'of no SOP class'}" + f" ({modality})" * bool(modality)
        remedy = (
            "Give images for presentation." if kind == uid.DigitalXRayImageStorageForProcessing else "Leave it out."
        )
        raise refuse(name, "A film is a CR, DX (for presentation) or Secondary Capture image", words, remedy)
    if (numbers(data, "NumberOfFrames", 1, name) or (1,))[0] > 1:
        raise refuse(
            name,
            "A film has one frame",
            f"has {code_string(data, 'NumberOfFrames')}",
            "Export the frame that is meant.",
        )


# ------------------------------------------------------------------------------------------------------------- shape


def _upright(levels: np.ndarray, data: Dataset) -> tuple[np.ndarray, str]:
    """A film with the feet down and, of a frontal one, the patient's left to the right; what was done, or ""."""
    row, _, column = text(data, "PatientOrientation").upper().partition("\\")
    row, column = row[:1], column[:1]
    turns = ""
    if row in ("F", "H") and column and column not in ("F", "H"):
        levels, row, column, turns = levels.T, column, row, "a quarter"
    if column not in ("F", "H") or row not in ("L", "R", "A", "P"):
        return (levels.T, "") if turns else (levels, "")
    if column == "H":
        levels, turns = levels[::-1], turns + " head up"
    if row == "R":
        levels, turns = levels[:, ::-1], turns + " mirrored"
    return levels, f"put upright as PatientOrientation says ({turns.strip()})" if turns else ""


def _sides(data: Dataset, name: str) -> tuple[float, float, str]:
    """Height and width of a pixel, in any unit, and what was decided."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        found = numbers(data, keyword, 2, name)
        if found == (0.0, 0.0):
            return 1.0, 1.0, f"{keyword} is 0: not stated, taken for square"  # as some archives write it
        if found is not None:
            high, wide = elements.spacing(data, keyword, name) or found
            ratio = max(high, wide) / min(high, wide)
            if ratio > LONGEST:
                found = f"has {high:g} x {wide:g}"
                raise refuse(name, f"A pixel is at most {LONGEST:g} times as long as wide", found, "Export it again.")
            uneven = ratio > 1 + SQUARE
            return high, wide, f"pixels of {high:g} x {wide:g} were made square" if uneven else ""
    return 1.0, 1.0, ""


def _squared(levels: np.ndarray, high: float, wide: float) -> np.ndarray:
    from PIL import Image

    if max(high, wide) / min(high, wide) <= 1 + SQUARE:
        return levels
    side = min(high, wide)
    rows, columns = round(levels.shape[0] * high / side), round(levels.shape[1] * wide / side)
    picture = Image.fromarray(np.ascontiguousarray(levels, np.float32))
    return np.clip(np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR)), 0.0, 1.0)


# ----------------------------------------------------------------------------------------------------- what is stated


def _view(data: Dataset, name: str) -> str:
    """From ViewPosition, else the view's code, else a lateral PatientOrientation, else the one view that words name."""
    descriptions = " ".join(text(data, keyword) for keyword in DESCRIPTIONS)
    position = code_string(data, "ViewPosition")
    codes = _codes(data, "ViewCodeSequence", name)
    named = {("PA", "AP", "L")[(match.lastindex or 0) - 1] for match in VIEW_WORDS.finditer(descriptions)}
    view = VIEW_POSITIONS.get(position, "") or next((VIEW_CODES[c] for c in codes if c in VIEW_CODES), "")
    if not view and text(data, "PatientOrientation").upper()[:1] in ("A", "P"):
        view = "L"
    if not view and not position and len(named) == 1:
        view = named.pop()
    lying = set(_codes(data, "PatientOrientationCodeSequence", name)) & set(SUPINE_CODES) or SUPINE_WORDS.search(
        descriptions
    )
    return "AP Supine" if view == "AP" and lying else view


def _codes(data: Dataset, keyword: str, name: str) -> list[str]:
    """Code values of a sequence and of its modifiers."""
    found = []
    for item in items(data, keyword, name):
        found.append(text(item, "CodeValue"))
        for inner in ("ViewModifierCodeSequence", "PatientOrientationModifierCodeSequence"):
            found += [text(one, "CodeValue") for one in items(item, inner, name)]
    return found


def _age(data: Dataset) -> float:
    """Years from PatientAge, else between birth and study; NaN where neither says, or says what cannot be."""
    if match := AGE.fullmatch(text(data, "PatientAge")):
        age = int(match[1]) * YEARS[match[2].upper()]
    else:
        born, seen = _date(data, "PatientBirthDate"), _date(data, "StudyDate") or _date(data, "AcquisitionDate")
        age = (seen - born).days / 365.25 if born and seen else math.nan
    return age if 0 <= age <= OLDEST else math.nan


def _date(data: Dataset, keyword: str) -> datetime.date | None:
    digits = re.sub(r"\D", "", text(data, keyword))
    try:
        return datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) if len(digits) == 8 else None
    except ValueError:
        return None
