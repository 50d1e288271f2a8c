"""The walk that the architecture page draws is the one that is walked: a small real run, and every call between rooms."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import sys
from collections import Counter
from html import escape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSES = ("diffgraft", "domains", "export", "toolkit")

VALUES = {"toolkit.example", "toolkit.settings"}
"""Rooms that hold values alone."""

ASIDE = {"toolkit.models", "toolkit.methods"}
"""Rooms that are asked for facts on the way: model.json, and how many evaluations a sampler takes."""

READING = {"split_words"}
"""The words of --set are taken apart in `models` before there is a request; the work begins with it."""


def hook(name):
    spec = importlib.util.spec_from_file_location(f"hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def place_of(code) -> tuple[str, str] | None:
    """Room and function of a piece of code of the house; code of a module itself, run at its import, is none."""
    try:
        parts = Path(code.co_filename).relative_to(ROOT).with_suffix("").parts
    except ValueError:
        return None
    if parts[0] not in HOUSES or len(parts) < 2 or code.co_name == "<module>" or parts == ("diffgraft", "__init__"):
        return None
    deep = 2 if parts[0] in ("diffgraft", "toolkit") else 1
    return ".".join(parts[:deep]), ".".join((*parts[deep:], code.co_name))


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Every call from one room into another of a small run of the command, in order: (from, to, function)."""
    from diffgraft.cli import main

    walk = hook("walk")
    words = shlex.split(walk.COMMAND)[1:]
    words[words.index("models/plant_disease")] = str(ROOT / "models" / "plant_disease")
    words[words.index("out/")] = str(tmp_path_factory.mktemp("walk") / "out")
    words[words.index("60")] = "2"
    places: dict[object, tuple[str, str] | None] = {}
    found: list[tuple[str, str, str]] = []

    def place(frame):
        code = frame.f_code
        if code not in places:
            places[code] = place_of(code)
        return places[code]

    def profile(frame, event, _):
        called = place(frame) if event == "call" else None
        if called is None:
            return
        back = frame.f_back
        while back is not None and place(back) is None:
            if back.f_code.co_name == "<module>" and back.f_globals.get("__name__", "").startswith(HOUSES):
                return  # what a module of the house does when it is imported is not a part of the walk
            back = back.f_back
        room = "" if back is None else place(back)[0]
        if room != called[0]:
            found.append((room, *called))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffgraft", *words, "--steps", "2", "--quiet"])
        sys.setprofile(profile)
        try:
            main.main()
        finally:
            sys.setprofile(None)
    return found


def test_each_room_is_entered_once_and_in_the_order_of_the_drawing(calls):
    walk = hook("walk").WALK
    assert len({step.room for step in walk}) == len(walk)
    entrances = {(step.room, step.entrance) for step in walk}
    entered = [(room, function) for _, room, function in calls if (room, function) in entrances]
    assert entered == [(step.room, step.entrance) for step in walk]


def test_the_drawing_leaves_no_room_out(calls):
    drawn = {step.room for step in hook("walk").WALK}
    assert {room for _, room, _ in calls} - VALUES - ASIDE == drawn


def test_the_rooms_of_the_face_are_entered_downwards(calls):
    """By the first call of any function, not the entrance alone; a lower room calls a higher one to tell it, no more."""
    face = [step.room for step in hook("walk").WALK if step.room.startswith("diffgraft.")]
    first = dict.fromkeys(room for _, room, name in calls if name.rpartition(".")[2] not in READING)
    assert [room for room in first if room.startswith("diffgraft.")] == face
    back = Counter(name for room, to, name in calls if to == "diffgraft.cli" and room)
    assert set(back) <= {"console.say", "console.watch"}
    assert not [
        name for room, to, name in calls if to == "diffgraft.generation" and room in ("diffgraft.models", "export")
    ]


def test_the_drawing_names_what_is_there():
    for step in hook("walk").WALK:
        module, _, function = f"{step.room}.{step.entrance}".rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
        assert escape(step.text) in hook("walk").drawing()
