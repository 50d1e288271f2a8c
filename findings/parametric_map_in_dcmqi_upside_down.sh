#!/usr/bin/env bash
# highdicom 0.28.2 stores the frames of an axial Parametric Map from head to feet, whatever order they are given in, and dcmqi 1.5.7
# (paramap2itkimage, behind Slicer's QuantitativeReporting) places frame k at slice k above the lowest position without a look at
# the frame's own: every value of an asymmetric map lands in the mirrored slice, with exit status 0. Frames that are put in the
# order of the slices come out right. Both files state the same position for each frame. (The frame anatomy that is added in
# either case is optional in the standard, and the converter does not do without it.)
# Needs a Python of 3.11 or newer on a machine for which dcmqi has a wheel; installs into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6 nibabel==5.4.2 dcmqi==1.5.7 2>/dev/null
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" - "$work" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.content import VOILUTTransformation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
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


def code(of: Code) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = of.value, of.scheme_designator, of.meaning
    return [item]


values = np.zeros((6, 20, 24), np.float32)
values[:] = np.arange(1, 7)[:, None, None]  # slice k from the feet holds k + 1
mapping = RealWorldValueMapping("x", "x", Code("1", "UCUM", "no units"), (0.0, 7.0), quantity_definition=codes.SCT.Quantity)
data = ParametricMap(
    [slice_of_a_series(k) for k in range(6)], values, "1.2.3.5", 1, "1.2.3.6", 1, "m", "m", "1", "1", False, [mapping],
    voi_lut_transformations=[VOILUTTransformation(window_center=3, window_width=6)],
)
anatomy = Dataset()
anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "U", code(Code("12738006", "SCT", "Brain"))
data.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]


def heights() -> list[float]:
    return [float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in data.PerFrameFunctionalGroupsSequence]


def seen(name: str) -> list[float]:
    folder = work / name
    folder.mkdir()
    data.save_as(folder / "map.dcm")
    subprocess.run(
        ["paramap2itkimage", "--inputDICOM", folder / "map.dcm", "--outputDirectory", folder, "--prefix", "x", "-t", "nii"],
        check=True, capture_output=True,
    )
    (path,) = folder.glob("*.nii.gz")
    image = nibabel.load(path)
    by_height = {round(float((image.affine @ (0, 0, k, 1))[2]) / 3): float(image.dataobj[0, 0, k]) for k in range(6)}
    return [by_height[k] for k in range(6)]


stored = heights()
first = seen("as_stored")
print(f"heights of the frames as highdicom stores them: {stored}; values from the feet up by dcmqi: {first}")
frames = np.frombuffer(data.FloatPixelData, "<f4").reshape(6, -1)[::-1]
data.FloatPixelData = frames.tobytes()
groups = list(data.PerFrameFunctionalGroupsSequence)[::-1]
for n, group in enumerate(groups, 1):
    group.FrameContentSequence[0].DimensionIndexValues = [n]
data.PerFrameFunctionalGroupsSequence = groups
second = seen("in_order")
print(f"in the order of the slices: {heights()}; by dcmqi: {second}")
right = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
as_stated = stored == [15.0, 12.0, 9.0, 6.0, 3.0, 0.0] and first == right[::-1] and second == right
sys.exit(0 if as_stated else "changed")
PYTHON
