"""A report cut into sentences, and which of them describe the film that lies before the reader."""

from __future__ import annotations

import re

from toolkit.language.report.lexicon import DEVICES, MENTION, NORMALS, TUBES, normalise

__all__ = ["clauses", "imaging_sentences", "sentences"]

LONGEST = 100_000
"""Characters that are read of a text; the rest of a longer one is ignored."""

LONGEST_SENTENCE = 500

_ABBREVIATION = re.compile(
    r"(?:\b(?:dr|mr|mrs|ms|prof|fig|figs|vs|e\.g|i\.e|approx|st|resp|ca|no|pt)|\b[A-Z])\.$", re.IGNORECASE
)
_HEADS = (
    "presentation|imaging (?:notes|findings)|discussion|findings?|impression|indications?|(?:clinical |past |medical |case )*history"
    "|comparisons?|techniques?|clinical (?:information|details|data|indication)|conclusions?|examination|exam|reason for exam\\w*"
    "|recommendations?|report|differential diagnosis[^.:]{0,60}|gross description|microscopy|case discussion|addendum|view|projection"
)
_HEAD = re.compile(rf"(?:(?<=^)|(?<=[.\s])|(?<=[.\s][*#]))({_HEADS})\s*:\s*", re.IGNORECASE)
_SEEN = re.compile(r"imaging|finding|impression|conclusion|report|addendum")
_CASE = re.compile(r"^(?:patient|case|fig(?:ure)?\.?) ?\d+\w?\s*[-:.?]\s*", re.IGNORECASE)

FILM = re.compile(
    r"\b(?:chest x[- ]?ray|cxr|x[- ]?ray|chest film|plain film|radiograph|chest radiograph|chest radiography|radiography|radiogram)s?\b"
)
_VERB = r"(?:show|reveal|demonstrat|depict|document|display|with |disclos|indicat|did not|does not|is |was normal|are |:|taken|obtained|:)"
_SUBJECT = re.compile(
    r"(?:\b(?:repeat(?:ed)?|follow-up|first|initial|baseline|ap|pa|portable|frontal|lateral|prone|supine|bedside|conventional|serial"
    rf"|anteroposterior|posteroanterior|left|right|semi-?erect|chest|plain|the|presentation|routine|view) )*{FILM.pattern}"
    rf"(?: \([^)]*\))?(?:[^.,:;]{{0,60}}?)\s*{_VERB}"
)
_OTHER = re.compile(
    r"\b(?:h?r?cts?|mdct|ct[- ]?scans?|computed tomograph\w+|tomograph\w+|mri|magnetic resonance|ultraso\w+|sonograph\w+|pet|echocardio\w+"
    r"|bronchoscop\w+|angiograph\w+|scintigraph\w+)\b"
)
_ASIDE = re.compile(
    r"\(?\b(?:as |also |further |subsequently |later )*(?:demonstrated|seen|shown|noted|confirmed|assessed|evaluated"
    r"|correlat\w+|known|described)"
    r" (?:previously )?(?:on|with|by|in|from) (?:the |a )?(?:\w+ ){0,2}?(?:h?r?ct|mri|computed tomography|ultrasound)\b(?: scan)?\)?"
)
_ADVICE = re.compile(
    r"\b(?:recommend\w*|advis\w+|suggested|indication for|needed|due for|not available|no access|have access)\b"
)
_HARD = re.compile(
    r"\b(?:physical exam\w*|auscult\w*|crackles|crepitation\w*|rales|wheez\w+|air entry|breath sounds|laborator\w+"
    r"|blood (?:test|analysis|culture)\w*"
    r"|serolog\w*|cultures?|swabs?|pcr|biops\w+|histolog\w+|patholog(?:y|ist)\w*|microscop\w+|lavage|specimen|antigen|lymphop\w+|leu[ck]ocyt\w+"
    r"|c-reactive|crp|saturations?|antibod\w+|[munp]g/(?:d?l|ml)|mmol|iu/l|skin lesions|nasal|echocardiogra\w+|cytolog\w+)\b"
)
_STORY = re.compile(
    r"\b(?:present(?:ed|s|ing) (?:to|with|at|in)|admitted|referred|(?:known|medical|clinical|past|background) history"
    r"|history of|diagnosed|suspected and"
    r"|treated|treatment|initiated|started on|underwent|was managed|required|hospitali[sz]\w+|discharged|respon(?:ded|se)|recover\w*"
    r"|necessitated|therapy|patient (?:developed|was)|due to worsening|rule out|days? (?:ago|earlier)|weeks? ago|days later the patient)\b"
)
_GENERAL = re.compile(
    r"\b(?:if left untreated|usually|commonly|most common|frequently|in the literature|differential diagnosis"
    r"|prophylaxis|a proportion|typically caused"
    r"|this case|diagnostic criteria|likely to recover|should raise|within \d+ weeks|confirmed the plain)\b"
)
_PLACE = re.compile(
    r"\b(?:lobes?|zones?|lungs?(?! (?:disease|cancer|neoplasm))|hil(?:um|a|ar)|perihilar|bas(?:es|al|ilar)"
    r"|bilateral\w*|fissure|hemithora\w+|apical|apices|pleural|subpleural|fields?"
    r"|costo-?phrenic|diaphragm\w*|hemidiaphragm\w*|mediastin\w+|cardio-?mediastinal|trache\w+|ribs?|heart border"
    r"|clavicles?|carina|[lr][uml]l)\b"
)
_DEVICE = re.compile("|".join([*DEVICES.values(), TUBES]))
_NORMAL = re.compile("|".join(pattern for _, pattern in NORMALS))
_CHANGE = re.compile(r"\b(?:radiolog\w+|radiographic) (?:progress\w*|worsening|improve\w*|stabil\w*|change)")


def sentences(text: str) -> list[str]:
    """The sentences of a report without the heads of its sections."""
    return [sentence for _, sentence in _sections(text)]


def imaging_sentences(text: str) -> list[str]:
    """The sentences, or the end of one, that say what is visible on this film.

    Left out: heads, history, symptoms, examination, laboratory values, treatment and course, other modalities and what follows
    them, advice, discussion and general knowledge.
    """
    kept: list[str] = []
    other = False  # a tomogram is described from where it is named until the film is named again
    section: str | None = None
    found = _sections(text)
    told = any(_SEEN.search(head) for head, _ in found)
    for head, sentence in found:
        if head != section:
            section, other = head, False
        low = sentence.lower()
        if head and not _SEEN.search(head) and not (head == "presentation" and not told):
            continue
        cut = _ASIDE.sub(lambda m: " " * len(m[0]), low)
        named = FILM.search(cut)
        foreign = _OTHER.search(cut)
        if foreign and _ADVICE.search(cut) and not MENTION.search(cut):
            continue
        if named:
            other = False
        if foreign and not (named and named.start() < foreign.start()):
            other = not _ADVICE.search(cut)
            continue
        if foreign and named:
            low, sentence = low[: foreign.start()], sentence[: foreign.start()]
        if other or _GENERAL.search(low):
            continue
        subject = _SUBJECT.search(low)
        if subject and subject.start() > 0 and len(low) - subject.end() > 3:
            lead = low[: subject.start()]
            if len(lead.split()) > 2 and (
                _HARD.search(lead) or _STORY.search(lead) or MENTION.search(lead) or not _PLACE.search(lead)
            ):
                sentence = sentence[subject.start() :]
                low = low[subject.start() :]
        seen = bool(MENTION.search(low) or _NORMAL.search(low))
        if not (seen or _PLACE.search(low) or _CHANGE.search(low)):
            continue
        if not named and _HARD.search(low):
            continue
        if (
            not named
            and _STORY.search(low)
            and not (MENTION.search(low) and _PLACE.search(low))
            and not _device_only(low)
        ):
            continue
        clean = sentence.strip(" -:,*")
        if clean:
            kept.append(clean[0].upper() + clean[1:])
    return kept


def clauses(sentence: str) -> list[str]:
    """A sentence, lower case, cut where its sense turns."""
    parts = re.split(
        r";|\b(?:but(?! (?:are |is )?(?:otherwise )?(?:clear|normal))|however|although|though|whereas|while|yet"
        r"|apart from|except(?: for)?|other than|with the exception of)\b",
        sentence.lower(),
    )
    return [part.strip(" ,") for part in parts if part.strip(" ,")]


def _device_only(low: str) -> bool:
    return bool(_DEVICE.search(low)) and not re.search(
        r"due to|worsening|presented|history|\b(?:he|she|patient) (?:was|developed|required)|days? (?:ago|earlier|later)",
        low,
    )


def _sections(text: str) -> list[tuple[str, str]]:
    """(head in lower case or "", sentence) in order."""
    text = normalise(text[:LONGEST])
    found: list[tuple[str, str]] = []
    pieces = _HEAD.split(text)
    for head, body in [("", pieces[0]), *zip(pieces[1::2], pieces[2::2], strict=True)]:
        for sentence in _cut(body):
            bare = _CASE.sub("", sentence)
            found += [(re.sub(r"\s+", " ", head.lower()), bare)] if re.search(r"\w", bare) else []
    return found


def _cut(body: str) -> list[str]:
    found: list[str] = []
    start = 0
    for match in re.finditer(
        r"(?<=\S)[.!?;](?=[\s.\"')]|$)[.!?;\"')]*|[。；！？]|\n\s*\n|\n(?=\s*[-*•\d.]*\s*[A-Z][a-z])|(?<=\w)\.(?=[A-Z][a-z])",
        body,
    ):
        piece = body[start : match.end()]
        if match[0].startswith(".") and _ABBREVIATION.search(body, max(start, match.start() - 8), match.start() + 1):
            continue
        found.append(piece)
        start = match.end()
    found.append(body[start:])
    tidy = (re.sub(r"\s+", " ", piece).strip().rstrip(".;。； ").strip() for piece in found)
    return [part for piece in tidy for part in _pieces(piece) if part]


def _pieces(sentence: str) -> list[str]:
    """A sentence that has no end is cut between words: what it takes to read one grows faster than its length."""
    found = []
    while len(sentence) > LONGEST_SENTENCE:
        at = max(sentence.rfind(" ", 1, LONGEST_SENTENCE), 0) or LONGEST_SENTENCE
        found.append(sentence[:at].strip())
        sentence = sentence[at:].strip()
    return [*found, sentence]
