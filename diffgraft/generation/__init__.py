"""New images from noise: what is asked of each, drawn until it passes its gates, and written."""
