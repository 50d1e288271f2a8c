"""Chest X-ray: films by text, view, sex and age, from DICOM or from pictures with a table.

    ROOT/**/*.dcm, or files that are DICOM by their content        view, sex and age as the file states them
    ROOT/metadata.csv or labels.csv      filename and any of patient_id, view, findings, text, sex, age

What a model sees of a file is said in `toolkit.formats.films`. Findings are read from the text (`toolkit.language.report`) and
from the column findings; what neither states is unknown, not absent.

    fields  text (tokens, width), view, sex (an index, or their number for not stated), age in centuries and age_known
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data import film_likeness, labels
from toolkit.data.labels import Range, Vocabulary
from toolkit.diffusion.model import TEXT, Field
from toolkit.example import Annotation, Error, Example, Note
from toolkit.formats import films, folders
from toolkit.formats.films import apply_change, source_files, source_grid
from toolkit.formats.folders import Aside
from toolkit.language import report as report_text
from toolkit.language.report import Statement
from toolkit.language.report.columns import MOST_AGE
from toolkit.language.report.lexicon import IMPLIES
from toolkit.settings import Augmentation, Network, Training

__all__ = [
    "AUGMENTATION", "CLOCK", "FORMATS", "LABELS", "LATENT_CHANNELS", "NOTICE", "PRESETS", "SIZE", "STRONGER", "TARGET",
    "UNITS", "VIEWS", "VOCABULARY", "apply_change", "caption", "condition", "edit_prompts", "fields", "infer_labels", "input_doubts",
    "labels_from_text", "parse_prompt", "random_prompt", "read", "read_image", "source_files", "source_grid",
    "training_summary", "vocabulary",
]  # fmt: skip

SIZE = 128
"""Rows and columns."""

UNITS = ("films", "patients")
"""What a sample and a group of samples are called."""

NOTICE = "Research use only. Not a medical device."
"""What every report of this domain says."""

FORMATS = ("dicom", "dx")
"""What `generate` writes beside pictures, if it is asked to."""

VIEWS = ("PA", "AP", "AP Supine", "L")
SEXES = ("F", "M")
NORMAL = "normal"
"""The finding that there is none."""

ILLNESSES = tuple(name for name in report_text.FINDINGS if name not in (NORMAL, "device"))
"""Findings that make a film abnormal; a tube or a line alone does not."""

FOLD = 1
"""Of the public films that the starter model is trained on this keeps back 77 of 356."""

LABELS = ("view", "sex", "age")
"""The labels that become condition fields, beside the text."""

TARGET = "film"
"""View and whether anything is abnormal in one word: what classes are drawn evenly by, and the feature network names."""

FILMS = tuple(f"{view} {state}" for view in VIEWS for state in ("normal", "abnormal"))
VOCABULARY: dict[str, tuple[str, ...] | Range] = {
    "view": VIEWS,
    "sex": SEXES,
    "age": Range(0.0, 120.0),
    **dict.fromkeys(report_text.FINDINGS, ("absent", "present")),
    TARGET: FILMS,
}

# No mirror image: the heart is on the left.
AUGMENTATION = Augmentation(
    rotate=6.0, scale=0.08, shift=0.05, gamma=0.12, gain=0.05, border=True, warp=0.07, interpolation="bicubic"
)
STRONGER = Augmentation(
    rotate=12.0, scale=0.2, shift=0.1, gamma=0.4, gain=0.2, border=True, warp=0.12, interpolation="bicubic"
)
"""Of the feature network: a few hundred films are learned by heart by whatever sees them often enough, and then a distance
measured by it is that of films it knows from films it does not."""

LATENT_CHANNELS = 4
CENTURY = 100.0
"""Ages are told to a network in centuries: its Fourier features are made for numbers of about 1."""

TOKENS, WIDTH = 77, 64
"""Of a prompt, as Stable Diffusion's text encoders have them, and of what the encoder says of each."""

CLOCK = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
"""The noise process of Stable Diffusion, so that a model of ours can be saved as one."""

PRESETS = {
    "features": {
        "small": (
            Network((16, 24, 32, 48), dropout=0.5),
            Training(
                steps=300, batch=32, learning_rate=2e-3, weight_decay=0.3, ema=0.99, precision="fp32", fold=FOLD
            ),
        ),
    },
    "codec": {
        "small": (
            Network((16, 32, 64)),
            Training(
                steps=4000, batch=8, learning_rate=2e-3, weight_decay=0.0, ema=0.99, checkpoint_every=250, fold=FOLD
            ),
        ),
    },
    "text": {
        "small": (
            Network((WIDTH, 32), layers=2, attention_head_dim=16, dropout=0.1),
            Training(steps=3000, batch=64, learning_rate=1e-3, ema=0.995, precision="fp32", variants=4, fold=FOLD),
        ),
    },
    "denoiser": {
        "small": (
            Network((48, 64, 80), attention=1, attention_head_dim=16, dropout=0.1),
            Training(
                steps=5000, batch=32, sigma_mean=0.2, sigma_std=1.2, ema=0.9995, drop=0.1, drop_each=0.1,
                checkpoint_every=500, variants=24, fold=FOLD,
            ),
        ),
    },
}  # fmt: skip
"""Part -> preset -> network and training, to be trained in this order. Measured on two CPU cores; see the model card."""

LATIN = "\u024f"
"""The last letter of the Latin blocks of Unicode."""


def vocabulary(root: str | Path, only: Sequence[str] = (), **_: Any) -> Vocabulary:
    """The labels of films: every data set of this domain has the same."""
    return VOCABULARY


def read(
    root: str | Path,
    size: str = f"{SIZE}x{SIZE}",
    only: Sequence[str] = (),
    aside: Aside | None = None,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[Example]:
    """Every film under root, its central square at width x height.

    only: words such as "view=PA" or "licence=CC BY", of any column of the table; one name given twice allows either
    value. aside(name, reason) is told of a file that cannot be used, and the rest is read; without it that is an Error.
    watch(done, of) is called once a file. What was taken out of texts is warned of at the end, one line a kind.
    """
    side, found = films.parse_side(size), films.filter_rows(films.rows(Path(root), aside), only)
    scrubbed: dict[str, int] = {}
    decided: dict[str, int] = {}
    for number, row in enumerate(found, 1):
        watch(number, len(found))
        try:
            example, removed, notes = _film(row, side)
        except Error as problem:
            folders.skip_or_raise(aside, row.name, str(problem))
            continue
        for line in removed:
            scrubbed[line] = scrubbed.get(line, 0) + 1
        for line in notes:
            decided[line] = decided.get(line, 0) + 1
        yield example
    for line, count in scrubbed.items():
        warnings.warn(f"{line} ({count} of {len(found)} texts)", Note, stacklevel=2)
    for line, count in decided.items():
        warnings.warn(f"Of a film, {line} ({count} of {len(found)} films)", Note, stacklevel=2)


def fields(vocabulary: Vocabulary) -> dict[str, Field]:
    """The model's condition: the text and those of LABELS."""
    return {TEXT: Field((TOKENS, WIDTH), "float32", 0.0)} | labels.fields(vocabulary, LABELS)


def condition(
    annotations: Iterable[Annotation], fields: Mapping[str, Field], vocabulary: Vocabulary | None = None
) -> dict[str, np.ndarray]:
    """The model's fields beside the text, one row an annotation; a label that is unknown or absent becomes null."""
    arrays = labels.condition(fields, annotations)
    return arrays | ({"age": (arrays["age"] / CENTURY).astype(np.float32)} if "age" in arrays else {})


def parse_prompt(words: Iterable[str], vocabulary: Vocabulary) -> Annotation:
    """What a person asks for: "text=PA view, right pleural effusion", "view=L". What the text says becomes labels too."""
    given = [word.strip() for word in words]
    told = [word for word in given if word.partition("=")[0].strip() == TEXT]
    if len(told) > 1:
        raise Error(f"A text is given once; found {len(told)}. Put everything into one.")
    known = labels.parse(vocabulary, [word for word in given if word not in told])
    text, removed = report_text.scrub(told[0].partition("=")[2]) if told else (None, [])
    if text and any(letter.isalpha() and letter > LATIN for letter in text):
        removed.append(
            "Films are described in English; letters of another script tell a model nothing. Translate the text."
        )
    for line in removed:
        warnings.warn(line, Note, stacklevel=2)
    return Annotation(text, infer_labels({**(labels_from_text(text) if text else {}), **known}, vocabulary))


def infer_labels(known: Mapping[str, float], vocabulary: Vocabulary) -> dict[str, float]:
    """Labels with what follows from them: the view of a film, and the film where view and findings say it."""
    filled = dict(known)
    film = labels.spell(vocabulary, known).get(TARGET)
    if film is not None:
        view, state = film.rsplit(" ", 1)
        if filled.setdefault("view", float(VIEWS.index(view))) != VIEWS.index(view):
            raise Error(f"A film has one view; found view={VIEWS[int(known['view'])]} and {TARGET}={film}.")
        if state == "normal":
            filled |= {name: 0.0 for name in report_text.FINDINGS if name != NORMAL and name not in filled}
            filled.setdefault(NORMAL, 1.0)
        return filled
    view, state = filled.get("view", math.nan), _state(filled)
    if state and not math.isnan(view):
        filled[TARGET] = float(FILMS.index(f"{VIEWS[int(view)]} {state}"))
    return filled


def labels_from_text(text: str) -> dict[str, float]:
    """What a text says, as labels: findings that are present or absent, view, sex and age where they are stated."""
    said = {name: value for name, value in report_text.findings(text).items() if name in VOCABULARY}
    view, sex, age = report_text.view(text), report_text.sex(text), report_text.age(text)
    said |= {"view": float(VIEWS.index(view))} if view else {}
    said |= {"sex": float(SEXES.index(sex))} if sex else {}
    return said | ({"age": float(age)} if 0 <= age <= MOST_AGE else {})


def caption(annotation: Annotation, chance: random.Random) -> str:
    """What a film is told as, worded anew by every draw: from its labels, its text, or both.

    A model that is only shown whole reports learns to recognise reports; people write a few words.
    """
    words = labels.spell(VOCABULARY, annotation.labels)
    view, sex = words.get("view", ""), words.get("sex", "")
    age = annotation.labels.get("age", math.nan)
    stated = {n: annotation.labels[n] for n in report_text.FINDINGS if annotation.labels.get(n, math.nan) in (0.0, 1.0)}
    seen = report_text.imaging_sentences(annotation.text) if annotation.text else []
    if seen and chance.random() < 0.4:
        told = chance.sample(seen, min(len(seen), chance.randint(1, 3)))
        return ". ".join([*([report_text.compose_text(view, "", math.nan, {}, [], chance)] if view else []), *told])
    said = report_text.statements(annotation.text) if annotation.text else []
    return report_text.compose_text(view, sex, age, stated, said, chance)


def random_prompt(chance: random.Random) -> str:
    """A prompt of no film: any view, findings and patient, for a text encoder to learn the language from."""
    names = [name for name in report_text.FINDINGS if name != NORMAL]
    if chance.random() < 0.15:
        stated = {NORMAL: 1.0, **dict.fromkeys(names, 0.0)}
    else:
        stated = {name: float(chance.random() < 0.6) for name in chance.sample(names, chance.randint(0, 4))}
    view = chance.choice(("", *VIEWS))
    sex = chance.choice(("", "", *SEXES))
    age = float(chance.randint(18, 89)) if chance.random() < 0.3 else math.nan
    sides = [
        report_text.Statement(name, "present", chance.choice(("left", "right", "bilateral", "")))  # type: ignore[arg-type]
        for name, value in stated.items()
        if value == 1.0 and name != NORMAL
    ]
    return report_text.compose_text(view, sex, age, stated, sides, chance)


def training_summary(examples: Iterable[Example]) -> dict[str, Any]:
    """What the films of a training look like, for `input_doubts`; see toolkit.data.film_likeness. Kept in model.json."""
    images = [example.image[0] for example in examples]
    return film_likeness.summarise(np.stack(images)) if images else {}


def input_doubts(meta: Mapping[str, Any], image: np.ndarray, path: Path | None = None) -> list[str]:
    """Reasons to believe that an image (1, H, W) is no film as those that a model was trained on.

    A DICOM file that says that it shows a chest is believed. meta: model.json; one without a summary refuses nothing.
    """
    known = meta.get("typical")
    if not known or (path is not None and films.states_chest(path)):
        return []
    return film_likeness.doubts(known, image[0])


def read_image(path: Path, size: tuple[int, int] = (SIZE, SIZE)) -> Example:
    """A single film, DICOM or picture, as its file states it."""
    example, _, notes = _film(films.single_row(path), size[0])
    for line in notes:
        warnings.warn(f"Of {path.name}, {line}", Note, stacklevel=2)
    return example


# ------------------------------------------------------------------------------------------------------------ edits


class _Alike:
    """A chance that always falls the same way: the same things are worded in the same words, nothing beside them."""

    def random(self) -> float:
        return 0.31


def edit_prompts(own: Annotation, asked: Annotation, vocabulary: Vocabulary) -> tuple[Annotation, Annotation]:
    """What a film shows, and what it shall show, both in words that differ by what is asked for alone.

    View, sex and age stay. Findings that the text or the labels of `asked` state take the place of the film's own, with
    what follows from them; its others are kept, in the text too. Errors: a view, sex or age that is not the film's.
    """
    known = {name: value for name, value in own.labels.items() if not math.isnan(value) and name != TARGET}
    said = {**(labels_from_text(asked.text) if asked.text else {}), **asked.labels}
    for name in LABELS:
        if name in known and said.get(name, known[name]) != known[name]:
            words = [labels.spell(VOCABULARY, {name: value})[name] for value in (known[name], said[name])]
            raise Error(
                f"An edit keeps {', '.join(LABELS)} of a film; this one has {name}={words[0]}, and {words[1]} was asked "
                "for. Leave that out, or take other films by --where."
            )
    now, then = _changed(known, said)
    sides, others = (report_text.statements(text) if text else [] for text in (own.text, asked.text))
    stays = {name for name in now if now[name] == then.get(name) == 1.0}
    kept = {name: 1.0 for name in now if name in stays and (said.get(name) != 1.0 or _elsewhere(name, sides, others))}
    view = labels.spell(VOCABULARY, {**known, **said}).get("view", "")

    def worded(findings: Mapping[str, float], there: Iterable[str]) -> str:
        seen = [side for side in sides if side.finding in there]
        return report_text.compose_text(view, "", math.nan, findings, seen, _Alike())

    stated = worded({name: 1.0 for name in now if now[name] == 1.0}, now)
    if not asked.text:
        wanted = worded({**kept, **{name: said[name] for name in report_text.FINDINGS if name in said}}, kept)
    elif not kept and report_text.view(asked.text):
        wanted = asked.text
    else:
        wanted = f"{worded(kept, kept).rstrip('.')}. {asked.text}"
    rest = {name: said[name] for name in LABELS if name in said}
    found = infer_labels({**{k: v for k, v in known.items() if k in LABELS}, **rest, **then}, vocabulary)
    return Annotation(stated, own.labels), Annotation(wanted, {name: found.get(name, math.nan) for name in VOCABULARY})


def _elsewhere(name: str, own: Iterable[Statement], asked: Iterable[Statement]) -> bool:
    """Whether a finding is on one side of a film and asked for on the other, so that it will be on both."""
    here, there = ({s.side for s in said if s.finding == name and s.status == "present"} for said in (own, asked))
    return {*here, *there} == {"left", "right"} and here != there


def _changed(known: Mapping[str, float], said: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Findings before and after what is said takes the place of what was known."""
    own = {name: known[name] for name in report_text.FINDINGS if name in known}
    state = labels.spell(VOCABULARY, said).get(TARGET, "").rpartition(" ")[2]
    asked = {name: said[name] for name in report_text.FINDINGS if name in said}
    asked |= {NORMAL: float(state == "normal")} if state and NORMAL not in asked else {}
    asked = report_text.imply_findings(asked)
    if not asked:
        return own, own
    after = {**own, **asked}
    for name, parents in IMPLIES.items():  # what only followed from a finding that goes is no longer known
        if own.get(name) == 1.0 and asked.get(name) == 0.0:
            after = {other: value for other, value in after.items() if other not in parents or other in asked}
    there = [name for name, value in after.items() if value == 1.0 and name not in (NORMAL, "device")]
    if not there and after.get(NORMAL) == 0.0 and NORMAL not in asked:
        del after[NORMAL]  # what was abnormal has been asked away, and nobody said that it was all
    return own, report_text.imply_findings(after)


# -------------------------------------------------------------------------------------------------------------- files


def _film(row: films.Row, side: int) -> tuple[Example, list[str], tuple[str, ...]]:
    """A film as an Example, what was taken out of its text, and what reading its file had to decide."""
    words, source = row.words, films.read_levels(row.path)
    text, removed = report_text.scrub(words.get(TEXT, ""))
    said = labels_from_text(text) | report_text.stated_labels({**source.known, **words}, VIEWS, SEXES)
    named = {name: said.get(name, math.nan) for name in VOCABULARY}
    image = films.normalise(films.central_square(source.pixels, side))[None]
    group = words.get("patient_id") or words.get("group") or source.patient or row.id
    annotation = Annotation(text or None, {**named, **infer_labels(said, VOCABULARY)})
    return Example(row.id, image, annotation, group, provenance=source.mark), removed, source.notes


def _state(known: Mapping[str, float]) -> str:
    """Normal, abnormal or, where nothing is stated that decides, neither."""
    if known.get(NORMAL) == 1.0:
        return "normal"
    if known.get(NORMAL) == 0.0 or any(known.get(name) == 1.0 for name in ILLNESSES):
        return "abnormal"
    return ""
