"""Contenders of the task generate: prompts in, images out, through text encoder, guided denoiser and decoder.

Each function opens a contender and answers run(batch) -> images (batch, rows, columns) in [0, 1]. All start from the
same noise, walk the same noise levels with DDIM, and evaluate the denoiser under prompt and empty prompt in one batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[int], np.ndarray]


def _pipeline(job: dict[str, Any], pipe: Any, asarray: Callable[[Any], Any]) -> Run:
    """What anybody writes around a pipeline of diffusers."""
    pipe.set_progress_bar_config(disable=True)
    noise = np.load(job["inputs"])["noise"]

    def run(batch: int) -> np.ndarray:
        made = pipe(
            job["prompts"][:batch],
            height=job["size"],
            width=job["size"],
            num_inference_steps=job["steps"],
            guidance_scale=job["guidance"],
            latents=asarray(noise[:batch]),
            output_type="np",
        ).images
        return np.asarray(made)[..., 0]

    return run


def eager(job: dict[str, Any]) -> Run:
    """diffusers as it comes."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(job["pipeline"], safety_checker=None)
    return _pipeline(job, pipe, torch.from_numpy)


def compiled(job: dict[str, Any]) -> Run:
    """The same with U-Net and decoder compiled, for each batch size by itself."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(job["pipeline"], safety_checker=None)
    pipe.unet = torch.compile(pipe.unet, dynamic=False)
    pipe.vae.decode = torch.compile(pipe.vae.decode, dynamic=False)
    return _pipeline(job, pipe, torch.from_numpy)


def optimum_onnx(job: dict[str, Any]) -> Run:
    """optimum-onnx's pipeline on ONNX Runtime."""
    import torch
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    folder = Path(job["made"]) / "optimum-onnx"
    pipe = ORTStableDiffusionPipeline.from_pretrained(folder)
    return _pipeline(job, pipe, torch.from_numpy)


def optimum_onnx_export(job: dict[str, Any], out: str) -> None:
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    ORTStableDiffusionPipeline.from_pretrained(job["pipeline"], export=True).save_pretrained(out)


def optimum_intel(job: dict[str, Any], precision: str) -> Run:
    """optimum-intel's pipeline on OpenVINO, reshaped to the batch and compiled, one pipeline a batch size."""
    import torch
    from optimum.intel import OVStableDiffusionPipeline

    folder = Path(job["made"]) / "optimum-intel"
    opened: dict[int, Run] = {}

    def run(batch: int) -> np.ndarray:
        if batch not in opened:
            pipe = OVStableDiffusionPipeline.from_pretrained(
                folder, compile=False, ov_config={"INFERENCE_PRECISION_HINT": precision}
            )
            pipe.reshape(batch_size=batch, height=job["size"], width=job["size"], num_images_per_prompt=1)
            # It gives the decoder one place a prompt's images, whatever the number of prompts.
            pipe.vae_decoder.model = pipe._reshape_vae_decoder(pipe.vae_decoder.model, job["size"], job["size"], batch)
            pipe.compile()
            opened[batch] = _pipeline(job, pipe, torch.from_numpy)
        return opened[batch](batch)

    return run


def optimum_intel_export(job: dict[str, Any], out: str) -> None:
    from optimum.intel import OVStableDiffusionPipeline

    OVStableDiffusionPipeline.from_pretrained(job["pipeline"], export=True, load_in_8bit=False).save_pretrained(out)


def numpy_loop(job: dict[str, Any]) -> Run:
    """What one writes by hand around our ONNX graphs: onnxruntime, tokenizers, numpy and DDIM in ten lines."""
    import onnxruntime
    from tokenizers import Tokenizer

    root, inputs = Path(job["model"]), np.load(job["inputs"])
    sigmas, null = inputs["sigmas"].astype(np.float32), job["null"]
    session = {
        name: onnxruntime.InferenceSession(str(root / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("text", "denoiser", "decoder")
    }
    words = Tokenizer.from_file(str(root / "tokenizer.json"))

    def run(batch: int) -> np.ndarray:
        ids = np.array([word.ids for word in words.encode_batch([""] * batch + job["prompts"][:batch])], np.int64)
        cond = {"text": session["text"].run(["hidden"], {"ids": ids})[0]}
        for name, (value, kind) in null.items():
            cond[name] = np.full(2 * batch, value, kind)
        x = inputs["noise"][:batch] * np.sqrt(1 + sigmas[0] ** 2)
        for sigma, below in itertools.pairwise(sigmas):
            feed = {"x": np.concatenate([x, x]), "sigma": np.full(2 * batch, sigma, np.float32), **cond}
            plain, wanted = np.split(session["denoiser"].run(None, feed)[0], 2)
            denoised = plain + np.float32(job["guidance"]) * (wanted - plain)
            x = denoised + below / sigma * (x - denoised)
        image = session["decoder"].run(None, {"latent": x})[0]
        return np.clip(image[:, 0] / 2 + 0.5, 0, 1)

    return run


def ours(job: dict[str, Any], backend: str) -> Run:
    """This package, by the function that `diffgraft generate` calls."""
    import dataclasses

    from diffgraft import models
    from diffgraft.generation import sampling
    from toolkit.example import Annotation
    from toolkit.settings import Sampling

    model = models.open(job["model"], backend)
    model = dataclasses.replace(model, meta={**model.meta, "scheduler": job["scheduler"]})
    domain = models.domain(model.meta["domain"])
    settings = Sampling("euler", job["steps"], "own", job["guidance"], job["seed"])

    def run(batch: int) -> np.ndarray:
        rows = [Annotation(text) for text in job["prompts"][:batch]]
        return sampling.sample(model, domain, rows, settings, range(batch))[:, 0] / 2 + 0.5

    return run


def fused(job: dict[str, Any], backend: str) -> Run:
    """This package, the whole run as one graph: noise and text in, image out."""
    from diffgraft import models
    from diffgraft.generation import sampling
    from export.runtime import fused as graphs
    from toolkit.example import Annotation

    name, _, precision = backend.partition(":")
    make = graphs.open(job["fused"], "sampler", precision or "fp32", name)
    # The text encoder is a graph of its own, and the fields are made as for the other backends.
    model = models.open(job["model"], backend)
    domain = models.domain(model.meta["domain"])

    def run(batch: int) -> np.ndarray:
        cond, _ = sampling.encode_conditions(model, domain, [Annotation(text) for text in job["prompts"][:batch]])
        return make(job["seed"], range(batch), cond)[:, 0] / 2 + 0.5

    return run


def fast(job: dict[str, Any], backend: str) -> Run:
    """This package with the model's few-step student: other steps and other weights, so other images."""
    from diffgraft import models
    from diffgraft.generation import sampling
    from diffgraft.models.defaults import default_sampling
    from toolkit.example import Annotation

    model = models.open(job["model"], backend)
    domain, settings = models.domain(model.meta["domain"]), default_sampling(model.meta, student=True)

    def run(batch: int) -> np.ndarray:
        rows = [Annotation(text) for text in job["prompts"][:batch]]
        return sampling.sample(model, domain, rows, settings, range(batch))[:, 0] / 2 + 0.5

    return run
