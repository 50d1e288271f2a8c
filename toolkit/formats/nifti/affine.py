"""The one affine that a NIfTI header stands for: qform or sform, whichever is sound, and what had to be decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.example import Error
from toolkit.formats.nifti.units import MILLIMETRES

__all__ = ["TOLERANCE", "judge"]

TOLERANCE = 1e-3  # largest difference of two affines, element by element in mm, that still counts as the same grid
SHEAR = 0.01
"""Cosine of two axes from which a grid is said to be oblique-angled: half a degree."""


def judge(path: Path, header: Any, unit: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """(4, 4) voxel index to millimetres, its code, notes. unit: of the header.

    A form that is not sound (not finite, singular, no rotation, voxel sizes that are not positive) gives way to the other
    with a note; negative voxel sizes are taken as their absolute values where that agrees with the sform, as nibabel and
    dcm2niix do. Raises Error where both are unsound or unset, and where two sound ones with one code differ.
    """
    qcode, scode = int(header["qform_code"]), int(header["sform_code"])
    if qcode <= 0 and scode <= 0:
        raise Error(
            f"A scan must say how it lies in the patient; '{path}' has qform_code = sform_code = 0, so left and right "
            "are unknown. Convert it again from DICOM (dcm2niix), or set the sform once you have checked the sides."
        )
    header, scale = header.copy(), np.diag([*[MILLIMETRES[unit]] * 3, 1.0])
    tolerance = TOLERANCE / scale[0, 0]
    qform, no_qform, mended = _qform(header) if qcode > 0 else (None, "", False)
    sform, no_sform = _sform(header) if scode > 0 else (None, "")
    if mended and qform is not None and (sform is None or not _same(header, qform, sform, tolerance)):
        # Without a sform that agrees, nothing tells on which side the minus meant to put the patient.
        qform, no_qform = None, "voxel sizes (pixdim) must be positive"
    if qform is None and sform is None:
        raise Error(
            f"An affine must be sound; in '{path}' {' and '.join(filter(None, (no_qform, no_sform)))}. Convert it again "
            "from DICOM."
        )
    notes = tuple(
        f"the {other} (code {code}) was used: {reason}"
        for reason, other, code in ((no_sform, "qform", qcode), (no_qform, "sform", scode))
        if reason
    )
    if mended and qform is not None:
        notes += ("a negative voxel size (pixdim) was taken as positive, which agrees with the sform",)
    if sform is None:
        assert qform is not None
        return scale @ qform, qcode, notes
    if qform is not None:
        apart = float(np.abs(scale @ (qform - sform)).max())
        if qcode == scode and not _same(header, qform, sform, tolerance):
            raise Error(
                f"qform and sform with the same code must agree; in '{path}' (code {scode}) they differ by {apart:.3g}"
                ". Decide which is right and remove the other."
            )
        if qcode != scode:
            notes += (f"sform (code {scode}) used rather than qform (code {qcode}); they differ by {apart:.3g}",)
    if (angle := _skew(sform)) > SHEAR:
        notes += (f"the axes of the sform miss right angles by {np.degrees(np.arcsin(min(1, angle))):.1f} degrees",)
    return scale @ sform, scode, notes


def _qform(header: Any) -> tuple[np.ndarray | None, str, bool]:
    """The qform or why there is none, and whether negative voxel sizes were mended in the header."""
    from nibabel.spatialimages import HeaderDataError

    # A signalling NaN warns when it is widened to double; it is refused like any other.
    with np.errstate(all="ignore"):
        pixdim = np.asarray(header["pixdim"], float)
        sizes = pixdim[1:4]
        if not np.isfinite(sizes).all() or (sizes == 0).any():
            return None, f"voxel sizes (pixdim) must be positive, and are {sizes.tolist()}", False
        mended = bool((sizes < 0).any())
        header["pixdim"][1:4] = np.abs(sizes)
        if pixdim[0] == 0:
            header["pixdim"][0] = 1  # the standard's own rule for a qfac of 0
        try:
            affine = np.asarray(header.get_qform(), float)
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            return None, "the qform must be a rotation, and is none", mended
    reason = _unsound("qform", affine)
    return (None, reason, mended) if reason else (affine, "", mended)


def _sform(header: Any) -> tuple[np.ndarray | None, str]:
    with np.errstate(invalid="ignore"):
        affine = np.asarray(header.get_sform(), float)
    reason = _unsound("sform", affine)
    return (None, reason) if reason else (affine, "")


def _unsound(name: str, affine: np.ndarray) -> str:
    if not np.isfinite(affine).all():
        return f"the {name} is not finite"
    return f"the {name} is singular" if _flatness(affine) < 1e-6 else ""


def _same(header: Any, qform: np.ndarray, sform: np.ndarray, tolerance: float) -> bool:
    """Whether they agree. tolerance: in the unit of the header, as they are."""
    return np.abs(qform - sform).max() <= tolerance or _rounded(header, qform, sform, tolerance)


def _rounded(header: Any, qform: np.ndarray, sform: np.ndarray, tolerance: float) -> bool:
    """Whether a qform is what its sform becomes when it is stored as a quaternion.

    A header holds three of four quaternion components in float32; near half a turn the fourth is lost in rounding, and
    an honest qform may be off by 1e-3 radian. A sform with shear is no such case: there the two really differ.
    """
    stored = header.copy()
    stored.set_qform(sform)
    return bool(_skew(sform) < 1e-5 and np.abs(stored.get_qform() - qform).max() <= tolerance)


def _skew(affine: np.ndarray) -> float:
    """The largest cosine between two axes: 0 for right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _flatness(affine: np.ndarray) -> float:
    """1 for right angles, 0 where the three axes do not span space. Free of units."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    return float(abs(np.linalg.det(axes / lengths))) if lengths.min() > 0 else 0.0
