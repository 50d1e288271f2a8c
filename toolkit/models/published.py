"""What a file or folder that somebody hands out as a model is, told by the names in it, and what can be done with it here.

Checkpoints of Stable Diffusion are published as pipeline folders, as one safetensors file in the keys of the original code,
and as low-rank changes of either (LoRA). Headers alone are read; pickles and archives are named and left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from toolkit.example import Error
from toolkit.models import weights

__all__ = ["CHECKPOINT", "LORA", "Published", "identify", "identify_names", "is_checkpoint", "refusal"]

CHECKPOINT, LORA = "checkpoint", "lora"


@dataclass(frozen=True)
class Published:
    """kind: CHECKPOINT, LORA, or "" for what is neither. words: what it is. remedy: what to do with what is neither."""

    kind: str
    words: str
    remedy: str = ""


ANOTHER = "Take a checkpoint of Stable Diffusion 1.x or 2.x."
WHOLE = "Take the whole checkpoint: one file with U-Net, VAE and text encoder, or a pipeline folder."
MERGED = "Take them as LoRA, or a checkpoint that has them merged."
PARENT = "Name the folder that it lies in, or the one above."

SIGNS: tuple[tuple[str, Published], ...] = (
    (r"\.hada_w1_[ab]$", Published("", "LoHa changes (LyCORIS)", MERGED)),
    (r"\.lokr_w[12]", Published("", "LoKr changes (LyCORIS)", MERGED)),
    (r"\.(on_input|oft_blocks|oft_diag|w_norm)$|\.ia3_", Published("", "changes of layers that are no LoRA", MERGED)),
    (r"\blora_[AB]\b|\.lora_(up|down|mid)\.weight$|\.lora(_linear_layer)?\.(up|down)\.|_lora\.(up|down)\.weight$",
     Published(LORA, "low-rank changes (LoRA)")),
    (r"^(control_model|controlnet_)", Published("", "a ControlNet", ANOTHER)),
    (r"^(image_proj|ip_adapter)\.", Published("", "an IP-Adapter", ANOTHER)),
    (r"^(emb_params|string_to_param|clip_[lg])$", Published("", "a textual inversion", ANOTHER)),
    (r"^(model\.diffusion_model\.)?(joint_blocks|double_blocks|single_transformer_blocks|transformer_blocks)\.",
     Published("", "a transformer in place of a U-Net (Stable Diffusion 3, Flux and their like)", ANOTHER)),
    (r"^conditioner\.embedders\.1\.", Published("", "Stable Diffusion XL, which has two text encoders, in one file", ANOTHER)),
    (r"^conditioner\.embedders\.0\.", Published("", "the refiner of Stable Diffusion XL in one file", ANOTHER)),
    (r"^model\.diffusion_model\.label_emb\.", Published("", "a U-Net told more than text and time (SDXL, unCLIP)", ANOTHER)),
    (r"^model\.diffusion_model\.input_blocks\.", Published(CHECKPOINT, "Stable Diffusion in one file")),
    (r"^input_blocks\.", Published("", "a U-Net alone", WHOLE)),
    (r"^first_stage_model\.|^(vae\.)?(encoder|decoder)\.(down|up|mid|conv_in)", Published("", "a VAE alone", WHOLE)),
    (r"^(down_blocks|up_blocks|mid_block)\.", Published("", "the U-Net of a pipeline folder alone", PARENT)),
    (r"^(text_model|cond_stage_model)\.|^encoder\.layers\.|^transformer\.(text_model|resblocks)\.",
     Published("", "a text encoder alone", WHOLE)),
    (r"^(network\.|vae\.|clip\.)", Published("", "a part of a model folder", PARENT)),
)  # fmt: skip
"""Pattern of a tensor's name -> what has one, the first that fits."""

ENDINGS = {
    ".ckpt": "a pickle", ".pt": "a pickle", ".pth": "a pickle", ".bin": "a pickle", ".pkl": "a pickle",
    ".gguf": "quantised for other programs", ".onnx": "a graph, a part of a folder", ".zip": "an archive", ".tar": "an archive",
    ".gz": "an archive", ".7z": "an archive",
}  # fmt: skip
REMEDIES = {
    "a pickle": "which could run code and is never opened. Take the .safetensors file of the same checkpoint",
    "quantised for other programs": "which are no weights to be trained or exported. Take the .safetensors file in fp16",
    "a graph, a part of a folder": "not a model by itself. Name the folder that it lies in",
    "an archive": "not a model by itself. Unpack it and name what is in it",
}

UNTRAINED = "A model is a folder with model.json; {root} has none. Train one: diffgraft train DOMAIN DATA {root}"


def identify(path: Path) -> Published:
    """What a safetensors file is. Errors: it is none."""
    return identify_names(weights.header(path)[0])


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of Stable Diffusion. Errors: one that calls itself safetensors and is none."""
    return path.suffix.lower() == ".safetensors" and identify(path).kind == CHECKPOINT


def identify_names(names: Iterable[str]) -> Published:
    """What a file with tensors of these names is."""
    known = sorted(names)
    for pattern, found in SIGNS:
        if any(re.search(pattern, name) for name in known):
            return found
    words = f"weights of another kind ({', '.join(known[:2])})" if known else "empty"
    return Published("", words, ANOTHER)


def refusal(root: Path) -> Error:
    """Why a path is no model folder, in one line with what helps. Nothing in it is ever written to."""
    rule = "A model is a folder with model.json, or of a Stable Diffusion pipeline"
    if not root.exists() and (root.suffix.lower() in ENDINGS or root.suffix.lower() == ".safetensors"):
        return Error(f"{rule}; {root} is not there. Check the path.")
    if not root.exists():
        return Error(UNTRAINED.format(root=root))
    if root.is_dir():
        return _folder_refusal(root, rule)
    if root.suffix.lower() == ".safetensors":
        try:
            found = identify(root)
        except Error as problem:
            return problem
        return Error(f"{rule}; {root} is {found.words}. {_remedy(root, found)}")
    kind = ENDINGS.get(root.suffix.lower())
    if kind is None:
        return Error(f"{rule}; {root} is a file. Name the folder of a model.")
    return Error(f"{rule}; {root} is {kind}, {REMEDIES[kind]}.")


def _remedy(path: Path, found: Published) -> str:
    if found.kind == CHECKPOINT:
        return f"Make it a pipeline folder: diffgraft export {path} FOLDER --to diffusers"
    if found.kind == LORA:
        return (
            f"Fold them into the pipeline they are for: diffgraft export PIPELINE FOLDER --to diffusers --lora {path}"
        )
    return found.remedy


def _folder_refusal(root: Path, rule: str) -> Error:
    files = sorted(path for path in root.iterdir() if path.is_file())
    for path in files:
        if path.suffix.lower() == ".safetensors":
            try:
                found = identify(path)
            except Error:
                continue
            if found.kind or found.remedy != ANOTHER:
                return Error(
                    f"{rule}; {root} has neither, but {path.name}, which is {found.words}. {_remedy(path, found)}"
                )
    if pickles := [path.name for path in files if ENDINGS.get(path.suffix.lower()) == "a pickle"]:
        return Error(f"{rule}; {root} has neither, but {pickles[0]}, a pickle, {REMEDIES['a pickle']}.")
    return Error(UNTRAINED.format(root=root))
