"""Draws the rooms of the house for the architecture page, from the import contracts and from the imports themselves.

`<!-- rooms -->` in a page becomes an SVG: a row a layer, as pyproject.toml lists them, and a line wherever a module of one
room imports one of another and none of what that imports leads there. Below it stands what each room says of itself.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Collection, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import grimp

ROOT = Path(__file__).resolve().parents[2]
WIDTH, SIDE, HIGH, GAP, TALL = 760, 110, 44, 14, 26
"""Of the drawing and of its margins; of a room, between rooms, and between layers, in pixels."""

HOUSES = ("diffgraft", "domains", "export", "toolkit")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this once a page."""
    return markdown.replace("<!-- rooms -->", f"{drawing()}\n\n{table()}") if "<!-- rooms -->" in markdown else markdown


def layers(container: str) -> list[list[str]]:
    """The layers of a package from top to bottom, each its rooms side by side, as the import contracts have them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and container in contract.get("containers", ()):
            return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]
    return [[container.rpartition(".")[2]]]


def imports() -> dict[tuple[str, str], int]:
    """(room, room) -> how many modules of the first import one of the second."""
    graph = grimp.build_graph(*HOUSES)
    found: dict[tuple[str, str], set[str]] = {}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = (room_of(module), room_of(other))
            if pair[0] != pair[1]:
                found.setdefault(pair, set()).add(module)
    return {pair: len(modules) for pair, modules in found.items()}


def room_of(module: str) -> str:
    """The room a module lies in: the package or module below its house; all of domains and of export are one room each."""
    house, _, rest = module.partition(".")
    return house if house in ("domains", "export") or not rest else f"{house}.{rest.split('.')[0]}"


def through_another(upper: str, lower: str, pairs: Collection[tuple[str, str]]) -> bool:
    """Whether a room reaches another through a third too: such a line is left out, for the others imply it."""
    below = {b for a, b in pairs if a == upper and b != lower}
    while further := {b for a, b in pairs if a in below} - below:
        below |= further
    return lower in below


def table() -> str:
    """The rooms with what each of them says of itself, as a table in Markdown."""
    rooms = [f"diffgraft.{room}" for layer in layers("diffgraft") for room in layer] + ["domains", "export"]
    rooms += [f"toolkit.{room}" for layer in layers("toolkit") for room in layer]
    rows = []
    for room in rooms:
        place = ROOT / room.replace(".", "/")
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        said = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        modules = sum(1 for _ in place.rglob("[!_]*.py")) if place.is_dir() else 1
        rows.append(
            f"| `{room}` | {' '.join(said.partition(chr(10) * 2)[0].split())} | {modules} | {lines_of(room):,} |"
        )
    return "\n".join(["| room | what is in it | modules | lines |", "|---|---|---|---|", *rows])


def lines_of(room: str) -> int:
    """Lines of Python in a room."""
    place = ROOT / room.replace(".", "/")
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def drawing() -> str:
    """The house as SVG: rooms by layer, the face on top, and the imports as lines from a room to what it needs."""
    rows = [[f"diffgraft.{room}" for room in layer] for layer in layers("diffgraft")]
    rows += [["domains"], ["export"]]
    rows += [[f"toolkit.{room}" for room in layer] for layer in layers("toolkit")]
    places = {place.room: place for place in arranged(rows)}
    found = {pair: count for pair, count in imports().items() if pair[0] in places and pair[1] in places}
    shown = [(places[a], places[b], n) for (a, b), n in sorted(found.items()) if not through_another(a, b, found)]
    lines = "".join(line(upper, lower, count, list(places.values())) for upper, lower, count in shown)
    boxes = "".join(place.drawn() for place in places.values())
    names = "".join(
        f'<text class="house" x="6" y="{min(p.y for p in places.values() if p.house == house) + 27:.0f}">{house}</text>'
        for house in HOUSES
    )
    return (
        f'<svg class="rooms" viewBox="0 0 {WIDTH} {len(rows) * (HIGH + TALL):.0f}" role="img" aria-label="The rooms of '
        f'diffgraft by layer, with their imports"><style>{STYLE}</style>{lines}{boxes}{names}</svg>'
    )


class Place(NamedTuple):
    """Where a room is drawn: its layer, left and upper edge and width."""

    room: str
    layer: int
    x: float
    y: float
    width: float

    @property
    def house(self) -> str:
        return self.room.split(".")[0]

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    def drawn(self) -> str:
        name = escape(self.room.rpartition(".")[2])
        return (
            f'<g class="{self.house}"><rect x="{self.x:.0f}" y="{self.y:.0f}" width="{self.width:.0f}" height="{HIGH}" rx="7"/>'
            f'<text x="{self.middle:.0f}" y="{self.y + 19:.0f}">{name}</text>'
            f'<text class="small" x="{self.middle:.0f}" y="{self.y + 35:.0f}">{lines_of(self.room):,} lines</text></g>'
        )


def arranged(rows: list[list[str]]) -> Iterator[Place]:
    """Rooms of a layer side by side, in the middle of the drawing."""
    for layer, row in enumerate(rows):
        width = min(190.0, (WIDTH - 2 * SIDE - GAP * (len(row) - 1)) / len(row))
        x = (WIDTH - len(row) * width - GAP * (len(row) - 1)) / 2
        for n, room in enumerate(row):
            yield Place(room, layer, x + n * (width + GAP), 8.0 + layer * (HIGH + TALL), width)


def line(upper: Place, lower: Place, count: int, places: list[Place]) -> str:
    """From a room to one it needs: straight down to the next layer, else around what lies between them."""
    span = lower.layer - upper.layer
    if span == 1:
        x0, y0, x1, y1 = upper.middle, upper.y + HIGH, lower.middle, lower.y
        way = f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + 14:.0f} {x1:.0f} {y1 - 14:.0f} {x1:.0f} {y1:.0f}"
    else:
        left = upper.middle + lower.middle < WIDTH or (upper.middle + lower.middle == WIDTH and span % 2 == 0)
        x0, x1 = (upper.x, lower.x) if left else (upper.x + upper.width, lower.x + lower.width)
        between = [place for place in places if upper.layer < place.layer < lower.layer]
        edge = min([x0, x1, *(p.x for p in between)]) if left else max([x0, x1, *(p.x + p.width for p in between)])
        out = (edge - 12 - 9 * span - (x0 + x1) / 8) / 0.75 if left else (edge + 12 + 9 * span - (x0 + x1) / 8) / 0.75
        y0, y1 = upper.y + HIGH / 2 + 6, lower.y + HIGH / 2 - 6
        way = f"M{x0:.0f} {y0:.0f}C{out:.0f} {y0:.0f} {out:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
    says = f"{upper.room} imports {lower.room}: {count} modules"
    return f'<path d="{way}" class="import"><title>{says}</title></path>'


STYLE = """
.rooms{width:100%;height:auto;font-family:var(--md-text-font-family,system-ui,sans-serif)}
.rooms rect{stroke-width:1.5;fill:var(--md-default-bg-color,#fff)}
.rooms text{font-size:15px;text-anchor:middle;fill:var(--md-default-fg-color,#222)}
.rooms .small{font-size:11px;opacity:.65}.rooms .house{text-anchor:start;font-weight:700;font-size:16px}
.rooms .diffgraft rect{stroke:#00796b}.rooms .domains rect{stroke:#c66900}
.rooms .export rect{stroke:#6a4fb3}.rooms .toolkit rect{stroke:#1f6fb2}
.rooms .import{fill:none;stroke:var(--md-default-fg-color,#222);opacity:.45;stroke-width:1.4}
""".replace("\n", "")
