"""Make a folder that runs diffgraft on a machine of this kind, with nothing but its Python: no pip, no torch, no checkout.

    python .ci/edge.py DIR          DIR/diffgraft demo --models DIR/models

DIR/lib holds what `pip install '.[edge]'` would install, less what never runs there: byte code of modules that are not
used (Python writes that of the others on first use), the tests of other packages, and the client of the Hugging Face hub,
which tokenizers asks for to fetch a tokenizer by name, while ours are files. DIR/models holds the starter models. The
sizes are printed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
EXTRA = "edge"
NOT_USED = {("tokenizers", "huggingface-hub")}
"""Who asks for what without need."""

LAUNCHER = """#!/bin/sh
# The interpreter has to be of the version that the folder was made for.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PYTHONPATH="$here/lib" exec "${{PYTHON:-python{version}}}" -c 'from diffgraft.cli.main import main; main()' "$@"
"""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("A folder is needed: python .ci/edge.py DIR")
    out = Path(sys.argv[1])
    if out.exists() and any(out.iterdir()):
        sys.exit(f"The folder is a new one; {out} is not empty. Take another.")
    lib = out / "lib"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
    wanted = ["-c", str(REPOSITORY / "constraints.txt"), "--target", str(lib), f"{REPOSITORY}[{EXTRA}]"]
    subprocess.run([*pip, *wanted], check=True)
    shutil.rmtree(lib / "bin")
    found = {_name(d.metadata["Name"]): d for d in distributions(path=[str(lib)])}
    for name in sorted(found.keys() - _needed(found)):
        _remove(found[name], lib)
    for path in sorted(lib.rglob("tests")):
        if path.is_dir():
            shutil.rmtree(path)
    shutil.copytree(REPOSITORY / "models", out / "models", ignore=shutil.ignore_patterns("training"))
    launcher = out / "diffgraft"
    launcher.write_text(LAUNCHER.format(version=f"{sys.version_info[0]}.{sys.version_info[1]}"), encoding="utf-8")
    launcher.chmod(0o755)
    for part in (lib, out / "models"):
        print(f"{part}: {_size(part) / 2**20:.0f} MiB")
    print(f"next: {launcher} demo --models {out / 'models'}")


def _needed(found: dict[str, Distribution]) -> set[str]:
    """The distributions that diffgraft and its extra reach, by requirements that no other extra stands before."""
    needed, waiting = set(), ["diffgraft"]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in found:
            continue
        needed.add(name)
        for line in found[name].requires or ():
            other = _name(re.match(r"[\w.-]+", line)[0])  # type: ignore[index]
            extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", line)
            asked = extra is None or (name == "diffgraft" and extra[1] == EXTRA)
            if asked and (name, other) not in NOT_USED:
                waiting.append(other)
    return needed


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _remove(distribution: Distribution, lib: Path) -> None:
    for file in distribution.files or ():
        path = lib / file
        if ".." not in file.parts:
            path.unlink(missing_ok=True)
    for path in sorted((p for p in lib.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _size(root: Path) -> int:
    """Bytes on the disk, as du counts them."""
    return sum(path.lstat().st_blocks * 512 for path in [root, *root.rglob("*")])


if __name__ == "__main__":
    main()
