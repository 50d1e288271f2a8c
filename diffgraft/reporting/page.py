"""The page of a report: one HTML file that holds everything it shows.

A report is a title, sections of blocks, and how it was made. A block is a frozen dataclass with a method
`html(key)`; `key` is unique within the page and prefixes every id the block needs. A new kind of block is a new
dataclass, nothing else has to know it.

The file needs no network: images are data URIs, curves and outlines are inline SVG, and a content security policy
forbids everything else, scripts other than the page's own included. All text that comes from a caller is escaped. It
can be read without JavaScript, printed, and used from the keyboard. numpy and pillow only; page, style and behaviour
are in report.html beside this module.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any

from diffgraft.reporting.axes import palette
from diffgraft.reporting.block import Facts, Section

__all__ = ["RESEARCH_USE", "Run", "write"]

RESEARCH_USE = "Research use only. Not a medical device."


@dataclass(frozen=True)
class Run:
    """How a report came to be; every report ends with it.

    command: as a person would type it again. Name no patient in it that the report should not name.
    version, time: of diffgraft and of the writing when left empty. seconds: wall time of the run.
    settings: everything that was resolved; nested mappings are shown with dotted names.
    """

    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float | None = None
    version: str = ""
    time: str = ""

    def html(self, key: str) -> str:
        facts = {
            "Version": self.version or _version(),
            "Seed": self.seed,
            "Written": self.time or datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
            "Wall time": None if self.seconds is None else f"{self.seconds:.1f} s",
        }
        shown = {name: value for name, value in facts.items() if value is not None or name == "Seed"}
        command = f'<div class="block"><pre class="command">{escape(self.command)}</pre></div>' if self.command else ""
        settings = Facts(self.settings, caption="Settings").html(key) if self.settings else ""
        return command + Facts(shown).html(key) + settings


def write(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    run: Run,
    *,
    notice: str = "",
    next_step: str = "",
    footer: str = "",
) -> Path:
    """Write the report to `path` and return it. An existing file is replaced, whole or not at all.

    sections: those without a block are left out. run: how it was made, shown in the last section. notice: stays in
    sight on screen and on every printed page; give RESEARCH_USE for anything medical. next_step: one line that says
    what to do now.
    """
    path = Path(path)
    template = (Path(__file__).with_name("report.html")).read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    every = [*(section for section in sections if section.blocks), Section("How this was made", [run])]
    page = Template(template).substitute(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        light_palette=palette("light"),
        dark_palette=palette("dark"),
        notice_css="".join(f"\\{ord(letter):x} " for letter in notice),
        title=escape(title),
        subtitle=f'<p class="lead">{escape(subtitle)}</p>' if subtitle else "",
        nav="".join(f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(every)),
        notice=f'<p class="notice">{escape(notice)}</p>' if notice else "",
        body="".join(_section(number, section) for number, section in enumerate(every)),
        next_step=(
            f'<aside class="next" aria-label="Next step"><h2>Next</h2><p>{escape(next_step)}</p></aside>'
            if next_step
            else ""
        ),
        footer=" ".join(f"<span>{escape(part)}</span>" for part in (footer, notice) if part),
    )
    with _replacing(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return path


def _section(number: int, section: Section) -> str:
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    blocks = "".join(block.html(f"s{number}b{index}") for index, block in enumerate(section.blocks))
    return (
        f'<section id="s{number}" aria-labelledby="s{number}h"><h2 id="s{number}h">{escape(section.title)}</h2>{note}'
        f'<div class="blocks">{blocks}</div></section>'
    )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends well and disappears when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _version() -> str:
    try:
        return metadata.version("diffgraft")
    except metadata.PackageNotFoundError:
        return "not installed"
