"""The scans of a file or a folder, each with its lesion mask."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data.file_names import printable
from toolkit.example import Error, Note
from toolkit.formats.nifti.header import read_grid
from toolkit.formats.nifti.masks import load_mask, misplaced
from toolkit.formats.nifti.names import (
    CONTRASTS,
    OUTPUT,
    alphanumeric,
    bids_entities,
    contrast_of_mask,
    desc_prefix,
    is_nifti_name,
    spell_contrast,
    stem_of,
)
from toolkit.formats.nifti.passed_over import other_files, remedy
from toolkit.formats.nifti.patients import one_patient
from toolkit.formats.nifti.places import HOLDERS, NUMBER, SESSION, Named, is_time, parse_path
from toolkit.formats.nifti.volume import Volume

__all__ = ["Scan", "find"]

Aside = Callable[[str, str], None]
"""Is told the name of a file that is not read, and why."""


@dataclass(frozen=True)
class Scan:
    """One scan that `find` met. mask lies on the same grid, or is None. group is the patient: sessions share it.

    lesions: the values of the mask that are lesions; None for all but 0. doubt: why a mask of its name is not used, "" where
    there is none or one is used.
    """

    path: Path
    label: str
    contrast: str
    mask: Path | None = None
    group: str = ""
    lesions: tuple[int, ...] | None = None
    doubt: str = ""

    def marked(self, volume: Volume) -> tuple[np.ndarray, tuple[str, ...]]:
        """Where the mask marks a lesion, (X, Y, Z) bool on the grid of the scan, and notes; see `masks.load_mask`."""
        assert self.mask is not None, "of a scan that has a mask"
        return load_mask(self.mask, volume, self.lesions)


def find(root: str | Path, contrast: str | None = None, aside: Aside | None = None, masks: bool = True) -> list[Scan]:
    """The scans of a file or a folder (flat, a folder a patient, BIDS, nnU-Net and more: see `places`), with their masks.

    contrast: only scans that show this; "flair" and "FLAIR" are the same.
    Masks, hidden files, diffgraft's counterfactuals and maps, and scans inside `derivatives/` are no scans. The label of a
    scan comes from its name, else from the folders above it, with as many of them as it takes to tell scans apart. Of one
    scan in several stages (orig/, pre/) that on the grid of the mask is taken, else the acquired one, and a note says so. A
    mask belongs to a scan by label and by grid (its voxels in any storage order, to a tenth of one); one that names the
    contrast comes before one that names none, one beside the scan before one elsewhere, a consensus before the first
    rater, which is said.
    aside(name, reason) is told of every other file that may have been meant: names without a contrast, masks that belong
    to no scan or lie elsewhere (unless masks is False: they are of no use then), files of other formats.
    Raises Error where nothing is found, where two scans would share a label and contrast, where two masks fit equally
    well, or, without aside, where a mask that fits by name is refused.
    """
    root = Path(root)
    wanted = spell_contrast(contrast) if contrast else None
    if root.is_file():
        return [_single(root, wanted, aside)]
    if not root.is_dir():
        raise Error(f"Scans are read from a file or a folder; '{root}' does not exist. Check the path.")
    named = [parse_path(path, root) for path in _files(root)]
    scans = [
        file
        for file in named
        if file.contrast not in ("mask", "brainmask") and "derivatives" not in file.path.relative_to(root).parts[:-1]
    ]
    kept = [scan for scan in scans if wanted in (None, scan.contrast)]
    if not kept:
        raise _nothing(root, wanted, scans)
    drawn = [file for file in named if file.contrast == "mask"]
    found = _pair(_grouped(_labelled(kept, drawn), root), drawn, aside)
    if aside is not None:
        told = named if masks else [file for file in named if file.contrast not in ("mask", "brainmask")]
        _tell_others(root, told, kept, found, aside)
    return found


def _tell_others(
    root: Path, named: Sequence[Named], kept: Sequence[Named], found: Sequence[Scan], aside: Aside
) -> None:
    """What lies in the folder, was not read, and may have been meant to be.

    Scans of other contrasts or stages, their masks, masks of the brain, other raters and derivatives are what such folders
    hold; they are not told. kept: the scans of the contrast that was asked for.
    """
    wanted = "/".join(sorted({scan.contrast for scan in found}))
    used = {file.path for file in kept} | {scan.mask for scan in found if scan.mask}
    taken, scans = {scan.path: scan for scan in found}, [s for s in named if s.contrast not in ("mask", "brainmask")]
    for file in named:
        reason = ""
        if file.path in used:
            continue
        if file.contrast == "mask":
            owners = [taken[s.path] for s in kept if s.path in taken and _masks_of(s, s.label, [file], True)]
            if owners and owners[0].mask is None:
                reason = owners[0].doubt
            elif owners and file.rater is None and contrast_of_mask(file.path) in ("", owners[0].contrast):
                reason = f"A scan has one lesion mask; {owners[0].path.name} has another, so this one is not used."
            elif not owners and not any(_masks_of(scan, scan.label, [file], True) for scan in scans):
                reason = "A lesion mask belongs to a scan by its name; no scan here is named as this one."
        elif file.contrast not in CONTRASTS.values() and file.contrast != "brainmask":
            stem = stem_of(file.path)
            meant = not bids_entities(stem) or any(word.lower() in stem.lower() for word in wanted.split("/"))
            if meant and "derivatives" not in file.path.relative_to(root).parts[:-1]:
                reason = (
                    f"A scan to be read is named by its contrast; the name of this one tells none. End it in _{wanted}."
                )
        if reason:
            aside(printable(file.path.name), reason)
    for name, reason in other_files(root):
        aside(printable(name), reason)


def _nothing(root: Path, wanted: str | None, scans: Sequence[Named]) -> Error:
    shown = [scan.contrast for scan in scans]
    seen = ", ".join(f"{shown.count(name)} {name}" for name in sorted(set(shown))) or "none"
    remedy = f"Check the folder, or end the names in _{wanted or 'FLAIR'}.nii.gz."
    if any(re.fullmatch("images?(tr|ts|val)", scan.path.parent.name, re.I) for scan in scans):
        remedy = (
            'nnU-Net says in dataset.json what a channel shows ("channel_names": {"0": "FLAIR"}); add it, or take the scans '
            "as they are with --contrast unknown."
        )
    return Error(
        f"A folder must hold at least one {wanted or 'scan'} (.nii or .nii.gz) to be read; '{root}' holds {seen}. {remedy}"
    )


# ------------------------------------------------------------------------------------------------------------ labels


def _labelled(kept: Sequence[Named], masks: Sequence[Named]) -> list[tuple[Named, str, str]]:
    """(scan, label, group) of those to be read: labels as long as it takes, one stage of each."""
    alike: dict[tuple[str, str], list[Named]] = {}
    for scan in kept:
        alike.setdefault((scan.label.lower(), scan.contrast), []).append(scan)
    found: list[tuple[Named, str, str]] = []
    passed: list[tuple[Named, Named]] = []
    for group in alike.values():
        found += _told_apart(group, masks, passed)
    if passed:
        taken, left = passed[0]
        line = (
            f"{len(passed)} files are another stage of a scan that is read, and are left out: "
            f"'{taken.path}' is taken, '{left.path}' is not. Give the folder of the others to read them."
        )
        warnings.warn(printable(line), Note, stacklevel=4)
    # Without regard to case: the outputs must not meet on a file system that ignores it.
    known: dict[tuple[str, str], Path] = {}
    for scan, label, _ in found:
        if (other := known.setdefault((label.lower(), scan.contrast), scan.path)) is not scan.path:
            raise _same(other, scan.path, label, scan.contrast)
    return sorted(found, key=lambda each: each[0].path)


def _grouped(scans: list[tuple[Named, str, str]], root: Path) -> list[tuple[Named, str, str]]:
    """The same with the patient of each as its group. A note says which are taken as one."""
    patients = one_patient(scans, len(root.parts))
    met: dict[str, set[str]] = {}
    for (_, _, group), patient in zip(scans, patients, strict=True):
        met.setdefault(patient, set()).add(group)
    if joined := [patient for patient, groups in met.items() if len(groups) > 1]:
        own = [label for (_, label, _), patient in zip(scans, patients, strict=True) if patient == joined[0]]
        line = f"{len(joined)} patients have several scans: {', '.join(own[:3])} and the like are taken as one, '{joined[0]}'."
        warnings.warn(printable(line), Note, stacklevel=4)
    return [(scan, label, patient) for (scan, label, _), patient in zip(scans, patients, strict=True)]


def _told_apart(
    alike: Sequence[Named], masks: Sequence[Named], passed: list[tuple[Named, Named]]
) -> list[tuple[Named, str, str]]:
    """Scans whose shortest labels are one, with longer ones. passed: is told (taken, left) of stages."""
    chains: dict[tuple[str, ...], list[Named]] = {}
    for scan in alike:
        chains.setdefault(scan.chain, []).append(scan)
    one = [_one_stage(scans, masks, passed) for scans in chains.values()]
    if len(one) == 1:
        scans = one[0]
        if len(scans) == 1:
            return [(scans[0], scans[0].label, scans[0].patient)]
        # Series of one patient that dcm2niix numbered.
        if all(scan.series for scan in scans):
            return [(scan, scan.label + scan.series, scan.patient) for scan in scans]
        raise _same(scans[0].path, scans[1].path, scans[0].label, scans[0].contrast)
    by_name = any(scan.own and not scan.is_session for scan in alike)
    sessions = all(chain and SESSION.fullmatch(chain[-1]) for chain in chains)
    folders = all(any(map(str.isdigit, "".join(chain))) for chain in chains)
    if by_name and not sessions and not folders and not all(NUMBER.fullmatch(scan.own) for scan in alike):
        first, second = (scans[0] for scans in one[:2])
        raise _same(first.path, second.path, first.label, first.contrast)
    found = []
    count = next((k for k in range(1, 9) if len({_folders(chain, k).lower() for chain in chains}) == len(chains)), 9)
    for chain, scans in zip(chains, one, strict=True):
        for scan in scans:
            series = scan.series if len(scans) > 1 else ""
            if by_name and sessions:
                found.append((scan, scan.own + _folders(chain, count) + series, scan.patient))
                continue
            above = chain[:-1] if by_name and len(chain) > 1 and alphanumeric(chain[-1]) == scan.own else chain
            timed = len(chain) > 1 and is_time(chain[-1])
            patient = _folders(chain[:-1] if timed else above, count) + ("" if scan.is_session else scan.own)
            found.append((scan, _folders(above, count) + scan.own + series, patient))
    return found


def _folders(chain: tuple[str, ...], count: int) -> str:
    """The last folders of a chain, as part of a label."""
    return alphanumeric("".join(chain[-count:]))


def _one_stage(scans: list[Named], masks: Sequence[Named], passed: list[tuple[Named, Named]]) -> list[Named]:
    """Of the stages of one scan the one to be read; scans that are no stages of another are all kept."""
    if len(scans) == 1 or len({scan.stage for scan in scans}) < len(scans):
        return scans
    fits = {scan.path: _mask_of(scan, _masks_of(scan, scan.label, masks, True), False)[0] is not None for scan in scans}
    ranked = sorted(scans, key=lambda scan: (not fits[scan.path], scan.stage))
    passed += [(ranked[0], left) for left in ranked[1:]]
    return ranked[:1]


def _same(first: Path, second: Path, label: str, contrast: str) -> Error:
    return Error(
        f"Every scan needs a label of its own; '{first}' and '{second}' are both {label} {contrast}. Rename one."
    )


def _files(root: Path, pattern: str = "**/*") -> list[Path]:
    # Hidden files include the ._ twins that macOS leaves on shared disks: they end in .nii.gz and are no images.
    return sorted(
        path
        for path in root.glob(pattern)
        if is_nifti_name(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not OUTPUT.search(path.name)
        and path.is_file()
    )


def _single(path: Path, wanted: str | None, aside: Aside | None) -> Scan:
    if not is_nifti_name(path):
        raise Error(f"A NIfTI file ends in .nii or .nii.gz; found '{path}'. {remedy(path)}.")
    # Below the folder of the patient, whose masks may lie beside that of the scan.
    place = path.absolute().parent
    while HOLDERS.fullmatch(place.name) or re.fullmatch("orig|pre|raw", place.name, re.I):
        place = place.parent
    scan = parse_path(place / path.absolute().relative_to(place), place)
    if scan.contrast in ("mask", "brainmask") or OUTPUT.search(path.name):
        raise Error(
            f"A scan is needed; '{path}' is named as a mask or as a result of diffgraft. Give the acquired scan."
        )
    if wanted and scan.contrast not in (wanted, "unknown"):
        raise Error(f"A {wanted} scan is needed; '{path}' is named {scan.contrast}. Give the {wanted} scan.")
    beside = path.parent.glob("*") if place == path.absolute().parent else place.glob("*/*")
    files = {
        file.absolute() for file in (*_files(path.parent, "*"), *_files(place, "*"), *beside) if is_nifti_name(file)
    }
    masks = [file for file in (parse_path(file, place) for file in sorted(files)) if file.contrast == "mask"]
    contrast = wanted if wanted and scan.contrast == "unknown" else scan.contrast
    scan = dataclasses.replace(scan, contrast=contrast)
    (found,) = _pair([(scan, scan.label, scan.patient)], masks, aside)
    return dataclasses.replace(found, path=path)


# ------------------------------------------------------------------------------------------------------------- masks


def _pair(scans: Sequence[tuple[Named, str, str]], masks: Sequence[Named], aside: Aside | None) -> list[Scan]:
    """Each scan with its mask. A note says which of several raters is taken."""
    found, raters = [], []
    for scan, label, group in scans:
        mask, doubt = _mask_of(scan, _masks_of(scan, label, masks, label == scan.label), aside is None)
        if mask is not None and mask.rater is not None:
            raters.append(mask.path)
        found.append(
            Scan(
                scan.path, label, scan.contrast, None if mask is None else mask.path, group, None if mask is None else mask.lesions, doubt
            )
        )  # fmt: skip
    if raters:
        line = f"{len(raters)} masks are one of several of their scan, as of raters; taken is '{raters[0].name}' and the like."
        warnings.warn(printable(line), Note, stacklevel=3)
    return found


def _masks_of(scan: Named, label: str, masks: Iterable[Named], alone: bool) -> list[Named]:
    """The masks that belong to a scan by name, or else by what is left of it.

    alone: no other scan has its shortest label, so that a mask of this label in any folder is its own.
    """
    own = _bids_key(scan)
    exact, less, above = [], [], []
    for mask in masks:
        near = alone or mask.chain == scan.chain or mask.chain == scan.chain[: len(mask.chain)]
        if near and mask.label == scan.label:
            exact.append(mask)
        elif own and own == _bids_key(mask):
            less.append(mask)
        elif not mask.own and mask.chain and mask.chain == scan.chain[: len(mask.chain)]:
            above.append(mask)
    return exact or less or above


def _bids_key(file: Named) -> tuple[str | None, ...]:
    """Patient, session and run: derivatives often drop entities such as acq- or rec-."""
    own = bids_entities(stem_of(file.path))
    return (own["sub"], own.get("ses"), own.get("run"), desc_prefix(own.get("desc", ""))) if own else ()


def _mask_of(scan: Named, same: Sequence[Named], strict: bool) -> tuple[Named | None, str]:
    """The one mask of a scan among those of its name, by grid, and why there is none; see `find`.

    strict: a mask that cannot be read is an Error.
    """
    if not same:
        return None, ""
    try:
        grid = read_grid(scan.path)
    except Error:
        return None, ""  # `load` will say why, for this scan alone
    ranked, doubts = [], []
    for mask in same:
        try:
            other = read_grid(mask.path)
        except Error as problem:
            if strict:
                raise
            doubts.append(str(problem))
            continue
        if reason := misplaced(other, grid):
            doubts.append(f"A lesion mask lies on the voxels of its scan; {mask.path.name} does not: {reason}.")
        else:
            drawn_on = contrast_of_mask(mask.path)
            fit = (0 if drawn_on == scan.contrast else 2 if drawn_on else 1, mask.path.parent != scan.path.parent)
            ranked.append((*fit, mask.rater or (-1, 0), mask.path, mask))
    ranked.sort(key=lambda each: each[:4])
    if len(ranked) > 1 and ranked[0][:3] == ranked[1][:3]:
        first, second = ranked[0][3], ranked[1][3]
        raise Error(
            f"A scan has one lesion mask; '{scan.path}' has '{first}' and '{second}' on its grid. Keep one of them."
        )
    if not ranked:
        return None, " ".join(doubts)
    chosen: Named = ranked[0][4]
    return (chosen if len(ranked) > 1 else dataclasses.replace(chosen, rater=None)), ""
