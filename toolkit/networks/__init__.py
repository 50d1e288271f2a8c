"""Networks in torch, built from diffusers and transformers parts, and the folder they are saved in."""
