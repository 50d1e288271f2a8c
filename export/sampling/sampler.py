"""Whole sampler runs, and single steps, as graphs made of the graphs of a model folder. No torch.

step     one evaluation. In: x, previous (the last answer, zeros at first), sigma (B,), coefficients (4), noise and the
         condition fields; guidance (1) where the plan guides classifier-free; target (B, classes) and
         classifier_guidance (1) where a classifier guides. Out: next, denoised. A loop is one call an evaluation. Of a
         guided counterfactual the way up has a graph of its own, step_encode, without the guidance.
sampler  a whole run. New images: noise (B, ...), the fields, and draws (N, B, ...) of a stochastic sampler -> image.
         Counterfactual: image, the fields with the wanted label -> counterfactual, anomaly.

Where a field is not stated it is a constant of the graph, but a text: what the encoder answers for "" is the input
null_text. The map is that of one slice at the model's own resolution,

    anomaly = smooth(max(0, r - symmetry * opposite(mirror(r)))),   r = max(0, image - counterfactual),

Gaussians as scipy's with mode "reflect": toolkit.methods.anomaly_map without what needs the scan: the rim of the head, the
slice's probability of a lesion and the smoothing across slices. The state is fp32 whatever the networks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from export.sampling import plan as plans
from export.sampling.compose import FLOAT, INT64, Composer
from export.sampling.plan import Healing, Plan
from export.sampling.walking import Evaluate, Fields, Guidance, Walk, add_up, add_walk, batch, concatenate, guided
from toolkit.diffusion.model import TEXT, Field, Spec
from toolkit.example import Error
from toolkit.models.folder import image_shape, read_meta, spec_of

__all__ = ["FUSES", "UNROLLED", "write"]

FUSES = ("step", "sampler")
UNROLLED = 8
"""Steps that are unrolled; a longer run is a Scan, which TensorRT does not build."""

KINDS = {"float32": FLOAT, "int64": INT64}


def write(root: Path, fuse: str, plan: Plan, precision: str = "fp32", unroll: int = UNROLLED) -> list[Path]:
    """Write the step or the sampler graph of a model folder into it, with its plan; returns the files.

    precision: of the graphs it is made of, which have to be there. unroll: most steps that are written one by one.
    Errors: a graph, field or gradient that the model lacks; a sampler that has no such form.
    """
    if fuse not in FUSES:
        raise Error(f"A graph is fused to {' or '.join(FUSES)}; found '{fuse}'.")
    root = Path(root)
    meta = read_meta(root)
    spec = spec_of(meta)
    if plan.healing is not None and plan.healing.label not in spec.fields:
        raise Error(f"A counterfactual changes one of {', '.join(spec.fields)}; found '{plan.healing.label}'.")
    if plan.classifier_guidance and "classifier" not in meta["parts"]:
        raise Error(f"Classifier guidance needs a classifier, which {root} lacks. Train one: --part classifier")
    written: list[Path] = []
    try:
        for name, form, own, draw in _parts(fuse, spec, meta, plan, unroll):
            c, path = Composer(root, precision), root / f"{name}{'' if precision == 'fp32' else f'.{precision}'}.onnx"
            draw(c)
            c.save(path)
            written += [path]
            written += [plans.write(path, own, form)]
    except BaseException:
        for path in written:
            path.unlink()
        raise
    return written


Part = tuple[str, str, Plan, Callable[[Composer], None]]


def _parts(fuse: str, spec: Spec, meta: Mapping, plan: Plan, unroll: int) -> Iterator[Part]:
    """Name, form and plan of each graph that is to be written, and what writes it."""
    if fuse == "step":
        yield "step", "step", plan, lambda c: _step(c, spec, plan)
        if (up := plan.encoding) is not None:
            yield "step_encode", "step", up, lambda c: _step(c, spec, up)
        return
    scan, healing = plan.steps > unroll, plan.healing
    form = "scan" if scan else "unrolled"
    if healing is None:
        yield "sampler", form, plan, lambda c: _generation(c, spec, meta, plan, scan)
    else:
        yield "sampler", form, plan, lambda c: _counterfactual(c, spec, meta, plan, healing, scan)


def _step(c: Composer, spec: Spec, plan: Plan) -> None:
    shape = ["batch", *spec.shape]
    x, previous = c.input("x", shape), c.input("previous", shape)
    sigma, numbers = c.input("sigma", ["batch"]), c.input("coefficients", [4])
    noise = c.input("noise", shape)
    wanted = _inputs(c, spec)
    target = scale = None
    if plan.classifier_guidance:
        target = c.input("target", ["batch", *_classes(c)])
        strength = c.input("classifier_guidance", [1])
        square = c.node("Mul", c.node("Mul", sigma, sigma), strength)
        scale = c.node("Reshape", square, c.constant([-1, 1, 1, 1], np.int64))
    null = guidance = None
    if plan.guidance not in (0, 1):
        guidance, null = c.input("guidance", [1]), _unstated(c, spec, plan, wanted, x)
    denoised = guided(c, spec, Guidance(plan.denoiser, wanted, null, guidance, target), x, sigma, scale)
    terms = [x, denoised, previous, noise]
    parts = c.node("Split", numbers, outputs=4, axis=0, num_outputs=4)
    c.output("next", add_up(c, [c.node("Mul", part, term) for part, term in zip(parts, terms, strict=True)]), shape)
    c.output("denoised", denoised, shape)


def _generation(c: Composer, spec: Spec, meta: Mapping, plan: Plan, scan: bool) -> None:
    shape = ["batch", *spec.shape]
    noise = c.input("noise", shape)
    (down,) = plans.tables(plan)[1]
    draws = c.input("draws", [len(down.draws), *shape]) if down.draws else None
    wanted = _inputs(c, spec)
    null = _unstated(c, spec, plan, wanted, noise)
    x = c.node("Mul", noise, c.constant([plan.initial_scale]))
    x = add_walk(Walk(c, spec, [down], noise, _down(spec, plan, wanted, null, None), [], draws), x, scan)
    if plan.final_scale != 1:
        x = c.node("Div", x, c.constant([plan.final_scale]))
    image = c.call("decoder", {"latent": x}) if "codec" in meta["parts"] else x
    clipped = c.node("Clip", image, c.constant(-1.0), c.constant(1.0))
    c.output("image", clipped, ["batch", *image_shape(meta)])


def _counterfactual(c: Composer, spec: Spec, meta: Mapping, plan: Plan, healing: Healing, scan: bool) -> None:
    """All members of the ensemble, schedules times mirror images, are one batch, member by member."""
    codec, shape = "codec" in meta["parts"], ["batch", *image_shape(meta)]
    image = c.input("image", shape)
    wanted = _inputs(c, spec)
    null = _unstated(c, spec, plan, wanted, image)
    views = [image, _mirrored(c, image, shape[-1])] if healing.mirror else [image]
    members = len(views) * len(plan.schedules)
    up, down = ([walk for walk in walks for _ in views] for walks in plans.tables(plan))
    x = concatenate(c, views * len(plan.schedules))
    x = c.call("encoder", {"image": x}) if codec else x
    target = None
    if plan.classifier_guidance:
        target = concatenate(c, [_one_hot(c, wanted[healing.label], _classes(c)[0])] * members)
    wanted, null = ({k: concatenate(c, [v] * members) for k, v in fields.items()} for fields in (wanted, null))

    def encode(c: Composer, x: str, sigma: str, _scale: str | None) -> str:
        return guided(c, spec, Guidance(healing.encoder, null), x, sigma, None)

    x = add_walk(Walk(c, spec, up, image, encode, []), x, scan)
    scales = [[plans.weight(plan, sigma) * sigma**2 for sigma in walk.sigmas] for walk in down]
    x = add_walk(Walk(c, spec, down, image, _down(spec, plan, wanted, null, target), scales), x, scan)
    x = c.call("decoder", {"latent": x}) if codec else x
    split = c.node("Split", c.node("Reshape", x, c.constant([members, -1, *shape[1:]], np.int64)),
                   outputs=members, axis=0, num_outputs=members) if members > 1 else x  # fmt: skip
    found = [c.node("Squeeze", one, c.constant([0], np.int64)) for one in split] if members > 1 else [x]
    back = [_mirrored(c, one, shape[-1]) if healing.mirror and n % 2 else one for n, one in enumerate(found)]
    changed = c.node("Mul", add_up(c, back), c.constant([1 / members])) if members > 1 else x
    c.output("counterfactual", changed, shape)
    c.output("anomaly", _anomaly(c, healing, c.node("Sub", image, changed), shape), ["batch", 1, *shape[2:]])


def _anomaly(c: Composer, healing: Healing, difference: str, shape: Sequence) -> str:
    """The map of the difference's first channel; see the module."""
    first = difference
    if shape[1] != 1:
        first = c.node("Slice", difference, *(c.constant([n], np.int64) for n in (0, 1, 1)))
    positive = c.node("Relu", first)
    other = _mirrored(c, _smoothed(c, positive, healing.opposite, shape), shape[-1])
    rest = c.node("Relu", c.node("Sub", positive, c.node("Mul", other, c.constant([healing.symmetry]))))
    return _smoothed(c, rest, healing.smooth, shape)


def _down(spec: Spec, plan: Plan, wanted: Fields, null: Fields, target: str | None) -> Evaluate:
    """The guided denoiser; at guidance 0 and 1 of one condition alone, as toolkit.diffusion.guidance has it."""
    one = {0.0: null, 1.0: wanted}.get(plan.guidance)

    def evaluate(c: Composer, x: str, sigma: str, scale: str | None) -> str:
        guidance = None if one is not None else c.constant([plan.guidance])
        fields, other = (wanted, null) if one is None else (one, None)
        return guided(c, spec, Guidance(plan.denoiser, fields, other, guidance, target), x, sigma, scale)

    return evaluate


def _inputs(c: Composer, spec: Spec) -> dict[str, str]:
    return {name: c.input(name, ["batch", *field.shape], KINDS[field.dtype]) for name, field in spec.fields.items()}


def _unstated(c: Composer, spec: Spec, plan: Plan, wanted: Fields, like: str) -> dict[str, str]:
    """The other branch of classifier-free guidance: nothing stated, or in a counterfactual everything but the label."""
    label = None if plan.healing is None else plan.healing.label
    null: dict[str, str] = {}
    if plan.healing is None and plan.guidance == 1:
        return null
    for name, field in spec.fields.items():
        if label is not None and name != label:
            null[name] = wanted[name]
        elif name == TEXT:
            null[name] = c.input(f"null_{name}", ["batch", *field.shape])
        else:
            null[name] = _null(c, field, like)
    return null


def _null(c: Composer, field: Field, like: str) -> str:
    value = c.constant(np.full((1, *field.shape), field.null), np.dtype(field.dtype))
    sizes = [batch(c, like)] + ([c.constant([1] * len(field.shape), np.int64)] if field.shape else [])
    return c.node("Expand", value, concatenate(c, sizes))


def _classes(c: Composer) -> list[int]:
    return [size for size in c.takes("gradient")["target"][1][1:] if isinstance(size, int)]


def _one_hot(c: Composer, label: str, classes: int) -> str:
    """(B,) -> (B, classes)."""
    column = c.node("Unsqueeze", label, c.constant([1], np.int64))
    return c.node("Cast", c.node("Equal", column, c.constant([np.arange(classes)], np.int64)), to=FLOAT)


def _mirrored(c: Composer, image: str, width: int) -> str:
    return c.node("Gather", image, c.constant(np.arange(width)[::-1], np.int64), axis=3)


def _smoothed(c: Composer, image: str, spread: float, shape: Sequence) -> str:
    """scipy's gaussian_filter as two products: what it does to the unit vectors of an axis, its borders included."""
    rows, columns = (ndimage.gaussian_filter1d(np.eye(n), spread, axis=0) for n in shape[2:])
    return c.node("MatMul", c.node("MatMul", c.constant(rows), image), c.constant(columns.T))
