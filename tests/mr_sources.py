"""MR series as a scanner would write them: classic, one file a slice, and Enhanced, all slices in one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from toolkit.formats.dicom.series import Series, load_all

ROOT = "1.2.826.0.1.3680043.10.543"


def affine(
    tilt: float = 0.0, plane: str = "axial", spacing: tuple[float, float, float] = (0.8, 0.9, 3.3)
) -> np.ndarray:
    """Voxel to RAS millimetres: column, row, slice. tilt in degrees about the column direction of the plane."""
    row, column = {
        "axial": ((1, 0, 0), (0, 1, 0)),
        "sagittal": ((0, 1, 0), (0, 0, -1)),
        "coronal": ((1, 0, 0), (0, 0, -1)),
        "prone": ((1, 0, 0), (0, -1, 0)),
    }[plane]
    row, column = np.array(row, float), np.array(column, float)
    angle = np.radians(tilt)
    column = np.cos(angle) * column + np.sin(angle) * np.cross(row, column)
    lps = np.stack([row * spacing[0], column * spacing[1], np.cross(row, column) * spacing[2]], axis=1)
    found = np.eye(4)
    found[:3, :3] = np.diag([-1, -1, 1]) @ lps
    found[:3, 3] = (10.5, 12.25, -3)
    return found


PLANES = ("axial", "sagittal", "coronal", "prone")
"""prone: axial with its normal toward the feet, as a patient who lies face down is imaged."""


def series(root: Path, plane: str, tilt: float, kind: str, shape: tuple[int, int, int] = (24, 20, 6)) -> Series:
    """A series of a plane as it is read; kind: classic, or enhanced with frames in any order."""
    place, array = affine(tilt, plane), voxels(shape=shape)
    if kind == "classic":
        classic(root, array, place)
    else:
        enhanced(root, array, place, order=np.random.default_rng(1).permutation(shape[2]).tolist())
    (found,) = load_all(root)
    return found


def scattered(shape: tuple[int, ...]) -> np.ndarray:
    """A mask with empty slices at both ends and in between."""
    mask = np.zeros(shape, bool)
    mask[3:9, 4:8, 1] = mask[12:20, 2:5, 4] = mask[0, 0, 4] = True
    return mask


def voxels(seed: int = 0, shape: tuple[int, int, int] = (24, 20, 6), high: int = 1000) -> np.ndarray:
    """(X, Y, Z) whole numbers."""
    return np.random.default_rng(seed).integers(0, high, shape)


def _patient(data: Dataset, key: str) -> None:
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Doe^Jane", "P-1", "19600101", "F"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}.{key}.1", f"{ROOT}.{key}.2"
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = f"{ROOT}.{key}.3", ""
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20200102", "101112", "S1", "A1"
    data.ReferringPhysicianName, data.Modality = "", "MR"
    data.SeriesNumber, data.SeriesDescription, data.Manufacturer = 5, "t2 flair tra", "ACME"
    data.InstitutionName, data.PatientAddress, data.PatientComments = "Some hospital", "Some street", "Some words"
    data.PatientPosition, data.BodyPartExamined = "HFS", "HEAD"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0


def _save(data: Dataset, path: Path) -> None:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def _plane(place: np.ndarray) -> tuple[list[float], list[float], np.ndarray]:
    """Orientation, spacing (rows, columns) and a function's worth of LPS: (4, 4) voxel to LPS."""
    lps = np.diag([-1.0, -1, 1, 1]) @ place
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :2] / lengths[:2]).T.ravel()
    return [round(float(v), 9) for v in directions], [float(lengths[1]), float(lengths[0])], lps


def classic(
    root: Path,
    array: np.ndarray,
    place: np.ndarray,
    key: str = "7",
    change: Callable[[Dataset, int], Any] = lambda *_: 0,
) -> Path:
    """array: (X, Y, Z) of 0 to 65535. change(dataset, slice) may alter a slice before it is written."""
    orientation, spacing, lps = _plane(place)
    for k in range(array.shape[2]):
        data = Dataset()
        _patient(data, key)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, f"{ROOT}.{key}.4.{k + 1}"
        data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY"], array.shape[2] - k
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions, data.MRAcquisitionType = (
            ["SE", "IR"],
            "SK",
            "",
            "2D",
        )
        data.RepetitionTime, data.EchoTime, data.InversionTime, data.EchoTrainLength = 9000, 120, 2500, 16
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.PixelSpacing, data.SliceThickness = spacing, 3
        data.ImageOrientationPatient = orientation
        data.ImagePositionPatient = [round(float(v), 6) for v in (lps @ (0, 0, k, 1))[:3]]
        data.add_new("PixelData", "OW", array[:, :, k].T.astype("<u2").tobytes())
        change(data, k)
        _save(data, root / f"{k:03d}.dcm")
    return root


def _item(**elements: Any) -> list[Dataset]:
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return [data]


def enhanced(root: Path, array: np.ndarray, place: np.ndarray, key: str = "8", order: list[int] | None = None) -> Path:
    """As `classic`, in one file; order: which slice each frame holds."""
    orientation, spacing, lps = _plane(place)
    order = list(range(array.shape[2])) if order is None else order
    data = Dataset()
    _patient(data, key)
    data.SOPClassUID, data.SOPInstanceUID = EnhancedMRImageStorage, f"{ROOT}.{key}.4"
    data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    data.ContentDate, data.ContentTime, data.AcquisitionDateTime = "20200102", "101213", "20200102101213"
    data.EchoPulseSequence, data.InversionRecovery, data.MRAcquisitionType = "SPIN", "YES", "2D"
    data.EchoPlanarPulseSequence, data.SegmentedKSpaceTraversal, data.ResonantNucleus = "NO", "PARTIAL", "1H"
    data.Rows, data.Columns, data.NumberOfFrames = array.shape[1], array.shape[0], len(order)
    organization = _item(DimensionOrganizationUID=f"{ROOT}.{key}.5")
    data.DimensionOrganizationSequence = organization
    data.DimensionIndexSequence = _item(
        DimensionOrganizationUID=f"{ROOT}.{key}.5", DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113
    )
    (shared,) = _item(
        PixelMeasuresSequence=_item(PixelSpacing=spacing, SliceThickness=3),
        PlaneOrientationSequence=_item(ImageOrientationPatient=orientation),
        PixelValueTransformationSequence=_item(RescaleIntercept=0, RescaleSlope=2, RescaleType="US"),
        MRTimingAndRelatedParametersSequence=_item(RepetitionTime=9000, FlipAngle=150, EchoTrainLength=16),
        MREchoSequence=_item(EffectiveEchoTime=120.0),
        MRModifierSequence=_item(InversionRecovery="YES", InversionTimes=[2500.0]),
    )
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for n, k in enumerate(order):
        (frame,) = _item(
            FrameContentSequence=_item(DimensionIndexValues=[n + 1]),
            PlanePositionSequence=_item(ImagePositionPatient=[round(float(v), 6) for v in (lps @ (0, 0, k, 1))[:3]]),
        )
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    pixels = np.stack([array[:, :, k].T for k in order]).astype("<u2")
    data.add_new("PixelData", "OW", pixels.tobytes())
    _save(data, root / "enhanced.dcm")
    return root
