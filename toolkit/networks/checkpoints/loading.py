"""One part of a pipeline folder as the network of diffusers or transformers that it is, with all of its weights.

Whatever its files are called (toolkit/models/weights.py): the libraries find sharded and variant weights under some of the
names that they have written themselves, so that such files are shown to them under the plain ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel

from toolkit.example import Error, Note
from toolkit.models import pipeline as pipeline_folder
from toolkit.models import weights

__all__ = ["load_network"]

QUANTISED = "quantization_config"


def load_network(kind: Any, root: Path, part: str) -> Any:
    """A network of one of the two libraries in fp32, ready to evaluate. Errors: weights that do not fit its config."""
    name = "dtype" if kind is CLIPTextModel else "torch_dtype"  # as the library of each calls it
    options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, name: torch.float32}
    if QUANTISED in pipeline_folder.read_config(root, part):
        raise Error(
            f"Weights are numbers as they stand; {root / part / 'config.json'} says that they are quantised. "
            "Take the checkpoint in fp16."
        )
    load: Any = kind.from_pretrained
    found = weights.find_weights(root, part)
    weights.read_weights(found)
    try:
        with _plain(root / part, found) as place:
            module, facts = load(str(place), local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        words = " ".join(str(problem).split())[:200]
        raise Error(
            f"Weights must fit config.json; {root / part} does not: {words}. Copy the whole folder."
        ) from problem
    missing = sorted(facts["missing_keys"])
    if missing:
        raise Error(
            f"Weights must fit config.json; {root / part} lacks {missing[0]} and {len(missing) - 1} more. Copy the whole folder."
        )
    strange = sorted(facts["unexpected_keys"])
    if strange and kind is not CLIPTextModel:  # whose file may be that of a whole CLIP
        warnings.warn(
            f"Of the weights in {root / part} {len(strange)} are not used, such as {strange[0]}.", Note, stacklevel=3
        )
    return module


@contextmanager
def _plain(place: Path, found: weights.WeightSet) -> Iterator[Path]:
    """A folder in which a library finds these weights without being told anything: the part's own where it is one."""
    if found.is_plain:
        yield place
        return
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), len(found.paths)
        shutil.copyfile(place / "config.json", folder / "config.json")
        names = {
            path: f"{found.stem}.safetensors" if count == 1 else f"{found.stem}-{n:05}-of-{count:05}.safetensors"
            for n, path in enumerate(found.paths, 1)
        }
        for path, plain in names.items():
            _show(path, folder / plain)
        if count > 1:
            shards = {tensor: names[path] for tensor, (path, _) in weights.read_weights(found).items()}
            index = json.dumps({"metadata": {}, "weight_map": shards})
            (folder / f"{found.stem}.safetensors.index.json").write_text(index, encoding="utf-8")
        yield folder


def _show(path: Path, place: Path) -> None:
    """The file under another name, without a second copy where the system has links."""
    try:
        place.symlink_to(path.resolve())
    except OSError:
        shutil.copyfile(path, place)
