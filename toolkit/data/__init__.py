"""Data sets and what belongs to a sample on its way in and out of one: labels, balance, windows, the synthetic mark."""
