#!/usr/bin/env bash
# diffusers 0.42.1: whether the change of q_proj (k_proj, v_proj) in a LoRA file with kohya's names reaches the text encoder hangs
# on whether any layer in the same file is an out_proj. With one, even of another block, all is fused. With fc1 and none, fc1 is
# fused, load_lora_weights and fuse_lora end well and q_proj stays as it was; the log has a table that calls its two factors
# UNEXPECTED and says that this can be ignored. With q_proj alone: ValueError "Could not automatically infer state dict type".
# The same factors of q_proj and fc1 with diffusers' own names are both fused. (All names of a text encoder's attention are first
# made to_q_lora and the like; a to_out_lora anywhere is what has them translated on, and fc1 alone is taken for "translated".)
# Needs a Python of 3.11 or newer; installs diffusers, transformers, peft and torch into a temporary folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 \
    accelerate==1.15.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 2>/dev/null
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - "$work" <<'PYTHON' 2>"$work/log" || { tail -3 "$work/log"; exit 1; }
import logging
import sys
from pathlib import Path

import diffusers
import peft
import torch
import transformers
from safetensors.torch import save_file

SIZES = {"fc1": (8, 16)}  # in, out; all others (8, 8)
said: list[str] = []


class Heard(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


for library in (diffusers, transformers):
    logging.getLogger(library.__name__).addHandler(Heard())


def pipeline() -> diffusers.StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    words = transformers.CLIPTextConfig(
        vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    clock = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    text = transformers.CLIPTextModel(words)
    return diffusers.StableDiffusionPipeline(vae, text, None, unet, clock, None, None, requires_safety_checker=False)


def changed(layers: list[str], kohya: bool) -> str:
    """The layers of the text encoder that differ once a file with changes of these is loaded and fused."""
    held = {}
    for layer in layers:
        size_in, size_out = SIZES.get(layer.split(".")[-1], (8, 8))
        down, up = torch.ones(2, size_in), torch.ones(size_out, 2)
        if kohya:
            start = f"lora_te_text_model_encoder_layers_{layer.replace('.', '_')}"
            held |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up, f"{start}.alpha": torch.tensor(2.0)}
        else:
            start = f"text_encoder.text_model.encoder.layers.{layer}"
            held |= {f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up}
    save_file(held, Path(sys.argv[1]) / "changes.safetensors", {"format": "pt"})
    pipe = pipeline()
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    said.clear()
    try:
        pipe.load_lora_weights(sys.argv[1], weight_name="changes.safetensors")
    except ValueError as problem:
        return f"ValueError: {problem}"
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = pipe.text_encoder.state_dict()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return ", ".join(sorted(name.removeprefix("encoder.layers.").removesuffix(".weight") for name in names))


Q, FC1, OUT, OTHER = "0.self_attn.q_proj", "0.mlp.fc1", "0.self_attn.out_proj", "1.self_attn.out_proj"
print("diffusers", diffusers.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
as_stated = True
for layers, kohya, stated in (
    ([Q, FC1], False, f"{FC1}, {Q}"),
    ([Q, FC1, OUT], True, f"{FC1}, {OUT}, {Q}"),
    ([Q, FC1, OTHER], True, f"{FC1}, {Q}, {OTHER}"),
    ([Q, FC1], True, FC1),
    ([Q], True, "ValueError: Could not automatically infer state dict type"),
):
    found = changed(layers, kohya)
    told = [line for line in said if "UNEXPECTED" in line]
    note = "; the log calls q_proj UNEXPECTED" if any("to_q_lora" in line and "can be ignored" in line for line in told) else ""
    print(f"{'kohya' if kohya else 'diffusers'} {', '.join(layers)}: fused {found}{note}")
    as_stated &= found == stated and bool(told) == (stated == FC1)
if not as_stated:
    sys.exit("changed")
print("as stated: without an out_proj the change of q_proj is left out")
PYTHON
