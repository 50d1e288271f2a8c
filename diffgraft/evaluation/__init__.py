"""Is it any good: anomaly maps, distributions, downstream gain, alignment, few steps, and the memorisation audit."""
