"""The counterfactual as MR images, one file a slice, in the stored values of its source where these are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from toolkit.data import dataset
from toolkit.example import Provenance
from toolkit.formats.dicom import uids
from toolkit.formats.dicom.derived import shared
from toolkit.formats.dicom.derived.shared import decimal_string
from toolkit.formats.dicom.series import Series
from toolkit.formats.dicom.writing import mark_synthetic, save_dataset

__all__ = ["quantise", "write_mr_series"]


@shared.without_warnings
def write_mr_series(series: Series, voxels: np.ndarray, provenance: Provenance, place: str | Path) -> list[Path]:
    """Write a counterfactual as MR images place/counterfactual/0001.dcm ..., in the order of the slices.

    voxels: (X, Y, Z) float32 in the units of `series.voxels`. Where the source needs no rescale, neither does this, and
    stored values are those of the source to half a unit; else one slope spreads the range of the volume over 16 bits.
    The folder appears whole or not at all.
    """
    place = Path(place) / "counterfactual"
    shared.check_grid(series, voxels, "counterfactual")
    stored, slope, intercept = quantise(series, np.asarray(voxels, np.float64))
    names = shared.output_uids(series, provenance, "counterfactual", uids.digest(stored, np.array([slope, intercept])))
    low, high = (float(v) for v in np.quantile(series.voxels, (0.0, 0.995)))
    written = []
    with dataset.staged_folder(place) as folder:
        for k, source in enumerate(series.sources):
            data = _mr_image(series, k, source)
            data.SOPInstanceUID = names("instance", source.SOPInstanceUID, str(k))
            data.SeriesInstanceUID = names("series")
            data.InstanceNumber = k + 1
            shared.number_series(data, series, "counterfactual")
            data.Rows, data.Columns = stored.shape[1], stored.shape[0]
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
            data.PixelRepresentation = int(stored.dtype.kind == "i")
            data.RescaleSlope, data.RescaleIntercept = decimal_string(slope), decimal_string(intercept)
            data.RescaleType = "US"
            if "WindowCenter" not in data and high > low:
                data.WindowCenter, data.WindowWidth = decimal_string((low + high) / 2), decimal_string(high - low)
                if high - low < 1:
                    data.VOILUTFunction = "LINEAR_EXACT"  # the usual one ends at a width of 1
            data.add_new("PixelData", "OW", stored[:, :, k].T.tobytes())
            mark_synthetic(data, provenance, shared.DESCRIPTIONS["counterfactual"])
            written.append(save_dataset(data, folder / f"{k + 1:04d}.dcm").name)
    return [place / name for name in written]


def _mr_image(series: Series, k: int, source: Dataset) -> Dataset:
    """Slice k without numbers, names and pixels: patient, study, place and contrast of its source."""
    flat, data = shared.slice_elements(series, k, source), Dataset()
    shared.copy_elements(source, data, (*shared.TYPE_2, *shared.PATIENT, "StudyInstanceUID", "FrameOfReferenceUID"))
    shared.copy_elements(
        flat, data, (*shared.PLACE, *shared.CONTRAST, *shared.LOSSY, "WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    for keyword in (*shared.TYPE_2, "PositionReferenceIndicator", "PatientPosition"):
        if keyword not in data:
            setattr(data, keyword, flat.get(keyword) or "")
    data.SOPClassUID, data.Modality = MRImageStorage, "MR"
    data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    data.BodyPartExamined = flat.get("BodyPartExamined") or shared.BODY
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
    if "IR" not in shared.values_of(data.ScanningSequence) and "InversionTime" in data:
        del data.InversionTime  # type 2C: an inversion recovery has it, and nothing else
    shared.add_source_equipment(source, data)
    data.SourceImageSequence = [shared.reference(series, k, source)]
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
            first = shared.values_of(value)[0] if keyword.endswith("Time") else None
            setattr(data, keyword, value if first is None else decimal_string(float(first)))
    if (moment := flat.get("FrameAcquisitionDateTime") or flat.get("AcquisitionDateTime")) and len(str(moment)) >= 14:
        data.AcquisitionDate, data.AcquisitionTime = (
            str(moment)[:8],
            str(moment)[8:].partition("+")[0].partition("-")[0],
        )


def quantise(series: Series, voxels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(X, Y, Z) uint16 or int16, slope and intercept: voxels to half a step."""
    low, high = float(voxels.min()), float(voxels.max())
    if _is_unscaled(series) and low >= -(2**15) and high <= (2**16 - 1 if low >= -0.5 else 2**15 - 1):
        return np.rint(voxels).astype("<u2" if low >= -0.5 else "<i2"), 1.0, 0.0
    # Slope and intercept are written in 16 characters, so values are divided by what is written. An intercept of 0
    # wherever nothing is negative: some readers of MR leave it out.
    intercept = 0.0 if low >= 0 else float(str(decimal_string(low)))
    slope = float(str(decimal_string((high - intercept) / (2**16 - 2)))) if high > intercept else 1.0
    return np.clip(np.rint((voxels - intercept) / slope), 0, 2**16 - 1).astype("<u2"), slope, intercept


def _is_unscaled(series: Series) -> bool:
    """Whether the source's numbers are its stored ones, so that a viewer without rescale shows both alike."""
    for k, source in enumerate(series.sources):
        flat = shared.slice_elements(series, k, source)
        if (flat.get("RescaleSlope") or 1) != 1 or (flat.get("RescaleIntercept") or 0) != 0:
            return False
    return True
