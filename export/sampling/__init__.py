"""Step and sampler graphs: guidance, solver and network composed into one."""
