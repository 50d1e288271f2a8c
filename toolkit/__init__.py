"""The parts every domain is built from: value types, formats, the diffusion engine, networks, training, evaluation."""
