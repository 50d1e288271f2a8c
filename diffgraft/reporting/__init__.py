"""The HTML report that every run writes: a page of sections, each made of a few kinds of block.

    figures = reporting.Table(["Training", "Accuracy"], [["real", 0.81], ["real + synthetic", 0.84]])
    reporting.write(path, "Title", "Lead", [reporting.Section("Figures", [figures])], reporting.Run(command, settings))

A new kind of block is a frozen dataclass with a method `html(key)`, as `Block` says.
"""

from diffgraft.reporting.block import Block, Estimate, Facts, Section, Table, Text, format_difference
from diffgraft.reporting.boxes import BoxLegend, draw_boxes, draw_detections
from diffgraft.reporting.curve import Curve
from diffgraft.reporting.dots import DotPlot, ForestPlot
from diffgraft.reporting.output import staged_output, write_metrics
from diffgraft.reporting.page import RESEARCH_USE, Run, write
from diffgraft.reporting.picture import side_by_side
from diffgraft.reporting.sections import confusion_table, cost_table, protocol_section, warning_section
from diffgraft.reporting.sheet import Sheet
from diffgraft.reporting.volume import Volume

__all__ = [
    "RESEARCH_USE", "Block", "BoxLegend", "Curve", "DotPlot", "Estimate", "Facts", "ForestPlot", "Run", "Section", "Sheet",
    "Table", "Text", "Volume", "confusion_table", "cost_table", "draw_boxes", "draw_detections", "format_difference",
    "protocol_section", "side_by_side", "staged_output", "warning_section", "write", "write_metrics",
]  # fmt: skip
