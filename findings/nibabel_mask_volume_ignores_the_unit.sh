#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7 do not agree on how large a NIfTI volume is whose header says metre or micrometre
# (xyzt_units 1 and 3, which NIfTI-1 allows). SimpleITK gives the spacing in mm, 1.8, 1.8, 5, for all three units. nibabel gives
# the numbers of the file, and `nibabel.imagestats.mask_volume`, whose documentation promises mm3, computes with them as they
# are: the same 1,000 voxels are 16200 mm3, 1.62e-05 "mm3" (metre) and 1.62e+13 "mm3" (micrometre), without a word.
# Needs a Python of 3.11 or newer; installs both into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6 2>/dev/null
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from nibabel.imagestats import mask_volume

print(f"nibabel {nibabel.__version__}, SimpleITK {SimpleITK.__version__}")
as_stated = True
for code, name, numbers in ((2, "mm", 1.0), (1, "metre", 1e-3), (3, "micrometre", 1e3)):
    affine = np.diag([1.8 * numbers, 1.8 * numbers, 5 * numbers, 1])
    image = nibabel.Nifti1Image(np.ones((10, 10, 10), np.uint8), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header["xyzt_units"] = code
    path = Path(sys.argv[1]) / f"{name}.nii.gz"
    nibabel.save(image, path)
    spacing = SimpleITK.ReadImage(str(path)).GetSpacing()
    volume = float(mask_volume(nibabel.load(path)))
    print(f"{name}: SimpleITK spacing {', '.join(f'{s:.3g}' for s in spacing)} mm; nibabel mask_volume {volume:.3g} mm3")
    as_stated &= np.allclose(spacing, (1.8, 1.8, 5)) and np.isclose(volume, 16200 * numbers**3, rtol=1e-4)
if not as_stated:
    sys.exit("changed")
print("as stated: SimpleITK honours the unit, nibabel's volume does not")
PYTHON
