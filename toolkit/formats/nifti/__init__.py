"""NIfTI volumes: read safely, show as a radiologist expects, and write back on the very same grid.

Contract. `load` returns a volume only when its place in the patient is certain; everything doubtful is refused with an
Error that names the file. `display` turns a volume into axial slices and `restore` is its exact inverse, for every axis
order, flip and spacing. `save` writes with a fresh header, so an integer source never quantises a map. `find` pairs
scans with their masks. `read` and `write` are the contract of every format: slices as Examples, and back.

Arrays are (X, Y, Z) on the grid of the file; affines are (4, 4) float64, voxel index to RAS millimetres.
"""

from toolkit.formats.nifti.bids import label_of_result, result_entities, result_label, result_path, suffix_of
from toolkit.formats.nifti.finding import Scan, find
from toolkit.formats.nifti.header import TOLERANCE
from toolkit.formats.nifti.masks import load_mask
from toolkit.formats.nifti.names import CONTRASTS, parse_file_name
from toolkit.formats.nifti.orientation import display, display_spacing, restore, stored_index
from toolkit.formats.nifti.saving import read_sidecar, save, write_dataset_description, write_sidecar
from toolkit.formats.nifti.slices import read, write
from toolkit.formats.nifti.volume import Volume, load

__all__ = [
    "CONTRASTS", "TOLERANCE", "Scan", "Volume", "display", "display_spacing", "find", "label_of_result", "load", "load_mask",
    "parse_file_name", "read", "read_sidecar", "restore", "result_entities", "result_label", "result_path", "save", "stored_index",
    "suffix_of", "write", "write_dataset_description", "write_sidecar",
]  # fmt: skip
