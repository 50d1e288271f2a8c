#!/usr/bin/env bash
# bids-validator-deno 3.0.2: a line `dicom/` of .bidsignore, the form that .gitignore has for folders,
# does not pass over the folder, nor do `dicom/*` and `dicom/**`: NOT_INCLUDED for "/dicom/", exit status 16. A line
# `dicom`, without the slash, does.
# Needs a Python of 3.10 or newer; installs into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check bids-validator-deno==3.0.2 nibabel==5.4.2 numpy==2.4.6 2>/dev/null
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" - "$work" <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

root = Path(sys.argv[1]) / "set"
anat = root / "sub-01" / "anat"
anat.mkdir(parents=True)
(root / "dicom").mkdir()
(root / "dicom" / "0001.dcm").write_bytes(b"anything")
(root / "dataset_description.json").write_text(json.dumps({
    "Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x", "Version": "1"}],
}))
nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)).to_filename(anat / "sub-01_desc-x_FLAIR.nii.gz")
(anat / "sub-01_desc-x_FLAIR.json").write_text('{"SkullStripped": false}')
found = {}
for line in ("dicom/", "dicom/*", "dicom/**", "dicom"):
    (root / ".bidsignore").write_text(line + "\n")
    told = subprocess.run(["bids-validator-deno", root, "--format", "json"], capture_output=True, text=True)
    issues = json.loads(told.stdout)["issues"]["issues"]
    errors = [f"{issue['code']} {issue['location']}" for issue in issues if issue["severity"] == "error"]
    found[line] = errors
    print(f".bidsignore holds {line!r}: exit status {told.returncode}, errors {errors}")
as_stated = not found["dicom"] and all(found[line] == ["NOT_INCLUDED /dicom/"] for line in found if line != "dicom")
sys.exit(0 if as_stated else "changed")
PYTHON
