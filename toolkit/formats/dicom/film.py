"""A projection radiograph - CR, DX or Secondary Capture - as a radiologist sees it, with what its file states.

Contract. `read_film` answers grey levels in [0, 1], bright is dense: modality LUT or rescale, then VOI LUT or window at full
depth, MONOCHROME1 inverted (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2). Without a window the range is that of the pixels, those
of padding left out. A film whose PatientOrientation says that it lies mirrored or turned is put upright, and pixels that
are not square are resampled to squares of the shorter side: a model is to see no shape that the patient has not. What is
decided is in `notes`. What is raw detector data, several frames or another modality is refused.
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
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from toolkit.example import Error
from toolkit.formats.dicom import elements
from toolkit.formats.dicom.elements import code_string, items, number, numbers, text
from toolkit.formats.dicom.files import read_file, refuse
from toolkit.formats.dicom.pixels import stored_pixels

__all__ = ["Film", "presentation_levels", "read_film"]

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

KINDS = ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR")

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
    not acquired. text: a report, which no element of a film is trusted to be. notes: what reading had to decide.
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


def read_film(path: str | Path) -> Film:
    """The film of a file. Raises Error for what is no projection radiograph and for what is doubtful."""
    path = Path(path)
    data = read_file(path)
    _refuse_others(data, path.name)
    levels, notes = presentation_levels(data, path.name)
    levels, turned = _upright(levels, data)
    # Sides before turning: a quarter turn exchanges them.
    high, wide, said = _sides(data, path.name)
    levels = _squared(levels, *((wide, high) if "quarter" in turned else (high, wide)))
    notes += [n for n in (said, turned) if n]
    sex = code_string(data, "PatientSex")
    return Film(
        pixels=np.ascontiguousarray(levels, np.float32),
        view=_view(data, path.name),
        sex=sex if sex in ("M", "F") else "",
        age=_age(data),
        patient=elements.patient_key(data),
        synthetic=elements.is_synthetic(data),
        body=code_string(data, "BodyPartExamined"),
        notes=tuple(notes),
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


# -------------------------------------------------------------------------------------------------------- grey levels


def presentation_levels(data: Dataset, name: str) -> tuple[np.ndarray, list[str]]:
    """(H, W) float64 in [0, 1], as the file says it is to be shown, and what had to be decided."""
    kind = code_string(data, "PhotometricInterpretation")
    if kind not in KINDS and not kind.startswith("YBR_"):
        found = f"has {kind or 'no photometric interpretation'}"
        raise refuse(name, "A film is MONOCHROME1, MONOCHROME2 or in colours", found, "Convert it.")
    stored = stored_pixels(data, name)[0]
    if kind == "PALETTE COLOR":
        stored = _looked_up(lambda: apply_color_lut(stored, data), "A palette", name)
    if stored.ndim == 3:
        grey = stored.astype(np.float64) @ (0.299, 0.587, 0.114)
        return _ranged(grey, None, None, name), ["colours were turned into grey"]
    padded = _padding(stored, data, name)
    values = _modality(stored, data, name)
    shown = _voi(values, padded, data, name)
    if kind == "MONOCHROME1":
        shown = 1.0 - shown
    if padded is not None:
        shown[padded] = 0.0
    return shown, []


def _padding(stored: np.ndarray, data: Dataset, name: str) -> np.ndarray | None:
    """Where pixels are padding (PS3.3 C.7.5.1.1.2), or None."""
    first, last = number(data, "PixelPaddingValue", name), number(data, "PixelPaddingRangeLimit", name)
    if first is None:
        return None
    last = first if last is None else last
    found = (stored >= min(first, last)) & (stored <= max(first, last))
    return found if found.any() else None


def _modality(stored: np.ndarray, data: Dataset, name: str) -> np.ndarray:
    if items(data, "ModalityLUTSequence", name):
        return _looked_up(lambda: apply_modality_lut(stored, data), "ModalityLUTSequence", name)
    slope, intercept = elements.rescale(data, name)
    return stored.astype(np.float64) * slope + intercept


def _voi(values: np.ndarray, padded: np.ndarray | None, data: Dataset, name: str) -> np.ndarray:
    if tables := items(data, "VOILUTSequence", name):
        return _looked_up(lambda: _table(values, tables[0]), "VOILUTSequence", name)
    center, width = number(data, "WindowCenter", name), number(data, "WindowWidth", name)
    if center is None or width is None:
        return _ranged(values, padded, None, name)
    if width <= 0:
        raise refuse(name, "WindowWidth is above 0", f"has {width:g}", "Export it again.")
    function = code_string(data, "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            shown = 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    elif function == "LINEAR_EXACT" or (function == "LINEAR" and width < 1):
        shown = (values - center) / width + 0.5
    elif function == "LINEAR":
        # A window one level wide is a step.
        shown = (values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5
    else:
        raise refuse(name, "VOILUTFunction is LINEAR, LINEAR_EXACT or SIGMOID", "has another", "Export it again.")
    return _ranged(np.clip(shown, 0.0, 1.0), padded, (0.0, 1.0), name)


def _ranged(values: np.ndarray, padded: np.ndarray | None, limits: tuple[float, float] | None, name: str) -> np.ndarray:
    """Values from `limits`, or from their own range, to [0, 1]. Error: all the same, so that nothing is to be seen."""
    seen = values if padded is None else values[~padded]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    if low == high:
        where = "the window that its file gives" if limits else "its whole range"
        raise refuse(
            name, "A film shows something", f"has one grey level in {where}", "Leave it out, or export it again."
        )
    low, high = limits or (low, high)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def _looked_up(look, keyword: str, name: str) -> np.ndarray:
    try:
        return np.asarray(look(), np.float64)
    except Error:
        raise
    except Exception:
        raise refuse(name, f"{keyword} holds a look-up table", "has one that is damaged", "Export it again.") from None


def _table(values: np.ndarray, item: Dataset) -> np.ndarray:
    """A VOI LUT (PS3.3 C.11.2.1.1), its output over the largest that its bits hold."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries, bits = entries or 2**16, 16 if bits == 0 else bits
    content = item.LUTData
    if isinstance(content, bytes):
        table = np.frombuffer(content, np.uint8 if len(content) == entries else "<u2")
    else:
        table = np.asarray(content)
    if len(table) != entries or not 8 <= bits <= 16:
        raise ValueError
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return np.clip(table[at].astype(np.float64) / (2**bits - 1), 0.0, 1.0)


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
