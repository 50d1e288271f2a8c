"""Checkpoints as others publish them, made into the folders and networks of this one."""
