#!/usr/bin/env bash
# dcm2niix 1.0.20260724 takes the distance of all slices from two that follow each other. A PACS that rounds positions to 0.1 mm
# makes steps of 1.2 and 1.3 of 1.25 mm; the NIfTI file then has 1.2 or 1.3 mm, as the first step falls, and the last of 16
# slices lies 0.75 mm from its place, though each of the 16 positions in the files is right to 0.05 mm and SpacingBetweenSlices
# and SliceThickness both say 1.25. All positions together tell the distance. Exact positions give 1.25.
# Seen: exact 1.25, rounded 1.2, the same stack 12.45 mm higher 1.3.
# Needs a Python of 3.11 or newer; installs dcm2niix, pydicom, nibabel and numpy into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6 2>/dev/null
"$work/venv/bin/python" - "$work" <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

COUNT, DISTANCE = 16, 1.25


def converted(root: Path, start: float, digits: int) -> float:
    """Millimetres from slice to slice in what dcm2niix makes of slices whose positions have so many digits."""
    folder = root / f"{start}-{digits}"
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for k in range(COUNT):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.Manufacturer, data.PatientID, data.ImageType = "MR", "ACME", "P", ["ORIGINAL", "PRIMARY"]
        data.SeriesNumber, data.InstanceNumber = 5, k + 1
        data.SliceThickness = data.SpacingBetweenSlices = DISTANCE
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
        data.ImagePositionPatient = [0, 0, round(start + DISTANCE * k, digits)]
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 16, 16, 15
        data.PixelData = np.full((8, 8), 10 * k, "<u2").tobytes()
        data.save_as(folder / f"{k:02d}.dcm", enforce_file_format=True)
    command = [root / "venv/bin/dcm2niix", "-z", "n", "-b", "n", "-f", folder.name, "-o", root, folder]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = root.glob(f"{folder.name}*.nii")
    return float(np.linalg.norm(nibabel.load(path).affine[:3, 2]))


root = Path(sys.argv[1])
print(f"dcm2niix {version('dcm2niix')}")
found = {name: converted(root, *of) for name, of in (("exact", (0, 2)), ("rounded", (0, 1)), ("rounded, 12.45 mm higher", (12.45, 1)))}
for name, distance in found.items():
    print(f"{name}: {distance:.4f} mm from slice to slice, the last {(distance - DISTANCE) * (COUNT - 1):+.2f} mm off")
expected = {"exact": 1.25, "rounded": 1.2, "rounded, 12.45 mm higher": 1.3}
sys.exit(any(abs(found[name] - distance) > 1e-3 for name, distance in expected.items()))
PYTHON
