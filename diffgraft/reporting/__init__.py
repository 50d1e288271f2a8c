"""The HTML report that every run writes: a page of sections, each made of a few kinds of block."""

from diffgraft.reporting.block import Block, Facts, Section, Table, Text
from diffgraft.reporting.curve import Curve
from diffgraft.reporting.page import RESEARCH_USE, Run, write
from diffgraft.reporting.sheet import Sheet
from diffgraft.reporting.volume import Volume

__all__ = ["RESEARCH_USE", "Block", "Curve", "Facts", "Run", "Section", "Sheet", "Table", "Text", "Volume", "write"]
