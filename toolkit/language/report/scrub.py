"""What may tell who a patient is, taken out of a text.

A safety net for texts that were de-identified already, not a substitute for that: names without a title stay. The kinds follow the
HIPAA Safe Harbor list (45 CFR 164.514(b)(2)) where a pattern can find them.
"""

from __future__ import annotations

import re

from toolkit.language.report.lexicon import mend_encoding

__all__ = ["scrub"]

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_NAME = r"[A-Z][\w'’-]+(?:\s+(?:van|von|de|der|la|el|al)\b)*"

_KINDS: tuple[tuple[str, str, str], ...] = (
    (
        "marks of de-identification",
        r"\[\*\*.*?\*\*\]|_{2,}|\b[xX]{3,}\b|<(?:NAME|DATE|ID|PHONE|HOSPITAL|AGE|LOCATION|PATIENT|DOCTOR)[^>]{0,40}>",
        "",
    ),
    ("e-mail and web addresses", r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}|\bhttps?://\S+|\bwww\.\S+", ""),
    (
        "names after a title",
        rf"\b(?:Dr|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor|DR|MR|MRS|MS|PROF)\b\.?\s+{_NAME}(?:\s+{_NAME}){{0,2}}"
        rf"|(?i:\b(?:patient name|name|referr(?:ed by|er)|reported by|dictated by|signed by))\s*:\s*{_NAME}(?:,?\s+{_NAME}){{0,2}}",
        "",
    ),
    (
        "dates",
        rf"(?<![\d/.-])(?:\d{{1,2}}([/.-])\d{{1,2}}\1(?:\d{{4}}|\d{{2}})|\d{{4}}([/.-])\d{{1,2}}\2\d{{1,2}})(?![\d/-])"
        rf"|\b(?i:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}\b(?:,?\s+\d{{4}})?)|\b(?i:{_MONTH}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+\d{{4}})?)"
        rf"|\b(?i:{_MONTH}\.?,?\s+(?:19|20)\d{{2}})\b",
        "",
    ),
    (
        "numbers that identify",
        r"(?i:\b(?:mrn|medical record(?: number)?|patient id|accession(?: (?:number|no))?|nhs(?: no| number)?|ssn"
        r"|case no|id no|phone|tel|telephone|fax|pager)\b\.?)"
        r"\s*[:#.]?\s*(?=[\w+() -]*\d)[\w+()-]+(?:[ -]\d+)*|\b\d{3}-\d{2}-\d{4}\b"
        r"|(?<![\w.])(?:\+\d{1,3}[ -]?)?\(?\d{3}\)?[ -]\d{3}[ -]\d{4}\b|(?<![\w.,/])\d{7,}(?![\w/])",
        "",
    ),
    (
        "ages above 89",
        r"\b(?:9\d|1[0-2]\d)[- ]?(?:y(?:ea)?rs?|y/?o)[- ]?(?:old\b)?|\b(?i:aged?:?) (?:9\d|1[0-2]\d)\b"
        r"|\b(?i:ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?"
        r"|(?:one )?hundred(?: and \w+)?)[- ]years?[- ]old\b|\b(?:9\d|1[0-2]\d) ?[MF]\b",
        "elderly",
    ),
)


def scrub(text: str) -> tuple[str, list[str]]:
    """The text without what may identify, and one line for each kind of thing taken out, which never repeats it.

    A "?" that stands for a lost character is mended where it is clear: degrees, micro, and quotation marks.
    """
    warned: list[str] = []
    for kind, pattern, instead in _KINDS:
        text, count = re.subn(pattern, instead, text)
        if count:
            warned.append(
                f"A text keeps nothing that may identify a patient; {kind} were found and taken out. Check the text."
            )
    text = mend_encoding(text)
    if warned:
        text = re.sub(r"\b(?:on|from|by|dated|since)\s+(?=[.,;)]|$)", "", text)
        text = re.sub(r"\(\s*\)", "", text)
        text = re.sub(r"[ \t]+([.,;:)])", r"\1", text)
        text = re.sub(r"[ \t]{2,}", " ", text)
        text = re.sub(r"(?:,\s*){2,}", ", ", text).strip(" \t,")
    return text, warned
