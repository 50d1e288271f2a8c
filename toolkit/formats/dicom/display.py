"""The grey levels of a radiograph as its file says that it is to be shown: the grayscale pipeline of PS3.3 C.11.

Contract. In this order: padding is set aside; modality LUT or rescale (C.11.1); VOI LUT, else the first window, at full depth
(C.11.2); without either the range of the pixels, those of padding left out. Presentation LUT Shape then says whether that
is shown as it is or inverted (C.11.6), and where it says neither, MONOCHROME1 is inverted (C.7.6.3.1.2): never both, for in
a DX image INVERSE is how MONOCHROME1 is spelled (C.8.11.3.1.2). Padding is black. Whatever of a file was taken and not
taken is said.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from toolkit.example import Error
from toolkit.formats.dicom import elements
from toolkit.formats.dicom.elements import code_string, identifier, items, number, text
from toolkit.formats.dicom.files import refuse
from toolkit.formats.dicom.pixels import stored_pixels

__all__ = ["presentation_levels"]

KINDS = ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR")

WORD = 2**16


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
    shown, notes = _voi(_modality(stored, data, name), padded, data, name)
    inverted, said = _inverted(data, kind)
    if inverted:
        shown = 1.0 - shown
    if padded is not None:
        shown[padded] = 0.0
    return shown, [*notes, *said]


def _inverted(data: Dataset, kind: str) -> tuple[bool, list[str]]:
    """Whether the smallest value is white. The shape decides where there is one, as in dcmtk, dcm4che and Weasis."""
    shape = code_string(data, "PresentationLUTShape")
    if shape not in ("IDENTITY", "INVERSE"):
        return kind == "MONOCHROME1", []
    agrees = (shape == "INVERSE") == (kind == "MONOCHROME1")
    return shape == "INVERSE", [] if agrees else [f"{kind} is shown as Presentation LUT Shape says, {shape}"]


def _padding(stored: np.ndarray, data: Dataset, name: str) -> np.ndarray | None:
    """Where pixels are padding (PS3.3 C.7.5.1.1.2), or None."""
    first, last = number(data, "PixelPaddingValue", name), number(data, "PixelPaddingRangeLimit", name)
    if first is None:
        return None
    # Written as US of pixels with a sign, or as SS of pixels without.
    ends = [_as_pixel(end, stored.dtype) for end in (first, first if last is None else last)]
    found = (stored >= min(ends)) & (stored <= max(ends))
    return found if found.any() else None


def _as_pixel(value: float, kind: np.dtype) -> float:
    limits, span = np.iinfo(kind), 2 ** (8 * kind.itemsize)
    return value - span if value > limits.max else value + span if value < limits.min else value


def _modality(stored: np.ndarray, data: Dataset, name: str) -> np.ndarray:
    if tables := items(data, "ModalityLUTSequence", name):
        return _looked_up(lambda: _table(stored, tables[0], data)[0], "ModalityLUTSequence", name)
    slope, intercept = elements.rescale(data, name)
    return stored.astype(np.float64) * slope + intercept


def _voi(values: np.ndarray, padded: np.ndarray | None, data: Dataset, name: str) -> tuple[np.ndarray, list[str]]:
    windows = min(_count(data, "WindowCenter"), _count(data, "WindowWidth"))
    if tables := items(data, "VOILUTSequence", name):
        others = [f"{len(tables)} VOI LUTs"] * (len(tables) > 1) + [f"{windows} window(s)"] * (windows > 0)
        said = [f"its first VOI LUT was taken; it has {' and '.join(others)}"] if others else []
        shown = _looked_up(lambda: _windowed(values, tables[0], data, said), "VOILUTSequence", name)
        return _ranged(shown, padded, (0.0, 1.0), name), said
    center, width = number(data, "WindowCenter", name), number(data, "WindowWidth", name)
    if center is None or width is None:
        return _ranged(values, padded, None, name), []
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
    said = [f"its first window was taken; it has {windows}"] if windows > 1 else []
    return _ranged(np.clip(shown, 0.0, 1.0), padded, (0.0, 1.0), name), said


def _count(data: Dataset, keyword: str) -> int:
    words = text(data, keyword)
    return len(words.split("\\")) if words else 0


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


# ----------------------------------------------------------------------------------------------------- look-up tables


def _looked_up(look: Callable[[], np.ndarray], keyword: str, name: str) -> np.ndarray:
    try:
        return np.asarray(look(), np.float64)
    except Error:
        raise
    except Exception:
        raise refuse(name, f"{keyword} holds a look-up table", "has one that is damaged", "Export it again.") from None


def _windowed(values: np.ndarray, item: Dataset, data: Dataset, said: list[str]) -> np.ndarray:
    """A VOI LUT (PS3.3 C.11.2.1.1), its output over the largest that its bits hold.

    Where the table ends below half of that, or above it, what its descriptor says are the bits of something else, often of
    the storage: its largest entry is then white.
    """
    found, largest, bits = _table(values, item, data)
    white = 2**bits - 1
    if not white // 2 < largest <= white:
        said.append(f"its VOI LUT states {bits} bits and ends at {largest}, which is shown white")
        white = largest
    return np.clip(found / white, 0.0, 1.0)


def _table(values: np.ndarray, item: Dataset, data: Dataset) -> tuple[np.ndarray, int, int]:
    """Values looked up in a table, its largest entry, and the bits that its descriptor states (PS3.3 C.11.1.1).

    The number of entries is modulo 2^16, and 0 is that many; the first value has a sign or not, whatever its VR, as the
    values need it; entries of 8 bits may lie two in a word, the first in its lower half.
    """
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count, bits = count % WORD or WORD, bits or 16
    content = item.LUTData
    if isinstance(content, bytes):
        order = ">u2" if identifier(data.file_meta, "TransferSyntaxUID") == uid.ExplicitVRBigEndian else "<u2"
        words = np.frombuffer(content + b"\0" * (len(content) % 2), order).astype(np.int64)
    else:
        words = np.atleast_1d(np.asarray(content, np.int64)) % WORD
    if len(words) == (count + 1) // 2 and count > 1 and (bits == 8 or isinstance(content, bytes)):
        words = np.stack([words & 255, words >> 8], 1).ravel()[:count]
    if len(words) != count or not 8 <= bits <= 16 or not words.any():
        raise ValueError
    steps = np.rint(values).astype(np.int64)
    low, high = int(steps.min()), int(steps.max())

    def covered(start: int) -> int:
        return min(high, start + count - 1) - max(low, start)

    first = max((first, first - WORD, first + WORD), key=lambda start: (covered(start) >= 0, start == first))
    return words[np.clip(steps - first, 0, count - 1)].astype(np.float64), int(words.max()), bits
