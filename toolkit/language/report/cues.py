"""The words that turn a finding: what denies it, what doubts it, what puts it into the past, and where that ends."""

from __future__ import annotations

import re

__all__ = ["ASSERTIVE", "DOUBTED", "GONE", "MAYBE", "NO", "PAST", "PSEUDO", "STRONG", "TURN", "alternatives"]


def alternatives(*patterns: str) -> str:
    """One pattern of several."""
    return "|".join(patterns)


NOT_SEEN = r"(?:seen|visible|visuali[sz]ed|identified|present|evident|detected|demonstrated|appreciated|found|noted|shown|observed)"
PSEUDO = re.compile(
    alternatives(
        r"\b(?:no|without)(?: (?:significant|interval|definite|clear|obvious|apparent|other|further|signs? of|evidence of|relevant|major))*"
        r" (?:change|increase|decrease|difference|regression|resolution|improvement|progression|worsening"
        r"|deterioration)s?\b(?: (?:in|of))?",
        r"\bno longer (?:is|are) the\b",
        r"\bnot (?:only|necessarily|just|significantly changed|changed|shown|available)\b",
        r"\bno doubt\b",
        r"\bwithout (?:difficulty|doubt)\b",
        r"\bno specific features\b",
    )
)
NO = alternatives(
    r"\bno\b(?: (?:\w+ )?(?:evidence|signs?|indication|suggestion|findings?|features?|foc(?:us|i)) (?:of|for"
    r"|to suggest|suggesting|suggestive of))?",
    r"\bwithout\b(?: (?:any )?(?:evidence|signs?) of)?",
    r"\b(?:absence|absent|free|clear|removal|withdrawal) of\b",
    r"\bnegative for\b",
    r"\babsent\b(?= \w)",
    r"\bn(?:or|either|il)\b",
    r"\b(?:did|does|do|has|have|was|were|is|are|could|can) ?(?:not|n't)(?: (?:have|show|reveal|demonstrate|any|see|seen))*",
    r"\b(?:complete |near |interval |full |marked )*(?:resolution|clearing|clearance|disappearance|complete regression) of\b",
    r"\b(?:resolved|ruled out)\b(?= \w)",
    r"\blacks?\b|\bexcludes?\b|\bnot\b",
)
"""What denies that which follows."""

GONE = alternatives(
    r"\b(?:is|are|was|were|has|have|had|been)? ?(?:now |completely |fully |entirely )*(?:absent|resolved|disappeared"
    r"|vanished|cleared|removed|withdrawn"
    rf"|ruled out|excluded|no longer {NOT_SEEN}|not (?:\w+ly )?{NOT_SEEN})\b",
    r"^ (?:shows?|showed|with) (?:complete|full) (?:resolution|regression|clearing)\b",
    r"^\s*(?:\((?:none|no|absent|negative)\)|[:=-]\s*(?:none|no|absent|negative|nil)\b)",
)
"""What denies that which stands before."""

MAYBE = alternatives(
    r"\b(?:possibl[ey]|probabl[ey]|likely|unlikely|presum(?:ed|ably)|perhaps|maybe|may|might|could|if|risk of)\b",
    r"\b(?:suspected|suspicious (?:for|of|areas? of)|suspicion (?:for|of)|suggest\w*(?: of)?|resembl\w+)\b",
    r"\b(?:concern(?:ing)? (?:for|of)|worrisome for|questionable|query|equivocal|indeterminate|borderline|differential\w*)\b",
    r"\b(?:cannot|can not|can't|not|to|difficult to) (?:be )?(?:completely |entirely )?(?:exclude|rule out|excluded)\b|\brule out\b",
    r"\b(?:versus|vs\.?)\b|\braises? (?:the )?(?:possibility|question) of\b",
    r"\b(?:nearly|almost|near) (?:complete|total)(?:ly)?\b",
    r"\bno (?:new|large)\b|\bwithout (?:new|large)\b",
    r"(?:^|(?<=\s))\?(?=\s?\w)|^question\b|\bquestion (?:of|a|an|some)\b",
)
"""What makes that which follows uncertain."""

DOUBTED = alternatives(
    r"\b(?:cannot|can not|can't|could not|not) (?:be )?(?:\w+ly )?(?:excluded|ruled out|confirmed)\b",
    r"\b(?:is|are|was) (?:\w+ly )?(?:possible|probable|likely|suspected|questioned|questionable|equivocal|doubtful|unlikely)\b",
    r"\b(?:almost|near|nearly) complete (?:resolution|regression|clearing)\b",
    r"^\s?\?|^\s+(?:versus|vs)\b",
)
"""What makes that which stands before uncertain."""

PAST = alternatives(
    r"\b(?:(?:past |prior |previous |known )*history of|h/o|status post|s/p|prior and healed|previous(?:ly)?(?: \w+)?)\b",
    r"\bprior\b(?! (?:radiograph|exam|study|film|x-ray))",
    r"\b(?:healed|known|than|(?:compared|comparison) (?:with|to)|treated)\b",
)
"""What puts that which follows into the past, or makes it a comparison or a cause."""

TURN = re.compile(
    alternatives(
        r"\b(?:there (?:is|are|was|were)|show\w*|causing|due to|because|which|that|who|(?<!to )suggest\w*|consistent with|in keeping)\b",
        r"\b(?:compatible with|in line with|indicat\w+|with(?! (?:evidence|signs))|has|have|typical of|representing|confirm\w*)\b",
        r"\b(?:is|are) (?:seen|noted|present)\b|[:.]",
    )
)
SIDED = r"left|right|bilateral\w*|both"
ASSERTIVE = re.compile(
    rf"^\s*(?:and |but |with )?(?:{SIDED}|bibasal|bibasilar|small|large|tiny|mild\w*|moderate\w*|severe|minor|minimal|marked\w*"
    r"|extensive|patchy|diffuse\w*|widespread|multiple|single|several|new|there|the|this|an?|some|stable|unchanged|persist\w*|increas\w*"
    r"|enlarged|only|residual|remaining|heart|cardiac|lungs?|normal|clear|with|probable|possible|progressive|subtle|dense|peripheral|perihilar|upper|lower|mid"
    r"|basal|no|without)\b"
)
"""How something begins that is there: after "and", or after a comma in no list that "or" closes, this ends a negation."""

STRONG = re.compile(
    rf"^\s*(?:and )?(?:{SIDED}|there|the|this|an?|only|residual|heart|cardiac|lungs?|normal|clear|with)\b"
)
"""The same in a list that "or" closes."""
