"""A model made ready for another machine: graphs that are tried before they are kept, and what runs where."""
