"""A checkpoint as somebody published it, written as a pipeline folder, with low-rank changes folded into its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel

from toolkit.data.staging import staged_folder
from toolkit.models import pipeline as pipeline_folder
from toolkit.networks import pipeline_save
from toolkit.networks.checkpoints import lora
from toolkit.networks.checkpoints.loading import load_network
from toolkit.networks.checkpoints.single_file import Opened, open_single_file
from toolkit.networks.checkpoints.vocabulary import read_tokenizer

__all__ = ["write_pipeline"]


def write_pipeline(
    source: Path, out: Path, changes: Mapping[Path, float], like: Path | None = None, prediction: str | None = None
) -> None:
    """Write the pipeline folder or the single file `source` as a pipeline folder `out` in fp32, whole or not at all.

    changes: LoRA file -> how much of it is folded in, 1 as it was trained. like, prediction: see `open_single_file`.
    Errors: what cannot be opened or does not fit, a folder that is not empty.
    """
    pipeline_save.check_free(out)
    opened = open_single_file(source, like, prediction) if source.is_file() else _open_folder(source)
    for path, weight in changes.items():
        lora.fold(path, weight, opened.unet, opened.text_encoder)
    with staged_folder(out) as fresh:
        opened.unet.save_pretrained(fresh / "unet", safe_serialization=True)
        opened.vae.save_pretrained(fresh / "vae", safe_serialization=True)
        pipeline_save.write_text_encoder(fresh / "text_encoder", opened.text_encoder)
        (fresh / "tokenizer").mkdir()
        for name, text in opened.tokenizer.items():
            (fresh / "tokenizer" / name).write_text(text, encoding="utf-8")
        pipeline_save.write_json(fresh / "scheduler" / "scheduler_config.json", opened.scheduler)
        pipeline_save.write_json(fresh / pipeline_folder.INDEX, pipeline_save.index(opened.scheduler["_class_name"]))
        told = pipeline_folder.read_meta(fresh)  # what is written is what can be opened
        words = told["parts"]["text"]
        read_tokenizer(fresh, words["tokens"], words["words"])


def _open_folder(root: Path) -> Opened:
    told = pipeline_folder.read_meta(root)
    files = {path.name: path for path in sorted((root / "tokenizer").iterdir()) if path.suffix in (".json", ".txt")}
    stated = pipeline_folder.read_config(root, "scheduler") | {"_class_name": told["scheduler"]["_class_name"]}
    return Opened(
        unet=load_network(UNet2DConditionModel, root, "unet"),
        vae=load_network(AutoencoderKL, root, "vae"),
        text_encoder=load_network(CLIPTextModel, root, "text_encoder"),
        scheduler=pipeline_folder.public_config(stated),
        tokenizer={name: path.read_text(encoding="utf-8") for name, path in files.items()},
    )
