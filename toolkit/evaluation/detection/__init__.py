"""How well objects are found: average precision, whether a layout came true, intervals, and what costs no learning. Numpy."""
