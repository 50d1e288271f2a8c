"""A film that a model changed, as Secondary Capture of the same patient and study, in a new series.

Contract. The pixels are those that `film.read_film` shows, upright and square, with the change; so the file states no millimetres
and no window of the source, but names the image that it was made from. Patient and study are copied from a list, and
series description and derivation say AI and NOT ACQUIRED.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from toolkit.example import Error, Provenance
from toolkit.formats.dicom import elements, uids
from toolkit.formats.dicom.derived.shared import ACQUIRED_BY, LOSSY, PATIENT, SOURCE_IMAGE, TYPE_2, copy_elements
from toolkit.formats.dicom.files import read_file, refuse
from toolkit.formats.dicom.writing import code_item, mark_synthetic, save_dataset, truncate, version

__all__ = ["write_edited_film"]

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

BITS = 12
"""Of the grey levels, as those of generated films; see `synthetic`."""

NUMBER = 900
"""Of the new series; ten times that of the source is added, so that a study stays sorted."""

TITLE = "AI edited film, NOT ACQUIRED"
WHAT = "Acquired chest radiograph CHANGED by a model: NOT ACQUIRED as it is, shows no finding of the patient. Research use only."


def write_edited_film(
    source: str | Path, levels: np.ndarray, text: str, provenance: Provenance, path: str | Path
) -> Path:
    """Write a changed film. source: its DICOM file; levels: (H, W) in [0, 1]; text: what the change was to show.

    Errors: a source that does not say which image of which study it is.
    """
    source, path = Path(source), Path(path)
    with warnings.catch_warnings():  # pydicom quotes the values of a source that it warns of, names included
        warnings.filterwarnings("ignore", module=r"pydicom\b")
        origin = read_file(source, pixels=False)
        missing = [keyword for keyword in NEEDED if not elements.text(origin, keyword)]
        if missing:
            found = f"lacks {', '.join(missing)}"
            raise refuse(source.name, "What is made of a film belongs to its study", found, "Export it again.")
        return save_dataset(_built(origin, levels, text, provenance), path)


def _built(origin: Dataset, levels: np.ndarray, text: str, provenance: Provenance) -> Dataset:
    highest = 2**BITS - 1
    if levels.ndim != 2 or not np.isfinite(levels).all():
        raise Error(
            f"A film is (rows, columns) of finite grey levels; found {levels.shape} or others. Look at the edit."
        )
    stored = np.rint(np.clip(levels.astype(np.float64), 0, 1) * highest).astype("<u2")
    words = (str(origin.SOPInstanceUID), uids.describe_provenance(provenance), version(), uids.digest(stored))
    data = Dataset()
    copy_elements(origin, data, (*TYPE_2, *PATIENT, *LOSSY, "StudyInstanceUID"))
    for keyword in TYPE_2:
        if keyword not in data:
            setattr(data, keyword, "")
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID, data.SeriesInstanceUID = (uids.uid("edited", kind, *words) for kind in ("instance", "series"))
    data.Modality, data.ConversionType = "OT", "SYN"
    number = elements.text(origin, "SeriesNumber")
    data.SeriesNumber = NUMBER + 10 * (int(number) if number.isdecimal() and int(number) < 10**6 else 0)
    data.InstanceNumber = 1
    data.SeriesDescription = TITLE
    data.BodyPartExamined = elements.text(origin, "BodyPartExamined") or "CHEST"
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.PatientOrientation = _upright(origin)
    # In the character set of the source, which need not have the letters of the text.
    data.ImageComments = truncate(text.encode("ascii", "replace").decode(), 10240)
    data.SourceImageSequence = [_reference(origin)]
    if elements.text(origin, "Manufacturer"):
        data.ContributingEquipmentSequence = [_machine(origin)]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, BITS, BITS - 1, 0
    data.WindowCenter, data.WindowWidth = 2 ** (BITS - 1), 2**BITS
    data.add_new("PixelData", "OW", stored.tobytes())
    mark_synthetic(data, provenance, WHAT)
    return data


def _upright(origin: Dataset) -> list[str] | None:
    """How the film lies once it was put upright (see `film`); None, for unknown, where the source does not say."""
    said = [letters[:1] for letters in elements.text(origin, "PatientOrientation").upper().split("\\")]
    across = [letter for letter in said if letter in "LRAP" and letter]
    if len(said) != 2 or len(across) != 1 or not {*said} & {"F", "H"}:
        return None
    return ["L" if across[0] in "LR" else across[0], "F"]


def _reference(origin: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = origin.SOPClassUID, origin.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    return item


def _machine(origin: Dataset) -> Dataset:
    """What acquired the source, which the equipment of this file no longer tells."""
    item = Dataset()
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
        if keyword in origin:
            item[keyword] = deepcopy(origin[keyword])
    item.PurposeOfReferenceCodeSequence = [code_item(ACQUIRED_BY)]
    item.ContributionDescription = "Acquired the source image"
    return item
