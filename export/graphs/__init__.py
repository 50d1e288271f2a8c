"""From a network to its graph: tracing, gradients, precisions and quantisation."""
