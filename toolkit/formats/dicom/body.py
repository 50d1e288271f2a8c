"""Whether a radiograph is one of a chest, by what its file says of itself: part of the body, kind of image, descriptions.

Contract. `refuse_others` raises for what says that it is something else: a hand, a knee, the page of a dose report, a
screenshot, a localizer, a scanned letter. What says nothing is let through, and a note says so where that is unusual.
Part of the body: BodyPartExamined, else AnatomicRegionSequence, else what the series, else the study is called. Words are those of PS3.16
Annex L and CID 4009 and what machines set to other languages write. An error names a word of these lists, never the file's
own text, which could hold a name.
"""

from __future__ import annotations

import re
import unicodedata

from pydicom import uid
from pydicom.dataset import Dataset

from toolkit.formats.dicom.elements import code_string, identifier, items, text
from toolkit.formats.dicom.files import refuse

__all__ = ["refuse_others", "states_chest"]

CHEST = re.compile(
    "CHEST|THORA|TORAX|TORACE|LUNG|PULMO|HEART|CARDIA|MEDIASTIN|BRONCH|RIBS?\\b|STERN(UM|AL)|BRUSTKORB|POITRINE|"
    "TORSO|TRUNK|WHOLE ?BODY|BABYGRAM|KLATKA"
)
BONES = {
    "SPINE": r"\b(THORAC|DORSAL|TORAC)\w* (AND )?(LUMBAR )?(SPINE|VERTEBRA\w*|COLUMN)\b|"
    r"\b(SPINE|VERTEBRA\w*|RACHIS|COLUMNA|COLUNA|COLONNE|COLONNA) (VERTEBRALE? )?(THORA|TORA|DORS)\w*|"
    r"\bTHORACO ?(LUMB|SACR)\w*|\b(CERVICO|LUMBO) ?THORA\w*|\bTHORA\w*WIRBEL\w*",
    "EXTREMITY": r"\b(UPPER|LOWER) ?(EXT|EXTREM\w*|LIMBS?)\b",
}
"""Part -> words that name it though one of them, alone, is the chest's or nothing's."""

CHEST_CODES = {
    "51185008", "816094009", "43799004", "39607008", "80891009", "38266002", "302551006", "22943007", "113197003",
    "T-D3000", "T-D0300", "T-28000", "T-32000", "T-D0010", "T-D2000", "T-11300",
}  # fmt: skip
"""SNOMED CT and SNOMED RT: thorax, chest, thoracic cavity, lung, heart, whole body, entire thorax, trunk, rib."""

# Stems; a word that begins with one and goes on with at most S, ES or a digit is meant.
PARTS = (
    # English, PS3.16 Annex L
    "HAND", "FINGER", "THUMB", "WRIST", "FOREARM", "ELBOW", "HUMERUS", "UPPERARM", "SHOULDER", "CLAVICLE", "SCAPULA",
    "ACJOINT", "SCJOINT", "SKULL", "ORBIT", "SINUS", "PARANASAL", "NASAL", "MAXILLA", "MANDIBLE", "JAW", "TEETH", "TOOTH", "TMJ",
    "FACIAL", "SELLA", "MASTOID", "BRAIN", "SPINE", "CSPINE", "TSPINE", "LSPINE", "SSPINE", "CTSPINE", "TLSPINE",
    "LSSPINE", "CERVICAL", "LUMBAR", "LUMBOSACRAL", "SACRUM", "COCCYX", "PELVIS", "PELVIC", "HIP", "FEMUR", "THIGH", "KNEE", "PATELLA",
    "LEG", "LOWLEG", "TIBIA", "FIBULA", "TIBFIB", "CALF", "ANKLE", "FOOT", "FEET", "HEEL", "CALCANEUS", "TOE", "ABDOMEN",
    "KUB", "KIDNEY", "BLADDER", "COLON", "STOMACH", "ESOPHAGUS", "BREAST", "EXTREMITY", "UPPEREXTREMITY", "LOWEREXTREMITY",
    "EXTREMITIES", "LIMB", "TIB", "FIB", "OPG", "DENTAL", "PANOREX", "ORTHOPANTOMOGRAM", "VERTEBRA", "VERTEBRAE", "VERTEBRAL",
    "HEAD", "NECK", "ARM", "EYE", "EAR", "LARYNX", "ULNA", "RADIUS", "CARPAL", "METACARPAL", "METATARSAL",
    # German, French, Spanish, Portuguese, Italian, without accents
    "KNIE", "FUSS", "SCHADEL", "SCHAEDEL", "BECKEN", "HUFTE", "HUEFTE", "SCHULTER", "ELLENBOGEN", "HANDGELENK", "SPRUNGGELENK",
    "HWS", "BWS", "LWS", "GENOU", "PIED", "CRANE", "BASSIN", "HANCHE", "EPAULE", "COUDE", "POIGNET", "CHEVILLE", "RACHIS",
    "MANO", "RODILLA", "CRANEO", "CADERA", "HOMBRO", "CODO", "MUNECA", "TOBILLO", "COLUMNA", "MAO", "JOELHO", "CRANIO",
    "BACIA", "QUADRIL", "OMBRO", "COTOVELO", "PUNHO", "TORNOZELO", "COLUNA", "GINOCCHIO", "PIEDE", "BACINO", "SPALLA",
)  # fmt: skip
VAGUE = {
    "HEAD",
    "NECK",
    "ARM",
    "EYE",
    "EAR",
    "LEG",
    "ORBIT",
    "RADIUS",
    "NASAL",
    "COLON",
    "SINUS",
    "CERVICAL",
    "STOMACH",
    "BLADDER",
}
"""Words that the description of a chest film may hold too: head up, arms raised, nasal tube."""

BREAST_VIEWS = ("MLO", "CC", "LMO", "XCCL", "XCCM", "SIO", "FB")

CHEST_VIEWS = ("PA", "AP", "LL", "RL")

DOCUMENTS = {"SD": "a scanned document", "DRW": "a drawing"}
"""ConversionType (PS3.3 C.8.6.1)."""

KINDS = re.compile("DOSE|SCREEN|REPORT|LOCALI[SZ]ER|SCOUT|DOCUMENT|PROTOCOL")
"""Of ImageType, what is no film."""

PAGE = re.compile(
    r"\b(DOSE|DOSIS|DOSIMETR\w*) ?(REPORT|SUMMARY|INFO\w*|RECORD|PAGE|SHEET|SR|PROTOCOL|PROTOKOLL|BERICHT)|"
    r"\bRADIATION DOSE|\bDOSE ?REPORT|\bPATIENT PROTOCOL|\bEXAM(INATION)? PROTOCOL"
)
LETTER = re.compile(
    r"\b(REPORT|SCREEN ?(SAVE|SHOT|CAPTURE)\w*|SCANNED|DOCUMENT\w*|REQUISITION|REFERRAL|CONSENT|WORKSHEET|QUESTIONNAIRE|"
    r"COVER ?SHEET|ORDER FORM|REQUEST|LETTER|BEFUND|ANFORDERUNG|ECG|EKG|PDF)\b"
)
"""Of what a series is called, what makes it a page; the second ones a Secondary Capture alone."""

DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription", "DerivationDescription")
CAPTURES = {
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
}


def refuse_others(data: Dataset, name: str) -> list[str]:
    """What is to be said of a film that says too little of itself. Error: it says that it is no film of a chest."""
    series = _plain(" ".join(text(data, keyword) for keyword in DESCRIPTIONS[:3]))
    captured = identifier(data, "SOPClassUID") in CAPTURES
    _refuse_pages(data, series, captured, name)
    own = _plain(text(data, "BodyPartExamined"))
    regions = items(data, "AnatomicRegionSequence", name)
    codes = {text(item, "CodeValue") for item in regions}
    named = _plain(" ".join(text(item, "CodeMeaning") for item in regions))
    if CHEST.search(own) or (not _part(own, True) and (codes & CHEST_CODES or CHEST.search(named))):
        return []
    for words, where, vague in (
        (own, "BodyPartExamined", True), (named, "AnatomicRegionSequence", True), (series, "the name of its series", False),
    ):  # fmt: skip
        part = _part(words, vague)
        if part and not CHEST.search(words):
            raise refuse(name, "A film shows a chest", f"says that it shows {part} ({where})", "Leave it out.")
    if text(data, "ViewPosition").upper() in BREAST_VIEWS:
        raise refuse(name, "A film shows a chest", "has a view of the breast (ViewPosition)", "Leave it out.")
    if CHEST.search(series):
        return []
    study = _plain(text(data, "StudyDescription"))
    part = _part(study, False)
    if part and not CHEST.search(study):
        raise refuse(
            name, "A film shows a chest", f"says that it shows {part} (the name of its study)", "Leave it out."
        )
    if own:
        return ["its part of the body is none that is known here: look whether it is a chest"]
    return ["a Secondary Capture states no part of the body: look whether it is a chest"] if captured else []


def states_chest(data: Dataset, name: str) -> bool:
    """Whether a file that is not refused says that it shows a chest: by part, region or series, or, of no capture, by a view."""
    words = [text(data, keyword) for keyword in ("BodyPartExamined", *DESCRIPTIONS[:3])]
    regions = items(data, "AnatomicRegionSequence", name)
    words += [text(item, "CodeMeaning") for item in regions]
    coded = {text(item, "CodeValue") for item in regions} & CHEST_CODES
    viewed = identifier(data, "SOPClassUID") not in CAPTURES and text(data, "ViewPosition").upper() in CHEST_VIEWS
    return bool(coded or viewed or CHEST.search(_plain(" ".join(words))))


def _refuse_pages(data: Dataset, series: str, captured: bool, name: str) -> None:
    found = DOCUMENTS.get(code_string(data, "ConversionType"), "")
    if match := KINDS.search(_plain(text(data, "ImageType"))):
        found = f"an image of the kind {match[0]} (ImageType)"
    page = PAGE.search(series) or (captured and not CHEST.search(series) and LETTER.search(series))
    if page:
        found = f"a page, {page[0].strip().lower()} (the name of its series)"
    if found:
        raise refuse(name, "A film is an X-ray image", f"says that it is {found}", "Leave it out.")


def _part(words: str, vague: bool) -> str:
    """The first part of the body that words name, or ""."""
    for word in re.findall("[A-Z]+", words):
        stems = (word, word.removesuffix("S"), word.removesuffix("ES"))
        part = next((stem for stem in stems if stem in PARTS), "")
        if part and (vague or part not in VAGUE):
            return part
    return ""


def _plain(words: str) -> str:
    """Capitals without accents, what is between them as spaces, and parts of BONES by their one name."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", words) if not unicodedata.combining(c)).upper()
    words = re.sub("[^A-Z0-9]+", " ", bare).strip()
    for part, others in BONES.items():
        words = re.sub(others, part, words)
    return words
