"""The elements of a DICOM dataset as words and numbers that make sense; anything else is an Error of `files.refuse`.

`numbers`, `rescale`, `spacing` and `orientation` return finite numbers. An element that is absent is "" or None.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import config, uid
from pydicom.dataset import Dataset

from toolkit.formats.dicom.files import refuse

__all__ = [
    "code_string", "identifier", "is_synthetic", "items", "number", "numbers", "orientation", "patient_key", "rescale",
    "spacing", "text",
]  # fmt: skip

SQUARE = 1e-3
"""By how much direction cosines may miss unit length and right angle: what rounding in a file does is less."""


def text(data: Dataset, keyword: str) -> str:
    """An element as words, values that are several joined by a backslash; "" where it is absent or unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = data.get(keyword)
    except Exception:  # an unknown character set, a value of another kind: as good as absent
        return ""
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return "\\".join(map(str, value)).strip() if several else "" if value is None else str(value).strip()


def identifier(data: Dataset, keyword: str) -> uid.UID:
    """An element that is a UID; "" where it is absent or none."""
    words = text(data, keyword)
    return uid.UID(words if re.fullmatch(r"[0-9.]{1,64}", words) else "", validation_mode=config.IGNORE)


def code_string(data: Dataset, keyword: str) -> str:
    """An element that is one code string or a number, in capitals; "" where it is absent or none.

    What is quoted in a message goes through here: in a damaged file one element may have swallowed the patient's name.
    """
    words = text(data, keyword).upper()
    return words if re.fullmatch(r"[A-Z0-9 _]{1,16}", words) else ""


def items(data: Dataset, keyword: str, name: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent. Error: it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(data.get(keyword) or [])
    except Exception:
        raise refuse(name, f"{keyword} is a sequence", "has something else there", "Export it again.") from None


def numbers(data: Dataset, keyword: str, count: int, name: str) -> tuple[float, ...] | None:
    """`count` finite numbers of an element, or None where it is absent or empty. Error: anything else."""
    found = _values(data, keyword, name)
    if found and (len(found) != count or not all(map(math.isfinite, found))):
        rule = f"{keyword} is {'a finite number' if count == 1 else f'{count} finite numbers'}"
        words = "\\".join(f"{v:g}" for v in found[:8])
        raise refuse(name, rule, f"has {words}", "Export it again.")
    return tuple(found) or None


def number(data: Dataset, keyword: str, name: str) -> float | None:
    """The first of one or several numbers, which has to be finite, or None."""
    found = _values(data, keyword, name)
    if found and not math.isfinite(found[0]):
        raise refuse(name, f"{keyword} is a finite number", f"has {found[0]:g}", "Export it again.")
    return found[0] if found else None


def _values(data: Dataset, keyword: str, name: str) -> list[float]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: Any = data.get(keyword)
        if value is None or value == "":
            return []
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        values: list[Any] = list(value) if several else [value]
        return [float(v) for v in values]
    except Exception:  # pydicom's words quote the file
        raise refuse(name, f"{keyword} is a number", "has something else there", "Export it again.") from None


def rescale(data: Dataset, name: str) -> tuple[float, float]:
    """Slope and intercept of the modality rescale; 1 and 0 where none is given. Error: a slope of 0, or not finite."""
    slope, intercept = (numbers(data, keyword, 1, name) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and slope[0] == 0:
        raise refuse(name, "RescaleSlope is not 0", "has 0, so that its pixels mean nothing", "Export it again.")
    return (1.0 if slope is None else slope[0]), (0.0 if intercept is None else intercept[0])


def spacing(data: Dataset, keyword: str, name: str) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, or None where absent. Error: not positive."""
    found = numbers(data, keyword, 2, name)
    if found is None:
        return None
    if min(found) <= 0:
        raise refuse(name, f"{keyword} is positive", f"has {found[0]:g}\\{found[1]:g}", "Export it again.")
    return found[0], found[1]


def orientation(data: Dataset, name: str) -> np.ndarray:
    """(3, 3) unit vectors in LPS: along a row, down a column, and their normal. Error: absent or not orthonormal."""
    found = numbers(data, "ImageOrientationPatient", 6, name)
    if found is None:
        raise refuse(
            name, "A slice says how it lies in the patient", "has no ImageOrientationPatient", "Export it again."
        )
    row, column = np.array(found[:3]), np.array(found[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > SQUARE:
        raise refuse(
            name,
            "ImageOrientationPatient is two unit vectors at a right angle",
            f"has lengths {lengths[0]:.4g} and {lengths[1]:.4g} and a scalar product of {row @ column:.4g}",
            "Export it again.",
        )
    row, column = row / lengths[0], column / lengths[1]
    return np.stack([row, column, np.cross(row, column)])


def is_synthetic(data: Dataset) -> bool:
    """Whether the file says of itself that some of its content was made artificially: (0008,001C) Synthetic Data."""
    return code_string(data, "SyntheticData") == "YES"


def patient_key(data: Dataset) -> str:
    """A stable key of the patient that does not tell who it is: of the ID and its issuer, else of the study.

    Whoever has the list of IDs can find the key of each; it keeps names out of logs and is no de-identification.
    """
    known = text(data, "PatientID"), text(data, "IssuerOfPatientID")
    words = "\0".join(("patient", *known) if known[0] else ("study", text(data, "StudyInstanceUID")))
    return hashlib.sha256(words.encode()).hexdigest()[:16]
