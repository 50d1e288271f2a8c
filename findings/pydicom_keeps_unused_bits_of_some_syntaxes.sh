#!/usr/bin/env bash
# pydicom 3.0.2 and bits above BitsStored, where PS3.5 8.1.1 lets overlays and rubbish lie: `pixel_array` leaves them out of native
# and RLE pixels and hands them out of JPEG-LS and JPEG 2000, where they are worth more than the whole grey scale: 12 bits end at
# 4095 and read 7295. One image, four transfer syntaxes, two pictures. Mask and extend the sign yourself, in every syntax.
# And what it writes it may not read: 8 stored bits of 16 allocated, compressed by `Dataset.compress` as RLE, have one byte a
# pixel inside, and its own decoder asks for two.
# Needs a Python of 3.11 or newer; installs pydicom, pyjpegls and Pillow into a temporary folder. Output seen:
#   native 4095, RLE 4095, JPEG-LS 7295, JPEG 2000 7295; RLE of 8 of 16 bits: RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pydicom==3.0.2 pyjpegls==1.5.1 pillow==13.0.0 numpy==2.4.6 2>/dev/null
"$work/venv/bin/python" - <<'PYTHON'
import io
import sys
import warnings

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

warnings.simplefilter("ignore")
print("pydicom", pydicom.__version__)
values = (np.arange(64 * 64).reshape(64, 64)).astype("<u2")
overlay = values.copy()
overlay[40:50] |= 1 << 12


def image(words: np.ndarray, stored: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = uid.ComputedRadiographyImageStorage, uid.generate_uid()
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 64, 64, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, stored, stored - 1, 0
    data.PixelData = words.tobytes()
    return data


found = {}
for name in ("native", "RLE", "JPEG-LS", "JPEG 2000"):
    data = image(overlay, 16)
    if name == "JPEG 2000":
        out = io.BytesIO()
        Image.fromarray(overlay).save(out, "JPEG2000", irreversible=False, no_jp2=True)
        data.PixelData = encapsulate([out.getvalue()])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    elif name != "native":
        data.compress({"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless}[name], generate_instance_uid=False)
    data.BitsStored, data.HighBit = 12, 11
    found[name] = int(data.pixel_array.max())
    print(name, found[name])
data = image(values & 255, 8)
data.compress(uid.RLELossless, generate_instance_uid=False)
try:
    data.pixel_array
    found["RLE of 8 of 16 bits"] = "read"
except Exception as problem:
    found["RLE of 8 of 16 bits"] = type(problem).__name__
print("RLE of 8 of 16 bits:", found["RLE of 8 of 16 bits"])
right = {"native": 4095, "RLE": 4095, "JPEG-LS": 7295, "JPEG 2000": 7295, "RLE of 8 of 16 bits": "RuntimeError"}
sys.exit(found != right)
PYTHON
