"""The words of chest films: findings, devices, what is said to be normal, and what follows from what.

Patterns are matched on lower case text with plain punctuation, the longest and earliest first. They were collected from case
reports and from the label sets of CheXpert (Irvin et al., AAAI 2019) and ChestX-ray14 (Wang et al., CVPR 2017).
"""

from __future__ import annotations

import re

__all__ = [
    "CHILDREN", "DEVICES", "FINDINGS", "GROUPS", "IMPLIES", "MENTION", "NORMALS", "PARTS", "TUBES", "mend_encoding",
    "normalise",
]  # fmt: skip

NOUN = r"(?:opa\w*it\w+|opacif\w+|shadow\w*|infiltrat\w+|haz(?:e|y|iness)|densit(?:y|ies)|change|attenuation|pattern)"
"""What an adjective such as ground-glass stands before. "no ground-glass opacity" does not deny every opacity."""

WORDS: dict[str, str] = {
    "opacity": (
        rf"(?:air-?space|alveolar|parenchymal|pulmonary|lung) {NOUN}s?|opa\w*it\w+|opacif\w+|infiltrat\w+|shadowing|white-?out"
        r"|haz(?:e|y|iness)|(?:increased|high|higher) densit(?:y|ies)(?! nodul)|air-?space disease|air-?space(?! consolid)"
        r"|(?:lung|pulmonary|parenchymal) (?:changes|involvement)|\bards\b|acute respiratory distress syndrome"
    ),
    "consolidation": rf"consolidati(?:on|ons|ve)\b(?: {NOUN})?|consolidated|air[- ]?bronchograms?",
    "ground_glass": rf"(?:hazy )?ground[- ]?glass(?:[- ](?:alveolar|hazy|patchy))?(?:[- ]{NOUN})?|\bggos?\b|crazy[- ]paving",
    "interstitial": (
        rf"interstiti\w+(?: lung disease)?(?: {NOUN})?|reticul(?!ocyt)\w+(?: {NOUN})?|septal (?:lines?|thickening)|kerley\w*"
        r"|(?:prominen\w+|coarse\w*|increased) (?:of )?(?:the )?(?:bilateral )?(?:lung|broncho-?vascular|interstitial) markings"
        r"|broncho-?vascular thickening|peri-?bronchial (?:cuffing|thickening)"
    ),
    "pneumonia": r"(?:broncho)?pneumoni(?:a|as|c)\b|pneumonitis",
    "atelectasis": r"atelecta\w+|(?<!vertebral )collapsed?\b(?! vertebra)|volume loss|loss of (?:lung )?volume",
    "edema": (
        r"(?:(?:pulmonary|interstitial|alveolar|lung) )?(?<!peripheral )o?edema(?:tous)?|(?:vascular|pulmonary) (?:venous )?congestion"
        r"|cephali[sz]ation"
    ),
    "effusion": (
        r"(?:(?:para-?pneumonic|pleural) )?(?<!pericardial )(?<!joint )effusions?|pleural fluid|h(?:a?emo|ydro)-?(?:pneumo)?thora\w+"
        r"|(?:blunt|obliterat|efface)\w* (?:of )?(?:the )?(?:(?:left|right|both|bilateral) )?costo-?phrenic \w+"
    ),
    "pneumothorax": r"(?<!hydro)pneumothora\w+",
    "pneumomediastinum": r"pneumomediastin\w+",
    "pleural_thickening": r"pleural (?:thickening|plaques?|scarring)|thickened pleura",
    "nodule_or_mass": (
        rf"nodul\w+(?: {NOUN})?|(?<!body )mass(?:es)?\b|granulomas?\b|\bmiliary\b(?: (?:lung |pulmonary )?nodul\w+)?|metasta(?:sis|ses)\b"
        r"|coin lesions?"
    ),
    "cavity": r"cavit\w+|abscess(?:es)?\b|\bcysts?\b|cystic (?:spaces?|changes?)|pneumatoc\w+|air[- ]fluid levels?",
    "cardiomegaly": (
        r"cardiomegaly|(?:heart|cardiac (?:silhouette|shadow)|cardio-?mediastinal silhouette)(?: size)?"
        r"(?: (?:is|are|was|appears?|remains?))?(?: to be)?(?: (?:again|now|mildly|moderately|markedly|slightly|severely))* "
        r"(?:enlarged|increased|large)|enlarged (?:heart|cardiac|cardio-?mediastinal)(?: (?:silhouette|shadow))?"
        r"|(?:cardiac|heart) enlargement|(?:enlargement|increase) of the (?:heart|cardiac silhouette)"
        r"|increased (?:heart size|cardio-?thoracic ratio|cardiac silhouette|ctr)"
    ),
    "lymphadenopathy": (
        r"(?:lymph)?adenopath\w+|(?:hilar|mediastinal) (?:prominence|enlargement|mass)|(?:prominent|enlarged) hil\w+"
        r"|enlarged (?:lymph )?nodes|nodal enlargement"
    ),
    "emphysema": r"(?<!subcutaneous )(?<!surgical )emphysem\w+|hyper-?(?:inflat|expan)\w+|\bbullae?\b",
    "fibrosis": r"fibro(?:sis|tic)\b(?: changes?)?|scar(?:s|ring)?\b|honeycomb\w*|traction bronchiectas\w+",
    "hernia": r"(?:hiat(?:al|us) |diaphragmatic )?\bhernias?\b",
}
"""Finding -> what it is called."""

DEVICES: dict[str, str] = {
    "endotracheal tube": (
        r"\bett\b|endo-?tracheal (?:tube|intubation)s?|\bet[- ]tubes?|\b(?<!ex)intubated|\bintubation|tracheal tubes?"
    ),
    "tracheostomy tube": r"tracheostom\w+(?: tube)?",
    "nasogastric tube": (
        r"\bng[- ]?tubes?|\bngt\b|\bng\b|naso-?gastric(?: \w+)? tubes?|naso-?gastric|oro-?gastric(?: tube)?|\bogt?\b(?: tube)?"
        r"|feeding tube|(?:entero|dobb)\w* tube"
    ),
    "central venous line": (
        r"\bcv[clp]s?\b(?: line)?|central (?:venous )?(?:line|catheter|access)s?"
        r"|(?:(?:internal )?jugular|\bij[v]?|subclavian)(?: (?:venous|central|vein))*(?: cv[cl]\b| lines?\b| catheters?\b)"
        r"|\bpicc\b(?: line)?|vas-?cath|hickman\w*|port-?a-?cath|dialysis catheter|venous catheters?"
    ),
    "chest drain": r"(?:intercostal|chest|pleural|thoracic) (?:drain|tube|catheter)s?|pig-?tail(?: catheter)?|thoracostomy tube",
    "pacemaker": (
        r"pace-?makers?(?: leads?)?|pacing (?:wires?|leads?|device)|\bicd\b|(?:single|dual)-(?:lead|chamber)(?: pacemaker)?|defibrillator"
    ),
    "ecg leads": r"e[ck]g (?:leads?|electrodes?|wires?)|monitoring (?:leads?|electrodes?|wires?)|cardiac leads",
    "surgical clips": r"(?:surgical |metallic )clips?|sternotomy wires?|sternal wires?",
    "prosthetic valve": r"valvuloplasty|(?:prosthetic|artificial|mechanical) (?:heart |aortic |mitral )?valves?"
        r"|valve (?:replacement|prosthesis)",
}  # fmt: skip

TUBES = (
    r"(?:(?:support|supporting|medical|monitoring|indwelling) )?(?:devices?|lines? and tubes?|tubes? and lines?"
    r"|support lines?|hardware)\b"
)
"""Devices without a name."""

FINDINGS: tuple[str, ...] = ("normal", *WORDS, "device")
"""What can be told of a film, "normal" first."""

IMPLIES: dict[str, tuple[str, ...]] = {
    "consolidation": ("opacity",),
    "ground_glass": ("opacity",),
    "pneumonia": ("opacity",),
}
"""What is present with a finding. The other way round: without the parent there is no child."""

CHILDREN: dict[str, tuple[str, ...]] = {
    parent: tuple(child for child, parents in IMPLIES.items() if parent in parents)
    for parent in sorted({parent for parents in IMPLIES.values() for parent in parents})
}

GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(WORDS),
    "lungs": (
        "opacity", "consolidation", "ground_glass", "interstitial", "pneumonia", "atelectasis", "edema", "nodule_or_mass", "cavity",
    ),
    "pleura": ("effusion", "pneumothorax", "pleural_thickening"),
    "angles": ("effusion",),
    "mediastinum": (),
    "bones": (),
    "heart": ("cardiomegaly",),
    "hila": ("lymphadenopathy",),
    "vessels": ("edema",),
    "acute lungs": ("opacity", "consolidation", "ground_glass", "pneumonia", "edema"),
    "acute": ("opacity", "consolidation", "ground_glass", "pneumonia", "edema", "effusion", "pneumothorax"),
}  # fmt: skip
"""What is absent where a part of the chest is said to be normal."""

_IS = r"(?: (?:is|are|was|were|remains?|appears?|looks?))?(?: to be)?"
_VERY = r"(?: (?:now|again|otherwise|both|entirely|completely|essentially|grossly|radiographically|also|all))*"
_FINE = r"(?:normal|unremarkable|within (?:the )?(?:normal limits|limits of (?:the )?norm(?:al(?:ity)?)?|normal range)|preserved)"
_FILM = (
    r"(?:chest (?:x-?rays?|radiographs?|films?|radiography|examination)|cxrs?|x-?rays?|radiographs?|films?|examination|study|exam"
    r"|chest(?! (?:wall|pain))|appearances?)"
)
_SIDE = r"(?:(?:left|right|both|the) )*"
PARTS: dict[str, str] = {
    "lungs": rf"{_SIDE}lungs?\b(?: (?:fields?|bases?|apices|parenchyma|zones?))?",
    "pleura": r"(?:the )?(?:pleural (?:spaces?|surfaces?|cavities)|pleura)\b",
    "angles": rf"{_SIDE}costo-?phrenic (?:angles?|recess(?:es)?|sulc[ui]s?)",
    "heart": (
        r"(?:the )?(?:heart|cardiac|cardio-?mediastinal|cardiovascular)\b"
        r"(?: (?:and|&) mediastin\w+)?(?: (?:size|silhouettes?|contours?|profile|shadow|outline|borders?)\b)?"
    ),
    "mediastinum": r"(?:the )?mediastin(?:um|al (?:contours?|silhouette|outline|shadow))",
    "hila": r"(?:the )?(?:hilum|hila|hili|hilar (?:contours?|regions?|structures?))",
    "vessels": r"(?:the )?(?:pulmonary )?(?:vascula(?:ture|rity)|vessels)",
    "bones": r"(?:the )?(?:bones|bony (?:thorax|structures)|osseous structures|soft tissues|diaphragms?|trachea|aorta"
    r"|pulmonary(?: x{4})?)\b",
}
"""Parts of the chest that are called normal, alone or several at once; keys of GROUPS, or nothing that is a finding."""

_LIST = "(?:{p})(?:(?:, and|,| and| &) (?:{p}))*".format(p="|".join(PARTS.values()))
_ADJECTIVES = r"(?:significant |relevant |pathological |abnormal |radiographic |radiological )*"

_NO_ACUTE = r"\b(?:no|without) (?:(?:evidence|signs?) of )?(?:(?:any|visible|other|definite) )*(?:acute|active) "
_PROCESS = r"process|abnormalit(?:y|ies)|disease|findings?|pathology"

NORMALS: tuple[tuple[str, str], ...] = (
    ("all", rf"\b(?:otherwise )?{_FINE} (?:(?:ap|pa|lateral|frontal|supine|portable|adult|appearing) )*{_FILM}\b"),
    ("all", rf"\b{_FILM}{_IS}{_VERY}(?: ?[:=-])?{_VERY} {_FINE}\b(?! \w)"),
    ("all", r"^\W*(?:normal|unremarkable|nad)\W*$"),
    (
        "all",
        rf"\bno {_ADJECTIVES}(?:findings?|abnormalit(?:y|ies))\b(?! (?:of|in|within|at) )"
        r"(?: (?:is|are|was|were)? ?(?:seen|reported|detected|identified|found|present))?",
    ),
    (
        "all",
        r"\b(?:did|does|do) not (?:show|reveal|demonstrate) (?:any )?(?:significant |relevant )?(?:abnormal\w*|patholog\w*)",
    ),
    (
        "all",
        rf"\b(?:without|absence of) (?:any )?{_ADJECTIVES}(?:abnormalit(?:y|ies)|findings?)\b(?! (?:of|in|within|at) )",
    ),
    ("acute lungs", rf"{_NO_ACUTE}(?:pulmonary|lung|airspace) (?:{_PROCESS})"),
    ("acute", rf"{_NO_ACUTE}(?:(?:cardio-?pulmonary|cardiac|chest|pulmonary|intrathoracic|lung|or) ?)*(?:{_PROCESS})"),
    (
        "pleura",
        r"\bno (?:(?:evidence|signs?) of )?(?:any )?pleural (?:abnormalit(?:y|ies)|disease|patholog\w+|changes?)",
    ),
    (
        "",
        rf"\b(?:{_LIST}){_IS}{_VERY}(?: (?:well|hyper|poorly)[\w-]* ?(?:and|but|,))? (?:clear|free|sharp|{_FINE}"
        rf"|not (?:\w+ly )?(?:enlarged|increased))\b(?! (?:volume|in volume))",
    ),
    ("", rf"\b(?:clear|sharp|non-?enlarged|{_FINE}) (?:sized? |size of )?(?:{_LIST})(?! (?:volume|markings))"),
    ("", rf"\b(?:{_LIST}) of normal (?:size|contour)\w*"),
)
"""(a key of GROUPS, or "" for the PARTS that are named, how it is called normal)."""

MENTION = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in (
            *((f"d{i}", pattern) for i, pattern in enumerate(DEVICES.values())),
            ("device", TUBES),
            *((n, WORDS[n]) for n in ("edema", "ground_glass", "consolidation", "lymphadenopathy", "cardiomegaly")),
            *((n, p) for n, p in WORDS.items() if n not in ("edema", "ground_glass", "consolidation", "lymphadenopathy", "cardiomegaly")),
        )
    )
)  # fmt: skip

_PLAIN = {
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("‘’ʼ´`", "'"),
    **dict.fromkeys("“”«»", '"'),
    "\u00ad": "",
    "\u200b": "",
    "\ufeff": "",
}
_TABLE = str.maketrans(_PLAIN)


def mend_encoding(text: str) -> str:
    """A "?" for a lost character, where it is clear which: degrees, micro and quotation marks."""
    text = re.sub(r"(?<=\d) ?\? ?(?=C\b)", " °", text)
    text = re.sub(r"(?<=\d)\?(?=(?:g|l|mol)/)", "µ", text)
    return re.sub(r"(?<![\w?])\?([A-Za-z][\w -]{2,40}\w)\?(?![\w?])", r'"\1"', text)


def normalise(text: str) -> str:
    """Plain hyphens, quotes and single spaces; "air space" is one word, "39? C" a temperature. Case is kept."""
    text = re.sub(r"[ \t\u00a0\u2000-\u200a\u3000\ufffd]+", " ", text.translate(_TABLE))
    text = mend_encoding(text)
    return re.sub(r"\b([Aa]ir)[ -](space)", r"\1\2", text, flags=re.IGNORECASE)
