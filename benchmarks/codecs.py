"""What is left of images after a codec: PSNR, and sharpness in parts of their own, of samples that were kept back.

    python benchmarks/codecs.py work/leaves models/plant_disease work/models/leaves --fold 0 --most 500
    python benchmarks/codecs.py work/leaves work/models/leaves --checkpoint

Kept back are the groups of the fold, without samples that any of the models was trained on, so that all are measured on the
same. A model may be of images of another size: a codec is convolutional. --checkpoint measures a training that is under way,
by the average of its weights. Sharpness is the mean absolute Laplacian: blur lowers it, noise raises it, so look at the
sheets too, which --out writes, a row an image: as it is, then through each codec.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from diffgraft import models
from diffgraft.models.trained_on import partition
from diffgraft.training.report import codec_figures, reconstruct
from toolkit.data import dataset
from toolkit.models.folder import plain_meta, read_meta, training_ids
from toolkit.networks import folder
from toolkit.training.loader import Batch

SHOWN = 8
LEARNER = "codec."
"""What the names of a codec's weights begin with where it is trained beside an adversary."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--most", type=int, default=10**9, help="images, evenly over the set")
    parser.add_argument("--checkpoint", action="store_true", help="the latest one of each training, not the model")
    parser.add_argument("--preset", default="small", help="of the codec whose checkpoint it is")
    parser.add_argument("--out", type=Path, help="folder for a sheet")
    options = parser.parse_args()
    seen = set().union(*(training_ids(read_meta(root), ("codec",)) or set() for root in options.models))
    kept = (e for e in dataset.read(options.data) if dataset.fold_of(e.group) == options.fold)
    examples = partition(kept, seen)[1]
    examples = examples[:: -(-len(examples) // options.most)]
    images = torch.from_numpy(np.stack([example.image for example in examples]))
    batch = Batch(images, {}, torch.zeros(len(images), dtype=torch.int64))
    rows = [images[:: -(-len(images) // SHOWN)]]
    print("| codec | images kept back | PSNR | sharpness kept |\n|---|---|---|---|")
    for root in options.models:
        codec, name = _checkpoint(root, options.preset) if options.checkpoint else (_codec(root), str(root))
        found = codec_figures(codec, batch)
        print(
            f"| {name} | {len(images)} | {found['held_out_psnr']:.2f} | {found['held_out_sharpness']:.3f} |", flush=True
        )
        rows.append(reconstruct(codec, rows[0]))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        _sheet(rows).save(options.out / f"{options.data.name}.png")


def _codec(root: Path) -> Any:
    return folder.load_part(root, "codec").eval()


def _checkpoint(root: Path, preset: str) -> tuple[Any, str]:
    """The averaged codec of a training that is under way, and what it is called."""
    meta, state = read_meta(root), root / "training" / "codec" / "latest"
    network = models.domain(meta["domain"]).PRESETS["codec"][preset][0]
    entry = {"network": network, "latent_channels": meta["spec"]["shape"][0]}
    codec = folder.build("codec", plain_meta(meta | {"parts": meta["parts"] | {"codec": entry}}))
    weights = load_file(state / "average.safetensors")
    own = {k.removeprefix(LEARNER): v for k, v in weights.items() if k.startswith(LEARNER)} or weights
    codec.load_state_dict(own)
    return codec.eval(), f"{root}, {(state / 'state.json').read_text(encoding='utf-8')}"


def _sheet(rows: list[torch.Tensor]) -> Image.Image:
    """A column an image, a row a codec; the first is the images themselves."""
    levels = [[np.rint((image.numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8) for image in row] for row in rows]
    whole = np.concatenate([np.concatenate(row, 2) for row in levels], 1)
    return Image.fromarray(whole.transpose(1, 2, 0) if len(whole) == 3 else whole[0])


if __name__ == "__main__":
    main()
