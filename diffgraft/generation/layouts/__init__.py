"""New images for layouts of boxes, and the filter that looks whether they show them."""
