"""New images: coffee leaves with rust, from the starter model."""

# --8<-- [start:short]
import diffgraft

made = diffgraft.generate(
    "models/plant_disease",
    "examples/out/rust",
    {"condition": "rust"},
    count=4,
    overwrite=True,
)
print(made.count, "leaves, seen best in examples/out/rust/report.html")
# --8<-- [end:short]

# The same with a request, a value that can be kept and changed; and with progress.
request = diffgraft.GenerationRequest(
    "models/plant_disease",
    "examples/out/each",
    each="condition",  # every value of this label ...
    count=2,  # ... is given two images
    seed=7,
    steps=8,
    overwrite=True,
)
made = diffgraft.generate(
    request, watch=lambda text, done, of: print(f"{text}: {done} of {of}"), tell=print
)
print(made.count, "leaves of five conditions, guidance", made.settings.guidance)

# What cannot be done is an Error of one line: the rule, what was found, the remedy.
try:
    diffgraft.generate("models/plant_disease", "out", {"condition": "mould"})
except diffgraft.Error as problem:
    print("refused:", problem)
