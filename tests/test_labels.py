"""The vocabulary of a data set: what is written is read, and words, indices and condition fields agree."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains import brain_mri
from toolkit.data import labels
from toolkit.data.labels import Range
from toolkit.example import Annotation, Error

VOCABULARY = {
    "crop": ("coffee", "tea"),
    "condition": ("healthy", "leaf_miner", "rust"),
    "severity": Range(0.0, 4.0),
    "class": ("Coffee___rust", "Tea___healthy"),
}

words = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=8)
numbers = st.floats(-1e6, 1e6)
entries = st.lists(words, min_size=1, max_size=5, unique_by=str.lower).map(tuple) | st.tuples(numbers, numbers).filter(
    lambda ends: ends[0] < ends[1]
).map(lambda ends: Range(*ends))


@given(st.dictionaries(words, entries, max_size=4))
def test_what_is_written_comes_back(vocabulary):
    assert labels.from_json(json.loads(json.dumps(labels.to_json(vocabulary), allow_nan=False))) == vocabulary


@given(st.data())
def test_spelled_labels_are_parsed_to_themselves(data):
    vocabulary = data.draw(st.dictionaries(words, entries, min_size=1, max_size=4))
    known = {}
    for name, entry in vocabulary.items():
        if isinstance(entry, Range):
            known[name] = float(f"{data.draw(st.floats(entry.low, entry.high)):g}")
            known[name] = min(max(known[name], entry.low), entry.high)
        else:
            known[name] = float(data.draw(st.integers(0, len(entry) - 1)))
    spelled = labels.spell(vocabulary, known)
    exact = {k: v if not isinstance(vocabulary[k], Range) else repr(known[k]) for k, v in spelled.items()}
    assert labels.parse(vocabulary, [f"{k}={v}" for k, v in exact.items()]) == known


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["crop=tea", "condition=RUST"], {"crop": 1.0, "condition": 2.0}),
        (["condition = 1"], {"condition": 1.0}),
        (["severity=2.5"], {"severity": 2.5}),
        (["class=coffee___rust"], {"class": 0.0}),
        ([], {}),
    ],
)
def test_words_become_labels(asked, expected):
    assert labels.parse(VOCABULARY, asked) == expected


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (["crop"], "NAME=VALUE"),
        (["crop=tea", "crop=coffee"], "set once"),
        (["colour=red"], "found 'colour'"),
        (["condition=blight"], "healthy, leaf_miner, rust; found 'blight'"),
        (["condition=3"], "found '3'"),
        (["condition=-1"], "found '-1'"),
        (["condition="], "found ''"),
        (["severity=4.1"], "from 0 to 4; found '4.1'"),
        (["severity=nan"], "found 'nan'"),
        (["severity=high"], "found 'high'"),
    ],
)
def test_a_mistaken_word_is_refused_in_one_line(asked, reason):
    with pytest.raises(Error) as problem:
        labels.parse(VOCABULARY, asked)
    assert reason in str(problem.value) and "\n" not in str(problem.value)


def test_a_class_named_by_a_number_is_meant_before_the_index():
    assert labels.parse({"grade": ("2", "1", "0")}, ["grade=2"]) == {"grade": 0.0}


@pytest.mark.parametrize("entry", [[], [1], [1, 0], [0, 0], ["a", "a"], ["a", 1], [0, 1, 2], [True, False], [None, 1]])
def test_an_entry_that_is_neither_is_refused(entry):
    with pytest.raises(Error, match="'crop' has"):
        labels.from_json({"crop": entry})


def test_fields_and_arrays_have_a_null_for_what_is_not_known():
    fields = labels.fields(VOCABULARY, ("crop", "condition", "severity"))
    assert {k: (f.dtype, float(f.null)) for k, f in fields.items()} == {
        "crop": ("int64", 2.0), "condition": ("int64", 3.0), "severity": ("float32", 0.0),
        "severity_known": ("float32", 0.0),
    }  # fmt: skip
    rows = [Annotation(labels={"crop": 1, "severity": 3.0, "class": 1}), Annotation(labels={"condition": math.nan})]
    found = labels.condition(fields, rows)
    assert {k: v.tolist() for k, v in found.items()} == {
        "crop": [1, 2], "condition": [3, 3], "severity": [3.0, 0.0], "severity_known": [1.0, 0.0],
    }  # fmt: skip
    assert {k: v.dtype.name for k, v in found.items()} == {k: f.dtype for k, f in fields.items()}


def test_a_folder_of_before_has_the_vocabulary_of_its_domain():
    domain = SimpleNamespace(VOCABULARY=VOCABULARY)
    assert labels.vocabulary_of({}, domain) is VOCABULARY
    assert labels.vocabulary_of({"labels": {"crop": ["tea"]}}, domain) == {"crop": ("tea",)}


@given(st.lists(st.fixed_dictionaries({}, optional={
    "lesion": st.sampled_from([0.0, 1.0, math.nan]), "position": st.floats(0, 1) | st.just(math.nan),
}), max_size=5))  # fmt: skip
def test_brain_mri_is_conditioned_as_its_shipped_model_was_trained(rows):
    found = brain_mri.condition(Annotation(labels=row) for row in rows)
    lesion = [row.get("lesion", math.nan) for row in rows]
    position = [row.get("position", math.nan) for row in rows]
    assert found["lesion"].tolist() == [2 if math.isnan(v) else int(v) for v in lesion]
    assert found["position"].tolist() == [0.0 if math.isnan(v) else float(np.float32(v)) for v in position]
    assert found["position_known"].tolist() == [float(not math.isnan(v)) for v in position]
    assert found.keys() == brain_mri.fields(brain_mri.VOCABULARY).keys() == brain_mri.FIELDS.keys()


def test_a_caption_says_nothing_twice():
    vocabulary = {
        "crop": ("coffee",),
        "condition": ("healthy", "rust"),
        "severity": Range(0.0, 4.0),
        "class": ("Coffee___healthy", "Coffee___rust"),
    }
    leaf = {"crop": 0.0, "condition": 1.0, "severity": 2.0, "class": 1.0}
    assert labels.describe(vocabulary, leaf) == "severity 2, Coffee___rust"
    assert labels.describe(vocabulary, {"condition": 0.0}) == "healthy"
    assert labels.describe(vocabulary, {}) == "no labels set"


def test_labels_are_translated_by_name():
    theirs = {"condition": ("rust", "healthy", "scab"), "severity": Range(0.0, 9.0), "farm": ("north",)}
    ours = {"condition": ("healthy", "rust"), "severity": Range(0.0, 4.0)}
    assert labels.translate({"condition": 0.0, "severity": 3.0, "farm": 0.0}, theirs, ours) == {
        "condition": 1.0,
        "severity": 3.0,
    }
    assert labels.translate({"condition": 2.0, "severity": 7.0}, theirs, ours) == {}
    assert labels.translate({"condition": math.nan}, theirs, ours) == {}
