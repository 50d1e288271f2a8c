"""evaluate: each question with options of its own, and the earlier form, `evaluate A B --task classify`, with a note."""

from __future__ import annotations

import re
import shlex

import heads
import pytest
import typer
from commands import answer, diffgraft
from typer.testing import CliRunner

from diffgraft.cli.command import Command, register
from diffgraft.cli.console import Answer
from diffgraft.cli.evaluate_group import EvaluateGroup
from diffgraft.cli.measuring import QUESTIONS

TASKS = {
    "anomaly": {"--atlas", "--calibrate", "--model", "--only", "--beside", "--out"},
    "distribution": {"--model", "--features", "--split", "--beside", "--out"},
    "classify": {"--label", "--shots", "--model", "--beside", "--seeds", "--steps", "--fold", "--out"},
    "detect": {"--arms", "--shots", "--model", "--beside", "--seeds", "--steps", "--fold", "--out"},
    "alignment": {"--label", "--model", "--beside", "--seeds", "--steps", "--fold", "--out"},
    "steps": {"--steps", "--samplers", "--count", "--student", "--backend", "--out"},
}
COMMON = {"--overwrite", "--config", "--open", "--quiet", "--json", "--verbose", "--help"}


@pytest.mark.parametrize("task", TASKS)
def test_a_question_has_options_of_its_own_and_an_example(task):
    shown = diffgraft("evaluate", task, "--help").stdout
    assert set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown, re.M)) == TASKS[task] | COMMON
    assert f"Example: diffgraft evaluate {task} " in shown


def test_the_questions_are_listed():
    shown = diffgraft("evaluate", "--help").stdout.partition("Commands:")[2]
    assert re.findall(r"^  ([a-z]+) {2,}", shown, re.M) == list(TASKS)
    assert "Missing command. See: diffgraft evaluate --help" in diffgraft("evaluate", code=2).stderr


# -------------------------------------------------------------------------------------------------- the earlier form


def requested(words: str):
    """Which question is asked with which request, and what is said on the way."""
    found = []
    group = typer.Typer(cls=EvaluateGroup, rich_markup_mode=None)
    for command in QUESTIONS:

        def run(request, console, name=command.run.__name__):
            """Ask."""
            found.append((name, request))
            return Answer()

        run.__name__ = command.run.__name__
        register(group, Command(run, command.request, command.options, command.example))
    done = CliRunner().invoke(group, shlex.split(words))
    return (*(found[0] if found else (None, None)), done.stderr)


EARLIER = {
    "A B": "anomaly A B",
    "A B --task anomaly --atlas C --only names.txt": "anomaly A B --atlas C --only names.txt",
    "A B --task=distribution --model M --split all": "distribution A B --model M --split all",
    "--task classify A B --shots 10 --shots 0 --seeds 2 --out R": "classify A B --shots 10 --shots 0 --seeds 2 --out R",
    "A --arms only B --task detect --steps 5": "detect A --arms only B --steps 5",
    "A B --task alignment --label class --beside x=C": "alignment A B --label class --beside x=C",
    "A M --task steps --steps 1,2 --samplers euler,heun -n 4 --out R --overwrite": (
        "steps A M --steps 1,2 --samplers euler,heun -n 4 --out R --overwrite"
    ),
}


@pytest.mark.parametrize("words", EARLIER)
def test_the_earlier_form_is_the_new_one_with_a_note(words):
    task, request, note = requested(words)
    expected, same, silence = requested(EARLIER[words])
    assert (task, request) == (expected, same) and request is not None and silence == ""
    assert note == f"diffgraft: note: evaluate now names its question: diffgraft evaluate {EARLIER[words]}\n"


def test_what_a_question_never_heeded_is_left_out_and_named():
    task, request, note = requested("A B --seeds 3 --task distribution --model M --shots 4 -n 2")
    assert (task, request) == requested("distribution A B --model M")[:2]
    assert "without --seeds 3 --shots 4 -n 2, which has no meaning there" in note


def test_a_slip_is_not_taken_for_the_earlier_form(tmp_path):
    done = diffgraft("evaluate", "anomly", "A", "B", folder=tmp_path, code=2)
    assert (
        done.stderr == "diffgraft: No such command 'anomly'. Did you mean 'anomaly'?. See: diffgraft evaluate --help\n"
    )
    assert "No such command 'magic'" in diffgraft("evaluate", "A", "B", "--task", "magic", code=2).stderr
    (tmp_path / "anomly").mkdir()
    assert "diffgraft evaluate anomaly anomly B" in diffgraft("evaluate", "anomly", "B", folder=tmp_path, code=1).stderr


def test_quiet_holds_for_the_note():
    assert requested("A B --task anomaly -q")[2] == ""


def test_both_forms_measure_alike(tmp_path):
    scans, maps = heads.raw_folder(tmp_path / "scans"), tmp_path / "maps"
    for name in heads.LESIONS:
        heads.save(
            maps / f"sub-{name}_desc-anomaly_FLAIR.nii.gz", heads.head(lesion=heads.LESIONS[name])[1].astype("float32")
        )
    found = answer("evaluate", "anomaly", scans, maps, "--out", tmp_path / "new")
    assert found["verb"] == "evaluate anomaly" and found["figures"]
    earlier = diffgraft("evaluate", scans, maps, "--task", "anomaly", "--out", tmp_path / "old")
    assert "note: evaluate now names its question" in earlier.stderr and "next: " in earlier.stdout
    assert (tmp_path / "new" / "metrics.json").read_text() == (tmp_path / "old" / "metrics.json").read_text()
