"""Anomaly maps against lesion masks, beside the maps that cost nothing."""
