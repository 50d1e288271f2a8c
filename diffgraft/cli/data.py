"""Verbs that turn files into files: prepare and convert."""

from __future__ import annotations

import diffgraft
from diffgraft.cli.command import Command
from diffgraft.cli.console import Answer, Console
from diffgraft.cli.options import DETECTION, MRI, OVERWRITE, PLANTS, Argument, Option, domain
from diffgraft.requests.preparation import ConversionRequest, PreparationRequest

__all__ = ["VERBS"]

FORMATS = ("coco", "voc", "yolo")

PREPARE = {
    "domain": domain(),
    "raw": Argument(
        "Folder of raw files: DICOM films, or pictures with metadata.csv; NIfTI, flat or BIDS; photographs in class folders; "
        "pictures with boxes, COCO, VOC or YOLO."
    ),
    "data": Argument("New data set folder."),
    "size": Option("WIDTHxHEIGHT; plant_disease 128x64, chest_xray 128x128, detection 192x144 unless given."),
    "only": Option("Images to take, such as crop=coffee or view=PA; repeat."),
    "contrast": Option("Contrast to take, as in the file names; FLAIR unless given.", panel=MRI),
    "crop": Option("Cut pictures into windows of this many pixels, for small objects.", panel=DETECTION),
    "level": Option(
        "Folder that names the class, counted from 1 below the folder given; 1+2 for crop and condition. Found by the names "
        "unless given.",
        panel=PLANTS,
    ),
    "origin": Option("0 or 1: Pascal VOC's first pixel, where its files do not say.", panel=DETECTION),
    "overwrite": OVERWRITE,
}

CONVERT = {
    "raw": Argument("Folder of pictures with boxes in COCO, Pascal VOC or YOLO format."),
    "out": Argument("New folder."),
    "target": Option("coco, voc or yolo.", "--to", complete=FORMATS),
    "source": Option("coco, voc or yolo; found by what is there.", "--from", complete=FORMATS),
    "origin": Option("0 or 1: Pascal VOC's first pixel, where its files do not say; by what they show."),
    "overwrite": OVERWRITE,
}


def prepare(request: PreparationRequest, console: Console) -> Answer:
    """Turn raw files into a data set folder: images, labels, geometry, one manifest."""
    from diffgraft.models.folder import domain as named

    made = console.run(diffgraft.prepare, request)
    options = {k: " ".join(v) if isinstance(v, list | tuple) else v for k, v in made.options.items() if v}
    console.say(f"{request.domain} of {request.raw}; " + ", ".join(f"{k} {v}" for k, v in options.items()))
    for label, count in (made.objects or made.classes).items():
        console.say(f"{count:8} {label}")
    domain = named(request.domain)
    samples, groups = domain.UNITS
    console.say(f"{made.samples} {samples} of {made.groups} {groups} in {request.data}")
    console.quarantined(made.aside, request.data)
    if hasattr(domain, "input_doubts"):
        console.say(
            f"what a file does not say of itself was not judged: look whether all {samples} are such; edit asks its model"
        )
    return Answer(
        f"diffgraft train {request.domain} {request.data} models/mine",
        paths={"data": request.data},
        figures={"samples": made.samples, "groups": made.groups, "classes": made.classes, "objects": made.objects},
        quarantined=len(made.aside),
    )


def convert(request: ConversionRequest, console: Console) -> Answer:
    """Write pictures with boxes in another format; their files are copied unchanged."""
    made = console.run(diffgraft.convert, request)
    for line in made.summary(request.out):
        console.say(line)
    console.quarantined(made.aside, request.out)
    return Answer(
        f"diffgraft prepare detection {request.out} work/boxes",
        paths={"out": request.out},
        figures={"pictures": made.pictures, "boxes": made.boxes, "classes": made.classes, "turned": made.turned},
        quarantined=len(made.aside),
    )


VERBS = (
    Command(
        prepare, PreparationRequest, PREPARE,
        "diffgraft prepare brain_mri scans/ work/mri;   leaves of one crop: diffgraft prepare plant_disease photos/ work/coffee "
        "--only crop=coffee",
    ),
    Command(
        convert, ConversionRequest, CONVERT,
        "diffgraft convert photos/ out/ --to yolo;   where several formats lie: --from voc",
    ),
)  # fmt: skip
