"""What synthetic pictures do for a detector, and whether they show their boxes."""
