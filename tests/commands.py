"""`diffgraft ...` in a process of its own, for tests of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
PLANT, BRAIN = MODELS / "plant_disease", MODELS / "brain_mri"

START = [sys.executable, "-m", "diffgraft.cli.main"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def diffgraft(*words: object, folder: Path | None = None, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """A command that ends with `code` (None: whichever) and never with a traceback."""
    done = subprocess.run(
        [*START, *map(str, words)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(*words: object, folder: Path | None = None, code: int = 0) -> dict[str, Any]:
    """What a command with --json prints: one object, nothing else."""
    shown = diffgraft(*words, "--json", folder=folder, code=code).stdout
    assert len(shown.splitlines()) == 1
    return json.loads(shown)
