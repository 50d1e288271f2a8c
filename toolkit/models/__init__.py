"""What the files of a model folder and of a Stable Diffusion pipeline say, readable without a network library."""
