"""A result made again from the record beside it, and the files compared."""

import shutil

import diffgraft

diffgraft.generate(
    "models/plant_disease",
    "examples/out/first",
    {"condition": "rust"},
    count=2,
    steps=8,
    overwrite=True,
)

shutil.rmtree("examples/out/second", ignore_errors=True)  # a replay writes a new folder
result = diffgraft.replay("examples/out/first", "examples/out/second", tell=print)
print(result)
print("the same" if result.is_same else "not the same")
