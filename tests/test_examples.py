"""Every script in examples/ runs from the root of the checkout with the starter models alone, and says what it did."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffgraft

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
HELPERS = {"inputs"}

SAYS = {
    "audit": "the audit found its own planted copies: True",
    "convert": "3 pictures with 9 boxes, yolo to coco",
    "counterfactual": "slices above the threshold",
    "edit": "2 leaves: mean change",
    "generate": "refused: The label condition is one of",
    "methods": "arXiv:2203.04306",
    "open": "(2, 3, 64, 128) of rust",
    "prepare": "put aside: Bean___rust/broken.jpg",
    "replay": "the same",
    "request": "did you mean 'guidance'?",
}
"""Example -> what stands in its output; these need ONNX Runtime alone."""

SLOW = {
    "distill": "2 leaves in 4 evaluations each",
    "domain": "4 beans",
    "evaluate": "AUPRC",
    "evaluate_steps": "dpmpp_2m",
    "evaluate_training": "mAP50",
    "export_graphs": "2 leaves by ONNX Runtime",
    "train": "begun with another model's weights",
}
"""Those that train or measure a while."""


@pytest.fixture
def out(tmp_path):
    """examples/out is the reader's: a run of the tests leaves it as it was."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "models").symlink_to(ROOT / "models")
    shutil.copytree(EXAMPLES, root / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))
    return root


def run(name: str, root: Path) -> str:
    """What an example prints. Errors: it fails, or warns."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py"],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in root.iterdir()} == {"models", "examples"}  # nothing outside of examples/out
    return done.stdout


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_runs(name, out):
    assert SAYS[name] in run(name, out)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_an_example_that_trains_or_measures_runs(name, out):
    assert SLOW[name] in run(name, out)


def test_each_public_function_has_an_example():
    names = {path.stem for path in EXAMPLES.glob("*.py")} - HELPERS
    assert names == {*SAYS, *SLOW}
    called = {
        node.attr
        for name in names
        for node in ast.walk(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "diffgraft"
    }
    public = {name for name in diffgraft.__all__ if name[0].islower() and not name.startswith("_")}
    assert public <= called


def test_an_example_is_short_and_says_what_it_is():
    for path in EXAMPLES.rglob("*.py"):
        if "out" not in path.relative_to(EXAMPLES).parts:
            text = path.read_text(encoding="utf-8")
            assert ast.get_docstring(ast.parse(text)), path
            assert len(text.splitlines()) <= (60 if path.stem in {*SAYS, *SLOW} else 120), path
