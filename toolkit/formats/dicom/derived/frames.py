"""The order of a multi-frame object's frames, and the anatomy that they share, as its readers count on them.

Several readers place frame k at slice k of a grid that grows along the normal of the slices (row x column) and look at no
position but the first: dcmqi's converter of Parametric Maps, dcm2niix of Segmentations. highdicom stores the frames of an
axial series from head to feet, whatever order it is given (0.28). So frames are put in order of their position along
the normal, which is the order of the slices in `series.Series`.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from toolkit.formats.dicom.writing import code_item

__all__ = ["LAYOUT", "name_segment", "share_anatomy", "sort_frames"]

LAYOUT = "every slice, along the normal"
"""Part of the name of an object: the same pixels in another order are another object."""

POSITION = 0x00200032  # ImagePositionPatient
PIXELS = ("FloatPixelData", "PixelData")

REGIONS = {
    "BRAIN": Code("12738006", "SCT", "Brain"),
    "HEAD": Code("69536005", "SCT", "Head"),
    "HEADNECK": Code("774007", "SCT", "Head and Neck"),
    "SKULL": Code("89546000", "SCT", "Skull"),
}
"""PS3.16, annex L: Body Part Examined as a code."""
ELSEWHERE = Code("38866009", "SCT", "Body part")


def sort_frames(data: Dataset) -> None:
    """Put the frames of an uncompressed object in the order of their positions along the normal, from 1 up.

    Pixels (1 bit or 32 a pixel), functional groups and the index of the position go together. One frame a position.
    """
    groups = list(data.PerFrameFunctionalGroupsSequence)
    axes = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal = np.cross(np.array(axes[:3], float), np.array(axes[3:], float))
    positions = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float)
    order = np.argsort(positions @ normal, kind="stable")
    index = [item.DimensionIndexPointer for item in data.DimensionIndexSequence].index(POSITION)
    for place, n in enumerate(order):
        content = groups[n].FrameContentSequence[0]
        values = np.atleast_1d(content.DimensionIndexValues).tolist()
        values[index] = place + 1
        content.DimensionIndexValues = values
    data.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]
    keyword = next(keyword for keyword in PIXELS if keyword in data)
    data[keyword].value = _sorted(data[keyword].value, order, data)


def _sorted(stored: bytes, order: np.ndarray, data: Dataset) -> bytes:
    """Frames of whole bytes, or of bits that follow one another without a gap (PS3.5, 8.1.1 and annex D)."""
    size = int(data.Rows) * int(data.Columns)
    if int(data.get("BitsAllocated", 32)) == 1:
        bits = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little")[: len(order) * size]
        found = np.packbits(bits.reshape(len(order), size)[order], bitorder="little").tobytes()
        return found + b"\0" * (len(found) % 2)
    return np.frombuffer(stored, np.uint8).reshape(len(order), -1)[order].tobytes()


def share_anatomy(data: Dataset, body_part: str) -> None:
    """Say in the shared functional groups which region all frames show; unpaired, so without a side.

    dcmqi's converter of Parametric Maps (1.5.7) reads this macro without asking whether it is there.
    """
    item = Dataset()
    item.FrameLaterality = "U"
    item.AnatomicRegionSequence = [code_item(REGIONS.get(body_part.strip().upper(), ELSEWHERE))]
    data.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [item]


def name_segment(data: Dataset) -> None:
    """Say of every frame by itself which segment it shows: MONAI's reader (1.6.1) looks for it nowhere else."""
    shared = data.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        (item,) = shared.SegmentIdentificationSequence
        for group in data.PerFrameFunctionalGroupsSequence:
            group.SegmentIdentificationSequence = [deepcopy(item)]
        del shared.SegmentIdentificationSequence
