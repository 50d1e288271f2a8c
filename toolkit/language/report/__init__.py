"""The language of chest films: findings in a report, view and patient, what may identify, and short descriptions made of them.

Rules and word lists, numpy-free and the same everywhere; English. Text of another language is read as text that states nothing.
A finding is present (1), absent (0) or not said; nothing here guesses.
"""

from toolkit.language.report.columns import stated_labels
from toolkit.language.report.compose import compose_text
from toolkit.language.report.lexicon import FINDINGS
from toolkit.language.report.negation import Statement, devices, findings, imply_findings, statements
from toolkit.language.report.patient import age, sex, view
from toolkit.language.report.scrub import scrub
from toolkit.language.report.sentences import imaging_sentences, sentences

__all__ = [
    "FINDINGS", "Statement", "age", "compose_text", "devices", "findings", "imaging_sentences", "imply_findings",
    "scrub", "sentences", "sex", "stated_labels", "statements", "view",
]  # fmt: skip
