"""The contract of every format: the slices of scans as Examples, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from toolkit.example import Annotation, Error, Example, Geometry, Provenance
from toolkit.formats.nifti.finding import find
from toolkit.formats.nifti.header import TOLERANCE
from toolkit.formats.nifti.names import alphanumeric, bids_entities, parse_file_name, stem_of
from toolkit.formats.nifti.orientation import axes, display, restore
from toolkit.formats.nifti.saving import save
from toolkit.formats.nifti.volume import Volume, load

__all__ = ["read", "write"]

_SLICE = re.compile(r"(.+)_z\d+(.*)")


def read(root: str | Path, contrast: str | None = None) -> Iterator[Example]:
    """Every axial slice of every scan under root, inferior to superior, as `display` shows it.

    image: (1, H, W) float32, -1 and +1 at the smallest and largest voxel of the whole volume. group: the patient. The
    annotation's mask is the lesion mask where the scan has one; geometry leads back to the file. A volume made by
    diffgraft keeps a provenance, so that it is never taken for a patient. Raises what `find` and `load` raise.
    """
    for scan in find(root, contrast):
        volume = load(scan.path, contrast=scan.contrast)
        low, high = float(volume.array.min()), float(volume.array.max())
        stack, _ = display(volume)
        scaled = (stack.astype(np.float64) - low) / ((high - low) or 1.0) * 2 - 1
        images = np.clip(scaled, -1, 1).astype(np.float32)
        masks = display(scan.marked(volume)[0], volume.affine)[0] if scan.mask else [None] * len(images)
        stem = stem_of(scan.path)
        name = stem if bids_entities(stem).get("") else f"sub-{scan.label}_{scan.contrast}"
        kind: Literal["edited", "synthetic"] = "edited" if "_desc-edited" in stem else "synthetic"
        provenance = None if volume.acquired else Provenance(kind, model="unknown", procedure="unknown")
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            yield Example(
                id=f"{name}_z{index:03d}",
                image=image[None],
                annotation=Annotation(mask=mask),
                group=scan.group,
                geometry=Geometry(volume.affine, volume.array.shape, (low, high), index),
                provenance=provenance,
            )


def write(examples: Iterable[Example], root: str | Path) -> None:
    """Stack slices back into volumes on their source grids and write them into root.

    The slices of one volume share an id but for `_z<number>` (without it, a group), a grid and the kind of provenance.
    They become `<id>.nii.gz`; where they are not real, `_desc-<kind><rest of the id>_` comes before the contrast, and a
    map is called "anomaly". Where every slice has a mask there is `_desc-[<kind>]lesion<contrast>_mask.nii.gz` too.
    Intensities are in source units. Raises Error where a slice is missing, comes twice, has no geometry or is not of
    the size of the source slice.
    """
    volumes: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        match = _SLICE.fullmatch(example.id)
        name, rest = match.groups() if match else (example.group or example.id, "")
        kind = example.provenance.kind if example.provenance else ""
        made = {"map": "anomaly"}.get(kind, kind) + alphanumeric(rest)
        volumes.setdefault((re.sub(r"[^A-Za-z0-9_+-]", "-", name), made), []).append(example)
    for (name, made), slices in volumes.items():
        _write_volume(Path(root), name, made, slices)


def _write_volume(root: Path, name: str, made: str, slices: list[Example]) -> None:
    geometry = slices[0].geometry
    if geometry is None or len(geometry.shape) < 3:
        raise Error(f"A NIfTI volume needs the geometry of its source; '{name}' has none. Write it as images instead.")
    order = axes(geometry.affine)[0]
    depth, height, width = (int(geometry.shape[axis]) for axis in order)
    stack = np.zeros((depth, height, width), np.float64)
    masks = np.zeros((depth, height, width), bool)
    seen: set[int] = set()
    for example in slices:
        place = example.geometry
        if place is None or place.index is None or not 0 <= place.index < depth or place.index in seen:
            raise Error(
                f"A volume needs every slice once; '{example.id}' has no place, or one that is taken. Check the ids."
            )
        if tuple(place.shape) != tuple(geometry.shape) or np.abs(place.affine - geometry.affine).max() > TOLERANCE:
            raise Error(
                f"The slices of a volume share one grid; '{example.id}' has another. Give each volume its own ids."
            )
        if example.image.shape != (1, height, width):
            raise Error(
                f"A slice must be (1, {height}, {width}) as in its source; '{example.id}' is {example.image.shape}. "
                "Undo the fit first (toolkit.data.transforms.unfit)."
            )
        low, high = place.window
        stack[place.index] = low + (example.image[0].astype(np.float64) + 1) / 2 * (high - low)
        if example.annotation.mask is not None:
            masks[place.index] = example.annotation.mask
        seen.add(place.index)
    if len(seen) < depth:
        missing = sorted(set(range(depth)) - seen)
        raise Error(
            f"A volume needs every slice; '{name}' lacks {len(missing)} of {depth}, first {missing[0]}. Add them."
        )
    array = restore(stack, geometry.affine, geometry.shape)
    like = Volume(array, np.asarray(geometry.affine, float), Path(name), *parse_file_name(Path(name + ".nii.gz")))
    base, _, suffix = name.rpartition("_") if "_" in name else (name, "", "")
    if made and (match := re.search(rf"_desc-({made}[A-Za-z0-9]*)", base)):
        made, base = match[1], base.replace(match[0], "")  # it was read from a file of ours, and keeps its name
    desc = f"_desc-{made}" if made else ""
    provenance = slices[0].provenance
    kind = "acquired" if provenance is None else "map" if provenance.kind == "map" else "intensity"
    save(root / (f"{base}{desc}" + (f"_{suffix}" if suffix else "") + ".nii.gz"), array, like, kind)
    if all(example.annotation.mask is not None for example in slices):
        base = re.sub(r"_desc-[A-Za-z0-9+]+", "", base)
        mask = restore(masks, geometry.affine, geometry.shape)
        save(root / f"{base}_desc-{made}lesion{alphanumeric(suffix)}_mask.nii.gz", mask, like, "mask")
