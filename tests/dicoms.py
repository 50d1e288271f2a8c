"""DICOM MR series made of a volume, classic and enhanced, as a scanner might send them: in a random order."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from scipy.spatial.transform import Rotation

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SECRET = "Doe^Jane"


def affine_of(angles: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    """A right-handed RAS affine, as a slice stack has it."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = (40.0, -31.25, 12.5)
    return affine


def voxels_of(shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape).astype(np.float32)


def common(kind: str, **fields: Any) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.PatientName, data.PatientID, data.PatientSex, data.PatientBirthDate = SECRET, "ID-4711", "F", "19700101"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20200102", "101112", "1", ""
    data.ReferringPhysicianName, data.Manufacturer, data.Modality = "", "test", "MR"
    data.StudyInstanceUID, data.FrameOfReferenceUID, data.SeriesInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    data.PositionReferenceIndicator, data.SeriesNumber, data.SeriesDescription = "", 7, "AX T2 FLAIR"
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def place(affine: np.ndarray, k: int) -> tuple[list[float], list[float], list[float]]:
    """ImagePositionPatient, ImageOrientationPatient and PixelSpacing of slice k."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    position = lps[:3, :3] @ (0, 0, k) + lps[:3, 3]
    rounded = [[float(f"{v:.9g}") for v in row] for row in (position, axes[:, :2].T.ravel(), spacing[1::-1])]
    return rounded[0], rounded[1], rounded[2]


def classic(root: Path, voxels: np.ndarray, affine: np.ndarray, seed: int = 0, **fields: Any) -> list[Path]:
    """One file a slice, named and numbered in a random order. Files in order of the third axis."""
    root.mkdir(parents=True, exist_ok=True)
    count = voxels.shape[2]
    numbers = random.Random(seed).sample(range(1, count + 1), count)
    paths = []
    for k in range(count):
        data = common(uid.MRImageStorage, **fields)
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions, data.MRAcquisitionType = "SE", "NONE", "", "2D"
        data.InstanceNumber, data.AcquisitionNumber = numbers[k], 1
        data.RepetitionTime, data.EchoTime, data.InversionTime, data.EchoTrainLength = 9000, 90, 2500, 1
        data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing = place(affine, k)
        data.SliceThickness = data.SpacingBetweenSlices = float(f"{np.linalg.norm(affine[:3, 2]):.9g}")
        data.Columns, data.Rows = voxels.shape[:2]
        data.PixelData = voxels[:, :, k].T.astype("<u2").tobytes()
        paths.append(root / f"IM{numbers[k]:04d}")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def enhanced(
    path: Path, voxels: np.ndarray, affine: np.ndarray, seed: int = 0, varied: bool = True, **fields: Any
) -> Path:
    """All slices in one file, in a random order; if varied, slope and intercept differ by frame (2 k + 2, -k)."""
    count = voxels.shape[2]
    order = random.Random(seed).sample(range(count), count)
    data = common(uid.EnhancedMRImageStorage, **fields)
    data.NumberOfFrames, data.InstanceNumber = count, 1
    data.Columns, data.Rows = voxels.shape[:2]
    shared, groups = Dataset(), []
    orientation, measures = Dataset(), Dataset()
    _, orientation.ImageOrientationPatient, measures.PixelSpacing = place(affine, 0)
    measures.SliceThickness = measures.SpacingBetweenSlices = float(f"{np.linalg.norm(affine[:3, 2]):.9g}")
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    for number, k in enumerate(order, 1):
        group, position, value, content = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = place(affine, k)[0]
        value.RescaleSlope, value.RescaleIntercept = (2 * k + 2, -k) if varied else (2, -3)
        value.RescaleType = "US"
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", k + 1, [1, k + 1]
        content.TemporalPositionIndex, content.FrameAcquisitionNumber = 1, number
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([position]), Sequence([value])
        group.FrameContentSequence = Sequence([content])
        groups.append(group)
    organization = Dataset()
    organization.DimensionOrganizationUID = "1.2.9"
    data.DimensionOrganizationSequence = Sequence([organization])
    pointers = []
    for pointer in (0x00209056, 0x00209057):
        item = Dataset()
        item.DimensionOrganizationUID, item.DimensionIndexPointer, item.FunctionalGroupPointer = (
            "1.2.9",
            pointer,
            0x00209111,
        )
        pointers.append(item)
    data.DimensionIndexSequence = Sequence(pointers)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(groups)
    data.PixelData = b"".join(voxels[:, :, k].T.astype("<u2").tobytes() for k in order)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def scaled(voxels: np.ndarray) -> np.ndarray:
    """What the values of `enhanced` mean."""
    k = np.arange(voxels.shape[2])
    return (voxels * (2 * k + 2) - k).astype(np.float32)


def changed(path: Path, change: Callable[[Dataset], object]) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
