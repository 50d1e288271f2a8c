#!/usr/bin/env bash
# Pillow 13.0.0: a grey TIFF without compression whose Orientation is 5, 6, 7 or 8 (a quarter turn, as a phone or a scanner
# writes it) comes out scrambled when it is opened by its name, and right when the same bytes are opened as a file object: a
# picture of 40 x 24 is taken for one of 24 x 40 before it is turned. No error, no warning, the size is right. Modes L and I;16;
# colours and compressed files are right. Open such files by a handle.
# Needs a Python of 3.11 or newer; installs Pillow into a temporary folder. Output seen:
#   L 8: by name False, by handle True          I;16 8: by name False, by handle True         (5, 6 and 7 alike; 1 to 4 True, True)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0 numpy==2.4.6 2>/dev/null
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__)
plain = np.arange(24 * 40).reshape(24, 40) % 251
turned = {
    1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.T, 6: np.rot90(plain, -1),
    7: plain[::-1, ::-1].T, 8: np.rot90(plain),
}
found = {}
for kind in (np.uint8, np.uint16):
    for orientation, right in turned.items():
        Image.fromarray(plain.astype(kind)).save("x.tif", tiffinfo={274: orientation})
        same = []
        for source in ("x.tif", open("x.tif", "rb")):
            with Image.open(source) as file:
                file.load()
                same.append(np.array_equal(np.asarray(file), right))
                mode = file.mode
        found[mode, orientation] = tuple(same)
        print(f"{mode} {orientation}: by name {same[0]}, by handle {same[1]}")
expected = {key: (key[1] < 5, True) for key in found}
sys.exit(found != expected)
PYTHON
