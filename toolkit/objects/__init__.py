"""Boxes of objects, layouts of many, and the pixels that are theirs."""
