"""What a model made of a patient's MR series, as DICOM of the same patient and study: images, a map, a segmentation.

    mr_series        the counterfactual        MR Image Storage, one file a slice
    parametric_map   the anomaly map           Parametric Map Storage, float32
    segmentation     what is above a threshold Segmentation Storage, BINARY

Contract. Everything lies on the grid of the source series, in its Frame of Reference, in a new series with a number from
900 whose description begins with "AI" and says NOT ACQUIRED; every slice names the image that it was made from. Elements
are copied from a list, so that private ones, and what was true of the acquired image only, stay behind. Arrays have the
axes of `series.Series.voxels`: column, row, slice.

Errors: a source without what ties its series to patient and place, a grid other than the source's, numbers not finite.
"""

from toolkit.formats.dicom.derived.images import write_mr_series
from toolkit.formats.dicom.derived.multiframe import write_parametric_map, write_segmentation

__all__ = ["write_mr_series", "write_parametric_map", "write_segmentation"]
