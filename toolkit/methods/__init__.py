"""Published methods as short compositions of the engine, a file a family, each naming its paper."""
