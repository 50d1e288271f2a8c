#!/usr/bin/env bash
# dcm2niix 1.0.20260724: the star of a description is left out of the file's name (it is no letter of a file name), so that a
# T2*-weighted series is called T2: "T2* tra" becomes T2_tra.nii, the name of the T2-weighted series beside it, which is told
# apart by a letter at its end alone, T2_traa.nii. A data set that takes its contrasts from the file names counts both as T2;
# the sidecar keeps the star. "+" and "(" stay in the name.
# Needs a Python of 3.11 or newer; installs dcm2niix and pydicom into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check dcm2niix==1.0.20260724 pydicom==3.0.2 2>/dev/null
"$work/venv/bin/python" - "$work" <<'PYTHON'
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

WORDS = ("T2* tra", "T2 tra", "T1 tra+fs (2)")


def write_series(folder: Path, words: str) -> None:
    """Four axial slices of an MR series of this description."""
    folder.mkdir(parents=True)
    study, series, frame = (generate_uid() for _ in range(3))
    for k in range(4):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesDescription = data.ProtocolName = words
        data.Modality, data.Manufacturer, data.PatientID, data.PatientName = "MR", "Maker", "P", "P"
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        data.StudyDate, data.StudyTime = "20210304", "101500"
        data.AcquisitionDate, data.AcquisitionTime = "20210304", "101500"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.SeriesNumber, data.InstanceNumber = 5, k + 1
        data.RepetitionTime, data.EchoTime, data.InversionTime = "9000", "95", "2500"
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 5 * k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], 5
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 16, 12, 11
        data.PixelData = bytes(range(256)) * 2
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)


work = Path(sys.argv[1])
print(f"dcm2niix {version('dcm2niix')}, pydicom {version('pydicom')}")
for number, words in enumerate(WORDS):
    write_series(work / "in" / str(number), words)
out = work / "out"
out.mkdir()
subprocess.run([work / "venv/bin/dcm2niix", "-f", "%p", "-o", out, work / "in"], check=True, capture_output=True)
found = {json.loads(path.read_text("utf-8"))["SeriesDescription"]: path.stem for path in sorted(out.glob("*.json"))}
for words, name in found.items():
    print(f"'{words}' is {name}.nii")
alike = sorted((found["T2* tra"], found["T2 tra"])) == ["T2_tra", "T2_traa"]
sys.exit(not (alike and found["T1 tra+fs (2)"] == "T1_tra+fs_(2)"))
PYTHON
