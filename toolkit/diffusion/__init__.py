"""The engine. The standard library and plain arithmetic: the same source runs on torch tensors and numpy arrays.

Outside a network everything is in sigma units, x = x0 + sigma * n, and a denoiser is the posterior mean D(x, sigma).
"""
