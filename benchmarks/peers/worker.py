"""One contender of speed.py in a process of its own, in whatever environment can run it; no import of ours at the top.

    python worker.py CONTENDER job.json

job.json is what speed.py wrote: paths, steps, guidance, prompts, batch sizes. The contender is opened, and makes its first
image; then each line "BATCH" on standard input is answered by one timed run, and "end" by the peak memory. Answers are
lines of JSON on standard output, where nothing else is printed.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    name, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to standard error
    warnings.simplefilter("ignore")

    def answer(**words: Any) -> None:
        answers.write(json.dumps(words) + "\n")

    module, _, function = name.partition(":")
    function, _, option = function.partition("=")
    begun = time.perf_counter()
    run = getattr(importlib.import_module(module), function)(job, *([option] if option else []))
    opened = time.perf_counter() - begun
    run(1)
    answer(first=time.perf_counter() - begun, opened=opened)
    for line in sys.stdin:
        word = line.strip()
        if word == "end":
            break
        batch, keep = word.split()
        begun = time.perf_counter()
        images = run(int(batch))
        seconds = time.perf_counter() - begun
        if keep != "-":
            np.save(keep, images)
        answer(seconds=seconds)
    # Kilobytes on Linux.
    answer(memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
