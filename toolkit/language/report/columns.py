"""Labels that stand in columns beside a report, or in the attributes of a film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolkit.example import Error
from toolkit.language.report.lexicon import FINDINGS
from toolkit.language.report.negation import findings
from toolkit.language.report.patient import view

__all__ = ["MOST_AGE", "stated_labels"]

NORMAL = "normal"
NO_FINDING = ("no finding", "normal")
UNSTATED = ("todo", "unknown", "none stated", "n/a", "na", "nan")
"""What a column findings holds where nobody has looked yet."""

MOST_AGE = 120.0
"""Years; an age beyond is a mistake of the table."""


def stated_labels(words: Mapping[str, str], views: Sequence[str], sexes: Sequence[str]) -> dict[str, float]:
    """The labels that columns of a table, or the attributes of a DICOM file, state: view, sex, age, findings.

    views, sexes: the values of those labels, whose places are the numbers. Errors: an age that is no number.
    """
    found: dict[str, float] = {}
    seen, sex = view(f"{words.get('view', '')} view"), words.get("sex", "").strip().upper()[:1]
    seen = words.get("view", "") if words.get("view", "") in views else seen
    found |= {"view": float(views.index(seen))} if seen else {}
    found |= {"sex": float(sexes.index(sex))} if sex in sexes else {}
    try:
        age = float(words.get("age", "") or "nan")
    except ValueError as problem:
        raise Error(
            f"An age is a number of years, or empty where it is not known; found '{words['age']}'."
        ) from problem
    found |= {"age": age} if 0 <= age <= MOST_AGE else {}
    named = [name.strip().replace("_", " ") for name in words.get("findings", "").split(",") if name.strip()]
    named = [name for name in named if name.lower() not in UNSTATED]
    if any(name.lower() in NO_FINDING for name in named):
        return found | {name: float(name == NORMAL) for name in FINDINGS}
    listed = {finding for name in named for finding, value in findings(name).items() if value == 1.0}
    return found | dict.fromkeys(listed, 1.0) | ({NORMAL: 0.0} if named else {})
