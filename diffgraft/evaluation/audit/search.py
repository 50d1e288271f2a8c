"""Which generated images are copies of training images, and whether the search would have found copies at all.

    TRAIN   data set of the training     FAKE   data set of what the model made     held-out   real, never trained on

Copies are no gain for whoever trains with them, and a disclosure where an image is a patient. The figures are those of
toolkit.evaluation.memorization; the report shows every copy beside its training image.
"""

from __future__ import annotations

import time

from diffgraft import reporting
from diffgraft.evaluation.audit import report
from diffgraft.evaluation.audit.result import NAMES, AuditResult
from diffgraft.generation.copies import largest_shift, mirror_axes, stack_images
from diffgraft.models.features import Backbone, load_backbone
from diffgraft.models.trained_on import split_by_training
from diffgraft.requests import record
from diffgraft.requests.evaluation import AuditRequest
from diffgraft.requests.verb import Call, verb
from toolkit.data import dataset
from toolkit.evaluation import memorization
from toolkit.models.folder import fingerprint, read_meta

__all__ = ["audit"]


@verb(AuditRequest)
def audit(request: AuditRequest, call: Call) -> AuditResult:
    """Audit a synthetic data set against the training data set: which of its images are copies of training images.

    Without a feature network there are two measures instead of three. Errors: a model that was not trained on these data,
    too few training or held-out images, images of several shapes.
    """
    begun = time.monotonic()
    paths = (request.train, request.synthetic, request.holdout, request.model, request.features)
    with reporting.staged_output(request.out, request.overwrite, [each for each in paths if each]) as folder:
        synthetic = list(dataset.read(request.synthetic))
        split = split_by_training(request.train, request.model, request.holdout)
        network = _network(request)
        flips = mirror_axes(dataset.read_info(request.train))
        images, training = stack_images(synthetic), stack_images(example for _, example in split.trained)
        reference = memorization.Reference(
            training, stack_images(split.held_out), network.embed if network else None, flips, largest_shift(images.shape),
            call.watch,
        )  # fmt: skip
        found = memorization.audit(reference, images, request.plant)
        protocol = {
            "held_out": split.rule,
            "training_images": len(split.trained),
            "held_out_images": len(split.held_out),
            "fake_images": len(synthetic),
            "image_shape": list(images.shape[1:]),
            "measures": [NAMES[measure] for measure in found.fake.measures],
            "mirror_images": [n for n, on in zip(("left-right", "up-down"), flips, strict=True) if on],
            "shifts": largest_shift(images.shape),
            "embedding": network.name if network else "none: two measures; --model or --features gives a third",
            "backbone": network.fingerprint[:16] if network else None,
            "lines": [line for line, _ in split.trained],
        }
        result = AuditResult(found, [each.id for each in synthetic], protocol)
        if folder is not None:
            reporting.write_metrics(folder, result.numbers)
            record.save(folder, "audit", request, "" if request.model is None else fingerprint(request.model))
            settings = {name: value for name, value in protocol.items() if name != "lines"}
            run = reporting.Run(call.command, settings, 0, time.monotonic() - begun)
            report.write(folder / "report.html", result, images, training, run)
    return result


def _network(request: AuditRequest) -> Backbone | None:
    known = request.model is not None and "features" in read_meta(request.model)["parts"]
    if request.features is None and not known:
        return None
    return load_backbone(request.model, request.features, request.cache)
