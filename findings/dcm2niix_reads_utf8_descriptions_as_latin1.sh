#!/usr/bin/env bash
# dcm2niix 1.0.20260724: a SeriesDescription in UTF-8 (Specific Character Set ISO_IR 192, which most scanners and archives write
# now) is read byte by byte as Latin-1. The sidecar, which is UTF-8 itself, says "SchÃ¤del FLAIR" where the DICOM file says
# "Schädel FLAIR", and the file is called SchA_del_FLAIR. The same words in Latin-1 (ISO_IR 100) come out right, as Schadel_FLAIR.
# So a sidecar's description is not always that of the series, a protocol cannot be cut off a name by its own letters, and the
# same protocol has two names after a change of the scanner's character set. pydicom reads both alike.
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

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

WORDS = "Schädel FLAIR"


def write_series(folder: Path, charset: str) -> None:
    """Four axial slices of an MR series whose description is WORDS."""
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for k in range(4):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SpecificCharacterSet = charset
        data.SeriesDescription = data.ProtocolName = WORDS
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
found = {}
for charset in ("ISO_IR 100", "ISO_IR 192"):
    place, out = work / charset[-3:], work / f"out{charset[-3:]}"
    write_series(place, charset)
    out.mkdir()
    subprocess.run([work / "venv/bin/dcm2niix", "-o", out, place], check=True, capture_output=True)
    (sidecar,) = out.glob("*.json")
    said = json.loads(sidecar.read_text("utf-8"))["SeriesDescription"]
    read = pydicom.dcmread(place / "0.dcm").SeriesDescription
    found[charset] = (sidecar.stem.split("_", 1)[1].rsplit("_", 2)[0], said)
    print(f"{charset}: pydicom '{read}', sidecar '{said}', file name {found[charset][0]}")
wrong = WORDS.encode().decode("latin-1")
sys.exit(found != {"ISO_IR 100": ("Schadel_FLAIR", WORDS), "ISO_IR 192": ("SchA_del_FLAIR", wrong)})
PYTHON
