"""The package as Python callers meet it: every public name is there, documented and typed, and nothing heavy is imported."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffgraft

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = [name for name in diffgraft.__all__ if name[0].islower() and not name.startswith("_")]
REQUESTS = [name for name in diffgraft.__all__ if name.endswith(("Request", "Options"))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_documented_and_typed(name):
    found = getattr(diffgraft, name)
    assert callable(found) and inspect.getdoc(found)
    signature = inspect.signature(found)
    typed = [each for each in signature.parameters.values() if each.name not in ("watch", "tell")]
    assert all(each.annotation is not inspect.Parameter.empty for each in typed)
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_frozen_and_says_what_its_fields_are(name):
    found = getattr(diffgraft, name)
    assert dataclasses.is_dataclass(found) and found.__dataclass_params__.frozen
    assert found.__module__.startswith("diffgraft.requests")
    text = inspect.getdoc(found) or ""
    assert len(text) > 40 and not text.startswith(f"{name}(")


def test_every_verb_takes_its_request_or_the_fields_of_it():
    verbs = set(FUNCTIONS) - {"methods", "open"}
    for name in verbs:
        parameters = inspect.signature(getattr(diffgraft, name)).parameters
        assert any(
            set(parameters) - {"watch", "tell"}
            == {field.name for field in dataclasses.fields(getattr(diffgraft, kind))}
            for kind in REQUESTS
        ), name
    assert len(verbs) == len(REQUESTS) - 1  # LayoutOptions is a part of one


def test_what_an_editor_sees_is_what_there_is():
    """The imports under TYPE_CHECKING, __all__ and what a name gives are the same."""
    tree = ast.parse(Path(diffgraft.__file__ or "").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*seen, "__version__"} == set(diffgraft.__all__)
    for name, place in seen.items():
        module, _, attribute = place.rpartition(".")
        __import__(module)
        assert getattr(sys.modules[module], attribute) is getattr(diffgraft, name)


def test_names_of_earlier_releases_work():
    assert diffgraft.classify is diffgraft.evaluate_classification  # type: ignore[attr-defined]
    assert diffgraft.distribution is diffgraft.evaluate_distribution  # type: ignore[attr-defined]
    assert diffgraft.alignment is diffgraft.evaluate_alignment  # type: ignore[attr-defined]
    assert diffgraft.evaluate is diffgraft.evaluate_anomaly  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = diffgraft.magic  # type: ignore[attr-defined]


def test_help_is_worth_reading():
    text = pydoc.render_doc(diffgraft, renderer=pydoc.plaintext)
    for name in FUNCTIONS:
        assert name in text
    for word in ("watch", "request.json", "Evaluation", "GenerationRequest"):
        assert word in (diffgraft.__doc__ or "")


def test_importing_it_imports_nothing():
    code = "import sys, diffgraft; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "scipy", "pydantic", "typer"} & set(loaded)


def test_a_type_checker_may_read_it():
    assert (ROOT / "diffgraft" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["diffgraft"]


@pytest.mark.slow
def test_a_type_checker_sees_what_the_verbs_take_and_give(tmp_path):
    (tmp_path / "user.py").write_text(
        "import diffgraft\n"
        'made = diffgraft.generate("m", "o", {"condition": "rust"}, count=3)\n'
        "reveal_type(made)\n"
        'again = diffgraft.generate(diffgraft.GenerationRequest("m", "o"), watch=lambda text, done, of: None)\n'
        "reveal_type(again.count)\n"
        'diffgraft.generate("m", "o", conut=3)\n'
        "diffgraft.edit()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(tmp_path / "user.py")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'Type of "made" is "GenerationResult"' in done.stdout, done.stdout
    assert 'Type of "again.count" is "int"' in done.stdout
    assert "user.py:6" in done.stdout and "user.py:7" in done.stdout and "user.py:4" not in done.stdout
