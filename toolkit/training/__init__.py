"""Training in torch: losses, the loader, and one loop that continues where it was stopped."""
