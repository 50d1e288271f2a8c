"""Images changed: leaves given rust inside the leaf, the rest as it was."""

import diffgraft

# Healthy leaves to change. Photographs of yours would do as well.
healthy = "examples/out/healthy"
diffgraft.generate(
    "models/plant_disease", healthy, {"condition": "healthy"}, count=2, overwrite=True
)

result = diffgraft.edit(
    "models/plant_disease",
    healthy,
    "examples/out/edited",
    labels={"condition": "rust"},
    strength=0.5,  # near 0 changes next to nothing, 1 draws the region anew
    overwrite=True,
)
print(f"{result.count} leaves: mean change {result.inside:.1f} of 255 in the region,")
print(f"{result.outside:.1f} outside by the model alone, where the pixels are put back")
print("before and after, with the region: examples/out/edited/report.html")
