"""What a text says of the film and the patient beside findings: view, sex and age."""

from __future__ import annotations

import math
import re

from toolkit.language.report.lexicon import normalise

__all__ = ["age", "sex", "view"]

_WHAT = (
    r"(?:chest|projection|view|film|radiograph|x-?ray|image|cxr|study|conventional|portable|plain|erect|upright"
    r"|semi-?erect|bedside|mobile)"
)
_FILM = r"(?:chest|projection|view|film|radiograph|radiography|x-?ray|cxr|study|image|portable)"
_SUPINE = re.compile(
    rf"\bsupine\b(?=[ ,.)/-]*(?:$|{_WHAT}|ap\b|position))|\b(?:ap|{_FILM})s?\b[ ,(:.-]*(?:\w+ )?supine\b", re.IGNORECASE
)
_PA = re.compile(
    r"\bP\.?A\b|(?i:\bpa(?=[ -](?:and|erect|upright|{w})\w*)|\bpostero-? ?anterior\b)".replace("{w}", _WHAT)
)
_AP = re.compile(
    r"\bA\.?P\b|(?i:\bap(?=[ -](?:supine|and|{w})\w*)|\bantero-? ?posterior\b|\b(?:portable|bedside|mobile|semi-?erect"
    r"|semi-?upright)\b(?=(?: \w+)? {f}))".replace("{w}", _WHAT).replace("{f}", _FILM)
)
_L = re.compile(
    rf"(?<!bi)\blateral(?: |$)(?!decubitus)(?=(?:and (?:pa|ap|frontal)|(?:conventional )?{_FILM}|$))"
    rf"|\b{_FILM}s?(?:[ ,:-]|\(){{1,3}}(?:left |right )?lateral\b"
    r"|\blat\.? view\b|\bview: ?l\b|\bl view\b",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"\b(?:pa|ap|frontal|posteroanterior|anteroposterior)(?: views?)?(?: and |/| & |, )lateral\b|\blateral (?:and|&) (?:pa|ap|frontal)\b",
    re.IGNORECASE,
)

_MAN = r"\b(?:man|male|males|gentleman|boy)\b"
_WOMAN = r"\b(?:woman|female|lady|girl)\b"
_OTHERS = re.compile(
    r"\b(?:her|his|their) (?:husband|wife|brother|sister|mother|father|son|daughter|parents|partner)\b", re.IGNORECASE
)
_YEARS = r"(?:y(?:ea)?rs?|y/?o|y\.o\.?)"

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {
    **{word: 1 + i for i, word in enumerate(_UNITS)},
    **{word: 10 + i for i, word in enumerate(_TEENS)},
    **{word: 20 + 10 * i for i, word in enumerate(_TENS)},
    **{
        f"{ten}{dash}{unit}": 20 + 10 * i + 1 + j
        for i, ten in enumerate(_TENS)
        for j, unit in enumerate(_UNITS)
        for dash in "- "
    },
}
_SPELLED = "|".join(sorted(_NUMBERS, key=len, reverse=True))
MOST_AGE = 125


def view(text: str) -> str:
    """'PA', 'AP', 'AP Supine', 'L', or '' where the text names none or a frontal and a lateral film together.

    A frontal film without more may be either. Where several are named it is the first.
    """
    text = normalise(text[:100_000]).replace("\n", " ")
    text = text.lower().replace(" pa ", " PA ") if text.isupper() and " PA " in f" {text} " else text
    if _BOTH.search(text):
        return ""
    found = []
    for name, pattern in (("PA", _PA), ("AP", _AP), ("L", _L)):
        match = pattern.search(text)
        found += [(match.start(), name)] if match else []
    lying = _SUPINE.search(text)
    first = min(found, default=(len(text) + 1, ""))[1]
    if (
        first == "AP"
        and any(name == "PA" for _, name in found)
        and re.search(r"(?i)\b(?:portable|bedside|mobile) pa\b", text)
    ):
        return "PA"
    if lying and first in ("AP", ""):
        return "AP Supine"
    return first


def sex(text: str) -> str:
    """'M', 'F' or ''. The first that is named; relatives do not count."""
    text = _OTHERS.sub(" ", normalise(text[:100_000]))
    low = text.lower()
    firsts = [
        (match.start(), name)
        for name, pattern in (
            ("M", rf"{_MAN}|\b\d{{1,3}} ?(?:{_YEARS} ?)?m\b(?! ?m)|\bsex: ?m\b"),
            ("F", rf"{_WOMAN}|\b\d{{1,3}} ?(?:{_YEARS} ?)?f\b|\bsex: ?f\b"),
        )
        if (match := re.search(pattern, low))
    ]
    if not firsts:
        firsts = [
            (match.start(), name)
            for name, pattern in (("M", r"\b(?:he|his|him)\b"), ("F", r"\b(?:she|her|hers)\b"))
            if (match := re.search(pattern, low))
        ]
    return min(firsts)[1] if firsts else ""


def age(text: str) -> float:
    """Years, or NaN where the text states none. "elderly" and "middle-aged" state none; over 89 reads as 90."""
    low = normalise(text[:100_000]).lower()
    number = rf"(?P<n>\d{{1,3}}(?:\.\d)?|{_SPELLED})"
    for pattern, years in (
        (rf"\b{number}[- ]?{_YEARS}[- ]?(?:old|of age)\b", 1.0),
        (rf"\b{number}[- ]?months?[- ]?old\b", 1 / 12),
        (rf"\b{number} ?(?:y/?o|y\.o\.?)\b", 1.0),
        (rf"\b(?:aged?|age:|age of)[: ]+(?:over )?{number}\b(?! (?:days|weeks|months))", 1.0),
        (r"\b(?P<n>\d{1,3}) ?[mf]\b(?![a-z])(?! ?[mg/])", 1.0),
    ):
        match = re.search(pattern, low)
        if match:
            value = float(_NUMBERS.get(match["n"], 0) or match["n"]) * years
            return (90.0 if "over 89" in match[0] else value) if value <= MOST_AGE else math.nan
    return math.nan
