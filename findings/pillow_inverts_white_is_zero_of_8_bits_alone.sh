#!/usr/bin/env bash
# Pillow 13.0.0 and TIFF's PhotometricInterpretation 0, WhiteIsZero, as film digitisers write it: a picture of 8 bits is inverted
# when it is read, so that white is white, one of 16 bits is not and comes out as its negative. The same two files, the same tag;
# nothing tells but tag_v2[262]. tifffile hands both out as they are stored.
# Needs a Python of 3.11 or newer; installs Pillow and tifffile into a temporary folder. Output seen:
#   uint8: stored 0 is shown as 255 by Pillow        uint16: stored 0 is shown as 0 by Pillow
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6 2>/dev/null
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

print("Pillow", PIL.__version__, "tifffile", tifffile.__version__)
found = {}
for kind in (np.uint8, np.uint16):
    stored = np.linspace(0, np.iinfo(kind).max, 24 * 16).reshape(24, 16).astype(kind)
    tifffile.imwrite("x.tif", stored, photometric="miniswhite")
    assert np.array_equal(tifffile.imread("x.tif"), stored)
    with Image.open("x.tif") as file:
        assert file.tag_v2[262] == 0
        shown = np.asarray(file)
    found[kind.__name__] = "inverted" if np.array_equal(shown, np.iinfo(kind).max - stored) else "as stored"
    print(f"{kind.__name__}: stored {stored[0, 0]} is shown as {shown[0, 0]} by Pillow, {found[kind.__name__]}")
sys.exit(found != {"uint8": "inverted", "uint16": "as stored"})
PYTHON
