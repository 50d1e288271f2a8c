"""Options and requests: what is given on the command line, in a file or not at all, and how a verb's help shows it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys

import pytest
import typer
from commands import PLANT, answer, diffgraft
from typer.testing import CliRunner

from diffgraft.cli import main as cli
from diffgraft.cli import measuring
from diffgraft.cli.command import COMMON, Command, register
from diffgraft.cli.console import Answer
from diffgraft.cli.main import COMMANDS
from diffgraft.cli.options import Argument, Option
from diffgraft.requests import GenerationRequest
from toolkit.example import Error

EVERY = [*COMMANDS, *measuring.QUESTIONS]
IN_FILES_ALONE = {
    "GenerationRequest": {"settings", "text"},
    "EditRequest": {"settings", "text"},
    "CounterfactualRequest": {"settings"},
    "TrainingRequest": {
        "warmup", "weight_decay", "ema", "sigma_mean", "sigma_std", "drop", "drop_each", "precision", "checkpoint_every",
        "variants",
    },
    "AnomalyRequest": {"resamples"},
    "DistributionRequest": {"cache", "seed"},
    "AlignmentRequest": {"cache", "cross_validate"},
    "AuditRequest": {"cache", "plant"},
    "StepsRequest": {"seed"},
}  # fmt: skip
"""Fields that have no option: they are given by --config, or by words that mean something else too (--set text=...)."""


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command.run.__name__)
def test_every_field_of_a_request_is_an_option_or_known_to_be_none(command):
    fields = {field.name for field in dataclasses.fields(command.request)}
    given = {name.partition(".")[0] for name in command.options}
    assert fields - given == IN_FILES_ALONE.get(command.request.__name__, set())
    assert given <= fields


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command.run.__name__)
def test_defaults_stand_in_the_request_alone(command):
    """Every option of the command line is None unless it is given, and no two share a name."""
    trial = typer.Typer()
    register(trial, command)
    signature = inspect.signature(trial.registered_commands[0].callback)
    assert {each.default for name, each in signature.parameters.items() if name != "context"} == {None}
    flags = [flag for option in [*command.options.values(), *COMMON.values()] for flag in option.flags.split()]
    assert len(flags) == len(set(flags))


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 3
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request with every kind of field."""

    model: str
    out: str
    count: int = 16
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    sure: bool | None = None


OPTIONS = {
    "model": Argument("A model."), "out": Argument("A folder."), "count": Option("How many.", "-n --count"),
    "inner.depth": Option("Of the inner one."), "inner.wide": Option("Of the inner one.", "--wide"),
    "names": Option("Names."), "sure": Option("Or not.", "--sure/--no-sure", "Special"),
}  # fmt: skip


def asked(*words: str) -> Asked | None:
    """What a verb is given for these words."""
    found = []
    trial = typer.Typer(rich_markup_mode=None)

    def run(request, console):
        """Ask."""
        found.append(request)
        return Answer()

    register(
        trial,
        Command(
            run,
            Asked,
            {k: dataclasses.replace(v, kind=list[str]) if k == "names" else v for k, v in OPTIONS.items()},
            "ask",
        ),
    )
    done = CliRunner().invoke(trial, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return found[0] if found else None


def test_only_what_was_given_is_passed_on(tmp_path):
    assert asked("m", "o") == Asked("m", "o")
    given = asked("m", "o", "-n", "2", "--depth", "5", "--wide", "--names", "a", "--names", "b", "--no-sure")
    assert given is not None and dataclasses.replace(given, names=tuple(given.names)) == Asked(
        "m", "o", 2, given.inner, ("a", "b"), False
    )
    assert given.inner == {"depth": 5, "wide": True}  # what a request makes its own kind of


def test_a_file_is_overridden_option_by_option(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nout: o\ncount: 4\ninner: {depth: 7}\n")
    assert asked("--config", str(file)) == Asked("m", "o", 4, {"depth": 7})  # type: ignore[arg-type]
    given = asked("--config", str(file), "--count", "9", "--wide")
    assert given == Asked("m", "o", 9, {"depth": 7, "wide": True})  # type: ignore[arg-type]
    given = asked("--config", str(file), "other", "place")
    assert given is not None and (given.model, given.out, given.count) == ("other", "place", 4)
    file.write_text("model: m\n")
    assert asked("--config", str(file), "place") == Asked("m", "place")
    assert asked("--config", str(file)) is None and asked("--config", str(file), "a", "b", "c") is None
    file.write_text("model: m\nout: o\nconut: 4\n")
    with pytest.raises(Error, match="did you mean 'count'"):
        asked("--config", str(file))


def test_a_record_is_a_file_too_but_of_its_own_verb(tmp_path):
    diffgraft("generate", PLANT, tmp_path / "a", "-n", 2, "--steps", 2, "--set", "condition=rust")
    again = answer(
        "generate",
        "--config",
        tmp_path / "a" / "request.json",
        PLANT,
        tmp_path / "b",
        "--set",
        "condition=healthy",
        "-n",
        1,
    )
    assert again["figures"]["count"] == 1 and again["figures"]["settings"]["steps"] == 2
    record = json.loads((tmp_path / "b" / "request.json").read_text())
    assert record["request"]["labels"] == {"condition": "healthy"}
    wrong = diffgraft("edit", "--config", tmp_path / "a" / "request.json", code=1)
    assert "record of 'diffgraft generate'" in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_what_is_missing_is_named(tmp_path):
    assert "Missing arguments 'MODEL', 'OUT'. See: diffgraft generate --help" in diffgraft("generate", code=2).stderr
    assert "Missing option '--to'" in diffgraft("convert", "a", "b", code=2).stderr
    (tmp_path / "run.yaml").write_text(f"model: {PLANT}\n")
    assert "Missing argument 'OUT'" in diffgraft("generate", "--config", tmp_path / "run.yaml", code=2).stderr
    more = diffgraft("generate", "--config", tmp_path / "run.yaml", "a", "b", "c", code=2).stderr
    assert "unexpected extra argument" in more.lower()


# --------------------------------------------------------------------------------------------------------------- help


def test_options_stand_under_what_they_are_for():
    shown = diffgraft("generate", "--help").stdout
    headings = re.findall(r"^([A-Z][\w ]+):$", shown, re.M)
    assert headings == [
        "Arguments", "Options", "Sampling", "Brain MRI", "Chest films", "Detection", "Checks on what is made", "Output",
    ]  # fmt: skip
    part = shown.partition("Detection:")[2].partition("Checks on what is made:")[0]
    assert set(re.findall(r"^  (--[a-z-]+)", part, re.M)) == {
        "--layout", "--filter", "--check", "--real-share", "--relabel", "--favour-hard", "--tries", "--keep",
    }  # fmt: skip
    assert "[default: 16]" in shown and f"[default: {GenerationRequest('m', 'o').backend}]" in shown
    assert not re.search(r"[─│╭╮]", shown)  # readable in any terminal


def test_help_of_all_names_every_code():
    shown = diffgraft("--help").stdout
    codes = re.findall(r"^ +(\d+)  ", shown.partition("Exit codes:")[2], re.M)
    assert codes == ["0", "1", "2", "3", "75", "129", "130", "143"]


def test_help_loads_nothing_heavy():
    code = "import sys; from diffgraft.cli.main import app; print(*{n.partition('.')[0] for n in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "scipy", "PIL", "onnxruntime", "pydantic", "nibabel", "pydicom"} & set(loaded)


# --------------------------------------------------------------------------------------------------------- completion


def offered(words: str, script: str = "from diffgraft.cli.main import main; main()") -> list[str]:
    """What bash is offered for the last word, which may be empty."""
    parts = words.split(" ")
    given = {"_DIFFGRAFT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(parts), "COMP_CWORD": str(len(parts) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("diffgraft pre", {"prepare"}),
        ("diffgraft evaluate ", {"anomaly", "distribution", "classify", "detect", "alignment", "steps"}),
        ("diffgraft prepare ", {"brain_mri", "chest_xray", "detection", "plant_disease"}),
        ("diffgraft train brain_mri d m --part d", {"denoiser", "detector"}),
        ("diffgraft generate m o --sampler euler", {"euler", "euler_ancestral"}),
        ("diffgraft counterfactual m s o --sampler ", {"euler", "heun", "dpmpp_2m"}),
        ("diffgraft generate m o --backend torc", {"torch"}),
        ("diffgraft edit m s o --procedure ", {"inpaint", "invert", "sdedit", "dafusion"}),
        ("diffgraft generate m o --format y", {"yolo"}),
        ("diffgraft counterfactual m s o --quality b", {"best"}),
    ],
)
def test_a_shell_is_offered_what_there_is(words, expected):
    assert set(offered(words)) == expected


def test_what_a_shell_is_offered_is_what_there_is():
    """Lists that stand in the command line for speed agree with the code they speak of."""
    from diffgraft.cli.making import EDIT, GENERATE
    from diffgraft.editing.region import DIFFERENCE, REGIONS
    from diffgraft.models.backends import backend_names
    from toolkit.objects.layouts import KINDS

    assert set(EDIT["region"].complete) == {*REGIONS, DIFFERENCE}
    assert set(GENERATE["layouts.kind"].complete) == set(KINDS)
    assert set(cli.Backend) <= set(backend_names())


# ------------------------------------------------------------------------------------------------------ quiet and JSON


@pytest.mark.parametrize("place", ["before", "after"])
def test_flags_hold_before_the_verb_and_after_it(place, tmp_path):
    words = ["generate", PLANT, tmp_path / "out", "-n", 1, "--steps", 2]

    def run(*flags):
        return diffgraft(
            *(flags if place == "before" else ()), *words, *(flags if place == "after" else ()), "--overwrite"
        )

    quiet = run("--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    plain = run("--json")
    found = json.loads(plain.stdout)
    assert found["verb"] == "generate" and found["status"] == "done" and found["exit_code"] == 0
    assert found["paths"] == {"out": str(tmp_path / "out"), "report": str(tmp_path / "out" / "report.html")}
    assert found["figures"]["count"] == 1 and found["quarantined"] == 0 and found["next"].startswith("diffgraft audit")
    assert "sampling" in plain.stderr
    both = run("--json", "--quiet")
    assert json.loads(both.stdout) == found and both.stderr == ""
    assert "INFO diffgraft.cli.command: generate: GenerationRequest(" in run("-v").stderr
    assert re.search(r"DEBUG diffgraft.cli.console: sampling: 2 of 2", run("-vv").stderr)


def test_an_error_is_one_object_too(tmp_path):
    done = diffgraft("generate", tmp_path / "none", tmp_path / "out", "--json", code=1)
    found = json.loads(done.stdout)
    assert found["status"] == "refused" and found["exit_code"] == 1 and found["verb"] == "generate"
    assert done.stderr == f"diffgraft: {found['error']}\n"
    assert answer("generate", "--frobnicate", code=2)["status"] == "usage"
    assert answer("evaluate", "steps", "a", "b", code=2)["verb"] == "evaluate steps"
    assert diffgraft("generate", tmp_path / "none", tmp_path / "out", "-q", code=1).stderr == done.stderr


def test_the_version_is_said():
    from diffgraft import __version__

    assert diffgraft("--version").stdout == f"diffgraft {__version__}\n"


def test_numbers_that_are_not_finite_are_null():
    from diffgraft.cli.console import as_object
    from diffgraft.cli.exits import Exit

    found = json.loads(as_object("edit", Exit.DONE, figures={"a": float("nan"), "b": [float("inf"), 1.5]}))
    assert found["figures"] == {"a": None, "b": [None, 1.5]}
