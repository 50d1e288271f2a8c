"""Run a model folder without torch: numpy in, numpy out. One module a backend, all with `open(root) -> Model`."""
