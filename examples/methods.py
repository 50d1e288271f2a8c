"""The published methods that are there: paper, and how to run them."""

import diffgraft

for method, file in diffgraft.methods().items():
    print(f"{method.name} ({method.paper}), in {file}\n    {method.how}")
