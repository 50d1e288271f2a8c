"""Verbs about where models run and what runs: export, replay, demo, methods and doctor."""

from __future__ import annotations

from pathlib import Path

import diffgraft
from diffgraft.cli import making
from diffgraft.cli.command import Command
from diffgraft.cli.console import Answer, Console, need
from diffgraft.cli.exits import Exit
from diffgraft.cli.options import Argument, Option, lines, shares
from diffgraft.requests.base import converted, optional_path, path, request
from diffgraft.requests.counterfactual import CounterfactualRequest
from diffgraft.requests.deployment import FUSES, PREDICTIONS, TARGETS, ExportRequest
from diffgraft.requests.editing import EditRequest
from diffgraft.requests.generation import GenerationRequest
from diffgraft.requests.record import ReplayRequest

__all__ = ["VERBS"]

PUBLISHED = "Stable Diffusion"

EXPORT = {
    "model": Argument("Model folder, folder of a Stable Diffusion pipeline, or a checkpoint in one .safetensors file."),
    "out": Argument("New folder instead of the model's own; a pipeline needs one, and so does diffusers."),
    "target": Option(
        "onnx, tensorrt or openvino; or diffusers: a folder that StableDiffusionPipeline opens.", "--to",
        complete=TARGETS,
    ),
    "precision": Option(
        "fp32, fp16, bf16 or int8; openvino has no fp16, tensorrt no int8.",
        complete=("fp32", "fp16", "bf16", "int8"),
    ),
    "fuse": Option(
        "none; step, one evaluation with guidance and solver; sampler, a whole run as one graph.",
        complete=FUSES,
    ),
    "lora": Option(
        "Low-rank changes to fold in, FILE or FILE=0.8 for less of them; repeat.", panel=PUBLISHED, kind=list[str], read=shares
    ),
    "like": Option(
        "Of a checkpoint in one file: pipeline folder of the same kind, whose tokenizer and configs serve.", panel=PUBLISHED
    ),
    "prediction": Option(
        "Of a checkpoint in one file that does not say it: epsilon or v_prediction.", panel=PUBLISHED, complete=PREDICTIONS
    ),
}  # fmt: skip


@request
class DemoRequest:
    """The starter models at work. input: a scan instead of the sample. out: folder; models: folder of the starter models."""

    input: Path | None = converted(converter=optional_path, default=None)
    out: Path = converted(converter=path, default=Path("demo"))
    models: Path = converted(converter=path, default=Path("models"))


@request
class MethodsRequest:
    """The published methods."""


@request
class DoctorRequest:
    """What is installed. models: folder of model folders."""

    models: Path = converted(converter=path, default=Path("models"))


def export(request: ExportRequest, console: Console) -> Answer:
    """Write the graphs of a model, so that it runs without torch; tried against torch before they are kept."""
    need("torch", "train")
    pipeline = request.target == "diffusers"
    with console.status("writing" if pipeline else "tracing, half a minute a graph, then trying"):
        made = diffgraft.export(request, tell=console.say, command=console.command)
    for file in made.written:
        console.say(f"{file}  {file.stat().st_size / 1024:.0f} KiB")
    paths = {"model": request.out or request.model} | {file.name: file for file in made.written}
    if pipeline:
        return Answer(f"StableDiffusionPipeline.from_pretrained('{request.out}', safety_checker=None)", paths)
    return _tried(request, console, paths)


def _tried(request: ExportRequest, console: Console, paths: dict[str, Path]) -> Answer:
    """What the gate measured, and how the graphs are run."""
    import dataclasses

    from rich.console import Console as Rich

    from diffgraft.deployment.tables import tables
    from diffgraft.models.folder import domain_of
    from export import record

    place = request.out or request.model
    wanted = (request.target, request.precision, request.fuse)
    (made,) = (each for each in record.read(place) if each.key == wanted)
    for table in tables(made):
        if not (console.quiet or console.json):
            Rich().print(table)
    # What the target cannot run here, the gate ran by another.
    backend = request.target if request.precision == "fp32" else f"{request.target}:{request.precision}"
    backend = backend if made.ran.startswith(request.target) else made.ran
    treats_scans = hasattr(domain_of(place), "preprocess")
    verb = f"counterfactual {place} SCAN" if treats_scans else f"generate {place}"
    return Answer(f"diffgraft {verb} out/ --backend {backend}", paths, figures=dataclasses.asdict(made))


def replay(request: ReplayRequest, console: Console) -> Answer:
    """Run a result again from its request.json and compare the files; exit status 1 where one differs."""
    result = console.run(diffgraft.replay, request)
    console.say(result)
    return Answer(
        paths={"new": request.new}, figures={"files": result.files}, code=None if result.is_same else Exit.REFUSED
    )


def demo(request: DemoRequest, console: Console) -> Answer:
    """Run the starter models: a scan's healthy counterfactual, films by text, leaves, leaves given rust, smears with boxes."""
    brain, chest, plant, smears = (
        request.models / name for name in ("brain_mri", "chest_xray", "plant_disease", "detection")
    )
    out, sample = request.out, request.input or brain / "sample" / "sub-demo_FLAIR.nii.gz"
    scan = CounterfactualRequest(brain, sample, out / "brain_mri", overwrite=True, force=request.input is None)
    answers = {"brain_mri": making.counterfactual(scan, console)}
    console.say_next(answers["brain_mri"])
    for new in () if request.input is not None else (
        GenerationRequest(
            chest, out / "films", prompts=lines(chest / "prompts.txt"), count=3, format="dicom", overwrite=True
        ),
        GenerationRequest(plant, out / "leaves", count=8, each="condition", overwrite=True),
        EditRequest(
            plant, out / "leaves", out / "rust", labels={"condition": "rust"}, where=["condition=healthy"], count=4, overwrite=True
        ),
        GenerationRequest(smears, out / "smears", count=8, format="coco", overwrite=True),
    ):  # fmt: skip
        answer = making.edit(new, console) if isinstance(new, EditRequest) else making.generate(new, console)
        console.say_next(answer)
        answers[new.out.name] = answer
    reports = sorted(out.glob("*/report.html"))
    console.say(f"reports: {', '.join(map(str, reports))}")
    return Answer(
        paths={name: answer.paths["report"] for name, answer in answers.items()},
        figures={name: answer.figures for name, answer in answers.items()},
        quarantined=sum(answer.quarantined for answer in answers.values()),
    )


def methods(request: MethodsRequest, console: Console) -> Answer:
    """The published methods that are there: paper, what they do, what they need, and how to run them."""
    from diffgraft.cli.methods import listing
    from diffgraft.cli.methods import methods as found

    console.say(listing())
    figures = {
        method.name: {"paper": method.paper, "how": method.how, "file": file} for method, file in found().items()
    }
    return Answer("diffgraft edit --help, diffgraft generate --help", figures=figures)


def doctor(request: DoctorRequest, console: Console) -> Answer:
    """What is installed here, what it can do on this machine, and what each model folder is run with."""
    from diffgraft.deployment.doctor import lines as found

    *rows, last = found(request.models)
    for line in rows:
        console.say(line)
    return Answer(last.removeprefix("next: "), figures={"lines": [line for line in rows if line]})


VERBS = (
    Command(
        export, ExportRequest, EXPORT,
        "diffgraft export models/mine --to onnx;   in half precision: diffgraft export models/mine --to onnx --precision fp16;   "
        "a whole run as one graph: diffgraft export models/mine --to onnx --fuse sampler;   a checkpoint in one file, with a LoRA, as a "
        "folder: diffgraft export v1-5.safetensors models/sd --to diffusers --lora lesions.safetensors",
    ),
    Command(
        replay, ReplayRequest,
        {"out": Argument("Folder that a verb wrote."), "new": Argument("New folder for the same again.")},
        "diffgraft replay out/ again/",
    ),
    Command(
        demo, DemoRequest,
        {
            "input": Option("A scan of your own instead of the sample."),
            "out": Option("Output folder; brain_mri, films, leaves, rust and smears in it are replaced."),
            "models": Option("Folder of the starter models."),
        },
        "diffgraft demo --input scan_flair.nii.gz",
    ),
    Command(methods, MethodsRequest, {}, "diffgraft methods"),
    Command(doctor, DoctorRequest, {"models": Option("Folder of model folders.")}, "diffgraft doctor"),
)  # fmt: skip
