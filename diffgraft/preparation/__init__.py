"""Raw files into data sets, box formats into one another, and the list of what was put aside."""
