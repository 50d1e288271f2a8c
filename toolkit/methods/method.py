"""What a published method says of itself. Every module here has METHODS, and `diffgraft methods` lists them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """One published method as it is built here.

    name: what the field calls it. paper: authors, year, arXiv number. does: in one sentence. needs: parts of a model
    and data. how: the command or the functions that run it.
    """

    name: str
    paper: str
    does: str
    needs: str
    how: str
