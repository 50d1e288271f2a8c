#!/usr/bin/env bash
# dcm2niix 1.0.20260724 (1.0.20220720 too): a DICOM Segmentation of highdicom 0.28.2, which leaves out empty slices unless it is told
# otherwise, comes out with its frames stacked one on the other: gaps are not kept, although every frame states its position.
# Of 49 voxels in slices 1 and 4 of 6, those of slice 4 come out in slice 2 (one step above slice 1). With a frame for every slice
# (omit_empty_frames=False) all 49 are in their place. Nothing warns.
# Needs a Python of 3.11 or newer; installs into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6 nibabel==5.4.2 dcm2niix==1.0.20260724 2>/dev/null
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" - "$work" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

work = Path(sys.argv[1])


def slice_of_a_series(k: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = MRImageStorage, f"1.2.3.4.{k + 1}", "MR"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"):
        setattr(data, keyword, "")
    data.Rows, data.Columns, data.PixelSpacing, data.SliceThickness = 20, 24, [1, 1], 3
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = bytes(960)
    return data


mask = np.zeros((6, 20, 24), np.uint8)
mask[1, 4:8, 3:9] = mask[4, 2:5, 12:20] = mask[4, 0, 0] = 1
algorithm = AlgorithmIdentificationSequence("by hand", codes.DCM.ArtificialIntelligence, "1")
found = {}
for omitted in (True, False):
    segment = SegmentDescription(
        1, "mask", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, "AUTOMATIC", algorithm
    )
    data = Segmentation(
        [slice_of_a_series(k) for k in range(6)], mask, "BINARY", [segment], "1.2.3.5", 1, "1.2.3.6", 1, "m", "m", "1", "1",
        omit_empty_frames=omitted,
    )
    folder = work / str(omitted)
    folder.mkdir()
    data.save_as(folder / "seg.dcm")
    subprocess.run(
        ["dcm2niix", "-s", "y", "-b", "n", "-z", "n", "-f", "x", "-o", folder, folder / "seg.dcm"], check=True, capture_output=True
    )
    (path,) = folder.glob("*.nii")
    image = nibabel.load(path)
    placed = 0
    for i, j, k in np.argwhere(np.asarray(image.dataobj) > 0):
        x, y, z = image.affine[:3, :3] @ (i, j, k) + image.affine[:3, 3]
        place = tuple(int(round(v)) for v in (z / 3, -y, -x))
        placed += bool(all(0 <= p < n for p, n in zip(place, mask.shape, strict=True)) and mask[place])
    found[omitted] = placed
    print(f"omit_empty_frames={omitted}: {data.NumberOfFrames} frames, {placed} of {mask.sum()} voxels in their place, shape {image.shape}")
sys.exit(0 if found == {True: 24, False: 49} else f"changed: {found}")
PYTHON
