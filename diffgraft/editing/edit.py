"""Real images changed towards other labels or other words: a healthy leaf with rust, a normal film with an effusion, the
rest of it as it was, and what did change. A model that is told boxes draws objects into pictures instead.

Every procedure gives pixels outside its region back bit by bit; what the model alone would have changed there is
measured and written down. An edited image keeps its source and the source's group: it is no new leaf, no new patient.
"""

from __future__ import annotations

from diffgraft import models
from diffgraft.editing.images import plan_images
from diffgraft.editing.objects import plan_objects
from diffgraft.editing.result import EditResult, ObjectEditResult
from diffgraft.generation.job import EditJob, execute, resolve
from diffgraft.generation.output import BOX_FORMATS
from diffgraft.requests import EditRequest
from diffgraft.requests.verb import Call, verb
from toolkit.diffusion.model import Model
from toolkit.example import Error

__all__ = ["edit", "edit_with"]


@verb(EditRequest)
def edit(request: EditRequest, call: Call) -> EditResult | ObjectEditResult:
    """Edit the images of a data set, a folder of raw files or one file into a new data set, with a report.

    What is changed where is in `editing.region`; what cannot be edited so is put aside with the reason. Films that come as
    files are also written on their own grid, see `editing.films`; objects, see `editing.objects`.
    Errors: an unknown label, a text for a model of labels, no image to edit.
    """
    return edit_with(models.open(request.model, request.backend), request, call)


def edit_with(model: Model, request: EditRequest, call: Call) -> EditResult | ObjectEditResult:
    """The same with a model that is open."""
    job = resolve(model, request, "editing", student=False, complete=False)
    _check(job)
    if job.takes_boxes:
        return execute(job, "edit", plan_objects(job), call)
    return execute(job, "edit", plan_images(job), call)


def _check(job: EditJob) -> None:
    """Errors: options that are for another kind of model."""
    request = job.request
    other = request.labels or request.mask is not None or request.region is not None or request.procedure != "inpaint"
    if job.takes_boxes and (other or job.format not in ("images", *BOX_FORMATS)):
        raise Error(
            "A model that is told boxes draws objects by inpainting, --object CLASS=x0,y0,x1,y1, and writes images, "
            f"{', '.join(BOX_FORMATS)}; leave --set, --mask, --region and other procedures and formats out."
        )
    if not job.takes_boxes and (request.objects or request.crop is not None or request.format is not None):
        raise Error(
            f"Objects are for a model that is told boxes; {request.model} is not. Leave --object, --crop and --format out."
        )
