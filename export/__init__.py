"""From a trained model folder to graphs that run without torch, and the runtimes that run them."""
