"""What synthetic images do for a classifier of classes."""
