"""The command line: each verb reads folders and writes folders, prints what it resolved, and ends with what to do next.

Nothing heavy is imported before a verb runs. A mistake the user can mend is one line on standard error and exit
status 1, without a traceback and without partial output.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Diffusion-model data augmentation for medical and agricultural imaging. Research use only.",
)


class Backend(StrEnum):
    """What runs the model."""

    auto = "auto"
    onnx = "onnx"
    onnx_fp16 = "onnx:fp16"
    onnx_bf16 = "onnx:bf16"
    onnx_int8 = "onnx:int8"
    openvino = "openvino"
    openvino_bf16 = "openvino:bf16"
    openvino_int8 = "openvino:int8"
    tensorrt = "tensorrt"
    tensorrt_fp32 = "tensorrt:fp32"
    tensorrt_bf16 = "tensorrt:bf16"
    torch = "torch"


class Quality(StrEnum):
    """How much work one scan is given."""

    fast = "fast"
    default = "default"
    best = "best"


class Task(StrEnum):
    """What an evaluation asks."""

    anomaly = "anomaly"
    distribution = "distribution"
    classify = "classify"
    detect = "detect"
    alignment = "alignment"
    steps = "steps"


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
OpenReport = Annotated[bool, typer.Option("--open", help="Open the report in a browser.")]
BackendName = Annotated[
    Backend,
    typer.Option(
        metavar="NAME[:PRECISION]",
        help="What runs the model: onnx, openvino, tensorrt or torch, as openvino:bf16; auto is the fastest that passed.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the noise.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the sampler.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free: 0 ignores the labels, 1 conditional.")]
SamplerName = Annotated[
    str | None, typer.Option(help="dpmpp_2m, heun, euler, or with noise on the way euler_ancestral, dpmpp_2m_sde.")
]
Student = Annotated[
    bool | None,
    typer.Option(
        "--student/--no-student",
        help="By the model's few-step student, or by the model itself. The model's own choice unless given.",
    ),
]


def main() -> None:
    """Entry point: runs a verb and turns an Error into one line and exit status 1."""
    from toolkit.example import Error, Note

    def note(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, Note):
            print(f"diffgraft: note: {message}", file=sys.stderr)
        else:
            others(message, category, *rest, **named)

    others, warnings.showwarning = warnings.showwarning, note
    warnings.simplefilter("default", Note)
    try:
        app(standalone_mode=len(sys.argv) < 2)
    except (Error, OSError) as problem:
        print(f"diffgraft: {' '.join(str(problem).split())}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        print("diffgraft: stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # how typer states a mistake in the words of a command
            raise
        words = " ".join(problem.format_message().split()).rstrip(".")
        print(f"diffgraft: {words}. See: diffgraft [VERB] --help", file=sys.stderr)
        sys.exit(1)


@app.command(
    epilog="Example: diffgraft prepare brain_mri scans/ work/mri;   leaves of one crop: "
    "diffgraft prepare plant_disease photos/ work/coffee --only crop=coffee"
)
def prepare(
    domain: Annotated[str, typer.Argument(help="chest_xray, brain_mri, plant_disease or detection.")],
    raw: Annotated[
        Path,
        typer.Argument(
            help="Folder of raw files: DICOM films, or pictures with metadata.csv; NIfTI, flat or BIDS; photographs in "
            "class folders; pictures with boxes, COCO, VOC or YOLO."
        ),
    ],
    data: Annotated[Path, typer.Argument(help="New data set folder.")],
    contrast: Annotated[
        str | None, typer.Option(help="brain_mri: contrast to take, as in the file names; FLAIR unless given.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT; plant_disease 128x64, chest_xray 128x128, detection 192x144 unless given."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Images to take, such as crop=coffee or view=PA; repeat.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="detection: cut pictures into windows of this many pixels, for small objects.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn raw files into a data set folder: images, labels, geometry, one manifest."""
    from diffgraft.models.folder import domain as named
    from diffgraft.preparation.prepare import prepare as run

    with _progress() as step:
        counted = run(
            domain, raw, data, lambda done, of: step("reading", done, of), overwrite,
            contrast=contrast, size=size, only=only or None, crop=crop,
        )  # fmt: skip
    options = {k: " ".join(v) if type(v) in (list, tuple) else v for k, v in counted.options.items() if v}  # type: ignore
    _say(f"{domain} of {raw}; " + ", ".join(f"{k} {v}" for k, v in options.items()))
    for label, count in (counted.objects or counted.classes).items():
        _say(f"{count:8} {label}")
    samples, groups = named(domain).UNITS
    _say(f"{counted.samples} {samples} of {counted.groups} {groups} in {data}")
    _tell_aside(counted.aside, data)
    _next(f"diffgraft train {domain} {data} models/mine")


@app.command(epilog="Example: diffgraft convert photos/ out/ --to yolo;   where several formats lie: --from voc")
def convert(
    raw: Annotated[Path, typer.Argument(help="Folder of pictures with boxes in COCO, Pascal VOC or YOLO format.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    target: Annotated[str, typer.Option("--to", help="coco, voc or yolo.")],
    source: Annotated[str | None, typer.Option("--from", help="coco, voc or yolo; found by what is there.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write pictures with boxes in another format; their files are copied unchanged."""
    from diffgraft.preparation.convert import convert as run
    from diffgraft.preparation.convert import told

    with _progress() as step:
        made = run(raw, out, target, source, lambda done, of: step("copying", done, of), overwrite)
    for line in told(made, out):
        _say(line)
    _tell_aside(made.aside, out)
    _next(f"diffgraft prepare detection {out} work/boxes")


@app.command(epilog="Example: diffgraft train brain_mri work/mri models/mine --part classifier")
def train(
    domain: Annotated[str, typer.Argument(help="chest_xray, brain_mri, plant_disease or detection.")],
    data: Annotated[Path, typer.Argument(help="Data set folder, from prepare.")],
    model: Annotated[Path, typer.Argument(help="Model folder; parts are added to it.")],
    part: Annotated[
        str, typer.Option(help="denoiser, classifier, codec, features, text, detector or embedding.")
    ] = "denoiser",
    preset: Annotated[str, typer.Option(help="Size and length of the training.")] = "small",
    steps: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the preset's.")] = None,
    fold: Annotated[int | None, typer.Option(help="Fold of patients kept back, 0 to 3; -1 trains on all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Train the text encoder along with the denoiser, instead of frozen.")
    ] = False,
    lora: Annotated[
        int | None, typer.Option(help="Rank: train low-rank changes of the attention alone, and merge them (LoRA).")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--from", help="Model, or Stable Diffusion pipeline folder, whose weights a new one begins with."),
    ] = None,
) -> None:
    """Train one part of a model. Run the same command again to continue after a stop."""
    _need("torch", "train")
    from diffgraft.models.folder import domain as named
    from diffgraft.training import train as training

    if part == "text" and base is not None and (base / "text_encoder").is_dir():
        _say(f"text: {training.take_text(named(domain), data, model, base):,} parameters of {base}, frozen")
        _next(f"diffgraft train {domain} {data} {model}")
        return
    run = training.learn_embedding if part == "embedding" else training.train
    with _progress() as step:
        facts = run(
            named(domain), data, model, part, preset,
            lambda done, of, loss: step(f"{part} loss {loss:.4f}", done, of),
            base=base, steps=steps, batch=batch, learning_rate=learning_rate, fold=fold, seed=seed,
            joint=joint or None, lora=lora,
        )  # fmt: skip
    samples, groups = named(domain).UNITS
    _say(
        f"{part}: {facts['parameters']:,} parameters, {facts['samples']} {samples} of {facts['groups']} {groups}, "
        f"{len(facts['held_out_groups'])} {groups} kept back, {facts['seconds']} s; report {model / 'training' / part / 'report.html'}"
    )
    _next(f"diffgraft export {model} --to onnx")


@app.command(
    epilog="Example: diffgraft distill models/plant_disease models/fast --steps 4;   of a model that changes scans: diffgraft "
    "distill models/brain_mri models/fast --steps 4 --like work/mri"
)
def distill(
    model: Annotated[Path, typer.Argument(help="Model folder: the teacher.")],
    out: Annotated[Path, typer.Argument(help="New folder: the model with a student in it.")],
    steps: Annotated[int, typer.Option(help="Evaluations of the student, in each direction.")] = 4,
    like: Annotated[
        Path | None, typer.Option(help="Data set whose labels are asked for; scans to be changed come from it.")
    ] = None,
    objective: Annotated[
        str,
        typer.Option(help="leap: to the next level; consistency: to the end of the path, sampled with fresh noise."),
    ] = "leap",
    guidance: Annotated[float | None, typer.Option(help="Folded in; the model's own unless given.")] = None,
    classifier_guidance: Annotated[
        float | None, typer.Option(help="Folded in: scale of the classifier's gradient, for scans.")
    ] = None,
    paths: Annotated[int, typer.Option(help="Of the teacher, to learn from.")] = 2048,
    fine: Annotated[int, typer.Option(help="Steps of the teacher for one of the student.")] = 6,
    rank: Annotated[int, typer.Option(help="Of the changes to each layer.")] = 16,
    train_steps: Annotated[int | None, typer.Option(help="Training steps, instead of 3000.")] = None,
    batch: Annotated[int | None, typer.Option(help="Instead of 32.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of 0.001.")] = None,
    seed: Seed = 0,
    backend: BackendName = Backend.auto,
) -> None:
    """A few-step student of a model, with its guidance folded in. Run the same command again to continue after a stop."""
    _need("torch", "train")
    from diffgraft.training.distill import distill as run
    from toolkit.settings import Distillation

    settings = Distillation(steps, objective, fine, paths, rank, seed)
    with _progress() as step:
        facts = run(
            model, out, settings, guidance=guidance, classifier_guidance=classifier_guidance, like=like,
            backend=backend.value, watch=step, steps=train_steps, batch=batch, learning_rate=learning_rate,
        )  # fmt: skip
    for sigma, error in facts["error"].items():
        _say(f"sigma {sigma:8} error of the answer {error:.3f} of its spread, on paths kept back")
    _say(
        f"student of {steps} steps: {facts['parameters']:,} parameters of its own, {facts['seconds']} s; "
        f"report {out / 'training' / 'student' / 'report.html'}"
    )
    _next(f"diffgraft evaluate DATA {out} --task steps; diffgraft export {out} --to onnx")


@app.command(
    epilog="Example: diffgraft generate models/plant_disease out/ --set condition=rust -n 60;   even out a data set: diffgraft "
    "generate models/plant_disease out/ --like work/coffee --balance condition -n 300;   the sample of the MRI demo: diffgraft "
    "generate models/brain_mri out/ --format nifti --name demo --seed 35 --far-from work/mri"
)
def generate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    out: Annotated[Path, typer.Argument(help="New output folder.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Label of the images, NAME=VALUE; repeat.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="How many images, or slices of the volume.")] = 16,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt a line; each is given -n images.")
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Data set whose labels the images are given.")] = None,
    balance: Annotated[
        str | None, typer.Option(help="Label of which --like and the new images together shall have each value evenly.")
    ] = None,
    each: Annotated[str | None, typer.Option(help="Label of which every value is given -n images.")] = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerName = None,
    student: Student = None,
    volume: Annotated[bool, typer.Option("--volume", help="Slices of one head, a lesion in its middle part.")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            help="images; folders, one a class; nifti, one volume; dicom or dx, films too; coco, voc or yolo, boxes too. "
            "Else the domain's own."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Label of the volume or samples, letters and digits.")] = "",
    far_from: Annotated[
        Path | None, typer.Option(help="Training data set: keep images farther from it than its median held-out one.")
    ] = None,
    reject_copies: Annotated[
        Path | None,
        typer.Option(help="Training data set: draw again what the audit calls a copy of one of its images."),
    ] = None,
    faithful_to: Annotated[
        Path | None,
        typer.Option(help="Training data set: draw again what is not taken for its class, or not for real."),
    ] = None,
    fits_text: Annotated[
        Path | None, typer.Option(help="Training data set: draw again what fits its prompt less than real images do.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Boxes, of --like or the model's own: recombine unless given, copy, jitter or sample."),
    ] = None,
    filter_: Annotated[
        bool | None,
        typer.Option(
            "--filter/--no-filter",
            help="Boxes: draw again what the model's detector does not find where it was asked for. On where there is one.",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Boxes: real images to measure the filter's limit on. Else --like, or the model's own."),
    ] = None,
    real_share: Annotated[
        float | None,
        typer.Option(help="Boxes: part of real images that keep the limit, 0.5, 0.75 (unless given) or 0.9."),
    ] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Boxes: take the detector's box where it surely fits better.")
    ] = False,
    favour_hard: Annotated[
        bool, typer.Option("--favour-hard", help="Boxes: ask more often for layouts that the detector finds hard.")
    ] = False,
    tries: Annotated[
        int | None, typer.Option(help="Boxes: draws for one layout before it is replaced, 4 unless given.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Boxes: part of what passed that is kept, the images whose boxes score best.")
    ] = None,
    backend: BackendName = Backend.auto,
    overwrite: Overwrite = False,
    open_report: OpenReport = False,
) -> None:
    """New images from noise, with the labels that are set, as a data set folder or a volume, with a report."""
    from diffgraft.generation import generate as module
    from diffgraft.generation.layouts.generate import Layouts

    settings = _sampling(model, "sampling", student, seed=seed, steps=steps, guidance=guidance, sampler=sampler)
    asked = module.asked(model, set_ or [])
    chosen = {
        "kind": layout, "filtered": filter_, "check": check, "quantile": real_share, "relabel": relabel or None,
        "favour_hard": favour_hard or None, "tries": tries, "keep": keep,
    }  # fmt: skip
    chosen = {name: value for name, value in chosen.items() if value is not None}
    with _progress() as step:
        made = module.generate(
            model, out, asked.labels, count, settings, text=asked.text, prompts=_lines(prompts), like=like,
            balance=balance, each=each, volume=volume, format=format, name=name, far_from=far_from,
            reject_copies=reject_copies, faithful_to=faithful_to, fits_text=fits_text, layouts=Layouts(**chosen) if chosen else None,
            backend=backend.value, overwrite=overwrite, command=_command(), watch=step,
        )  # fmt: skip
    _say(f"{settings}; start sigma {made.start_sigma:.3g}")
    if made.limit is not None:
        _say(f"limit {made.limit:.3f} (median held-out image)")
    if made.similarity:
        _say(f"nearest training image: NCC up to {max(made.similarity):.3f}")
    if made.turned_away:
        words = ", ".join(f"{count} {name}" for name, count in made.turned_away.items())
        _say(f"{made.rejected:.0%} of {made.draws} draws rejected: {words}")
    for note in made.notes:
        _say(note)
    _say(f"{made.count} synthetic images in {out}; report {out / 'report.html'}   (research use only)")
    _open(out / "report.html", open_report)
    steps_after = {
        "nifti": f"diffgraft counterfactual {model} {out} out/ --force",
        "folders": f"diffgraft audit DATA {out} --model {model}",
        **dict.fromkeys(module.BOXED, f"diffgraft evaluate DATA {out} --task detect"),
    }
    _next(steps_after.get(made.format, f"look at {out / 'report.html'}"))


@app.command(
    epilog="Example: diffgraft edit models/plant_disease work/coffee out/ --where condition=healthy --set condition=rust;   "
    "one photograph: diffgraft edit models/plant_disease leaf.jpg out/ --set condition=rust --mask spots.png;   a film by "
    'words: diffgraft edit models/chest_xray film.dcm out/ --set text="right pleural effusion" --box 200,900,1000,1700;   an '
    "object: diffgraft edit models/detection smear.jpg out/ --object WBC=250,180,430,350"
)
def edit(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    input: Annotated[Path, typer.Argument(help="Data set, folder of raw files, or one photograph or film.")],
    out: Annotated[Path, typer.Argument(help="New output folder.")],
    procedure: Annotated[str, typer.Option(help="inpaint, invert, sdedit or dafusion.")] = "inpaint",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="New label of the images, NAME=VALUE, or text=WORDS for a model of texts; repeat."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Label an image must have to be taken, NAME=VALUE; repeat.")
    ] = None,
    strength: Annotated[float, typer.Option(help="In (0, 1]: how far up the noise goes.")] = 0.4,
    box: Annotated[
        list[str] | None,
        typer.Option(help="Where to change, x0,y0,x1,y1 in pixels of the image in its file or in parts of 1; repeat."),
    ] = None,
    object_: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            help="detection: CLASS=x0,y0,x1,y1, what to draw where, in pixels or in parts of 1; repeat. A --box is emptied.",
        ),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(help="detection: width in pixels of what the model sees; as it was prepared, else all."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="detection: coco (unless given), voc or yolo; images, a data set alone.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Grey picture, white where to change, grey where less.")] = None,
    region: Annotated[
        str | None,
        typer.Option(
            help="Without box and mask: spots, foreground, whole, or difference, where the model itself would change it. "
            "The procedure's own unless given."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option("-n", "--count", help="At most so many images.")] = None,
    variants: Annotated[int, typer.Option(help="Of each image.")] = 1,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    sampler: SamplerName = None,
    backend: BackendName = Backend.auto,
    overwrite: Overwrite = False,
    open_report: OpenReport = False,
) -> None:
    """Change real images towards other labels or words, the rest of them left as it is and measured, as a new data set."""
    from diffgraft.editing.edit import edit as run
    from diffgraft.generation import generate as generation

    settings = _sampling(model, "editing", False, seed=seed, steps=steps, guidance=guidance, sampler=sampler)
    asked = generation.worded(model, set_ or [])
    with _progress() as step:
        made = run(
            model, input, out, procedure, asked.labels, text=asked.text, strength=strength, boxes=box or (),
            objects=object_ or (), crop=crop, format=format, mask=mask,
            region=region, where=where or (), count=count, variants=variants, settings=settings, backend=backend.value,
            overwrite=overwrite, command=_command(), watch=step,
        )  # fmt: skip
    _say(f"{procedure} at strength {strength:g}, {settings}; start sigma {made.start_sigma:.3g}")
    outside = (
        f"; outside, by the model alone, {made.outside:.1f} (SSIM {made.ssim_outside:.3f}), in the files none"
        if made.outside == made.outside  # NaN where the whole image is the region
        else ""
    )
    _say(f"{made.count} images; mean change inside the region {made.inside:.1f} of 255{outside}")
    _tell_aside(made.aside, out)
    for line in made.lines():
        _say(line)
    if made.films:
        _say(f"{made.films} on the grid of their files in {out / 'films'}")
    _say(f"report {out / 'report.html'}   (research use only)")
    _open(out / "report.html", open_report)
    task = "detect" if object_ or hasattr(made, "objects") else "classify"
    _next(f"look at {out / 'report.html'}; then diffgraft evaluate REAL {out} --task {task}")


@app.command(epilog="Example: diffgraft counterfactual models/brain_mri scan_flair.nii.gz out/")
def counterfactual(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    scan: Annotated[Path, typer.Argument(help="A NIfTI scan, a DICOM MR series, or a folder of them.")],
    out: Annotated[Path, typer.Argument(help="New output folder.")],
    target: Annotated[str, typer.Option(help="What the scan should become.")] = "healthy",
    quality: Annotated[Quality, typer.Option(help="How much work one scan is given.")] = Quality.default,
    strength: Annotated[list[float] | None, typer.Option(help="In (0, 1]; repeat to average several.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in each direction.")] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, heun or dpmpp_2m.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free: 0 ignores the target, 1 conditional.")
    ] = None,
    classifier_guidance: Annotated[
        float | None, typer.Option(help="Scale of the classifier's gradient, 0 off.")
    ] = None,
    guidance_low: Annotated[float | None, typer.Option(help="No classifier guidance at and below this sigma.")] = None,
    mirror: Annotated[bool | None, typer.Option(help="Average with the mirror image.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise.")] = None,
    student: Student = None,
    threshold: Annotated[float | None, typer.Option(help="Of the mask, instead of the model's calibrated one.")] = None,
    backend: BackendName = Backend.auto,
    nan: Annotated[str, typer.Option(help="refuse, or zero: set voxels that are not finite to 0.")] = "refuse",
    force: Annotated[bool, typer.Option("--force", help="Treat scans that the input gate refuses.")] = False,
    overwrite: Overwrite = False,
    open_report: OpenReport = False,
) -> None:
    """Healthy counterfactual, anomaly map and mask of each scan, on its own grid, with a report."""
    import dataclasses

    from diffgraft import models
    from diffgraft.counterfactuals import counterfactual as module
    from toolkit.example import Error

    asked = {
        "strengths": tuple(strength) if strength else None, "steps": steps, "sampler": sampler, "guidance": guidance,
        "classifier_guidance": classifier_guidance, "guidance_low": guidance_low, "mirror": mirror, "seed": seed,
    }  # fmt: skip
    domain = models.domain_of(model)
    if not hasattr(domain, "QUALITY"):
        raise Error(
            f"A counterfactual is of scans with a healthy class, brain_mri; {model} is of another domain, "
            f"{models.meta(model)['domain']}. Change its images with: diffgraft edit {model} INPUT OUT"
        )
    preset = domain.QUALITY[quality]
    if student:
        from diffgraft.models.defaults import student_of

        preset = module.by_student(preset, student_of(models.meta(model)))
    settings = dataclasses.replace(preset, **{k: v for k, v in asked.items() if v is not None})
    with _progress() as step:

        def announce(resolved: module.Plan, scans: list[Any]) -> None:
            _say(f"model {resolved.model} ({resolved.fingerprint}) on {resolved.backend}; {len(scans)} scan(s)")
            _say(f"{settings}; start sigma {', '.join(map(str, resolved.sigmas))}")
            _say(f"threshold {resolved.threshold:.4f} ({resolved.threshold_origin})")

        outcomes = module.counterfactual(
            model, scan, out, target, settings, backend=backend.value, threshold=threshold, nan=nan, force=force,
            overwrite=overwrite, command=_command(), announce=announce, watch=step,
        )  # fmt: skip
    for outcome in outcomes:
        if outcome.refused:
            print(f"put aside: {outcome.refused}", file=sys.stderr)
        else:
            _say(
                f"sub-{outcome.label}: {outcome.suspicious_slices} of {outcome.slices} slices above the threshold, "
                f"highest value {outcome.most_abnormal:.3f}, {outcome.seconds:.0f} s"
            )
    _say(f"report {out / 'report.html'}   (research use only, not a medical device)")
    _open(out / "report.html", open_report)
    if (out / "dicom").is_dir():
        _next(
            f"send {out / 'dicom'} to a PACS: counterfactual series, anomaly map and segmentation in the frame of the source"
        )
    else:
        _next(f"diffgraft evaluate {scan} {out} --task anomaly   (where there are lesion masks)")


@app.command(
    epilog="Example: diffgraft evaluate scans/ out/ --task anomaly --out report/;   does it help a classifier: "
    "diffgraft evaluate work/coffee made/ --task classify --shots 10 --shots 0 --out report/;   a detector: "
    "diffgraft evaluate work/cells made/ --task detect --shots 20 --shots 0 --out report/;   in how few steps: diffgraft "
    "evaluate work/coffee models/plant_disease --task steps --out report/"
)
def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Real samples: a data set; for anomaly, scans with lesion masks or one of them.")
    ],
    maps: Annotated[
        Path,
        typer.Argument(
            help="What is measured: synthetic data set, or folder of few-shot ones k<shots>-s<seed>; output of counterfactual; "
            "steps, a model."
        ),
    ],
    task: Annotated[
        Task,
        typer.Option(
            help="Maps against masks; downstream gain; whether images show the class asked for; quality against steps."
        ),
    ] = Task.anomaly,
    out: Annotated[Path | None, typer.Option(help="New folder for report.html and metrics.json.")] = None,
    atlas: Annotated[
        Path | None, typer.Option(help="anomaly: data set of training patients, for the healthy-atlas baseline.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="anomaly: model folder that is given the threshold found here.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Model that made what is measured: its feature network, and what it was trained on."),
    ] = None,
    only: Annotated[
        Path | None, typer.Option(help="anomaly: text file of the patients to take, one name a line.")
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER, another one to measure beside it; repeat.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="classify, alignment: label to tell; class, or every finding of films, unless given."),
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(help="Real samples, 0 (or nothing) for all: classify, of each class; detect, images; repeat."),
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(help="detect: real, classical, copy-paste, 10, 50, only, pretrained; all unless given; repeat."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="distribution: feature network as an ONNX file, instead of the model's own.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="distribution: compare with the held-out part of DATA, or all.")
    ] = "held-out",
    seeds: Annotated[int, typer.Option(help="classify, detect, alignment: trainings of each kind.")] = 3,
    steps: Annotated[
        str | None,
        typer.Option(help="classify, detect, alignment: of every training; steps: of the solvers, as 1,2,4,8,20,50."),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(help="classify, detect, alignment: fold that tests and is never trained on; the domain's own."),
    ] = None,
    samplers: Annotated[
        str | None, typer.Option(help="steps: solvers, as euler,dpmpp_2m,heun,dpmpp_2m_sde, which is the default.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="steps: images of each (96), or scans (all that are held out).")
    ] = None,
    student: Annotated[
        Path | None, typer.Option(help="steps: folder whose few-step student stands beside; the model's own.")
    ] = None,
    backend: BackendName = Backend.auto,
    overwrite: Overwrite = False,
    open_report: OpenReport = False,
) -> None:
    """Measure anomaly maps against masks, or what synthetic samples do for a classifier, beside the trivial baselines."""
    from functools import partial

    shared: dict[str, Any] = {"out": out, "overwrite": overwrite, "command": _command(), "beside": _pairs(beside or [])}
    next_step = "compare the settings that move these numbers: diffgraft counterfactual --help"
    if task in (Task.classify, Task.alignment):
        _need("torch", "train")
        from diffgraft.evaluation.alignment import alignment
        from diffgraft.evaluation.classes.experiment import classify
        from diffgraft.models.features import cache_folder

        shared |= {"label": label, "seeds": seeds, "fold": fold, "model": model}
        shared |= {} if steps is None else {"steps": _numbers(steps, one=True)[0]}
        run: Any = {
            Task.classify: partial(classify, shots=shots or ()),
            Task.alignment: partial(alignment, cache=cache_folder()),
        }[task]
        from diffgraft.evaluation.boxes.judges import with_boxes

        helps = Task.detect if with_boxes(data) else Task.classify
        other = {Task.classify: Task.alignment, Task.alignment: helps}[task]
        next_step = f"diffgraft evaluate {data} {maps} --task {other.value}"
    elif task == Task.detect:
        _need("torch", "train")
        from diffgraft.evaluation.boxes.experiment import detect

        shared |= {"seeds": seeds, "fold": fold, "model": model} | (
            {} if steps is None else {"steps": _numbers(steps, one=True)[0]}
        )
        run = partial(detect, arms=arms or (), shots=shots or ())
        next_step = f"diffgraft evaluate {data} {maps} --task alignment"
    elif task == Task.distribution:
        from diffgraft.evaluation.distribution import distribution
        from diffgraft.models.features import cache_folder

        run = partial(distribution, model=model, features=features, split=split, cache=cache_folder())
        next_step = f"diffgraft audit {data} {maps}{'' if model is None else f' --model {model}'}"
    elif task == Task.steps:
        from diffgraft.evaluation.steps.experiment import steps as curves
        from toolkit.example import Error

        if out is None or beside:
            raise Error("Curves are of one model and kept in a folder; name it with --out DIR and leave --beside out.")
        del shared["beside"]
        asked = {
            "counts": None if steps is None else _numbers(steps),
            "samplers": None if samplers is None else [name.strip() for name in samplers.split(",")],
        }
        run = partial(
            curves, count=count, student=student, backend=backend.value, **{k: v for k, v in asked.items() if v}
        )
        next_step = f"diffgraft distill {maps} OUT --steps 4"
    else:
        from diffgraft.evaluation.anomaly.evaluate import evaluate as measure

        run = partial(measure, task=task.value, atlas=atlas, calibrate=calibrate, model=model, only=only)
    with _progress() as step:
        result = run(data, maps, watch=step, **shared)
    print(result)
    if out is not None:
        _say(f"report {out / 'report.html'}")
        _open(out / "report.html", open_report)
    _next(next_step)


@app.command(epilog="Example: diffgraft audit work/coffee out/ --model models/mine --out report/")
def audit(
    train: Annotated[Path, typer.Argument(help="Data set that the model was trained on.")],
    fake: Annotated[Path, typer.Argument(help="Data set of what the model made.")],
    holdout: Annotated[
        Path | None, typer.Option(help="Real data set that was not trained on, instead of what TRAIN kept back.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="The model: its feature network, and what it trained on.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature network as an ONNX file, instead of the model's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for report.html and metrics.json.")] = None,
    overwrite: Overwrite = False,
    open_report: OpenReport = False,
) -> None:
    """Find copies of training images among generated ones; exit status 1 where planted copies are not found either."""
    from diffgraft.evaluation.audit import audit as run
    from diffgraft.models.features import cache_folder
    from toolkit.example import Error

    with _progress() as step:
        result = run(
            train, fake, holdout=holdout, model=model, features=features, out=out, cache=cache_folder(),
            overwrite=overwrite, command=_command(), watch=step,
        )  # fmt: skip
    print(result)
    if out is not None:
        _say(f"report {out / 'report.html'}")
        _open(out / "report.html", open_report)
    if not result.audit.valid:
        raise Error(result.verdict)
    _next("leave copies out from the start: diffgraft generate MODEL OUT --reject-copies TRAIN")


@app.command(
    epilog="Example: diffgraft export models/mine --to onnx;   in half precision: diffgraft export models/mine --to onnx "
    "--precision fp16;   a whole run as one graph: diffgraft export models/mine --to onnx --fuse sampler"
)
def export(
    model: Annotated[Path, typer.Argument(help="Model folder, or folder of a Stable Diffusion pipeline.")],
    out: Annotated[
        Path | None,
        typer.Argument(help="New folder instead of the model's own; a pipeline needs one, and so does diffusers."),
    ] = None,
    to: Annotated[
        str,
        typer.Option(help="onnx, tensorrt or openvino; or diffusers: a folder that StableDiffusionPipeline opens."),
    ] = "onnx",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 or int8; openvino has no fp16, tensorrt no int8.")
    ] = "fp32",
    fuse: Annotated[
        str,
        typer.Option(help="none; step, one evaluation with guidance and solver; sampler, a whole run as one graph."),
    ] = "none",
) -> None:
    """Write the graphs of a model, so that it runs without torch; tried against torch before they are kept."""
    _need("torch", "train")
    from diffgraft.deployment.export import export as run
    from diffgraft.models.folder import domain_of

    with _status("writing" if to == "diffusers" else "tracing, half a minute a graph, then trying"):
        written, _ = run(model, to, out, precision, fuse)
    for path in written:
        _say(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
    if to == "diffusers":
        _next(f"StableDiffusionPipeline.from_pretrained('{out}', safety_checker=None)")
        return
    from rich import print as show

    from diffgraft.deployment.table import tables
    from export import record

    place = out or model
    (made,) = (each for each in record.read(place) if each.key == (to, precision, fuse))
    for table in tables(made):
        show(table)
    # What the target cannot run here, the gate ran by another.
    backend = to if precision == "fp32" else f"{to}:{precision}"
    backend = backend if made.ran.startswith(to) else made.ran
    treats_scans = hasattr(domain_of(place), "study")
    _next(
        f"diffgraft {'counterfactual' if treats_scans else 'generate'} {place} {'SCAN ' * treats_scans}out/ "
        f"--backend {backend}"
    )


@app.command(epilog="Example: diffgraft demo --input scan_flair.nii.gz")
def demo(
    input: Annotated[Path | None, typer.Option(help="A scan of your own instead of the sample.")] = None,
    out: Annotated[
        Path, typer.Option(help="Output folder; brain_mri, films, leaves, rust and smears in it are replaced.")
    ] = Path("demo"),
    models: Annotated[Path, typer.Option(help="Folder of the starter models.")] = Path("models"),
) -> None:
    """Run the starter models: a scan's healthy counterfactual, films by text, leaves, leaves given rust, smears with boxes."""
    brain, chest, plant, smears = (models / name for name in ("brain_mri", "chest_xray", "plant_disease", "detection"))
    sample = input or brain / "sample" / "sub-demo_FLAIR.nii.gz"
    counterfactual(brain, sample, out / "brain_mri", overwrite=True, force=input is None)
    if input is None:
        generate(chest, out / "films", prompts=chest / "prompts.txt", count=3, format="dicom", overwrite=True)
        generate(plant, out / "leaves", count=8, each="condition", overwrite=True)
        edit(
            plant, out / "leaves", out / "rust", set_=["condition=rust"], where=["condition=healthy"], count=4, overwrite=True
        )  # fmt: skip
        generate(smears, out / "smears", count=8, format="coco", overwrite=True)
    _say(f"reports: {', '.join(str(path) for path in sorted(out.glob('*/report.html')))}")


@app.command(epilog="Example: diffgraft methods")
def methods() -> None:
    """The published methods that are there: paper, what they do, what they need, and how to run them."""
    from diffgraft.cli.methods import listing

    _say(listing())
    _next("diffgraft edit --help, diffgraft generate --help")


@app.command(epilog="Example: diffgraft doctor")
def doctor(
    models: Annotated[Path, typer.Option(help="Folder of model folders.")] = Path("models"),
) -> None:
    """What is installed here, what it can do on this machine, and what each model folder is run with."""
    from diffgraft.deployment.doctor import lines

    for line in lines(models):
        _say(line)


def _sampling(model: Path, purpose: str, student: bool | None, **changes: Any) -> Any:
    """How a model is sampled, with what was asked for in place of its own defaults.

    A student has solver, steps and guidance of its own; who asks for others asks for the model itself.
    """
    import dataclasses

    from diffgraft.generation.generate import default
    from diffgraft.models.folder import meta
    from toolkit.example import Error

    asked = {k: v for k, v in changes.items() if v is not None}
    folded = sorted(asked.keys() & {"steps", "guidance", "sampler"})
    if student and folded:
        raise Error(f"A student has its own {', '.join(folded)}. Leave --student out, or --{folded[0]}.")
    settings = default(meta(model), purpose, False if folded and student is None else student)
    return dataclasses.replace(settings, **asked)


def _tell_aside(aside: Sequence[tuple[str, str]], folder: Path) -> None:
    """The first files that were put aside, with the reason, and where all of them are named."""
    from diffgraft.preparation.quarantine import QUARANTINE

    for source, reason in aside[:5]:
        print(f"put aside: {source}: {reason}", file=sys.stderr)
    if aside:
        print(f"{len(aside)} put aside, each with its reason in {folder / QUARANTINE}", file=sys.stderr)


def _numbers(words: str, one: bool = False) -> list[int]:
    """Whole numbers between commas, from 1 up."""
    from toolkit.example import Error

    found = [word.strip() for word in words.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in found) or (one and len(found) > 1):
        rule = "one whole number" if one else "whole numbers, such as 1,2,4"
        raise Error(f"--steps takes {rule} from 1 up; found '{words}'.")
    return [int(word) for word in found]


def _pairs(words: list[str]) -> dict[str, Path]:
    from toolkit.example import Error

    pairs = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise Error(f"--beside takes NAME=FOLDER, such as control=maps-null; found '{word}'.")
        pairs[name] = Path(folder)
    return pairs


def _say(text: str) -> None:
    print(text, flush=True)


def _next(command: str) -> None:
    _say(f"next: {command}")


def _command() -> str:
    return shlex.join(["diffgraft", *sys.argv[1:]])


def _need(package: str, extra: str) -> None:
    import importlib.util

    from toolkit.example import Error

    if importlib.util.find_spec(package) is None:
        raise Error(f"This verb needs {package}, which is not installed: pip install 'diffgraft[{extra}]'")


def _open(path: Path, wanted: bool) -> None:
    if wanted:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _status(text: str) -> Iterator[None]:
    with _console().status(text):
        yield


def _lines(path: Path | None) -> list[str]:
    """The lines of a text file that are not empty."""
    from toolkit.example import Error

    if path is None:
        return []
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise Error(f"Prompts stand in a text file in UTF-8; {path} is none: {problem}. Check the path.") from problem
    if not found:
        raise Error(f"Prompts stand in a text file, one a line; {path} has none. Write one or more.")
    return found


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with time left: step(text, done, of). A new text with done = 1 begins a new bar of its own."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with ExitStack() as stack:
        bar = Progress(*columns, console=_console())
        current: Any = None

        def step(text: str, done: int, of: int) -> None:
            nonlocal current
            if current is None:  # not before: what is refused at once leaves one line and no empty bar
                stack.enter_context(bar)
            if current is None or bar.tasks[-1].total != of or done <= bar.tasks[-1].completed:
                current = bar.add_task(text, total=of)
            bar.update(current, description=text, completed=done, total=of)

        yield step


if __name__ == "__main__":
    main()
