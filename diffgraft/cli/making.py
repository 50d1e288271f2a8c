"""Verbs that make images: generate, edit and counterfactual."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffgraft
from diffgraft.cli.command import Command
from diffgraft.cli.console import Answer, Console
from diffgraft.cli.options import (
    CHECKS,
    DETECTION,
    FILMS,
    MRI,
    OVERWRITE,
    SAMPLING,
    STUDENT,
    Argument,
    Option,
    backend,
    lines,
    sampling,
    solvers,
)
from diffgraft.requests.counterfactual import CounterfactualRequest
from diffgraft.requests.editing import PROCEDURES, EditRequest
from diffgraft.requests.generation import GenerationRequest

__all__ = ["VERBS", "counterfactual", "edit", "generate"]

MODEL, OUT = Argument("Model folder."), Argument("New output folder.")
BOXED = ("coco", "voc", "yolo")

GENERATE = {
    "model": MODEL,
    "out": OUT,
    "labels": Option("Label of the images, NAME=VALUE; repeat.", "--set"),
    "count": Option("How many images, or slices of the volume.", "-n --count"),
    "like": Option("Data set whose labels the images are given."),
    "balance": Option("Label of which --like and the new images together shall have each value evenly."),
    "each": Option("Label of which every value is given -n images."),
    "format": Option(
        "images; folders, one a class; nifti, one volume; dicom or dx, films too; coco, voc or yolo, boxes too. Else the "
        "domain's own.",
        complete=("images", "folders", "nifti", "dicom", "dx", *BOXED),
    ),
    "name": Option("Label of the volume or samples, letters and digits."),
    "overwrite": OVERWRITE,
    **sampling(),
    "student": STUDENT,
    "volume": Option("Slices of one head, a lesion in its middle part.", panel=MRI),
    "prompts": Option(
        "Text file with one prompt a line; each is given -n images.", panel=FILMS, kind=Path, read=lines
    ),
    "layouts.kind": Option(
        "Layouts, of --like or the model's own: recombine, copy, jitter or sample.", "--layout", DETECTION,
        complete=("recombine", "copy", "jitter", "sample"),
    ),
    "layouts.filtered": Option(
        "Draw again what the model's detector does not find where it was asked for. On where there is one.",
        "--filter/--no-filter", DETECTION,
    ),
    "layouts.check": Option("Real images to measure the filter's limit on. Else --like, or the model's own.", panel=DETECTION),
    "layouts.quantile": Option("Part of real images that keep the limit, 0.5, 0.75 or 0.9.", "--real-share", DETECTION),
    "layouts.relabel": Option("Take the detector's box where it surely fits better.", "--relabel", DETECTION),
    "layouts.favour_hard": Option("Ask more often for layouts that the detector finds hard.", "--favour-hard", DETECTION),
    "layouts.tries": Option("Draws for one layout before it is replaced.", panel=DETECTION),
    "layouts.keep": Option("Part of what passed that is kept, the images whose boxes score best.", panel=DETECTION),
    "far_from": Option("Training data set: keep images farther from it than its median held-out one.", panel=CHECKS),
    "reject_copies": Option(
        "Training data set: draw again what the audit calls a copy of one of its images.", panel=CHECKS
    ),
    "faithful_to": Option(
        "Training data set: draw again what is not taken for its class, or not for real.", panel=CHECKS
    ),
    "fits_text": Option(
        "Training data set: draw again what fits its prompt less than real images do.", panel=CHECKS
    ),
}  # fmt: skip

EDIT = {
    "model": MODEL,
    "source": Argument("Data set, folder of raw files, or one photograph or film."),
    "out": OUT,
    "procedure": Option(
        "inpaint, invert, sdedit or dafusion.", complete=PROCEDURES
    ),
    "labels": Option(
        "New label of the images, NAME=VALUE, or text=WORDS for a model of texts; repeat.", "--set"
    ),
    "where": Option("Label an image must have to be taken, NAME=VALUE; repeat."),
    "strength": Option("In (0, 1]: how far up the noise goes."),
    "boxes": Option(
        "Where to change, x0,y0,x1,y1 in pixels of the image in its file or in parts of 1; repeat.", "--box"
    ),
    "mask": Option("Grey picture, white where to change, grey where less."),
    "region": Option(
        "Without box and mask: spots, foreground, whole, or difference, where the model itself would change it. The "
        "procedure's own unless given.",
        complete=("spots", "foreground", "whole", "difference"),
    ),
    "count": Option("At most so many images.", "-n --count"),
    "variants": Option("Of each image."),
    "force": Option("Edit files that the input gate refuses.", "--force"),
    "overwrite": OVERWRITE,
    **sampling(),
    "objects": Option(
        "CLASS=x0,y0,x1,y1, what to draw where, in pixels or in parts of 1; repeat. A --box is emptied.",
        "--object", DETECTION,
    ),
    "crop": Option("Width in pixels of what the model sees; as it was prepared, else all.", panel=DETECTION),
    "format": Option(
        "coco (unless given), voc or yolo; images, a data set alone.", panel=DETECTION, complete=("images", *BOXED)
    ),
}  # fmt: skip

COUNTERFACTUAL = {
    "model": MODEL,
    "scans": Argument("A NIfTI scan, a DICOM MR series, or a folder of them."),
    "out": OUT,
    "target": Option("What the scan should become."),
    "quality": Option("How much work one scan is given."),
    "threshold": Option("Of the mask, instead of the model's calibrated one."),
    "nan": Option("refuse, or zero: set voxels that are not finite to 0.", complete=("refuse", "zero")),
    "force": Option("Treat scans that the input gate refuses.", "--force"),
    "overwrite": OVERWRITE,
    "strengths": Option("In (0, 1]; repeat to average several.", "--strength", SAMPLING),
    "steps": Option("Steps in each direction.", panel=SAMPLING),
    "sampler": Option("euler, heun or dpmpp_2m.", panel=SAMPLING, complete=solvers),
    "guidance": Option("Classifier-free: 0 ignores the target, 1 conditional.", panel=SAMPLING),
    "classifier_guidance": Option("Scale of the classifier's gradient, 0 off.", panel=SAMPLING),
    "guidance_low": Option("No classifier guidance at and below this sigma.", panel=SAMPLING),
    "mirror": Option("Average with the mirror image.", "--mirror/--no-mirror", SAMPLING),
    "seed": Option("Of the noise.", panel=SAMPLING),
    "student": STUDENT,
    "backend": backend(),
}


def _split_labels(given: dict[str, Any], values: Mapping[str, Any]) -> None:
    """The words of --set are labels, and text=WORDS the text."""
    if "labels" in given:
        from diffgraft.models.prompt import split_words

        given["labels"], text = split_words(Path(values["model"]), given["labels"])
        given |= {} if text is None else {"text": text}


def generate(request: GenerationRequest, console: Console) -> Answer:
    """New images from noise, with the labels that are set, as a data set folder or a volume, with a report."""
    made = console.run(diffgraft.generate, request)
    out, report = request.out, request.out / "report.html"
    if made.limit is not None:
        console.say(f"limit {made.limit:.3f} (median held-out image)")
    if made.similarity:
        console.say(f"nearest training image: NCC up to {max(made.similarity):.3f}")
    if made.rejections:
        words = ", ".join(f"{count} {name}" for name, count in made.rejections.items())
        console.say(f"{made.rejected:.0%} of {made.draws} draws rejected: {words}")
    for note in made.notes:
        console.say(note)
    console.say(f"{made.count} synthetic images in {out}; report {report}   (research use only)")
    next_steps = {
        "nifti": f"diffgraft counterfactual {request.model} {out} out/ --force",
        "folders": f"diffgraft audit DATA {out} --model {request.model}",
        **dict.fromkeys(BOXED, f"diffgraft evaluate detect DATA {out}"),
    }
    return Answer(
        next_steps.get(made.format, f"look at {report}"),
        paths={"out": out, "report": report},
        figures=dataclasses.asdict(made),
    )


def edit(request: EditRequest, console: Console) -> Answer:
    """Change real images towards other labels or words, the rest of them left as it is and measured, as a new data set."""
    made = console.run(diffgraft.edit, request)
    out, report = request.out, request.out / "report.html"
    outside = (
        f"; outside, by the model alone, {made.outside:.1f} (SSIM {made.ssim_outside:.3f}), in the files none"
        if made.outside == made.outside  # NaN where the whole image is the region
        else ""
    )
    console.say(f"{made.count} images; mean change inside the region {made.inside:.1f} of 255{outside}")
    console.quarantined(made.aside, out)
    for line in made.lines():
        console.say(line)
    if made.films:
        console.say(f"{made.films} on the grid of their files in {out / 'films'}")
    console.say(f"report {report}   (research use only)")
    task = "detect" if request.objects or hasattr(made, "objects") else "classify"
    return Answer(
        f"look at {report}; then diffgraft evaluate {task} REAL {out}",
        paths={"out": out, "report": report, "films": out / "films" if made.films else None},
        figures={
            "count": made.count,
            "inside": made.inside,
            "outside": made.outside,
            "ssim_outside": made.ssim_outside,
        },
        quarantined=len(made.aside),
    )


def counterfactual(request: CounterfactualRequest, console: Console) -> Answer:
    """Healthy counterfactual, anomaly map and mask of each scan, on its own grid, with a report."""
    made = console.run(diffgraft.counterfactual, request)
    out, report = request.out, request.out / "report.html"
    refused = [scan for scan in made.scans if scan.refused]
    for scan in made.scans:
        if scan.refused:
            console.warn(f"put aside: {scan.refused}")
        else:
            console.say(
                f"sub-{scan.label}: {scan.suspicious_slices} of {scan.slices} slices above the threshold, "
                f"highest value {scan.most_abnormal:.3f}, {scan.seconds:.0f} s"
            )
    console.say(f"report {report}   (research use only, not a medical device)")
    dicom = out / "dicom" if (out / "dicom").is_dir() else None
    return Answer(
        f"diffgraft evaluate anomaly {request.scans} {out}   (where there are lesion masks)"
        if dicom is None
        else f"send {dicom} to a PACS: counterfactual series, anomaly map and segmentation in the frame of the source",
        paths={"out": out, "report": report, "dicom": dicom},
        figures={"scans": [dataclasses.asdict(scan) for scan in made.scans]},
        quarantined=len(refused),
    )


VERBS = (
    Command(
        generate, GenerationRequest, GENERATE, report=True, amend=_split_labels,
        example="diffgraft generate models/plant_disease out/ --set condition=rust -n 60;   even out a data set: diffgraft "
        "generate models/plant_disease out/ --like work/coffee --balance condition -n 300;   the sample of the MRI demo: "
        "diffgraft generate models/brain_mri out/ --format nifti --name demo --seed 35 --far-from work/mri",
    ),
    Command(
        edit, EditRequest, EDIT, report=True, amend=_split_labels,
        example="diffgraft edit models/plant_disease work/coffee out/ --where condition=healthy --set condition=rust;   one "
        "photograph: diffgraft edit models/plant_disease leaf.jpg out/ --set condition=rust --mask spots.png;   a film by "
        'words: diffgraft edit models/chest_xray film.dcm out/ --set text="right pleural effusion" --box 200,900,1000,1700;   '
        "an object: diffgraft edit models/detection smear.jpg out/ --object WBC=250,180,430,350",
    ),
    Command(
        counterfactual, CounterfactualRequest, COUNTERFACTUAL, report=True,
        example="diffgraft counterfactual models/brain_mri scan_flair.nii.gz out/",
    ),
)  # fmt: skip
