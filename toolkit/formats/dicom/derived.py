"""What a model made of a patient's MR series, as DICOM of the same patient and study: images, a map, a segmentation.

    mr_series        the counterfactual        MR Image Storage, one file a slice
    parametric_map   the anomaly map           Parametric Map Storage, float32
    segmentation     what is above a threshold Segmentation Storage, BINARY

Contract. Everything lies on the grid of the source series, in its Frame of Reference, in a new series with a number from
900 whose description begins with "AI" and says NOT ACQUIRED; every slice names the image that it was made from. Elements
are copied from a list, so that private ones, and what was true of the acquired image only, stay behind. Arrays have the
axes of `series.Series.voxels`: column, row, slice.

Errors: a source without what ties its series to patient and place, a grid other than the source's, numbers not finite.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.uid import MRImageStorage
from pydicom.valuerep import DSfloat

from toolkit.data import dataset
from toolkit.example import Error, Provenance
from toolkit.formats.dicom import uids
from toolkit.formats.dicom.series import Series
from toolkit.formats.dicom.writing import MAKER, coded, mark, short, software, version, wrap

__all__ = ["mr_series", "parametric_map", "segmentation"]

NEEDED = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
)  # fmt: skip

# PS3.3 C.7.1.1, C.7.2.1, C.7.2.2 and the clinical trial modules: who and which visit. Type 2 first; empty is unknown.
TWO = (
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
SPACE = (
    "PositionReferenceIndicator", "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence", "DimensionIndexSequence", "ImageType", "Modality", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ACQUIRED_BY = Code("109101", "DCM", "Acquisition Equipment")
SCHEME = "99DIFFGRAFT"
SCORE = Code("anomaly-score", SCHEME, "Anomaly score")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = Code("52988006", "SCT", "Lesion")
NO_UNITS = Code("1", "UCUM", "no units")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

NUMBERS = {"counterfactual": 900, "map": 901, "segmentation": 902}
"""Series numbers of a source without one; ten times the number of the source is added, so that a study stays sorted."""

WHAT = {
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


P, T = ParamSpec("P"), TypeVar("T")


def _quiet(write: Callable[P, T]) -> Callable[P, T]:
    """Without pydicom's warnings of values in a source that are not as they should be: they quote them, names included."""

    @wraps(write)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\b")
            return write(*args, **kwargs)

    return quiet


@_quiet
def mr_series(series: Series, voxels: np.ndarray, provenance: Provenance, place: str | Path) -> list[Path]:
    """Write a counterfactual as MR images place/counterfactual/0001.dcm ..., in the order of the slices.

    voxels: (X, Y, Z) float32 in the units of `series.voxels`. Where the source needs no rescale, neither does this, and
    stored values are those of the source to half a unit; else one slope spreads the range of the volume over 16 bits.
    The folder appears whole or not at all.
    """
    place = Path(place) / "counterfactual"
    _checked(series, voxels, "counterfactual")
    stored, slope, intercept = _quantised(series, np.asarray(voxels, np.float64))
    names = _names(series, provenance, "counterfactual", uids.digest(stored, np.array([slope, intercept])))
    low, high = (float(v) for v in np.quantile(series.voxels, (0.0, 0.995)))
    written = []
    with dataset.staged(place) as folder:
        for k, source in enumerate(series.sources):
            data = _mr_image(series, k, source)
            data.SOPInstanceUID = names("instance", source.SOPInstanceUID, str(k))
            data.SeriesInstanceUID = names("series")
            data.InstanceNumber = k + 1
            _number(data, series, "counterfactual")
            data.Rows, data.Columns = stored.shape[1], stored.shape[0]
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
            data.PixelRepresentation = int(stored.dtype.kind == "i")
            data.RescaleSlope, data.RescaleIntercept, data.RescaleType = _ds(slope), _ds(intercept), "US"
            if "WindowCenter" not in data and high > low:
                data.WindowCenter, data.WindowWidth = _ds((low + high) / 2), _ds(high - low)
                if high - low < 1:
                    data.VOILUTFunction = "LINEAR_EXACT"  # the usual one ends at a width of 1
            data.add_new("PixelData", "OW", stored[:, :, k].T.tobytes())
            mark(data, provenance, WHAT["counterfactual"])
            written.append(wrap(data, folder / f"{k + 1:04d}.dcm").name)
    return [place / name for name in written]


@_quiet
def parametric_map(series: Series, voxels: np.ndarray, provenance: Provenance, place: str | Path) -> Path:
    """Write an anomaly map as place/anomaly_map.dcm: float32 as it is, without units, on the grid of the source.

    voxels: (X, Y, Z) float32. The window shows 0 to the largest value, or both signs evenly where some are below 0.
    """
    from highdicom import VOILUTFunctionValues, VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping

    _checked(series, voxels, "map")
    frames, sources = _for_highdicom(series, np.asarray(voxels, np.float32))
    low, high = float(frames.min()), float(frames.max())
    most = max(abs(low), abs(high)) or 1.0
    window = VOILUTTransformation(
        window_center=DSfloat(0.0 if low < 0 else most / 2, auto_format=True),
        window_width=DSfloat(2 * most if low < 0 else most, auto_format=True),
        voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT,  # the usual one ends at a width of 1
    )
    mapping = RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly score of the model, higher is more abnormal",
        unit=NO_UNITS,
        value_range=(low, high),
        quantity_definition=SCORE,
    )
    names = _names(series, provenance, "map", uids.digest(frames))
    data = _built(
        lambda **common: ParametricMap(
            pixel_array=frames,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[window],
            content_label="ANOMALY_MAP",
            **common,
        ),
        series, sources, provenance, names, "map",
    )  # fmt: skip
    data.CodingSchemeIdentificationSequence = [_scheme()]
    return wrap(data, Path(place) / "anomaly_map.dcm")


@_quiet
def segmentation(series: Series, mask: np.ndarray, provenance: Provenance, place: str | Path) -> Path:
    """Write a mask as place/anomaly_segmentation.dcm: one segment, "AI suspected anomaly", BINARY.

    mask: (X, Y, Z) boolean. Empty slices have no frame, as readers expect. An empty mask is written too, with a frame for
    every slice and a description that says so: "nothing was found" is a result, and no file would read as no answer.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription

    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise Error(f"A segmentation is made of a boolean mask; found {mask.dtype}. Apply the threshold first.")
    _checked(series, mask, "segmentation")
    frames, sources = _for_highdicom(series, mask)
    names = _names(series, provenance, "segmentation", uids.digest(frames))
    segment = SegmentDescription(
        segment_number=1,
        segment_label="AI suspected anomaly",
        segmented_property_category=ABNORMAL,
        segmented_property_type=LESION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=short(f"{MAKER} {provenance.procedure}", 64),
            family=ARTIFICIAL_INTELLIGENCE,
            version=version(),
            source=MAKER,
            parameters={"model": provenance.model},
        ),
        tracking_uid=names("tracking"),
        tracking_id=f"{MAKER} anomaly",
    )
    found = bool(mask.any())
    data = _built(
        lambda **common: Segmentation(
            pixel_array=frames.astype(np.uint8),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            content_label="ANOMALY",
            omit_empty_frames=found,
            **common,
        ),
        series, sources, provenance, names, "segmentation",
    )  # fmt: skip
    data.SegmentSequence[0].SegmentDescription = "Suspected by a model, not confirmed"
    # What a reader cannot see should not be missed: empty is a finding, not a failure.
    data.ContentDescription = "Suspected anomaly, not confirmed" if found else "No anomaly above the threshold"
    data.SegmentSequence[0].RecommendedDisplayCIELabValue = [34891, 53479, 50166]  # red
    return wrap(data, Path(place) / "anomaly_segmentation.dcm")


# ------------------------------------------------------------------------------------------------------------ sources


def _checked(series: Series, voxels: np.ndarray, kind: str) -> None:
    """Raise the errors that the module names."""
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


def copy(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy the elements that are there, and not an age that is no age string, which would make the new file invalid too."""
    for keyword in keywords:
        if keyword in source and (keyword != "PatientAge" or AGE_STRING.fullmatch(str(source[keyword].value))):
            target[keyword] = deepcopy(source[keyword])
            if target[keyword].VR == "DS" and any(len(str(v)) > 16 for v in _values(target[keyword].value)):
                # More digits than a decimal string may have, as some converters write.
                target[keyword].value = [_ds(float(v)) for v in _values(target[keyword].value)]


def _values(value: Any) -> list[Any]:
    """One or several values of an element as a list."""
    return list(value) if isinstance(value, MultiValue) else [] if value is None or value == "" else [value]


def _flat(series: Series, k: int, source: Dataset) -> Dataset:
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


def _mr_image(series: Series, k: int, source: Dataset) -> Dataset:
    """Slice k without numbers, names and pixels: patient, study, place and contrast of its source."""
    flat, data = _flat(series, k, source), Dataset()
    copy(source, data, (*TWO, *PATIENT, "StudyInstanceUID", "FrameOfReferenceUID"))
    copy(flat, data, (*PLACE, *CONTRAST, *LOSSY, "WindowCenter", "WindowWidth", "VOILUTFunction"))
    for keyword in (*TWO, "PositionReferenceIndicator", "PatientPosition"):
        if keyword not in data:
            setattr(data, keyword, flat.get(keyword) or "")
    data.SOPClassUID, data.Modality = MRImageStorage, "MR"
    data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    data.BodyPartExamined = flat.get("BodyPartExamined") or BODY
    if series.frames:
        _classic(flat, data)
    # PS3.3 C.8.3.1: sequence and variant are type 1, and RM and NONE are what may be said of what is not known.
    data.ScanningSequence = data.get("ScanningSequence") or "RM"
    data.SequenceVariant = data.get("SequenceVariant") or "NONE"
    for keyword in (
        "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength", "SliceThickness",
        "AcquisitionNumber",
    ):  # fmt: skip
        if keyword not in data:
            setattr(data, keyword, None)
    if "IR" not in _values(data.ScanningSequence) and "InversionTime" in data:
        del data.InversionTime  # type 2C: an inversion recovery has it, and nothing else
    _acquired(source, data)
    data.SourceImageSequence = [_reference(series, k, source)]
    return data


def _classic(flat: Dataset, data: Dataset) -> None:
    """Elements of a classic MR image from those that say the same in an Enhanced one (PS3.3 C.8.13.4)."""
    kinds = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(str(flat.get("EchoPulseSequence", "")), [])
    kinds += ["EP"] if flat.get("EchoPlanarPulseSequence") == "YES" else []
    kinds += ["IR"] if flat.get("InversionRecovery") == "YES" else []
    variants = ["SK"] if str(flat.get("SegmentedKSpaceTraversal", "SINGLE")) != "SINGLE" else []
    variants += ["SP"] if str(flat.get("Spoiling", "NONE")) != "NONE" else []
    for keyword, value in {
        "ScanningSequence": kinds or None,
        "SequenceVariant": variants or None,
        "EchoTime": flat.get("EffectiveEchoTime"),
        "InversionTime": flat.get("InversionTimes"),
        "ImagedNucleus": flat.get("ResonantNucleus"),
    }.items():
        if keyword not in data and value not in (None, ""):
            setattr(data, keyword, _ds(float(_values(value)[0])) if keyword.endswith("Time") else value)
    if (moment := flat.get("FrameAcquisitionDateTime") or flat.get("AcquisitionDateTime")) and len(str(moment)) >= 14:
        data.AcquisitionDate, data.AcquisitionTime = (
            str(moment)[:8],
            str(moment)[8:].partition("+")[0].partition("-")[0],
        )


def _reference(series: Series, k: int, source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if series.frames:
        item.ReferencedFrameNumber = series.frames[k]
    item.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE)]
    item.SpatialLocationsPreserved = "YES"
    return item


def _acquired(source: Dataset, data: Dataset) -> None:
    """The machine that acquired the source, which the equipment of a derived object no longer tells."""
    if not source.get("Manufacturer"):
        return
    item = Dataset()
    copy(source, item, ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"))
    item.PurposeOfReferenceCodeSequence = [coded(ACQUIRED_BY)]
    item.ContributionDescription = "Acquired the source images"
    data.ContributingEquipmentSequence = [item, *(data.get("ContributingEquipmentSequence") or [])]


# -------------------------------------------------------------------------------------------------------------- names


def _names(series: Series, provenance: Provenance, kind: str, digest: str) -> Callable[..., str]:
    """The UIDs of an output: level, and what tells its instances apart -> UID. See `uids` for what they depend on."""
    words = (series.uid, kind, uids.made(provenance), version(), digest)
    return lambda level, *more: uids.uid("derived", level, *words, *map(str, more))


def _number(data: Dataset, series: Series, kind: str) -> None:
    """Number and description of the new series."""
    number = series.sources[0].get("SeriesNumber")
    number = int(number) if number is not None and 0 <= number < 10**6 else 0
    data.SeriesNumber = NUMBERS[kind] + 10 * number
    source = series.description.replace("\\", "/")
    data.SeriesDescription = short(f"{TITLES[kind]}: {source}" if source else TITLES[kind], 64)


# ------------------------------------------------------------------------------------------------------------- values


def _quantised(series: Series, voxels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(X, Y, Z) uint16 or int16, slope and intercept: voxels to half a step."""
    low, high = float(voxels.min()), float(voxels.max())
    if _whole(series) and low >= -(2**15) and high <= (2**16 - 1 if low >= -0.5 else 2**15 - 1):
        return np.rint(voxels).astype("<u2" if low >= -0.5 else "<i2"), 1.0, 0.0
    # Slope and intercept are written in 16 characters, so values are divided by what is written. An intercept of 0
    # wherever nothing is negative: some readers of MR leave it out.
    intercept = 0.0 if low >= 0 else float(str(_ds(low)))
    slope = float(str(_ds((high - intercept) / (2**16 - 2)))) if high > intercept else 1.0
    return np.clip(np.rint((voxels - intercept) / slope), 0, 2**16 - 1).astype("<u2"), slope, intercept


def _whole(series: Series) -> bool:
    """Whether the source's numbers are its stored ones, so that a viewer without rescale shows both alike."""
    for k, source in enumerate(series.sources):
        flat = _flat(series, k, source)
        if (flat.get("RescaleSlope") or 1) != 1 or (flat.get("RescaleIntercept") or 0) != 0:
            return False
    return True


def _ds(value: float) -> DSfloat:
    """A decimal string of at most 16 characters."""
    return DSfloat(value, auto_format=True)


# ---------------------------------------------------------------------------------------------------------- highdicom


def _for_highdicom(series: Series, voxels: np.ndarray) -> tuple[np.ndarray, list[Dataset]]:
    """(frames, rows, columns) and the source images in the order that highdicom pairs them.

    A multi-frame source is one image, so frames take its order. The sources are reduced to what lies in space: highdicom
    copies all that a file says of a patient, and warns of some names. Errors: several multi-frame files.
    """
    frames = voxels.transpose(2, 1, 0)
    if not series.frames:
        return np.ascontiguousarray(frames), [_plain(source) for source in series.sources]
    source = series.sources[0]
    count = int(source.get("NumberOfFrames") or 0)
    if len({str(other.SOPInstanceUID) for other in series.sources}) > 1 or sorted(series.frames) != [
        n + 1 for n in range(count)
    ]:
        raise Error(
            "A map or segmentation of multi-frame images is made of one file whose frames are all slices; this series is "
            "not. Convert it to classic MR images first."
        )
    return np.ascontiguousarray(frames[np.argsort(series.frames)]), [_plain(source)]


def _plain(source: Dataset) -> Dataset:
    data = Dataset()
    copy(source, data, (*NEEDED, *PLACE, *LOSSY, *SPACE))
    data.file_meta = source.file_meta
    for keyword in TWO:
        setattr(data, keyword, "")
    return data


def _built(
    build: Callable[..., Any], series: Series, sources: list[Dataset], provenance: Provenance, names: Callable[..., str],
    kind: str,
) -> Dataset:  # fmt: skip
    """A multi-frame object of highdicom with patient, study and marks, and no UID or time that a rerun would not make."""
    first, made = series.sources[0], software(provenance)
    date, clock = _moment(first)
    try:
        data = build(
            source_images=sources,
            series_instance_uid=names("series"),
            series_number=NUMBERS[kind],
            sop_instance_uid=names("instance"),
            instance_number=1,
            manufacturer=made["Manufacturer"],
            manufacturer_model_name=made["ManufacturerModelName"],
            software_versions=made["SoftwareVersions"],
            device_serial_number=made["DeviceSerialNumber"],
            content_description=short(WHAT[kind], 64),
            content_creator_name="",
            content_date=date,
            content_time=clock,
            specific_character_set=None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        words = " ".join(f"{type(problem).__name__}: {problem}".split())[:200]
        raise Error(
            f"A {kind} needs a source that states its geometry as DICOM asks; this does not, {words}. Export it again."
        ) from problem
    copy(first, data, (*TWO, *PATIENT))
    _number(data, series, kind)
    data.BodyPartExamined = _flat(series, 0, first).get("BodyPartExamined") or BODY
    _acquired(first, data)
    data.SourceImageSequence = [_reference(series, k, source) for k, source in enumerate(series.sources)]
    _renamed(data, str(data.DimensionOrganizationSequence[0].DimensionOrganizationUID), names("dimensions"))
    mark(data, provenance, WHAT[kind])
    return data


def _moment(source: Dataset) -> tuple[str, str]:
    """Date and time that an object must state (type 1): those of its source's content, for a run's would differ.

    A source without any, as some de-identification leaves it, gets the date that means none there.
    """
    for kind in ("Content", "Acquisition", "Series", "Study"):
        if date := source.get(f"{kind}Date"):
            return str(date), str(source.get(f"{kind}Time") or "000000")
    return "19000101", "000000"


def _renamed(data: Dataset, old: str, new: str) -> None:
    """Replace a UID wherever it stands."""
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                _renamed(item, old, new)
        elif element.VR == "UI" and element.value == old:
            element.value = new


def _scheme() -> Dataset:
    """Who defines the codes of ours (PS3.3 C.12.1.1.4)."""
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = SCHEME, "Codes of diffgraft"
    item.CodingSchemeResponsibleOrganization = MAKER
    return item
