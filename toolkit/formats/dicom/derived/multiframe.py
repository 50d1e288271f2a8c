"""The anomaly map as a Parametric Map and what is above a threshold as a Segmentation, built by highdicom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from toolkit.example import Error, Provenance
from toolkit.formats.dicom import uids
from toolkit.formats.dicom.derived import shared
from toolkit.formats.dicom.derived.frames import LAYOUT, name_segment, share_anatomy, sort_frames
from toolkit.formats.dicom.series import Series
from toolkit.formats.dicom.writing import MAKER, equipment, mark_synthetic, save_dataset, truncate, version

__all__ = ["write_parametric_map", "write_segmentation"]

SPACE = (
    "PositionReferenceIndicator", "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence", "DimensionIndexSequence", "ImageType", "Modality", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip
SCHEME = "99DIFFGRAFT"
SCORE = Code("anomaly-score", SCHEME, "Anomaly score")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = Code("52988006", "SCT", "Lesion")
NO_UNITS = Code("1", "UCUM", "no units")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")


@shared.without_warnings
def write_parametric_map(series: Series, voxels: np.ndarray, provenance: Provenance, place: str | Path) -> Path:
    """Write an anomaly map as place/anomaly_map.dcm: float32 as it is, without units, on the grid of the source.

    voxels: (X, Y, Z) float32. The window shows 0 to the largest value, or both signs evenly where some are below 0.
    """
    from highdicom import VOILUTFunctionValues, VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping

    shared.check_grid(series, voxels, "map")
    frames, sources = _for_highdicom(series, np.asarray(voxels, np.float32))
    low, high = float(frames.min()), float(frames.max())
    most = max(abs(low), abs(high)) or 1.0
    window = VOILUTTransformation(
        window_center=shared.decimal_string(0.0 if low < 0 else most / 2),
        window_width=shared.decimal_string(2 * most if low < 0 else most),
        voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT,  # the usual one ends at a width of 1
    )
    mapping = RealWorldValueMapping(
        lut_label="anomaly",
        lut_explanation="Anomaly score of the model, higher is more abnormal",
        unit=NO_UNITS,
        value_range=(low, high),
        quantity_definition=SCORE,
    )
    names = shared.output_uids(series, provenance, "map", f"{uids.digest(frames)} {LAYOUT}")
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
    return save_dataset(data, Path(place) / "anomaly_map.dcm")


@shared.without_warnings
def write_segmentation(series: Series, mask: np.ndarray, provenance: Provenance, place: str | Path) -> Path:
    """Write a mask as place/anomaly_segmentation.dcm: one segment, "AI suspected anomaly", BINARY.

    mask: (X, Y, Z) boolean. Every slice has a frame, because dcm2niix stacks the frames that there are and takes no gap
    into account. An empty mask is written too, with a description that says so: "nothing was found" is a result, and no
    file would read as no answer.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription

    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise Error(f"A segmentation is made of a boolean mask; found {mask.dtype}. Apply the threshold first.")
    shared.check_grid(series, mask, "segmentation")
    frames, sources = _for_highdicom(series, mask)
    names = shared.output_uids(series, provenance, "segmentation", f"{uids.digest(frames)} {LAYOUT}")
    segment = SegmentDescription(
        segment_number=1,
        segment_label="AI suspected anomaly",
        segmented_property_category=ABNORMAL,
        segmented_property_type=LESION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=truncate(f"{MAKER} {provenance.procedure}", 64),
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
            omit_empty_frames=False,
            **common,
        ),
        series, sources, provenance, names, "segmentation",
    )  # fmt: skip
    name_segment(data)
    data.SegmentSequence[0].SegmentDescription = "Suspected by a model, not confirmed"
    # What a reader cannot see should not be missed: empty is a finding, not a failure.
    data.ContentDescription = "Suspected anomaly, not confirmed" if found else "No anomaly above the threshold"
    data.SegmentSequence[0].RecommendedDisplayCIELabValue = [34891, 53479, 50166]  # red
    return save_dataset(data, Path(place) / "anomaly_segmentation.dcm")


def _for_highdicom(series: Series, voxels: np.ndarray) -> tuple[np.ndarray, list[Dataset]]:
    """(frames, rows, columns) and the source images in the order that highdicom pairs them.

    A multi-frame source is one image, so frames take its order. The sources are reduced to what lies in space: highdicom
    copies all that a file says of a patient, and warns of some names. Errors: several multi-frame files.
    """
    frames = voxels.transpose(2, 1, 0)
    if not series.frames:
        return np.ascontiguousarray(frames), [_plain(source, series) for source in series.sources]
    source = series.sources[0]
    count = int(source.get("NumberOfFrames") or 0)
    if len({str(other.SOPInstanceUID) for other in series.sources}) > 1 or sorted(series.frames) != [
        n + 1 for n in range(count)
    ]:
        raise Error(
            "A map or segmentation of multi-frame images is made of one file whose frames are all slices; this series is "
            "not. Convert it to classic MR images first."
        )
    return np.ascontiguousarray(frames[np.argsort(series.frames)]), [_plain(source, series)]


def _plain(source: Dataset, series: Series) -> Dataset:
    """What lies in space. A thickness that is not stated is the distance of the slices: a voxel of the grid is as high."""
    data = Dataset()
    shared.copy_elements(source, data, (*shared.NEEDED, *shared.PLACE, *shared.LOSSY, *SPACE))
    data.file_meta = source.file_meta
    for keyword in shared.TYPE_2:
        setattr(data, keyword, "")
    if not series.frames and not data.get("SliceThickness"):
        data.SliceThickness = shared.decimal_string(float(np.linalg.norm(series.affine[:3, 2])))
    return data


def _built(
    build: Callable[..., Any], series: Series, sources: list[Dataset], provenance: Provenance, names: Callable[..., str],
    kind: str,
) -> Dataset:  # fmt: skip
    """A multi-frame object of highdicom with patient, study and marks, and no UID or time that a rerun would not make."""
    first, made = series.sources[0], equipment(provenance)
    date, clock = _moment(first)
    try:
        data = build(
            source_images=sources,
            series_instance_uid=names("series"),
            series_number=shared.NUMBERS[kind],
            sop_instance_uid=names("instance"),
            instance_number=1,
            manufacturer=made["Manufacturer"],
            manufacturer_model_name=made["ManufacturerModelName"],
            software_versions=made["SoftwareVersions"],
            device_serial_number=made["DeviceSerialNumber"],
            content_description=truncate(shared.DESCRIPTIONS[kind], 64),
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
    shared.copy_elements(first, data, (*shared.TYPE_2, *shared.PATIENT))
    shared.number_series(data, series, kind)
    data.BodyPartExamined = shared.slice_elements(series, 0, first).get("BodyPartExamined") or shared.BODY
    sort_frames(data)
    share_anatomy(data, str(data.BodyPartExamined))
    shared.add_source_equipment(first, data)
    data.SourceImageSequence = [shared.reference(series, k, source) for k, source in enumerate(series.sources)]
    _renamed(data, str(data.DimensionOrganizationSequence[0].DimensionOrganizationUID), names("dimensions"))
    mark_synthetic(data, provenance, shared.DESCRIPTIONS[kind])
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
