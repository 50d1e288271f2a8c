"""What a model was trained on: samples and scans by the hashes of their ids."""

from __future__ import annotations

import numpy as np
import pytest

from diffgraft.models.trained_on import has_trained_on_scan, partition, split_training_set
from toolkit.data import dataset
from toolkit.example import Error, Example
from toolkit.models.folder import hash_id


def examples(count: int) -> list[Example]:
    return [Example(f"e{n}", np.zeros((1, 4, 4), np.float32), group=f"g{n}") for n in range(count)]


def test_a_scan_was_trained_on_if_any_of_its_slices_was():
    trained = {hash_id("Ann-007"), hash_id("Ben-12"), hash_id("Cid")}
    assert [has_trained_on_scan(trained, label) for label in ("Ann", "An", "Ben", "Cid")] == [True, False, False, False]
    assert not has_trained_on_scan(set(), "Ann")


def test_samples_are_told_apart_by_the_hashes_of_their_ids():
    own, others = partition(examples(5), {hash_id("e1"), hash_id("e4"), hash_id("stranger")})
    assert [e.id for e in own] == ["e1", "e4"] and [e.id for e in others] == ["e0", "e2", "e3"]


def test_a_training_set_has_all_that_was_trained_on_and_something_else(tmp_path):
    dataset.write(examples(4), tmp_path / "data")

    def split(*names: str) -> tuple[list[Example], list[Example]]:
        return split_training_set(
            {"parts": {"denoiser": {"run": {"trained_on": [hash_id(name) for name in names]}}}}, tmp_path / "data"
        )

    assert [[e.id for e in part] for part in split("e0", "e3")] == [["e0", "e3"], ["e1", "e2"]]
    for names in (("e0", "stranger"), ("e0", "e1", "e2", "e3"), ()):
        with pytest.raises(Error, match="samples kept back"):
            split(*names)
