"""What a head would look like without a lesion, and the map of what had to change."""

import nibabel
import numpy as np

import diffgraft

# The sample is a volume that the model itself generated. The gate, which refuses what
# does not look like a scan, is told to let it in.
result = diffgraft.counterfactual(
    "models/brain_mri",
    # or a folder of scans, flat or BIDS, or a DICOM series
    "models/brain_mri/sample/sub-demo_FLAIR.nii.gz",
    "examples/out/maps",
    quality="fast",  # or "default", "best"
    force=True,
    overwrite=True,
)
for scan in result.scans:
    print(
        f"sub-{scan.label}: {scan.suspicious_slices} of {scan.slices} slices above the "
        f"threshold, highest value {scan.most_abnormal:.3f}"
    )

# The map is a NIfTI file on the voxels of the scan: 0 is nothing found.
anomaly = nibabel.load(
    "examples/out/maps/sub-demo/anat/sub-demo_desc-anomaly_FLAIR.nii.gz"
)
values = np.asarray(anomaly.dataobj)
print(
    "map",
    values.shape,
    "with its peak at voxel",
    [int(i) for i in np.unravel_index(values.argmax(), values.shape)],
)
