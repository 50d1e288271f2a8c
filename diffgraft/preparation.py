"""Raw files to a data set folder."""

from __future__ import annotations

from pathlib import Path

from diffgraft.models import domain
from toolkit import dataset
from toolkit.example import Error

__all__ = ["prepare"]


def prepare(name: str, raw: str | Path, data: str | Path, **options: str) -> dict[str, int]:
    """Read the raw files of a domain and write them as a data set; returns what was counted."""
    raw, data = Path(raw), Path(data)
    if not raw.exists():
        raise Error(f"Raw files are read from a folder; '{raw}' does not exist. Check the path.")
    count = dataset.write(
        domain(name).read(raw, **options), data, domain=name, raw=str(raw.absolute()), options=options
    )
    groups = {e.group for e in dataset.read(data)}
    return {"samples": count, "groups": len(groups)}
