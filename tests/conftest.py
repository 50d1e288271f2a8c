"""What several test files share: raw scans, the data set made of them, and a small model trained on it."""

from __future__ import annotations

import signal
from pathlib import Path

import heads
import pytest

from domains import brain_mri
from toolkit.data import dataset
from toolkit.settings import Network, Training

# A shell starts what runs in the background deaf to Ctrl-C, and so would be every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {
    "denoiser": (Network((8, 16), norm_groups=4, attention_head_dim=8), Training(12, 8, warmup=2)),
    "classifier": (Network((8, 16), norm_groups=4), Training(12, 8, warmup=2)),
}


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """A folder of six synthetic scans with masks and slices.csv."""
    return heads.raw_folder(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def data(raw, tmp_path_factory) -> Path:
    """The data set prepared from them."""
    from diffgraft.preparation.prepare import prepare

    root = tmp_path_factory.mktemp("prepared") / "data"
    prepare("brain_mri", raw, root)
    return root


@pytest.fixture(scope="session")
def held_out() -> int:
    """A fold that holds a patient with a lesion, and not every patient."""
    return dataset.fold_of("P02")


@pytest.fixture(scope="session")
def model(data, held_out, tmp_path_factory) -> Path:
    """A model folder, denoiser and classifier, that has learned next to nothing in next to no time."""
    from diffgraft.training.train import train

    root = tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patch:
        for part, preset in TINY.items():
            patch.setitem(brain_mri.PRESETS[part], "tiny", preset)
            train(brain_mri, data, root, part, "tiny", fold=held_out)
    return root
