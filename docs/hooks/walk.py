"""Draws the walk of one run for the architecture page: `<!-- walk -->` becomes the rooms that it enters, from top to bottom.

tests/test_walk.py runs the command and checks this list against the calls that were made, so that it cannot go wrong.
"""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

COMMAND = "diffgraft generate models/plant_disease out/ --set condition=rust -n 60"


class Step(NamedTuple):
    """A room, the function by which it is entered, once in the run, and what happens there."""

    room: str
    entrance: str
    text: str


WALK = (
    Step("diffgraft.cli", "main.main", "reads the words of the command line"),
    Step("diffgraft.requests", "base.build", "one frozen request of them: converted, checked, later saved"),
    Step("diffgraft.generation", "generate.generate", "resolves it for a model: settings, labels, format, gates"),
    Step("diffgraft.models", "open.open", "the model folder, on the fastest runtime that passed its gate"),
    Step("export", "runtime.ort.open", "its graphs as functions of arrays, without PyTorch"),
    Step("domains", "plant_disease.infer_labels", "what follows from condition=rust: crop and class"),
    Step("toolkit.diffusion", "editing.generate", "from noise to latents: sampler, guidance, denoiser"),
    Step("toolkit.formats", "folders.write", "class folders of PNG files that say they are synthetic"),
    Step("toolkit.data", "dataset.write", "manifest.jsonl and dataset.json: the folder is a data set"),
    Step("diffgraft.reporting", "page.write", "report.html, with pictures, settings and the command"),
)

WIDTH, ROOM, HIGH, GAP = 760, 250, 46, 22
"""Of the drawing; width and height of a room, and the way between two, in pixels."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this once a page."""
    return markdown.replace("<!-- walk -->", drawing())


def drawing() -> str:
    """The walk as SVG: a box a room with its entrance, and what happens there beside it."""
    parts = [f'<text class="command" x="4" y="18">{escape(COMMAND)}</text>', arrow(26)]
    y = 26 + GAP
    for number, step in enumerate(WALK, 1):
        house = step.room.split(".")[0]
        parts.append(
            f'<g class="{house}"><rect x="4" y="{y}" width="{ROOM}" height="{HIGH}" rx="7"/>'
            f'<text x="16" y="{y + 20}">{number}. {escape(step.room.removeprefix("diffgraft."))}</text>'
            f'<text class="small" x="16" y="{y + 37}">{escape(step.entrance)}</text>'
            f'<text class="says" x="{ROOM + 22}" y="{y + 28}">{escape(step.text)}</text></g>{arrow(y + HIGH)}'
        )
        y += HIGH + GAP
    parts.append(f'<text class="command" x="4" y="{y + 14}">out/: images, labels, manifest, request, report</text>')
    return (
        f'<svg class="walk" viewBox="0 0 {WIDTH} {y + 22}" role="img" aria-label="The rooms that one run enters, in '
        f'order"><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def arrow(y: int) -> str:
    """From one room down to the next."""
    x, end = ROOM // 2, y + GAP
    return f'<path class="way" d="M{x} {y + 2}V{end - 3}m-4 -5l4 5l4 -5"/>'


STYLE = """
.walk{width:100%;height:auto;font-family:var(--md-text-font-family,system-ui,sans-serif)}
.walk rect{stroke-width:1.5;fill:var(--md-default-bg-color,#fff)}
.walk text{font-size:15px;fill:var(--md-default-fg-color,#222)}
.walk .small{font-size:11.5px;opacity:.7;font-family:var(--md-code-font-family,monospace)}
.walk .command{font-size:13.5px;font-family:var(--md-code-font-family,monospace)}
.walk .diffgraft rect{stroke:#00796b}.walk .domains rect{stroke:#c66900}
.walk .export rect{stroke:#6a4fb3}.walk .toolkit rect{stroke:#1f6fb2}
.walk .way{fill:none;stroke:var(--md-default-fg-color,#222);opacity:.6;stroke-width:1.4}
""".replace("\n", "")
