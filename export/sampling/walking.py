"""How a sampler's steps are written into a graph: unrolled, or as a Scan; and the guidance of one evaluation.

A run may have members, such as the schedules and mirror images of a counterfactual: they walk together, in one batch,
member by member, with a noise level and coefficients of their own. The state is fp32 whatever the networks are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.sampling.compose import Composer
from export.sampling.tableau import Tableau, steps
from toolkit.diffusion.model import Spec

__all__ = ["Evaluate", "Fields", "Guidance", "Walk", "add_up", "add_walk", "batch", "concatenate", "guided"]

Fields = Mapping[str, str]
"""Condition fields by name: the tensors of a graph that hold them."""

Evaluate = Callable[[Composer, str, str, "str | None"], str]
"""(where to write it, x, sigma a row, scale of the gradient a row or None) -> denoised."""


@dataclass(frozen=True)
class Walk:
    """One way of all members. like: a tensor whose first axis is the batch. scales: member, evaluation -> number."""

    c: Composer
    spec: Spec
    members: Sequence[Tableau]
    like: str
    evaluate: Evaluate
    scales: Sequence[Sequence[float]]
    draws: str | None = None


def add_walk(walk: Walk, x: str, scan: bool) -> str:
    """The state at the end of a way that begins at x."""
    return _scanned(walk, x) if scan else _unrolled(walk, x)


def _unrolled(walk: Walk, x: str) -> str:
    c, answers = walk.c, []
    for j in range(len(walk.members[0].sigmas)):
        sigma = per_row(c, [member.sigmas[j] for member in walk.members], walk.like)
        scale = [member[j] for member in walk.scales]
        answers.append(walk.evaluate(c, x, sigma, factor(c, scale, walk.like) if any(scale) else None))
        rows = [member.rows[j] for member in walk.members]
        terms = [([row.state for row in rows], x)]
        used = sorted({k for row in rows for k in row.denoised})
        terms += [([row.denoised.get(k, 0.0) for row in rows], answers[k]) for k in used]
        if walk.draws is not None:
            order = walk.members[0].draws
            terms += [([row.noise[n] for row in rows], _draw(c, walk.draws, order.index(n))) for n in rows[0].noise]
        x = add_up(c, [scale_term(c, numbers, term, walk.like) for numbers, term in terms if any(numbers)])
    return x


def _scanned(walk: Walk, x: str) -> str:
    c, shape = walk.c, ["rows", *walk.spec.shape]
    numbers, draws = zip(*(steps(member) for member in walk.members), strict=True)
    table = np.stack(numbers, 1)  # (evaluations, members, 4)
    count, members = table.shape[:2]
    body = c.body()
    state, previous = body.input("state", shape), body.input("previous_denoised", shape)
    fed = {"level": np.array([member.sigmas for member in walk.members]).T, "numbers": table}
    if any(map(any, walk.scales)):
        fed["gradient_scale"] = np.array(walk.scales).T
    inside = {name: body.input(name, values.shape[1:]) for name, values in fed.items()}
    sequences = [c.constant(values) for values in fed.values()]
    sigma = spread(body, inside["level"], members, walk.like)
    scale = inside.get("gradient_scale")
    denoised = walk.evaluate(body, state, sigma, scale and tall(body, spread(body, scale, members, walk.like)))
    columns = body.node("Split", inside["numbers"], outputs=4, axis=1, num_outputs=4)
    terms = [state, denoised, previous]
    if walk.draws is not None:
        zero = c.node("Mul", c.node("Unsqueeze", walk.like, c.constant([0], np.int64)), c.constant([0.0]))
        padded = c.node("Concat", walk.draws, zero, axis=0)
        order = [len(walk.members[0].draws) if n is None else walk.members[0].draws.index(n) for n in draws[0]]
        sequences.append(c.node("Gather", padded, c.constant(order, np.int64), axis=0))
        terms.append(body.input("fresh", shape))
    heights = [tall(body, spread(body, column, members, walk.like)) for column in columns[: len(terms)]]
    after = add_up(body, [body.node("Mul", height, term) for height, term in zip(heights, terms, strict=True)])
    body.output("state_next", after, shape)
    body.output("denoised_next", denoised, shape)
    none = c.node("Mul", x, c.constant([0.0]))
    found = c.node("Scan", x, none, *sequences, outputs=2, body=body.graph("walk"), num_scan_inputs=len(sequences))
    assert count == len(walk.members[0].rows)
    return found[0]


@dataclass(frozen=True)
class Guidance:
    """What steers an evaluation. graph: the denoiser's; wanted, null: its fields; scale, target: tensors of a graph.

    scale: of classifier-free guidance, None without; target (B, classes): of the classifier's gradient, None without.
    """

    graph: str
    wanted: Fields
    null: Fields | None = None
    scale: str | None = None
    target: str | None = None


def guided(c: Composer, spec: Spec, by: Guidance, x: str, sigma: str, gradient_scale: str | None) -> str:
    """D(wanted), or D(null) + scale (D(wanted) - D(null)) in one call; + gradient_scale grad log p(target)."""
    wanted, null = by.wanted, by.null
    if null is None or by.scale is None:
        denoised = c.call(by.graph, {"x": x, "sigma": sigma, **wanted})
    else:
        fields = {name: concatenate(c, [wanted[name], null[name]]) for name in wanted}
        both = c.call(by.graph, {"x": concatenate(c, [x, x]), "sigma": concatenate(c, [sigma, sigma]), **fields})
        pair = c.node("Reshape", both, c.constant([2, -1, *spec.shape], np.int64))
        halves = c.node("Split", pair, outputs=2, axis=0, num_outputs=2)
        asked, plain = (c.node("Squeeze", half, c.constant([0], np.int64)) for half in halves)
        denoised = c.node("Add", plain, c.node("Mul", by.scale, c.node("Sub", asked, plain)))
    if by.target is None or gradient_scale is None:
        return denoised
    gradient = c.call("gradient", {"x": x, "sigma": sigma, "target": by.target})
    return c.node("Add", denoised, c.node("Mul", gradient_scale, gradient))


# ------------------------------------------------------------------------------------------------------------ arithmetic


def batch(c: Composer, like: str) -> str:
    """The size of the first axis, (1,)."""
    return c.node("Shape", like, start=0, end=1)


def per_row(c: Composer, members: Sequence[float], like: str) -> str:
    """A number a member -> a number a row, (members * B,)."""
    return spread(c, c.constant(members), len(members), like)


def spread(c: Composer, members: str, count: int, like: str) -> str:
    """(members,) or (members, 1) -> (members * B,)."""
    column = c.node("Reshape", members, c.constant([count, 1], np.int64))
    size = concatenate(c, [c.constant([count], np.int64), batch(c, like)])
    return c.node("Reshape", c.node("Expand", column, size), c.constant([-1], np.int64))


def tall(c: Composer, rows: str) -> str:
    return c.node("Reshape", rows, c.constant([-1, 1, 1, 1], np.int64))


def factor(c: Composer, members: Sequence[float], like: str) -> str:
    """A number a member, to be multiplied with x; one number where they are all the same."""
    if len(set(members)) == 1:
        return c.constant([members[0]])
    return tall(c, per_row(c, members, like))


def scale_term(c: Composer, members: Sequence[float], term: str, like: str) -> str:
    if all(number == 1 for number in members):
        return term
    return c.node("Mul", term, factor(c, members, like))


def add_up(c: Composer, terms: Sequence[str]) -> str:
    return functools.reduce(lambda one, other: c.node("Add", one, other), terms)


def concatenate(c: Composer, parts: Sequence[str]) -> str:
    return c.node("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def _draw(c: Composer, draws: str, place: int) -> str:
    return c.node("Gather", draws, c.constant(place, np.int64), axis=0)
