"""Healthy counterfactuals and anomaly maps of scans, on the grid of each scan."""
