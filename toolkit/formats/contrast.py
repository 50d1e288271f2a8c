"""What an MR series shows, from its names and its timing: of DICOM elements and of the sidecars of dcm2niix alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["UNKNOWN", "Timing", "shown_contrast"]

UNKNOWN = "unknown"

_BEFORE = r"(?<![a-z0-9])(?:[se]|ax|sag|cor|tra|[23]d)?"
"""What may stand before a word: nothing but the type of sequence (Philips: sT2W) or the plane (AxT2)."""

_WORDS = {
    "ADC": rf"{_BEFORE}adc(?![a-z])",
    "dwi": rf"{_BEFORE}(?:dwi|diff|diffusion|ep2d|trace|tracew|dti)(?![a-z])",
    "swi": rf"{_BEFORE}(?:swi|swan|venobold)(?![a-z])",
    "DIR": rf"{_BEFORE}(?:dir|double[-_ ]?(?:ir|inversion\w*))(?![a-z])",
    "T1w": rf"{_BEFORE}(?:t1(?:w|gd|ce|c|post)?(?![a-z])|t1w?[-_ ]?flair|mp2?[-_ ]?rage|bravo|f?spgr)",
    "T2starw": rf"{_BEFORE}(?:t2\*|t2[-_ ]?star|gre(?![a-z]))",
    "FLAIR": rf"flair|{_BEFORE}(?:t2f|dark[-_ ]?fl(?:uid)?|da[-_ ]?fl(?:uid)?|tirm|spc[-_ ]?ir|fluid[-_ ]?attenuated)(?![a-z0-9])",
    "T2w": rf"{_BEFORE}t2w?(?![a-z])",
    "PDw": rf"{_BEFORE}pdw?(?![a-z])",
}
"""In this order: a diffusion image is named by its T2 sequence too, and "T1 FLAIR" is T1-weighted.

Siemens calls the three-dimensional FLAIR t2_spc_da-fl or t2_spc_ir, the two-dimensional one t2_tirm_tra_dark-fluid.
"""

_SURE = ("ADC", "dwi", "swi", "DIR", "T1w")
"""Names that timing does not make FLAIR: diffusion may null the fluid too, two inversions have two times, and what is
named T1 and timed as FLAIR contradicts itself."""

_AMBIGUOUS = re.compile(r"tirm|spc[-_ ]?ir", re.I)
"""An inversion recovery by name, which nulls the fluid or, as STIR, the fat."""

_GIVEN = re.compile(r"(?<![a-z])(gd|gad|gado|ce|post|contrast|\+c|km)(?![a-z])", re.I)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the sequence; None or 0 where it is not stated."""

    inversion: float | None = None
    echo: float | None = None
    repetition: float | None = None

    @property
    def nulls_fluid(self) -> bool:
        """Whether it makes fluid dark in a T2-weighted image.

        At the inversion time T1 (ln 2 - ln(1 + exp(-TR / T1))) fluid of T1 about 4 s gives no signal: 1600 to 1800 ms
        at TR 5000 (three-dimensional sequences), 2200 to 2800 at TR 9000 to 11000; the echo is late.
        """
        inversion, echo, repetition = _known(self.inversion), _known(self.echo), _known(self.repetition)
        return 1500 <= inversion <= 3000 and echo >= 60 and (repetition >= 3500 or not repetition)

    @property
    def nulls_tissue(self) -> bool:
        """Whether it is the inversion time of a T1 FLAIR: 600 to 1200 ms, with an early echo."""
        return 400 < _known(self.inversion) < 1400 and 0 < _known(self.echo) < 50

    @property
    def nulls_fat(self) -> bool:
        """Whether it is the inversion time of a STIR."""
        return 50 <= _known(self.inversion) <= 400


def shown_contrast(words: Iterable[str], timing: Timing | None = None, agent: bool = False) -> str:
    """In the spelling of `nifti.CONTRASTS`, or "DIR" or "unknown".

    words: descriptions, the most telling first; the first with a known word counts. agent: whether a contrast agent was
    given. Timing overrules words: a late echo after an inversion that nulls fluid is FLAIR though it is named T2 or not at
    all, and what is named FLAIR with the timing of a T1-weighted inversion recovery is T1w.
    """
    timing, named, said = timing or Timing(), UNKNOWN, ""
    for said in words:
        met = (name for name, word in _WORDS.items() if re.search(word, said, re.I))
        if (named := next(met, UNKNOWN)) != UNKNOWN:
            break
    if named not in _SURE and timing.nulls_fluid:
        return "FLAIR"
    if named == "FLAIR" and timing.nulls_tissue:
        named = "T1w"
    if named == "FLAIR" and timing.nulls_fat and _AMBIGUOUS.search(said) and "flair" not in said.lower():
        named = "T2w" if re.search(_WORDS["T2w"], said, re.I) else UNKNOWN
    return "T1gd" if named == "T1w" and (agent or _GIVEN.search(said)) else named


def _known(value: float | None) -> float:
    return value if value and math.isfinite(value) else 0.0
