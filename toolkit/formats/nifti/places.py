"""What the whole path of a NIfTI file says, where its name alone says too little: patient, contrast, stage and rater.

P1/FLAIR, P1/orig/FLAIR, site/P1/ses-2/anat/FLAIR       the folders name the patient; those that every set has do not
imagesTr/x_0000 with labelsTr/x                         nnU-Net: dataset.json names the channel
folder_protocol_20210304101500_5                        dcm2niix: its sidecar says what it shows, timing first
x_flair_pp, FLAIR_preprocessed, mask1, Consensus        a stage of one scan, a rater of one mask
VSD.Brain.XX.O.MR_Flair.70614, .OT.                     ISLES 2015
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.formats.contrast import UNKNOWN, Timing, shown_contrast
from toolkit.formats.nifti.names import (
    BRAIN_MASK,
    CONTRAST,
    MASK,
    MASK_FOLDERS,
    alphanumeric,
    bids_entities,
    group_of,
    parse_file_name,
    spell_contrast,
    stem_of,
)

__all__ = ["HOLDERS", "NUMBER", "SESSION", "Named", "is_time", "parse_path"]

STAGES = (
    r"orig|original|raw|raw[ _-]?data|native|unprocessed",
    r"",
    r"pp|pre|pre[ _-]?proc(essed)?([ _-]?data)?|processed|n4|bias|bias[ _-]?corr(ected)?|restore|reg|coreg|(co)?registered|mni|1mm|iso|"
    r"brain|bet|ss|skull[ _-]?stripped|stripped|resampled|norm(ali[sz]ed)?",
)
"""Folders and ends of names that are stages of one scan, the acquired one first."""

HOLDERS = re.compile(
    r"(anat|func|perf|dwi|fmap|nii|nifti|mri?|scans?|volumes?|images?|data|dataset|derivatives|rawdata|sourcedata|flair|t1w?|t2w?|"
    r"swi|adc|hgg|lgg|images?(tr|ts|val)|labels?(tr|ts|val)|masks?|msk|seg|segs?|segmentations?|labels?|lesions?|annotations?|roi|"
    r"gt|ground[ _-]?truth|(train|test|valid(ation)?|val)(ing)?([ _-]?(set|data))?)",
    re.I,
)
"""Folders that say nothing of the patient."""

SESSION = re.compile(
    r"(ses|session|visit|tp|time|timepoint|baseline|base|follow[ _-]?up|fu|study|scan|exam|day|week|month|year|v|m)?[ _-]?\d{1,2}|"
    r"baseline|follow[ _-]?up|(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d",
    re.I,
)
"""A name that numbers or dates what was done with a patient, if a folder above names one."""

NUMBER = re.compile(r"(case|patient|pat|subject|subj|sub|id|p|s)?[ _-]?\d{1,4}", re.I)
"""A name that every site could have given."""

TIMEPOINT = re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}|(?:(training|test)(\d\d))_\d\d|(UPENN-GBM-\d{5})_\d\d", re.I)
"""Published names of a patient and a time: BraTS 2023, ISBI 2015, UPENN-GBM."""

RATER = re.compile(
    r"[_-]?(?:(consensus|majority|staple|final)|(?:(?:rater|observer|expert|annotator|reader|manual|o|r)[_-]?)?(\d{1,2}))$",
    re.I,
)
DRAWN = re.compile(
    r"(?:^|[_-])(?:consensus|manual[_-]?segmentation|manual|tumou?r|lesions?|stroke|ms|wm|binary|bin|segm|truth|"
    r"rater|observer|expert|annotator|reader)$",
    re.I,
)
DCM2NIIX = re.compile(r"(.+)_(\d{14})(?:_(\d+))?([a-z]?|_[a-z]\w*)$", re.I)
PROTOCOL = re.compile(
    r"(?:^|_)(?:ax(ial)?|sag(ittal)?|cor(onal)?|tra(ns)?|obl|[23]d|iso|p\d|fs|sense|wip|tse|fse|blade|propeller|spc|space|cube|vista|"
    r"tirm|irprep|ir|dark|fluid|dark-fluid|da-fl|s?t[12][a-z]*|pd[a-z]*|[a-z0-9]*flair[a-z]*|mprage|gre|post|pre|gd|mm|\dmm|\d+)$",
    re.I,
)
ISLES = re.compile(r"VSD\.Brain\.\w+\.O\.(?:MR_)?([A-Za-z0-9]+)(?:_\w+)?\.\d+", re.I)
CHANNEL = re.compile(r"(.+)_(\d{4})$")


LEADING = re.compile(r"(?:(brain|head|bet)[_-]?masks?|(?:lesion[_-]?)?masks?|ples_l[pg]a)[_-]+m?(?=[A-Z0-9])", re.I)
"""Words before the name of a scan that make it a mask; ples_lpa_m is what LST writes."""

TISSUE = re.compile(r"[_-](?:wm|gm|csf|ventricles?|aseg|aparc|tissues?)(?:[_-](?:mask|seg|dseg))?$", re.I)
"""Masks of what everybody has."""


@dataclass(frozen=True)
class Named:
    """What is known of a file by its path.

    own: label that its name gives, "" for none. chain: the folders that may name the patient. contrast: as
    `parse_file_name`. stage: 0 acquired, 1 not stated, 2 processed. rater: (0 for a consensus, else 1; number) of a mask
    of several, else None. series: what tells two files of one patient and contrast apart, by dcm2niix. group: patient of
    a name that states a time too. lesions: values of a mask that are lesions, where a file beside it says so. words: its own
    name as it is spelled.
    """

    path: Path
    own: str
    chain: tuple[str, ...]
    contrast: str
    stage: int = 1
    rater: tuple[int, int] | None = None
    series: str = ""
    group: str = ""
    lesions: tuple[int, ...] | None = None
    bids: bool = False
    words: str = ""

    @property
    def label(self) -> str:
        """The shortest label of its patient and session; alphanumeric."""
        return self.own if self.own and not self.is_session else self.above(1) + self.own

    @property
    def is_session(self) -> bool:
        """Whether its own name says a time and the folders the patient."""
        return bool(self.own and self.chain and not self.bids and is_time(self.own))

    def above(self, count: int) -> str:
        """The last folders of the chain as letters and digits, with one more where the last one is a session."""
        more = len(self.chain) > count and is_time(self.chain[-count])
        return alphanumeric("".join(self.chain[-count - bool(more) :]))

    @property
    def patient(self) -> str:
        """What its sessions share, by the shortest label."""
        if self.group:
            return self.group
        if self.bids:
            return group_of(self.path, self.own)
        if self.own and not self.is_session:
            return self.own
        *above, last = self.chain or ("",)
        timed = above and is_time(last)
        return alphanumeric(above[-1] if timed else last)


def is_time(name: str) -> bool:
    """Whether a name tells when, and not who; a bare number may tell either."""
    return bool(SESSION.fullmatch(name)) and not re.fullmatch(r"\d{1,7}", name)


def parse_path(path: Path, root: Path) -> Named:
    """What the path of a file below root says. Errors: no letter or digit that could be a label."""
    stem, below = stem_of(path), path.relative_to(root).parts[:-1]
    chain = tuple(filter(_may_name_a_patient, below))
    if not chain:
        above = (place.name for place in (root.absolute(), *root.absolute().parents))
        chain = tuple(filter(_may_name_a_patient, above))[:1]
    drawn = re.fullmatch(r"(sub-.+)_(?:lesion_?)?(?:mask|roi|lesion|seg)", stem, re.I)
    if drawn and not bids_entities(stem) and bids_entities(drawn[1]):
        return Named(path, parse_file_name(path.with_name(f"{drawn[1]}.nii"))[0], chain, "mask", bids=True)
    if bids_entities(stem):
        label, contrast = parse_file_name(path)
        tissue = re.fullmatch("csf|gm|wm|brain|ventricles?", bids_entities(stem).get("label", ""), re.I)
        contrast = "brainmask" if contrast == "mask" and tissue else contrast
        return Named(path, label, chain, contrast, bids=True)
    named = _published(path, stem, chain) or _worded(path, stem, chain)
    stage = min((_stage(part) for part in below if _stage(part) != 1), default=named.stage)
    named = dataclasses.replace(named, stage=stage if named.stage == 1 else named.stage)
    if not named.label:
        parse_file_name(path)  # raises what such a name does
        return dataclasses.replace(named, own=alphanumeric(stem))
    return named


def _may_name_a_patient(folder: str) -> bool:
    return bool(alphanumeric(folder)) and not HOLDERS.fullmatch(folder) and _stage(folder) == 1


# ------------------------------------------------------------------------------------------------------------- names


def _published(path: Path, stem: str, chain: tuple[str, ...]) -> Named | None:
    """What a name of a published form says."""
    folder = path.parent.name.lower()
    if match := ISLES.fullmatch(stem):
        above = tuple(part for part in chain if not ISLES.fullmatch(part)) or chain
        contrast = "mask" if match[1].upper() == "OT" else spell_contrast(match[1])
        return Named(path, "", above, contrast if contrast != match[1] or contrast == "mask" else UNKNOWN)
    if re.fullmatch(r"images?(tr|ts|val)", folder):
        match = CHANNEL.fullmatch(stem)
        shows = _channels(path.parent.parent).get(int(match[2]) if match else 0, UNKNOWN)
        return (
            Named(path, alphanumeric(match[1] if match else stem), chain, shows) if match or shows != UNKNOWN else None
        )
    if re.fullmatch(r"labels?(tr|ts|val)", folder):
        return Named(path, alphanumeric(stem), chain, "mask", lesions=_lesions(path.parent.parent))
    return None


def _worded(path: Path, stem: str, chain: tuple[str, ...]) -> Named:
    """What the words of a name say: mask and rater, contrast, stage."""
    words, contrast, rater = _drawn(stem)
    lesions = (1,) if stem.lower() == "wmh" and any((path.parent / name).is_dir() for name in ("orig", "pre")) else None
    if contrast == UNKNOWN and path.parent.name.lower() in MASK_FOLDERS:
        contrast = "mask"
    stage = 1
    if contrast == UNKNOWN:
        while (cut := re.search(rf"(?:^|[_-])({STAGES[0]}|{STAGES[2]})$", words, re.I)) and cut.start():
            words, stage = words[: cut.start()], _stage(cut[1])
        if not CONTRAST.search(words):
            words, stage = stem, 1
    if match := CONTRAST.search(words):
        words = words[: match.start()]
        contrast = spell_contrast(match[1]) if contrast == UNKNOWN else contrast
    if match := TIMEPOINT.fullmatch(words):
        group = alphanumeric(match[1] or match[4] or match[2] + match[3])
        return Named(path, alphanumeric(words), chain, contrast, stage, rater, group=group)
    converted = DCM2NIIX.fullmatch(words)
    if converted or (contrast == UNKNOWN and (_sidecar(path))):
        return _converted(path, words, chain, contrast, rater)
    return Named(path, alphanumeric(words), chain, contrast, stage, rater, lesions=lesions, words=words)


def _drawn(stem: str) -> tuple[str, str, tuple[int, int] | None]:
    """(the rest of the name, "mask", "brainmask" or "unknown", rater)."""
    if match := LEADING.match(stem):
        return stem[match.end() :], "brainmask" if match[1] else "mask", None
    if (match := TISSUE.search(stem)) and not re.search("lesion", stem, re.I):
        return stem[: match.start()], "brainmask", None
    if match := BRAIN_MASK.search(stem):
        return stem[: match.start()], "brainmask", None
    rater = None
    words = stem
    for _ in range(2):  # consensus_gt, mask1, ManualSegmentation_1
        if (match := RATER.search(words)) and (
            MASK.search(words[: match.start()]) or DRAWN.search(words[: match.start()])
        ):
            words, rater = words[: match.start()], (0, 0) if match[1] else (1, int(match[2]))
    met = False
    while match := MASK.search(words) or DRAWN.search(words):
        if (
            not met
            and not MASK.search(words)
            and not re.search(r"consensus$|manual[_-]?segmentation$|segm$", words, re.I)
        ):
            break
        if re.search("consensus$", words, re.I):
            rater = rater or (0, 0)
        words, met = words[: match.start()], True
    return (words, "mask", rater) if met else (stem, UNKNOWN, None)


def _converted(path: Path, words: str, chain: tuple[str, ...], contrast: str, rater: tuple[int, int] | None) -> Named:
    """A name that dcm2niix gave, by its sidecar."""
    match = DCM2NIIX.fullmatch(words)
    front, series = (match[1], f"{match[2]}s{match[3] or 0}{alphanumeric(match[4])}") if match else (words, "")
    said = _sidecar(path)
    texts = [str(said.get(name) or "") for name in ("SeriesDescription", "ProtocolName")]
    if contrast == UNKNOWN:
        times = (_milliseconds(said.get(name)) for name in ("InversionTime", "EchoTime", "RepetitionTime"))
        contrast = shown_contrast(
            [*texts, front if match else ""], Timing(*times), bool(said.get("ContrastBolusAgent"))
        )
    if not match and contrast == UNKNOWN:
        return Named(path, alphanumeric(words), chain, UNKNOWN, rater=rater)
    for text in texts:
        # Between the letters that all spell alike: dcm2niix changes others, and reads a UTF-8 description as Latin-1.
        ending = r"\w{0,3}[\W_]*".join(re.findall("[A-Za-z0-9]+", text))
        if ending and (cut := re.search(rf"(?:^|_){ending}[\W_]*(?:_(\d+))?$", front, re.I)):
            series = series or (f"s{cut[1]}" if cut[1] else "")
            front = front[: cut.start()]
            break
    else:
        rest = front
        while cut := PROTOCOL.search(rest):
            rest = rest[: cut.start()]
        if rest != front and (match or not rest):
            number = re.search(r"_(\d+)$", front)
            series = series or (f"s{number[1]}" if number else "")
            front = rest
    own = (
        "" if HOLDERS.fullmatch(front) or re.fullmatch("dicoms?|dcm|study|series", front, re.I) else alphanumeric(front)
    )
    return Named(path, own, chain, contrast, rater=rater, series=series, words=front if own else "")


# ------------------------------------------------------------------------------------------------------- files beside


def _stage(name: str) -> int:
    return next((k for k in (0, 2) if re.fullmatch(STAGES[k], name, re.I)), 1)


def _milliseconds(value: Any) -> float | None:
    """Of a time in a sidecar, which is in seconds (BIDS)."""
    return 1000.0 * value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _sidecar(path: Path) -> dict[str, Any]:
    """The JSON file beside a scan; {} where there is none that can be read."""
    return _json(path.with_name(stem_of(path) + ".json"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _channels(folder: Path) -> dict[int, str]:
    """Channel -> what it shows, by the dataset.json of nnU-Net (channel_names) or of the Medical Segmentation Decathlon."""
    facts = _json(folder / "dataset.json")
    named = facts.get("channel_names", facts.get("modality"))
    if not isinstance(named, dict):
        return {}
    found = {}
    for number, name in named.items():
        if str(number).isdigit():
            spelled = spell_contrast(str(name))
            found[int(number)] = spelled if spelled != str(name) else shown_contrast([str(name)])
    return found


def _lesions(folder: Path) -> tuple[int, ...] | None:
    """The values of a mask that are lesions, where dataset.json names others too."""
    named = _json(folder / "dataset.json").get("labels")
    if not isinstance(named, dict):
        return None
    pairs = [
        (str(k), v) if isinstance(v, int) else (str(v), int(k))
        for k, v in named.items()
        if isinstance(v, int) or str(k).isdigit()
    ]
    other = re.compile("background|ignore|other", re.I)
    kept = tuple(sorted(value for name, value in pairs if value and not other.search(name)))
    return kept if kept and any(other.search(name) and value for name, value in pairs) else None
