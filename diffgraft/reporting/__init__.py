"""The HTML report that every run writes: a page of sections, each made of a few kinds of block."""

from diffgraft.reporting.report import (
    RESEARCH_USE,
    Block,
    Curve,
    Facts,
    Run,
    Section,
    Sheet,
    Table,
    Text,
    Volume,
    write,
)

__all__ = ["RESEARCH_USE", "Block", "Curve", "Facts", "Run", "Section", "Sheet", "Table", "Text", "Volume", "write"]
