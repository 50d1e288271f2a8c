"""A run described in a file: from YAML, from the record of an earlier run, changed."""

import dataclasses
from pathlib import Path

import diffgraft
from diffgraft.requests.base import build, load

# As on the command line: diffgraft generate --config examples/out/run.yaml
path = Path("examples/out/run.yaml")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("""\
model: models/plant_disease
out: examples/out/from_yaml
labels: {condition: phoma}
count: 3
seed: 11
steps: 8
overwrite: true
""")
request = build(diffgraft.GenerationRequest, load(path))
diffgraft.generate(request)
print("asked for:", request.labels, "seed", request.seed)

# The record beside the result is such a file too. It holds every field, the model's
# fingerprint and the version.
again = build(
    diffgraft.GenerationRequest,
    load(Path("examples/out/from_yaml/request.json"), "generate"),
)
other = dataclasses.replace(
    again, seed=12, out=Path("examples/out/from_record"), overwrite=True
)
diffgraft.generate(other)
print("again with seed", other.seed, "in", other.out)

# A misspelt field, or a value that does not fit, is refused before anything is opened.
try:
    build(diffgraft.GenerationRequest, load(path) | {"guidence": 2})
except diffgraft.Error as problem:
    print("refused:", problem)
