"""A short description of a film in varied words, which reads back as what it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from toolkit.language.report.lexicon import FINDINGS, GROUPS, IMPLIES
from toolkit.language.report.negation import Statement, imply_findings

__all__ = ["compose_text"]

OLDEST = 89
"""Above this an age is not spelled."""

SAID_FIELD, SAID_ABSENT, LONGEST_DENIAL = 0.8, 0.4, 4
"""How often a known view, sex or age is told; how often what is absent; and how much of it at most."""

_NOUNS: dict[str, tuple[str, ...]] = {
    "opacity": ("airspace opacity", "airspace opacities", "patchy opacities", "airspace opacification", "infiltrates"),
    "consolidation": ("consolidation", "airspace consolidation", "patchy consolidation", "areas of consolidation"),
    "ground_glass": (
        "ground-glass opacities",
        "ground-glass opacification",
        "hazy ground-glass opacity",
        "ground glass changes",
    ),
    "interstitial": ("interstitial opacities", "reticular pattern", "reticular opacities", "interstitial thickening"),
    "pneumonia": ("pneumonia",),
    "atelectasis": ("atelectasis", "atelectasis"),
    "edema": ("pulmonary edema", "pulmonary oedema"),
    "effusion": ("pleural effusion", "effusion"),
    "pneumothorax": ("pneumothorax",),
    "pneumomediastinum": ("pneumomediastinum",),
    "pleural_thickening": ("pleural thickening",),
    "nodule_or_mass": ("nodules", "nodule", "mass", "pulmonary nodules"),
    "cavity": ("cavity", "cavitation"),
    "cardiomegaly": ("cardiomegaly", "enlarged heart", "the heart is enlarged"),
    "lymphadenopathy": ("hilar lymphadenopathy", "mediastinal lymphadenopathy", "hilar enlargement"),
    "emphysema": ("emphysema", "hyperinflation"),
    "fibrosis": ("fibrosis", "fibrotic changes", "scarring"),
    "hernia": ("hiatus hernia", "hiatal hernia"),
    "device": ("support devices in place", "lines and tubes in situ"),
}
_DENIED: dict[str, tuple[str, ...]] = {
    "opacity": ("airspace opacity", "opacities", "infiltrate", "focal opacity"),
    "consolidation": ("consolidation", "focal consolidation"),
    "ground_glass": ("ground-glass opacities", "ground-glass opacity"),
    "interstitial": ("interstitial opacities", "reticular opacities"),
    "nodule_or_mass": ("nodule", "mass", "nodules"),
    "cavity": ("cavitation",),
    "cardiomegaly": ("cardiomegaly",),
    "lymphadenopathy": ("lymphadenopathy",),
    "emphysema": ("emphysema",),
    "fibrosis": ("fibrosis",),
    "hernia": ("hiatus hernia",),
    "device": ("support devices", "lines or tubes"),
}
_PLAIN = ("cardiomegaly", "pneumomediastinum", "hernia", "device")
"""Findings that have no side."""

_ZONE = {
    "upper": ("upper zone", "upper lobe"),
    "lower": ("lower zone", "lower lobe", "basal"),
    "middle": ("mid zone",),
    "perihilar": ("perihilar",),
    "peripheral": ("peripheral",),
    "diffuse": ("diffuse",),
}
_VIEWS = {
    "PA": (
        "PA view",
        "PA chest radiograph",
        "posteroanterior chest radiograph",
        "PA chest X-ray",
        "chest X-ray, PA view",
        "PA film",
    ),
    "AP": (
        "AP view",
        "AP chest radiograph",
        "anteroposterior chest radiograph",
        "portable AP chest X-ray",
        "chest X-ray, AP view",
        "AP film",
    ),
    "AP Supine": (
        "AP supine view",
        "AP supine chest radiograph",
        "supine chest X-ray",
        "supine AP film",
        "chest radiograph, AP supine",
    ),
    "L": (
        "lateral view",
        "lateral chest radiograph",
        "left lateral chest X-ray",
        "chest X-ray, lateral view",
        "lateral film",
    ),
}
_FILMS = ("chest radiograph", "chest X-ray", "CXR", "frontal film", "radiograph of the chest", "")
_SEXES = {
    "M": ("man", "male", "male patient", "gentleman"),
    "F": ("woman", "female", "female patient", "lady"),
    "": ("patient",),
}
_NORMAL = (
    "normal chest radiograph", "normal chest X-ray", "normal study", "no significant findings", "no abnormality",
    "normal film", "normal appearances", "unremarkable chest radiograph",
)  # fmt: skip


class Chance(Protocol):
    """What `random.Random` and `numpy.random.Generator` both have."""

    def random(self) -> float: ...


def compose_text(
    view: str, sex: str, age: float, stated: Mapping[str, float], statements: Iterable[Statement], random: Chance
) -> str:
    """A prompt, such as "PA view, 65-year-old man. Right pleural effusion, no pneumothorax".

    view, sex: "" is not known; age: years, NaN is not known. stated: finding -> 1, 0 or NaN, read as `settled` does; every finding
    that is present is said, what is absent sometimes, and the rest never. statements: where sides, zones and names of devices
    come from. Reading it with `findings`, `view`, `sex` and `age` gives nothing that was not put in.
    """
    known = imply_findings(stated)
    present = [name for name in FINDINGS if known.get(name) == 1.0 and name != "normal"]
    told = [
        name
        for name in present
        if not any(name in IMPLIES.get(other, ()) for other in present) or random.random() < 0.15
    ]
    film = _film(view, random)
    who = _who(sex, age, random)
    seen = [_present(name, list(statements), random) for name in _shuffled(told, random)]
    if known.get("normal") == 1.0:
        seen.insert(0, _one(_NORMAL, random))
    denied = _denied(known, random) if known.get("normal") != 1.0 or random.random() < 0.3 else ""
    return _joined(film, who, seen, denied, random)


def _joined(film: str, who: str, seen: list[str], denied: str, random: Chance) -> str:
    # What is denied comes last or as a sentence of its own: after a bare comma it would be unclear what else it denies.
    style = random.random()
    head = ", ".join(part for part in ((film, who) if random.random() < 0.8 else (who, film)) if part)
    body = ", ".join(seen) if style < 0.5 else ". ".join(_upper(part) for part in seen)
    dot = style >= 0.3
    parts = [part for part in (head, body, denied) if part]
    if len(parts) > 1 and not head and random.random() < 0.3:
        parts, dot = parts[::-1], True
    if not parts:
        return "Chest radiograph"
    text = ". ".join(_upper(part) for part in parts) if dot else ", ".join(parts)
    return (_upper(text) if random.random() < 0.8 else text) + ("." if dot and random.random() < 0.7 else "")


def _film(view: str, random: Chance) -> str:
    if view and random.random() < SAID_FIELD:
        return _one(_VIEWS[view], random)
    return _one(_FILMS, random)


def _who(sex: str, age: float, random: Chance) -> str:
    sex = sex if random.random() < SAID_FIELD else ""
    age = age if random.random() < SAID_FIELD and age <= OLDEST else math.nan
    if math.isnan(age):
        return _one(_SEXES[sex], random) if sex else ""
    noun = _one(_SEXES[sex], random)
    if age < 2:
        return f"{round(age * 12)}-month-old {noun if sex else 'child'}"
    years = round(age)
    return _one(
        (f"{years}-year-old {noun}", f"{years} year old {noun}", f"{noun} aged {years}", f"{noun}, {years} years old"),
        random,
    )


def _present(name: str, statements: Sequence[Statement], random: Chance) -> str:
    said = [s for s in statements if s.finding == name and s.status == "present"]
    if name == "device":
        named = list(dict.fromkeys(s.detail for s in said if s.detail))
        if not named:
            return _one(_NOUNS["device"], random)
        return _listed(_shuffled(named, random), "and") + (_one((" in situ", " in place", ""), random))
    noun = _one(_NOUNS[name], random)
    sides = {s.side for s in said} - {""}
    side = "bilateral" if len(sides) > 1 else next(iter(sides), "")
    if name in _PLAIN or noun.startswith(("the ", "enlarged")):
        return noun
    zones = sorted({zone for s in said for zone in s.zones})
    zone = (
        _one(_ZONE[_one(zones, random)], random) if zones and random.random() < 0.5 and name in GROUPS["lungs"] else ""
    )
    if side and not zone and random.random() < 0.3:
        return f"{noun} on {'both sides' if side == 'bilateral' else f'the {side}'}"
    # No size: what a film states of it is not kept, and an invented one would teach a model that the word means nothing.
    return " ".join(f"{side} {zone} {noun}".split())


def _denied(known: Mapping[str, float], random: Chance) -> str:
    absent = [name for name in FINDINGS if known.get(name) == 0.0 and name != "normal"]
    if set(GROUPS["lungs"]) <= set(absent) and random.random() < 0.5:
        rest = [name for name in absent if name not in GROUPS["lungs"]]
        said = [_one(("lungs are clear", "clear lungs", "the lungs are clear"), random)]
        return ", ".join([*said, *filter(None, [_no(rest, random)])])
    return _no(absent, random)


def _no(absent: Sequence[str], random: Chance) -> str:
    chosen = [name for name in _shuffled(list(absent), random) if random.random() < SAID_ABSENT][:LONGEST_DENIAL]
    if not chosen:
        return ""
    names = [_one(_DENIED.get(name, _NOUNS[name]), random) for name in chosen]
    return f"{_one(('no', 'no', 'no', 'without', 'no evidence of'), random)} {_listed(names, 'or')}"


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _one(values: Sequence[str], random: Chance) -> str:
    return values[int(random.random() * len(values))]


def _shuffled(values: Sequence[str], random: Chance) -> list[str]:
    rest, found = list(values), []
    while rest:
        found.append(rest.pop(int(random.random() * len(rest))))
    return found


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
