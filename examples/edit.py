"""A real image changed: leaves given rust inside the leaf, the rest of the picture as it was."""

import diffgraft

# Healthy leaves to change. A folder of photographs of yours, or one file, would do as well.
healthy = "examples/out/healthy"
diffgraft.generate("models/plant_disease", healthy, {"condition": "healthy"}, count=2, overwrite=True)

result = diffgraft.edit(
    "models/plant_disease",
    healthy,
    "examples/out/edited",
    labels={"condition": "rust"},
    strength=0.5,  # how far up the noise goes: near 0 changes next to nothing, 1 draws the region anew
    overwrite=True,
)
print(f"{result.count} leaves: mean change {result.inside:.1f} of 255 inside the region, {result.outside:.1f} outside")
print("before and after, with the region: examples/out/edited/report.html")
