"""What the name of a NIfTI file says: patient, session and contrast, by BIDS or as names are met in the wild."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.data.file_names import printable, same_letters
from toolkit.example import Error

__all__ = [
    "BRAIN_MASK",
    "CONTRAST",
    "CONTRASTS",
    "MASK",
    "MASK_FOLDERS",
    "OUTPUT",
    "alphanumeric",
    "bids_entities",
    "contrast_of_mask",
    "desc_prefix",
    "group_of",
    "is_nifti_name",
    "parse_file_name",
    "spell_contrast",
    "stem_of",
]  # fmt: skip

# The end of a file name says what the file shows. Left: as it is met in the wild; right: BIDS spelling where there is
# one. T1gd stays apart from T1w because one patient often has both.
CONTRASTS = {
    "flair": "FLAIR",
    "t2flair": "FLAIR",
    "t2f": "FLAIR",
    "t1": "T1w",
    "t1w": "T1w",
    "t1n": "T1w",
    "t1gd": "T1gd",
    "t1ce": "T1gd",
    "t1c": "T1gd",
    "t1post": "T1gd",
    "t1wks": "T1gd",
    "gado": "T1gd",
    "mprage": "T1w",
    "t2": "T2w",
    "t2w": "T2w",
    "t2star": "T2starw",
    "t2starw": "T2starw",
    "pd": "PDw",
    "pdw": "PDw",
    "dp": "PDw",
    "dwi": "dwi",
    "adc": "ADC",
    "swi": "swi",
    "ct": "ct",
}

MASKS = (
    "mask",
    "masks",
    "msk",
    "seg",
    "dseg",
    "segmentation",
    "lesion",
    "lesions",
    "roi",
    "wmh",
    "gt",
    "label",
    "labels",
)
BRAIN_MASKS = ("brainmask", "headmask", "betmask")
MASK_FOLDERS = {*MASKS, "segmentations", "labelstr", "labelsts", "labelsval"}

_BIDS = re.compile(
    r"sub-(?P<sub>[A-Za-z0-9]+)(?P<entities>(?:_[A-Za-z]+-[A-Za-z0-9+]+)*)(?:_(?P<suffix>[A-Za-z0-9]+))?"
)
_SPELLINGS = "|".join(sorted(CONTRASTS, key=len, reverse=True)).replace("t2flair", "t2[_-]?flair")
CONTRAST = re.compile(rf"(?:^|[_-])(?:[23]d)?({_SPELLINGS})$", re.I)
MASK = re.compile(rf"(?:^|[_-])({'|'.join(MASKS)})$", re.I)
BRAIN_MASK = re.compile(r"(?:^|[_-])(?:brain|head|bet)(?:[_-]?parenchyma)?[_-]?(?:mask|seg|segmentation)$", re.I)
OUTPUT = re.compile(r"_desc-(?:healthycf|anomaly)[A-Za-z0-9]*_", re.I)


def is_nifti_name(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def stem_of(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.I)


def alphanumeric(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", same_letters(printable(text)))


def spell_contrast(contrast: str) -> str:
    return CONTRASTS.get(contrast.lower().replace("_", "").replace("-", ""), contrast)


def bids_entities(stem: str) -> dict[str, str]:
    """Entities of a BIDS name with its suffix under ""; empty for any other name."""
    if not (match := _BIDS.fullmatch(stem)):
        return {}
    pairs = (part.split("-", 1) for part in match["entities"].split("_")[1:])
    return {"sub": match["sub"], **dict(pairs), "": match["suffix"] or ""}


def parse_file_name(path: str | Path) -> tuple[str, str]:
    """The label and the contrast that a file name gives.

    BIDS: `sub-01_ses-2_acq-3D_FLAIR.nii.gz` -> ("01ses2acq3D", "FLAIR"): every entity is part of the label, so that
    two sessions or runs do not meet under one name (on a mask, desc- and label- are not; ce- on a T1w makes it T1gd).
    Others: `TCGA_CS_4941_flair.nii.gz` -> ("TCGACS4941", "FLAIR"): the stem without its contrast, letters and digits
    only; a bare `FLAIR.nii.gz` takes the name of its folder. Without a known contrast it is "unknown"; masks give
    "mask", masks of the whole brain "brainmask". Raises Error where no letter or digit is left.
    """
    path = Path(path)
    stem = stem_of(path)
    if entities := bids_entities(stem):
        contrast = spell_contrast(entities.pop("")) or "unknown"
        if contrast.lower() in (*MASKS, *BRAIN_MASKS, "probseg"):
            whole = re.match("brain|head|bet", entities.get("desc", contrast), re.I)
            contrast = "brainmask" if whole else "mask"
            entities.pop("label", None)
            if made := desc_prefix(entities.pop("desc", "")):
                entities["desc"] = made
        if contrast == "T1w" and entities.pop("ce", None):
            contrast = "T1gd"
        label = alphanumeric(entities.pop("sub") + "".join(key + value for key, value in entities.items()))
        return label, contrast
    contrast = "unknown"
    for pattern, name in ((BRAIN_MASK, "brainmask"), (MASK, "mask")):
        if contrast == "unknown" and (match := pattern.search(stem)):
            stem, contrast = stem[: match.start()], name
    if match := CONTRAST.search(stem):
        stem = stem[: match.start()]
        contrast = spell_contrast(match[1]) if contrast == "unknown" else contrast
    if contrast == "unknown" and path.parent.name.lower() in MASK_FOLDERS:
        contrast = "mask"
    label = alphanumeric(stem) or alphanumeric(path.absolute().parent.name)
    if not label:
        raise Error(f"A file name needs a letter or digit for its label; found '{path}'. Rename it.")
    return label, contrast


def desc_prefix(desc: str) -> str:
    """The part of a desc- value that ties a mask to an image that was not acquired; see `write`."""
    return desc.split("lesion")[0] if desc.startswith(("synthetic", "edited")) else ""


def group_of(path: Path, label: str) -> str:
    return bids_entities(stem_of(path)).get("sub", label)


def contrast_of_mask(mask: Path) -> str:
    """The contrast that the name of a mask gives (`x_flair_mask`, `sub-x_desc-lesionFLAIR_mask`), or nothing."""
    stem = stem_of(mask)
    if entities := bids_entities(stem):
        stem = re.sub("lesions?", "_", entities.get("desc", ""), flags=re.I).strip("_")
    match = CONTRAST.search(MASK.sub("", stem))
    return spell_contrast(match[1]) if match else ""
