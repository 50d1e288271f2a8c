"""The folder that `make edge` makes: small, without torch, quick to a first image, and all four domains run in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LARGEST = 350.0
"""MiB of the packages, byte code of what ran included."""

SLOWEST = 5.0
"""Seconds from the start of the process to the first image."""

FIRST = {
    "plant_disease": """
from diffgraft import models
from diffgraft.generation import sampling
from diffgraft.models.defaults import default_sampling
from toolkit.example import Annotation
model = models.open(root)
images = sampling.sample(model, models.domain_of(root), [Annotation()], default_sampling(model.meta), [0])
""",
    "brain_mri": """
import numpy as np
from diffgraft import models
from domains import brain_mri
from toolkit.example import Annotation
from toolkit.formats import nifti
from toolkit.methods.counterfactual import counterfactual
model = models.open(root)
slices = brain_mri.preprocess(nifti.load(root + "/sample/sub-demo_FLAIR.nii.gz"))
null, goal = (
    brain_mri.condition(
        [Annotation(labels={**asked, "position": float(p)}) for p in slices.position[:2]],
        model.denoiser.spec.fields, brain_mri.VOCABULARY,
    )
    for asked in ({}, {"lesion": 0.0})
)
weights = np.array([[1, 0]] * 2, np.float32)
images = counterfactual(model, slices.images[:2], null, goal, weights, brain_mri.QUALITY["fast"])
""",
}
SEEN = """
assert np.isfinite(images).all() and images.std() > 0.1, images.std()
assert not {"torch", "onnx", "diffusers", "huggingface_hub"} & set(sys.modules)
assert all(lib in module.__file__ for module in map(sys.modules.get, ("numpy", "scipy", "onnxruntime", "toolkit")))
print(model.backend)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("edge") / "diffgraft"
    done = subprocess.run([sys.executable, ".ci/edge.py", str(out)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MiB" in done.stdout
    return out


def _environment(folder: Path, **further: str) -> dict[str, str]:
    """That of another machine: nothing of ours but the folder, and byte code is written as usual."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHON": sys.executable, **further}


def _size(root: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*")) / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_the_first_image_comes_within_seconds(folder, name, tmp_path):
    program = f"import sys, numpy as np; root, lib = sys.argv[1:]\n{FIRST[name]}{SEEN}"
    # Without -S the packages of this environment would be found after those of the folder.
    command = [sys.executable, "-S", "-c", program, str(folder / "models" / name), str(folder / "lib")]
    environment = _environment(folder, PYTHONPATH=str(folder / "lib"))
    taken = []
    for _ in range(2):  # as it comes, and with the byte code that the first run wrote
        begun = time.perf_counter()
        ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        taken.append(time.perf_counter() - begun)
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert ran.stdout.startswith("onnx:cpu"), ran.stdout
    assert min(taken) < SLOWEST, taken


@pytest.mark.slow
def test_four_domains_run_in_the_folder_and_it_stays_small(folder, tmp_path):
    def run(*words: str) -> str:
        ran = subprocess.run(
            [str(folder / "diffgraft"), *words], env=_environment(folder), cwd=tmp_path, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{words}: {ran.stderr[-2000:]}"
        return ran.stdout

    models, out = folder / "models", tmp_path / "out"
    scan = models / "brain_mri" / "sample" / "sub-demo_FLAIR.nii.gz"
    run("counterfactual", str(models / "brain_mri"), str(scan), str(out / "brain"), "--quality", "fast", "--force")
    few = ("-n", "1", "--steps", "4")
    for name, form in (("chest_xray", "dicom"), ("plant_disease", "folders"), ("detection", "coco")):
        run("generate", str(models / name), str(out / name), *few, "--format", form)
    assert list((out / "brain").rglob("*.nii.gz")) and list((out / "chest_xray").rglob("*.dcm"))
    assert all((out / name / "report.html").is_file() for name in ("brain", "chest_xray", "plant_disease", "detection"))
    assert not (folder / "lib" / "torch").exists() and not (folder / "lib" / "pip").exists()
    size = _size(folder / "lib")
    assert size < LARGEST, f"{size:.0f} MiB"


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    ran = subprocess.run([sys.executable, ".ci/edge.py", str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 1 and "not empty" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
