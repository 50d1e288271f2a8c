"""The house keeps its promises: what a fresh process loads, how soon the command line answers, what is in the tree."""

import importlib.util
import os
import pkgutil
import re
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import domains

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20

TRAINING_ONLY = {"torch", "diffusers", "monai", "transformers", "accelerate", "safetensors", "sklearn", "onnx"}

FILES = {
    "pyproject.toml", "constraints.txt", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "mkdocs.yml",
}  # fmt: skip
HIDDEN = {".ci", ".gitignore", ".pre-commit-config.yaml"}
FOLDERS = {
    "diffgraft", "domains", "export", "toolkit", "models", "tests", "benchmarks", "docs", "examples", "findings",
}  # fmt: skip

PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".pt2", ".ckpt", ".bin", ".joblib"}
BUILD_MACHINE = re.compile(rb"(?<![\w.~-])/(?:work|root|home)/")
BUILD_MACHINE_BINARY = re.compile(rb"/(?:work|root|home)/")

VERBS = {
    "prepare",
    "train",
    "generate",
    "edit",
    "counterfactual",
    "evaluate",
    "audit",
    "export",
    "convert",
    "methods",
    "demo",
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )


@pytest.mark.parametrize(
    "module",
    ["export.runtime", "export.runtime.ort", *(f"domains.{m.name}" for m in pkgutil.iter_modules(domains.__path__))],
)
def test_what_the_edge_box_imports_loads_nothing_of_training(module):
    loaded = python("-c", f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})").stdout
    heavy = TRAINING_ONLY.intersection(loaded.split())
    assert heavy == set()


def test_the_edge_installs_nothing_of_training():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["edge"]
    names = {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in wanted}
    assert "onnxruntime" in names
    assert not {*TRAINING_ONLY, "scikit-learn"} & names


@pytest.fixture
def command() -> list[str]:
    """How the command line is started here: the installed script, else the function it calls."""
    if importlib.util.find_spec("diffgraft.cli.main") is None:
        pytest.skip("diffgraft/cli/main.py, a typer app with main(), is not there yet")
    script = Path(sys.executable).with_name("diffgraft")
    return [str(script)] if script.is_file() else [sys.executable, "-c", "from diffgraft.cli.main import main; main()"]


def test_help_names_the_verbs(command):
    shown = subprocess.run(
        [*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert set(re.findall(r"[a-z]+", shown)) >= VERBS


def test_help_answers_at_once(command):
    def seconds() -> float:
        begun = time.perf_counter()
        subprocess.run([*command, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60, check=True)
        return time.perf_counter() - begun

    seconds()  # the first run may have to compile
    # On a machine with more work than cores every program gets its share of the time only.
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    median = statistics.median(seconds() for _ in range(5))
    assert median < 0.5 * crowd


@pytest.fixture(scope="module")
def tracked() -> dict[str, Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = {name: ROOT / name for name in listing.stdout.split("\0") if (ROOT / name).is_file()}
    if not paths:
        pytest.skip("not a git checkout with files in it")
    return paths


def size(paths) -> float:
    """MiB of some files."""
    return sum(path.stat().st_size for path in paths) / MIB


def test_top_level_holds_what_is_agreed(tracked):
    strangers = {name.partition("/")[0] for name in tracked} - FILES - HIDDEN - FOLDERS
    assert strangers == set()


def test_tree_stays_small(tracked):
    total = size(tracked.values())
    assert total < 40
    assert {name for name, path in tracked.items() if size([path]) > 5} == set()


LARGER = {"chest_xray": 9, "plant_disease": 7}
"""MiB of models that may have more than 5: a text encoder or a few-step student comes with them."""


def test_models_stay_small(tracked):
    models: dict[str, list[Path]] = {}
    for name, path in tracked.items():
        if name.startswith("models/"):
            models.setdefault(name.split("/")[1], []).append(path)
    total = sum(map(size, models.values()))
    assert total < 24
    assert {name for name, paths in models.items() if size(paths) > LARGER.get(name, 5)} == set()


def test_no_file_runs_code_when_it_is_loaded(tracked):
    assert {name for name, path in tracked.items() if path.suffix.lower() in PICKLES} == set()


def test_no_file_tells_of_the_machine_it_was_made_on(tracked):
    telling = set()
    for name, path in tracked.items():
        data = path.read_bytes()
        pattern = BUILD_MACHINE_BINARY if b"\0" in data else BUILD_MACHINE
        if pattern.search(data):
            telling.add(name)
    assert telling == set()
