"""Which scans are of one patient, by their whole paths: a patient in two groups would be trained on and tested on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from toolkit.formats.nifti.names import alphanumeric
from toolkit.formats.nifti.places import HOLDERS, Named

__all__ = ["one_patient"]

_DATE = (
    r"(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d(?:[-_.T ]?\d{4,6})?|[0-3]?\d[-_.][01]?\d[-_.](?:19|20)\d\d(?:[-_].*)?|"
    r"\d{14}|(?:\d+\.){4,}\d+"
)
"""Days, days with the time, folders of studies and series of TCIA, and UIDs."""

_PLAIN = (
    r"(?:ses(?:sion)?|visit|tp|time[-_ ]?point|follow[-_ ]?up|fu|week|month|year)s?[-_ ]?\d{1,4}(?:[-_]\d)?|mr[-_]d\d+|"
    r"\d{1,4}(?:days?|weeks?|months?|mo|years?)|baseline|screening|follow[-_ ]?up|"
    r"pre[-_ ]?(?:op\w*|treatment|rt)?|post[-_ ]?(?:op\w*|treatment|rt)?|initial|erstuntersuchung|kontrolle|verlauf|"
    r"ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra(?:ns\w*)?"
)
_SHORT = r"(?:study|exam|scan|time|day|date|stage)[-_ ]?\d{1,4}|[vmtwy]\d{1,2}|d\d{1,3}|bl"
"""Words that number patients too, where none is named before them."""

_TIME = re.compile(rf"{_DATE}|{_PLAIN}|{_SHORT}", re.I)
_NAMED = re.compile(rf"(.+?)[-_. ]+(?:({_DATE}|{_PLAIN})|{_SHORT})(?:[-_. ]+(.*))?", re.I)
_PLACE = re.compile(
    r"(?:site|cent(?:er|re)|hospital|clinic|scanner|study|dataset|data|cohort|batch|group|fold|split|part|train\w*|test\w*|"
    r"val\w*|ge|siemens|philips|vendor|disk|set|class)[-_ ]?\w{0,8}|(?:19|20)\d\d",
    re.I,
)
_PERSON = re.compile(r"(?:patient|pat|pt|subject|subj|sub|case|id|p)[-_ ]?\d+", re.I)


def one_patient(scans: Sequence[tuple[Named, str, str]], root_parts: int) -> list[str]:
    """The group of each (scan, label, group): the patient whom its folders or its name state, else its group as it is.

    A folder with a number below the root, that is no time and no place, is a patient with all that lies in it; in a flat
    name it is what stands before a word for a time or a plane (P01_ses-1, P01_20190101, P01_AX). root_parts: number of
    parts of the path of the root.
    """
    chains = [_below(scan, root_parts) for scan, _, _ in scans]
    names = Counter(scan.own for scan, _, _ in scans)
    found: list[tuple[tuple[str, ...], str]] = []
    for (scan, _, group), chain in zip(scans, chains, strict=True):
        place = _person(chain, chains)
        if scan.bids or scan.group:
            found.append(((), group))
            continue
        own, named = scan.own, _before(scan.words)
        if place is None:
            found.append((_places(chain), named) if named else ((), group))
            continue
        folder = _before(chain[place]) or alphanumeric(chain[place])
        alone = not own or _TIME.fullmatch(scan.words) or folder.lower() in own.lower()
        alone = alone or _PERSON.fullmatch(chain[place]) or names[own] > 1
        timed = place + 1 < len(chain) or any(_TIME.fullmatch(part) for part in chain[:place])
        if alone and (timed or folder != alphanumeric(chain[place]) or own):
            found.append((_places(chain[:place]), folder))
        elif named and not alone:
            found.append((_places(chain[:place]), named))
        else:
            found.append(((), group))
    return _told_apart(found)


def _told_apart(found: Sequence[tuple[tuple[str, ...], str]]) -> list[str]:
    """Patients of one name at two places are two."""
    places: dict[str, set[tuple[str, ...]]] = {}
    for above, patient in found:
        places.setdefault(patient.lower(), set()).add(above)
    return [
        alphanumeric("".join(above)) + patient if len(places[patient.lower()] - {()}) > 1 else patient
        for above, patient in found
    ]


def _below(scan: Named, root_parts: int) -> tuple[str, ...]:
    """The folders below the root that may say something of the patient."""
    inside = scan.path.parts[root_parts:-1]
    return tuple(part for part in scan.chain if part in inside)


def _places(chain: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in chain if not _TIME.fullmatch(part))


def _person(chain: Sequence[str], chains: Sequence[Sequence[str]]) -> int | None:
    """The position of the folder that stands for a patient; None where none does."""
    for k, part in enumerate(chain):
        below = {other[k + 1] for other in chains if len(other) > k + 1 and other[: k + 1] == chain[: k + 1]}
        times = all(_TIME.fullmatch(name) or re.fullmatch(r"\d{1,2}", name) for name in below)
        numbered = re.search(r"\d", part) or (below and all(_TIME.fullmatch(name) for name in below))
        if not numbered or _TIME.fullmatch(part) or _PLACE.fullmatch(part):
            continue
        # A folder that holds everything, with a number of its own: BraTS2020_TrainingData.
        only = len({other[: k + 1] for other in map(tuple, chains) if len(other) > k}) == 1
        if only and len(below) > 1 and not times and not _PERSON.fullmatch(part):
            continue
        return k
    return None


def _before(words: str) -> str:
    """The patient of a name that states a time or a plane too, letters and digits; "" where it states none."""
    match = _NAMED.fullmatch(words)
    if not match or HOLDERS.fullmatch(match[1]) or _TIME.fullmatch(match[1]):
        return ""
    if re.search(r"\d", match[1]) and not (_PLACE.fullmatch(match[1]) and re.search(r"\d", match[3] or "")):
        return alphanumeric(match[1])
    if not match[2]:
        return ""
    rest = match[3] or ""
    return alphanumeric(match[1] + (rest if re.search(r"\d", rest) and not _TIME.fullmatch(rest) else ""))
