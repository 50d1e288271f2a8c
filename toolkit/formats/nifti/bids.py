"""Where the results of a scan lie in a BIDS derivative: folders of patient and session, and names with the source's entities.

`sub-01/ses-2/anat/sub-01_ses-2_acq-3D_desc-anomaly_FLAIR.nii.gz` is made of `sub-01_ses-2_acq-3D_FLAIR.nii.gz`, and
`sub-P01/anat/sub-P01_desc-anomaly_FLAIR.nii.gz` of `P01_flair.nii.gz`. What a result may be called is stated by the BIDS
schema 1.10 (rules.files.deriv.imaging.anat_nonparametric_volumetric and anat_mask): entities, their order, suffixes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolkit.formats.nifti.names import alphanumeric, bids_entities, stem_of

__all__ = ["label_of_result", "result_entities", "result_label", "result_path", "suffix_of"]

ENTITIES = {
    "sub": "[A-Za-z0-9]+", "ses": "[A-Za-z0-9]+", "task": "[A-Za-z0-9+]+", "acq": "[A-Za-z0-9+]+", "ce": "[A-Za-z0-9+]+",
    "rec": "[A-Za-z0-9+]+", "run": "[0-9]+", "echo": "[0-9]+", "part": "mag|phase|real|imag", "chunk": "[0-9]+",
    "space": "[A-Za-z0-9+]+", "res": "[A-Za-z0-9+]+", "desc": "[A-Za-z0-9+]+",
}  # fmt: skip
"""Entity -> its values, in the order of a name."""

SUFFIXES = {"T1gd": "T1w", "unknown": "FLAIR"}
"""Contrasts without a suffix of their own."""


def result_entities(scans: Sequence[tuple[Path | None, str]]) -> list[dict[str, str]]:
    """The entities of each scan's results, by the scan's file (None: it is none) and label; no two scans have the same.

    Those of a source named by BIDS are kept. One that BIDS does not know, or not with this value, becomes part of acq-,
    so that two scans do not meet under one name. Any other source, and sources that would meet all the same, have the
    label as sub-.
    """
    found = [_kept(path, label) for path, label in scans]
    count = Counter(result_label(entities).lower() for entities in found)
    return [
        entities if count[result_label(entities).lower()] == 1 else {"sub": label}
        for entities, (_, label) in zip(found, scans, strict=True)
    ]


def _kept(path: Path | None, label: str) -> dict[str, str]:
    own = bids_entities(stem_of(path)) if path is not None else {}
    own.pop("", None)
    if not own:
        return {"sub": label}
    known = {name: own[name] for name, values in ENTITIES.items() if re.fullmatch(values, own.get(name, ""))}
    odd = "".join(alphanumeric(name + value) for name, value in own.items() if name not in known)
    known |= {"acq": known.get("acq", "") + odd} if odd else {}
    return {name: known[name] for name in ENTITIES if name in known}


def result_path(entities: Mapping[str, str], desc: str, suffix: str) -> Path:
    """The place of a result in its data set, without the end of the name. A desc- of the source follows that of ours."""
    named = {**entities, "desc": desc + alphanumeric(entities.get("desc", ""))}
    folders = [f"{name}-{named[name]}" for name in ("sub", "ses") if name in named]
    return Path(*folders, "anat", "_".join([*(f"{name}-{named[name]}" for name in ENTITIES if name in named), suffix]))


def label_of_result(path: Path, desc: str) -> tuple[str, str] | None:
    """Label of the scan and suffix of a result that is called desc-; None for any other file."""
    entities = bids_entities(stem_of(path))
    suffix, own = entities.pop("", ""), entities.pop("desc", "")
    if not suffix or not own.lower().startswith(desc):
        return None
    rest = own[len(desc) :]
    return result_label(entities | ({"desc": rest} if rest else {})), suffix


def result_label(entities: Mapping[str, str]) -> str:
    """What `label_of_result` answers for a result of these entities; `parse_file_name` makes it of a BIDS name too."""
    return alphanumeric("".join(("" if name == "sub" else name) + value for name, value in entities.items()))


def suffix_of(contrast: str) -> str:
    """How the name of an image of this contrast ends."""
    return SUFFIXES.get(contrast, contrast)
