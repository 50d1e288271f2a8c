"""What a head would look like without a lesion, and the map of what had to change, on the grid of the scan."""

import nibabel
import numpy as np

import diffgraft

# The sample is a volume that the model itself generated, so the gate for scans that it knows too well is told to let it in.
result = diffgraft.counterfactual(
    "models/brain_mri",
    "models/brain_mri/sample/sub-demo_FLAIR.nii.gz",  # or a folder of scans, flat or BIDS, or a DICOM series
    "examples/out/maps",
    quality="fast",  # or "default", "best"
    force=True,
    overwrite=True,
)
for scan in result.scans:
    print(
        f"sub-{scan.label}: {scan.suspicious_slices} of {scan.slices} slices above the threshold, "
        f"highest value {scan.most_abnormal:.3f}"
    )

# The map is a NIfTI file on the voxels of the scan: 0 is nothing found, one scale for all patients.
anomaly = nibabel.load("examples/out/maps/sub-demo_desc-anomaly_FLAIR.nii.gz")
values = np.asarray(anomaly.dataobj)
print("map", values.shape, "with its peak at voxel", [int(i) for i in np.unravel_index(values.argmax(), values.shape)])
