"""What synthetic films do for a classifier of findings, and whether they show those asked for."""
