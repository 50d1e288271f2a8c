"""What an object that is derived from acquired images takes over from them: patient, study, place, references.

Elements are copied from a list, so that private ones, and what was true of the acquired image only, stay behind.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat

from toolkit.example import Error, Provenance
from toolkit.formats.dicom import uids
from toolkit.formats.dicom.series import Series
from toolkit.formats.dicom.writing import code_item, truncate, version

__all__ = [
    "ACQUIRED_BY", "BODY", "CONTRAST", "DESCRIPTIONS", "LOSSY", "NEEDED", "NUMBERS", "PATIENT", "PLACE", "SOURCE_IMAGE",
    "TYPE_2", "add_source_equipment", "check_grid", "copy_elements", "decimal_string", "number_series", "output_uids",
    "reference", "slice_elements", "values_of", "without_warnings",
]  # fmt: skip

NEEDED = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
)  # fmt: skip

# PS3.3 C.7.1.1, C.7.2.1, C.7.2.2 and the clinical trial modules: who and which visit. Type 2 first; empty is unknown.
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip

AGE_STRING = re.compile(r"\d{3}[DWMY]|")
"""PS3.5, table 6.2-1, value representation AS."""

PATIENT = (
    "SpecificCharacterSet", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID",
    "OtherPatientIDsSequence", "PatientBirthTime", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified", "PatientAge", "PatientSize",
    "PatientWeight", "StudyDescription", "IssuerOfAccessionNumberSequence", "TimezoneOffsetFromUTC",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip

# What stays true of an image computed from an acquired one: where it lies and which contrast it shows.
PLACE = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "SliceLocation",
)  # fmt: skip

CONTRAST = (
    "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "RepetitionTime",
    "EchoTime", "EchoTrainLength", "InversionTime", "FlipAngle", "MagneticFieldStrength", "ImagingFrequency",
    "ImagedNucleus", "NumberOfAverages", "EchoNumbers", "ContrastBolusAgent", "AcquisitionDate", "AcquisitionTime",
)  # fmt: skip
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ACQUIRED_BY = Code("109101", "DCM", "Acquisition Equipment")

NUMBERS = {"counterfactual": 900, "map": 901, "segmentation": 902}
"""Series numbers of a source without one; ten times the number of the source is added, so that a study stays sorted."""

DESCRIPTIONS = {
    "counterfactual": "Synthetic image, NOT ACQUIRED: a model's healthy version of an acquired image. Research use only.",
    "map": "Map of where an acquired image and a model's healthy version of it differ. NOT a diagnosis. Research use only.",
    "segmentation": "Where an anomaly map is above a threshold; suspected, not confirmed. NOT a diagnosis. Research use only.",
}

TITLES = {
    "counterfactual": "AI healthy version, NOT ACQUIRED",
    "map": "AI anomaly map, NOT ACQUIRED",
    "segmentation": "AI suspected anomaly, NOT ACQUIRED",
}

BODY = "BRAIN"
"""Body part of a source that does not state one."""

P = ParamSpec("P")
T = TypeVar("T")


def without_warnings(write: Callable[P, T]) -> Callable[P, T]:
    """Without pydicom's warnings of values in a source that are not as they should be: they quote them, names included."""

    @wraps(write)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\b")
            return write(*args, **kwargs)

    return quiet


def check_grid(series: Series, voxels: np.ndarray, kind: str) -> None:
    """Raise Error where voxels are not finite, or not on the grid of a series that is tied to patient, study and place."""
    if voxels.shape != series.voxels.shape:
        raise Error(
            f"A {kind} lies on the grid of its source, {series.voxels.shape}; found {voxels.shape}. Restore it first."
        )
    if not np.isfinite(voxels).all():
        raise Error(f"Voxels of a {kind} are finite numbers; some are not. Look for the step that made them.")
    depth = series.voxels.shape[2]
    if len(series.sources) != depth or len(series.frames) not in (0, depth):
        raise Error(f"A series has one source a slice; found {len(series.sources)} for {depth}. Read the series again.")
    for source in series.sources:
        missing = [keyword for keyword in NEEDED if not source.get(keyword)]
        if missing:
            raise Error(
                f"What is made of a series belongs to its patient, study and place; a source lacks {', '.join(missing)}. "
                "Export the series again."
            )
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if len({str(source.get(keyword)) for source in series.sources}) > 1:
            raise Error(f"Slices of a series share one {keyword}; found several. Read the series again.")


def copy_elements(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy the elements that are there, and not an age that is no age string, which would make the new file invalid too."""
    for keyword in keywords:
        if keyword in source and (keyword != "PatientAge" or AGE_STRING.fullmatch(str(source[keyword].value))):
            target[keyword] = deepcopy(source[keyword])
            if target[keyword].VR == "DS" and any(len(str(v)) > 16 for v in values_of(target[keyword].value)):
                # More digits than a decimal string may have, as some converters write.
                target[keyword].value = [decimal_string(float(v)) for v in values_of(target[keyword].value)]


def values_of(value: Any) -> list[Any]:
    """One or several values of an element as a list."""
    return list(value) if isinstance(value, MultiValue) else [] if value is None or value == "" else [value]


def slice_elements(series: Series, k: int, source: Dataset) -> Dataset:
    """What applies to slice k: the source itself, or of a multi-frame one what its frame's functional groups say.

    Items of functional groups, and of the sequences in them, are put beside one another (PS3.3 C.7.6.16).
    """
    if not series.frames:
        return source
    flat = Dataset()
    shared = (source.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    own = source.PerFrameFunctionalGroupsSequence[series.frames[k] - 1]
    for group in (source, shared, own):
        for element in group:
            if element.VR != "SQ":
                flat[element.tag] = element
            elif group is not source and element.value:
                for inner in element.value[0]:
                    flat[inner.tag] = inner
                    if inner.VR == "SQ" and inner.value:
                        flat.update(inner.value[0])
    return flat


def reference(series: Series, k: int, source: Dataset) -> Dataset:
    """The item of SourceImageSequence that names slice k."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if series.frames:
        item.ReferencedFrameNumber = series.frames[k]
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    item.SpatialLocationsPreserved = "YES"
    return item


def add_source_equipment(source: Dataset, data: Dataset) -> None:
    """Add the machine that acquired the source, which the equipment of a derived object no longer tells."""
    if not source.get("Manufacturer"):
        return
    item = Dataset()
    copy_elements(source, item, ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"))
    item.PurposeOfReferenceCodeSequence = [code_item(ACQUIRED_BY)]
    item.ContributionDescription = "Acquired the source images"
    data.ContributingEquipmentSequence = [item, *(data.get("ContributingEquipmentSequence") or [])]


def output_uids(series: Series, provenance: Provenance, kind: str, digest: str) -> Callable[..., str]:
    """The UIDs of an output: level, and what tells its instances apart -> UID. See `uids` for what they depend on."""
    words = (series.uid, kind, uids.describe_provenance(provenance), version(), digest)
    return lambda level, *more: uids.uid("derived", level, *words, *map(str, more))


def number_series(data: Dataset, series: Series, kind: str) -> None:
    """Number and description of the new series."""
    number = series.sources[0].get("SeriesNumber")
    number = int(number) if number is not None and 0 <= number < 10**6 else 0
    data.SeriesNumber = NUMBERS[kind] + 10 * number
    source = series.description.replace("\\", "/")
    data.SeriesDescription = truncate(f"{TITLES[kind]}: {source}" if source else TITLES[kind], 64)


def decimal_string(value: float) -> DSfloat:
    """A decimal string of at most 16 characters."""
    return DSfloat(value, auto_format=True)  # type: ignore[return-value]  # its __new__ is annotated for texts too
