"""What a text states of a film: which finding, whether it is there, and on which side.

Cues with a scope, after NegEx (Chapman et al., J Biomed Inform 34, 2001) and its children: a cue such as "no" reaches what
follows it up to a turn of the sentence, one such as "has resolved" what stands before it. "no change" is no negation. A cue of
doubt leaves a finding uncertain, a cue of the past leaves it unsaid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from toolkit.language.report.cues import ASSERTIVE, DOUBTED, GONE, MAYBE, NO, PAST, PSEUDO, STRONG, TURN, alternatives
from toolkit.language.report.lexicon import CHILDREN, DEVICES, FINDINGS, GROUPS, IMPLIES, MENTION, NORMALS, PARTS
from toolkit.language.report.sentences import clauses, imaging_sentences

__all__ = ["Statement", "devices", "findings", "imply_findings", "statements"]

Side = Literal["left", "right", "bilateral", ""]
Status = Literal["present", "absent", "uncertain"]


@dataclass(frozen=True)
class Statement:
    """One thing that is said of the film.

    finding: one of FINDINGS. side: "" where none is named. zones: of "upper", "middle", "lower", "perihilar", "peripheral",
    "diffuse". detail: which device, else "".
    """

    finding: str
    status: Status
    side: Side = ""
    zones: tuple[str, ...] = ()
    detail: str = ""


REACH = 200
"""Characters within which a cue speaks of a finding."""


_LEFT = r"\b(?:left(?:-sided)?|lul|lll|lingula\w*|lt)\b"
_RIGHT = r"\b(?:right(?:-sided)?|rul|rml|rll|rt)\b"
_BOTH = r"\b(?:bilateral\w*|both|bi-?bas(?:al|ilar)|bibasal|either side|throughout the lungs)\b"
_SIDE = re.compile(f"(?P<bilateral>{_BOTH})|(?P<left>{_LEFT})|(?P<right>{_RIGHT})")
_BORDER = re.compile(
    alternatives(
        r"(?:,? (?:with|and) )?(?:relative )?(?:sparing|loss of (?:visuali[sz]ation|clarity)|silhouetting|obscuration|obliteration)"
        r" (?:of )?[^,.;]*",
        r"\b(?:left|right) (?:heart|cardiac) (?:border|shadow)",
        r"\((?:r ?[>=<] ?l|l ?[>=<] ?r)\)",
        r"\bmore (?:pronounced|prominent|severe|marked|evident)[^,.;]*",
        r"\b(?:particularly|especially|mainly|mostly|predominantly|greater)\b[^,.;]*",
    )
)
"""What names a side that is not the side of the finding, or only where there is more of it."""

_ZONES = {
    "upper": r"\bupper\b|\bapic\w+|\bapex\b|\b[lr]ul\b",
    "middle": r"\bmid\w*(?:[ /-]|zone|lung|\b)|\brml\b",
    "lower": r"\blower\b|\bbas(?:al|ilar|es?|ally)\b|\bbibas\w+|\b[lr]ll\b",
    "perihilar": r"\b(?:peri-?)?hilar\b|\bhil(?:um|a)\b|\bcentral(?:ly)?\b(?! (?:venous|line|catheter))",
    "peripheral": r"\bperipher\w+|\bsub-?pleural\b",
    "diffuse": r"\bdiffuse\w*|\bwidespread\b|\bextensive\w*|\bpanlobar\b|\bthroughout\b",
}
_PART = re.compile(alternatives(*(f"(?P<{name}>{pattern})" for name, pattern in PARTS.items())))
_NOT = re.compile(r"\bnot (?:\w+ly )?(?:enlarged|increased)|\bnot (?:show|reveal|demonstrate)|\babnormal\w*")
_DEVICE = dict(zip((f"d{i}" for i in range(len(DEVICES))), DEVICES, strict=True))


def statements(text: str) -> list[Statement]:
    """What is said of the film, in the order of the text. See `imaging` for what is not of the film."""
    return [said for sentence in imaging_sentences(text) for clause in clauses(sentence) for said in _said(clause)]


def findings(text: str) -> dict[str, float]:
    """Finding -> 1 present, 0 absent. What is uncertain, denied on one side alone, or not mentioned is not in it."""
    return imply_findings(_sums(statements(text)))


def devices(text: str) -> tuple[str, ...]:
    """The named devices that are in place."""
    return tuple(dict.fromkeys(s.detail for s in statements(text) if s.detail and s.status == "present"))


def imply_findings(stated: Mapping[str, float]) -> dict[str, float]:
    """Findings with what follows from them; what is present outweighs what is absent, NaN is left out."""
    known = {name: float(stated[name]) for name in FINDINGS if stated.get(name) in (0.0, 1.0)}
    abnormal = any(value == 1.0 for name, value in known.items() if name not in ("normal", "device"))
    if known.get("normal") == 1.0:
        # "No significant findings. In retrospect a subtle opacity" denies nothing else.
        known = {**known, "normal": 0.0} if abnormal else dict.fromkeys(FINDINGS, 0.0) | known
    for name, value in list(known.items()):
        if value == 1.0:
            known |= dict.fromkeys(IMPLIES.get(name, ()), 1.0)
    for name, value in list(known.items()):
        if value == 0.0:
            known |= dict.fromkeys(CHILDREN.get(name, ()), 0.0)
    if abnormal:
        known["normal"] = 0.0
    return {name: known[name] for name in FINDINGS if name in known}


def _sums(said: Iterable[Statement]) -> dict[str, float]:
    sums: dict[str, float] = {}
    denied: dict[str, set[str]] = {}
    doubted: set[str] = set()
    for statement in said:
        if statement.status == "present":
            sums[statement.finding] = 1.0
        elif statement.status == "absent":
            denied.setdefault(statement.finding, set()).add(statement.side)
        else:
            doubted |= {statement.finding}
    for name, sides in denied.items():
        everywhere = bool(sides & {"", "bilateral"}) or {"left", "right"} <= sides
        if everywhere and name not in sums and name not in doubted:
            sums[name] = 0.0
    return sums


def _said(clause: str) -> list[Statement]:
    clause = PSEUDO.sub(lambda m: "~" * len(m[0]), clause)
    found: list[tuple[int, Statement]] = []
    for group, pattern in NORMALS:
        for match in re.finditer(pattern, clause):
            before = clause[max(0, match.start() - 24) : match.start()]
            doubt = re.search(rf"{MAYBE}|\b(?:near(?:ly)?|almost|not|abnormal)\b", f"{before} {_NOT.sub('', match[0])}")
            found += [(match.start(), said) for said in _normal(group, "uncertain" if doubt else "absent", match[0])]
            clause = clause[: match.start()] + _blank(match[0]) + clause[match.end() :]
    mentions = [m for m in MENTION.finditer(clause) if m.lastgroup]
    for index, match in enumerate(mentions):
        status = _status(clause, match)
        if status is None:
            continue
        before = mentions[index - 1].end() if index else 0
        after = mentions[index + 1].start() if index + 1 < len(mentions) else len(clause)
        side, zones = _where(clause, before, match, after)
        name = str(match.lastgroup)
        detail = _DEVICE.get(name, "")
        found.append((match.start(), Statement("device" if detail else name, status, side, zones, detail)))
    return [said for _, said in sorted(found, key=lambda pair: pair[0])]


def _blank(words: str) -> str:
    """Read already, save that lungs may be clear and hyperinflated."""
    return re.sub(r"\bhyper\S+|.", lambda m: m[0] if len(m[0]) > 1 else "~", words)


def _normal(group: str, status: Status, words: str) -> list[Statement]:
    """What follows where the film, or parts of the chest, are said to be normal."""
    if group == "all":
        if "otherwise" in words:
            return [Statement(name, status) for name in GROUPS["all"]]
        return [Statement("normal", "present" if status == "absent" else "uncertain")]
    if group:
        return [Statement(name, status) for name in GROUPS[group]]
    found: list[Statement] = []
    side: Side = ""
    for part in _PART.finditer(words):
        many = re.search(r"spaces|surfaces|cavities", part[0])
        side = "" if many else _sided(part[0]) or side
        found += [Statement(name, status, side) for name in GROUPS[str(part.lastgroup)]]
    return found


def _status(clause: str, match: re.Match[str]) -> Status | None:
    """Of a mention: None where it is of the past."""
    start, end = match.span()
    near = max(0, start - REACH)
    if match.lastgroup == "effusion" and "phrenic" in match[0]:
        return "uncertain"  # blunting is fluid or an old scar
    status: Status = "present"
    for cue in re.compile(PAST).finditer(clause, near, start):
        if len(clause[cue.end() : start].split()) <= 3 and "," not in clause[cue.end() : start]:
            return "absent" if re.search(GONE, _reach(clause, end)) else None
    for cue in re.compile(NO).finditer(clause, near, start):
        doubt = _scope(clause, cue.end(), start)
        if doubt is not None:
            status = "absent" if not doubt else "uncertain"
            break
    tail = _reach(clause, end)
    if status == "present" and re.search(GONE, tail):
        status = "absent"
    if re.search(DOUBTED, tail):
        return "uncertain"
    for cue in re.compile(MAYBE).finditer(clause, near, start):
        between = clause[cue.end() : start]
        if status == "absent" and cue[0].startswith("suggest"):
            continue
        if not re.search(
            r"[,:]|\b(?:with|which|there (?:is|are)|and (?:a|left|right|small|large|bilateral))\b", between
        ):
            return "uncertain"
    return status


def _scope(clause: str, cue: int, mention: int) -> bool | None:
    """Whether a negation reaches a mention: None no, False yes, True that cannot be told."""
    between = clause[cue:mention]
    if TURN.search(between):
        return None
    for joint in re.finditer(r"\band\b|\bplus\b", between):
        if ASSERTIVE.search(between[joint.end() :]):
            return None
    pieces = between.split(",")
    if len(pieces) == 1:
        return False
    rest = clause[mention : mention + REACH]
    stop = TURN.search(rest)
    open_list = ",".join(pieces[1:]) + (rest[: stop.start()] if stop else rest)
    closed = re.search(r"\b(?:or|nor)\b", open_list) is not None
    for piece in pieces[1:]:
        if (STRONG if closed else ASSERTIVE).search(piece):
            return None
    return not (closed or re.search(r"\band\b", open_list))


def _reach(clause: str, end: int) -> str:
    """What stands after a mention and may still speak of it."""
    tail = clause[end : end + REACH]
    stop = re.search(r",(?! (?:or|and|which) )|\b(?:with|suggest\w*|consistent|in keeping|there (?:is|are))\b", tail)
    return tail[: stop.start()] if stop else tail


def _sided(words: str) -> Side:
    found = {m.lastgroup for m in _SIDE.finditer(words)}
    if "bilateral" in found or {"left", "right"} <= found:
        return "bilateral"
    return "left" if "left" in found else "right" if "right" in found else ""


def _where(clause: str, before: int, match: re.Match[str], after: int) -> tuple[Side, tuple[str, ...]]:
    """Side and zones of a mention: from the words before it, else from those after it."""
    clear = _BORDER.sub(lambda m: " " * len(m[0]), clause)
    head = re.split(r",|\bwith\b|\bplus\b", clear[before : match.start()])[-1]
    tail = clear[match.end() : after]
    if after < len(clause):
        tail = re.split(r",|\bwith\b|\bplus\b|\band\b", tail)[0]
    else:
        tail = re.split(r"\bwith\b|: ", tail)[0]
    side = _sided(head) or _sided(tail)
    around = f"{head} {match[0]} {tail}"
    return side, tuple(zone for zone, pattern in _ZONES.items() if re.search(pattern, around))
