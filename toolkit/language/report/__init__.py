"""The language of chest films: findings in a report, view and patient, what may identify, and short descriptions made of them.

Rules and word lists, numpy-free and the same everywhere; English. Text of another language is read as text that states nothing.
A finding is present (1), absent (0) or not said; nothing here guesses.
"""

from toolkit.language.report.compose import phrases
from toolkit.language.report.lexicon import FINDINGS
from toolkit.language.report.negation import Statement, devices, findings, settled, statements
from toolkit.language.report.patient import age, sex, view
from toolkit.language.report.scrub import scrub
from toolkit.language.report.sentences import imaging, sentences

__all__ = [
    "FINDINGS", "Statement", "age", "devices", "findings", "imaging", "phrases", "scrub", "sentences", "settled", "sex", "statements",
    "view",
]  # fmt: skip
