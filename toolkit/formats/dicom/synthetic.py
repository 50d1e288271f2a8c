"""Generated films as DICOM: Secondary Capture, or DX Image Storage - For Presentation where a receiver takes only that.

Contract. Every film is its own synthetic patient, SYN-<number>, issued by diffgraft, with its own study: what was
generated never lands in the folder of a person, and two films are never taken for two visits of one. View, sex and age
are what the model was asked for; nothing else of an Example but its text and its image enters a file - not its group,
which may be the key of a patient. Nothing is invented: no date, no institution, no physician, and no millimetres.

Grey levels are 12 bits in 16, MONOCHROME2, with the window that shows all of them. That is what detectors deliver, so every
viewer's grey-scale pipeline is made for it; full 16-bit levels are taken for signed numbers by some. Levels are 16 times as
fine as those of the 8-bit films that models are trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import DigitalXRayImageStorageForPresentation

from toolkit.data import dataset, labels
from toolkit.data.labels import Vocabulary
from toolkit.example import Error, Example
from toolkit.formats.dicom import uids
from toolkit.formats.dicom.writing import MAKER, UTF8, code_item, mark_synthetic, save_dataset, truncate, version

__all__ = ["KINDS", "digital_xray", "secondary_capture", "write"]

BITS = 12

WHAT = "Synthetic chest radiograph, NOT ACQUIRED: generated from noise, shows no patient. Research use only."

# CID 4010 DX View, CID 4009 DX Anatomy Imaged, CID 19 and 20 Patient Orientation. "L" does not say which side was
# nearer to the detector, so neither does the code.
VIEWS = {
    "PA": Code("272479007", "SCT", "postero-anterior"),
    "AP": Code("399348003", "SCT", "antero-posterior"),
    "AP Supine": Code("399348003", "SCT", "antero-posterior"),
    "L": Code("399067008", "SCT", "lateral"),
}
POSITIONS = {"PA": "PA", "AP": "AP", "AP Supine": "AP"}
CHEST = Code("816094009", "SCT", "Chest")
RECUMBENT, SUPINE = Code("102538003", "SCT", "recumbent"), Code("40199007", "SCT", "supine")

# Along a row and down a column, as films are hung: the patient's left on the right, and in a lateral view the chest bone
# on the left. A generated lateral follows its training films, of which most, not all, are hung so.
FRONTAL, LATERAL = ("L", "F"), ("P", "F")


def secondary_capture(example: Example, vocabulary: Vocabulary | None = None) -> Dataset:
    """A generated film as a Secondary Capture image, Modality OT: what acquired it is no X-ray machine.

    vocabulary: of the example's labels; without one, no label is written. Errors: not a synthetic grey image.
    """
    from highdicom.sc import SCImage

    known, levels = _known(example, vocabulary), _levels(example)
    names = _names(example, levels, "sc")
    data = SCImage(
        pixel_array=levels,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=16,
        coordinate_system="PATIENT",
        patient_orientation=LATERAL if known.get("view") == "L" else FRONTAL,
        study_instance_uid=names("study"),
        series_instance_uid=names("series"),
        sop_instance_uid=names("instance"),
        series_number=1,
        instance_number=1,
        manufacturer=MAKER,
    )
    if "view" not in known:
        setattr(data, "PatientOrientation", None)  # noqa: B010 - type 2C: empty is unknown; highdicom annotates a string
    del data.ContentDate, data.ContentTime
    data.BitsStored, data.HighBit = BITS, BITS - 1
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.ConversionType = "SYN"
    _describe(data, example, known, names)
    return data


def digital_xray(example: Example, vocabulary: Vocabulary | None = None) -> Dataset:
    """A generated film as DX Image Storage - For Presentation (PS3.3 A.26). Arguments and errors as `secondary_capture`.

    A DX image has to state an Imager Pixel Spacing above 0 (type 1), and a film that no detector saw has none. It is
    given as 1\\1, so that whoever measures reads numbers of pixels, which no reader takes for a chest, and Detector
    Description says so. Prefer Secondary Capture, which states nothing.
    """
    known, levels = _known(example, vocabulary), _levels(example)
    names, view = _names(example, levels, "dx"), known.get("view", "")
    data = Dataset()
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = names("instance")
    data.StudyInstanceUID, data.SeriesInstanceUID = names("study"), names("series")
    data.Modality, data.PresentationIntentType = "DX", "FOR PRESENTATION"
    data.SeriesNumber = data.InstanceNumber = 1
    data.AccessionNumber = data.StudyDate = data.StudyTime = data.ReferringPhysicianName = None
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.ContentDate = data.ContentTime = data.AcquisitionNumber = None

    # Where no view was asked for, a chest film is a frontal one: the element must not be empty here.
    data.PatientOrientation = list(LATERAL if view == "L" else FRONTAL)
    data.ImageLaterality = "U"
    data.AnatomicRegionSequence = [code_item(CHEST)]
    if view:
        data.ViewCodeSequence = [code_item(VIEWS[view])]
        data.ViewCodeSequence[0].ViewModifierCodeSequence = []
    if view in POSITIONS:
        data.ViewPosition = POSITIONS[view]
    if view == "AP Supine":
        lying = code_item(RECUMBENT)
        lying.PatientOrientationModifierCodeSequence = [code_item(SUPINE)]
        data.PatientOrientationCodeSequence = [lying]
    data.PositionerType = data.DetectorType = None
    data.ImagerPixelSpacing = [1, 1]
    data.DetectorDescription = "No detector: Imager Pixel Spacing 1\\1 stands for pixels, NOT for millimetres."

    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = levels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, BITS, BITS - 1, 0
    # Bright is dense: a higher value is less radiation. Films for presentation are logarithmic; a model learned from them.
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "US"
    data.PresentationLUTShape, data.LossyImageCompression = "IDENTITY", "00"
    data.AcquisitionContextSequence = []
    data.add_new("PixelData", "OW", levels.tobytes())
    _describe(data, example, known, names)
    return data


KINDS: Mapping[str, Callable[[Example, Vocabulary | None], Dataset]] = {"sc": secondary_capture, "dx": digital_xray}


def write(examples: Iterable[Example], root: str | Path, kind: str = "sc", **description: Any) -> int:
    """Write root/dicom/<id>.dcm for every example, and return how many; the folder appears whole or not at all.

    kind: one of KINDS. description: as that of `dataset.write`, of which "labels" is the vocabulary in the spelling of
    dataset.json. Errors: an example that is not synthetic, an id that comes twice, a folder that is there already.
    """
    if kind not in KINDS:
        raise Error(f"A kind of DICOM film is one of {', '.join(KINDS)}; found '{kind}'. Use one of these.")
    vocabulary = labels.from_json(description["labels"]) if "labels" in description else None
    count = 0
    with dataset.staged_folder(Path(root) / "dicom") as folder:
        for example in examples:
            path = folder / f"{example.id}.dcm"
            if path.parent != folder or path.exists():
                raise Error(f"A film's id must be unique and safe as a file name; found '{example.id}'. Rename it.")
            save_dataset(KINDS[kind](example, vocabulary), path)
            count += 1
        if not count:
            raise Error("A folder of films holds at least one; there was none to write. Generate one or more.")
    return count


def _levels(example: Example) -> np.ndarray:
    """(H, W) uint16 levels of BITS bits."""
    if example.provenance is None or example.provenance.kind != "synthetic":
        found = "real" if example.provenance is None else f"of the kind {example.provenance.kind}"
        raise Error(
            f"A synthetic patient is given to generated films alone; '{example.id}' is {found}. Write it as images instead."
        )
    if example.image.shape[0] != 1 or not np.isfinite(example.image).all():
        raise Error(
            f"A film is one channel of finite grey levels; '{example.id}' has {example.image.shape[0]} or others. Leave it out."
        )
    highest = 2**BITS - 1
    return np.rint((np.clip(example.image[0].astype(np.float64), -1, 1) + 1) * (highest / 2)).astype("<u2")


def _known(example: Example, vocabulary: Vocabulary | None) -> dict[str, str]:
    """View, sex and age of an example as words, without what is unknown or not a word that a film may state."""
    spelled = labels.spell(vocabulary or {}, example.annotation.labels)
    allowed = {"view": tuple(VIEWS), "sex": ("F", "M")}
    known = {name: spelled[name] for name, words in allowed.items() if spelled.get(name) in words}
    years = example.annotation.labels.get("age", math.nan)
    if "age" in spelled and 0 <= years <= 120:
        known["age"] = f"{int(years):03d}Y"
    return known


def _names(example: Example, levels: np.ndarray, kind: str) -> Callable[[str], str]:
    """The UIDs of a film: level -> UID. See `uids` for what they depend on."""
    made = example.provenance
    assert made is not None
    words = (
        example.id,
        uids.describe_provenance(made),
        uids.describe_annotation(example.annotation),
        version(),
        uids.digest(levels),
    )
    return lambda level: uids.uid("film", kind, level, *words)


def _describe(data: Dataset, example: Example, known: Mapping[str, str], names: Callable[[str], str]) -> None:
    """Patient, study, series, and what says that the film was made."""
    assert example.provenance is not None
    number = f"SYN-{names('patient').rsplit('.', 1)[1][-20:]}"
    view = known.get("view", "")
    data.SpecificCharacterSet = UTF8
    data.PatientID, data.IssuerOfPatientID = number, MAKER
    data.PatientName = f"{number}^Synthetic"
    data.PatientBirthDate, data.PatientSex = "", known.get("sex", "")
    data.PatientComments = "Synthetic patient: no such person exists."
    if "age" in known:
        data.PatientAge = known["age"]
    data.StudyID = number[-16:]
    data.StudyDescription = "Synthetic chest radiograph, NOT ACQUIRED"
    data.SeriesDescription = " ".join(filter(None, ("AI chest radiograph", view))) + ", NOT ACQUIRED"
    data.BodyPartExamined = "CHEST"
    data.WindowCenter, data.WindowWidth = 2 ** (BITS - 1), 2**BITS
    if example.annotation.text:
        data.ImageComments = truncate(example.annotation.text, 10240)
    mark_synthetic(data, example.provenance, WHAT)
