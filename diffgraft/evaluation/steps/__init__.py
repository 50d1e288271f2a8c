"""Quality of a model against its number of steps."""
