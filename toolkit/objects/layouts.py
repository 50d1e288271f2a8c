"""New layouts from real ones: copied, shaken, mixed, drawn anew - each a plain function.

A layout is the Boxes of an image. Layout n of a run depends on the real layouts, the seed and n alone, never on how many
are asked for. Which objects may lie how near to each other is learned from the real ones (`Overlaps`): objects of two
classes never overlap by more than they do in 95 of 100 real layouts. No layout has more objects than a model can
be told of, nor a class more than a real image has shown. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.example import Boxes, Error
from toolkit.objects.boxes import MOST, resize
from toolkit.objects.layout_summary import EDGE, smallest_sizes
from toolkit.objects.overlaps import Overlaps, pairwise_overlap

__all__ = ["KINDS", "flip", "generate_layouts", "layout_generator", "random_generator"]

INSIDE = 1.02
"""Pixels that a box keeps from the edge if it is not cut off, a little more than EDGE."""

SHIFT, SCALE, ASPECT = 0.02, 0.05, 0.02
"""`jitter`: standard deviation of a shift in sides of the image, of the logarithm of the size, and of that of the aspect."""

TRIES = 8
"""Places tried for an object before it is left where it was, or out."""

PLACES = 24
"""`sample`: places among which an object's is drawn."""

KERNEL, COUNT, PLACE = 0.2, 0.3, 0.15
"""`sample`: widths of the kernels over log sizes and over counts in standard deviations, over places in image sides."""

CROWD = (0.3, 0.25)
"""`sample`: mean and standard deviation of the logarithm of the limit of overlap over the largest that the layout has."""


@dataclass(frozen=True)
class RealLayouts:
    """What new layouts are made of: real ones of one size (rows, cols), the overlaps in them, which flips are allowed.

    objects: name -> (M, 4) corners of all boxes of a class. counts (N, K): objects of each class in each layout.
    smallest: name -> (width, height), see `smallest_sizes`. most: objects of a layout, at most.
    """

    layouts: Sequence[Boxes]
    size: tuple[int, int]
    overlaps: Overlaps
    objects: Mapping[str, np.ndarray]
    counts: np.ndarray
    smallest: Mapping[str, tuple[float, float]]
    flips: tuple[bool, bool]
    most: int

    @property
    def area(self) -> dict[str, float]:
        """The mean area of the boxes of each class."""
        return {name: float((c[:, 2:] - c[:, :2]).prod(1).mean()) for name, c in self.objects.items()}


Kind = Callable[[RealLayouts, np.random.Generator, Boxes], Boxes]
"""(what there is, a source of randomness, a real layout) -> a new layout. Each real one has its turn."""


def copy(real: RealLayouts, random: np.random.Generator, layout: Boxes) -> Boxes:
    """The layout as it is, flipped at random."""
    return flip(layout, *_coins(real, random))


def jitter(real: RealLayouts, random: np.random.Generator, layout: Boxes) -> Boxes:
    """A copy whose boxes are shifted and scaled by a few per cent; one that is cut off by the edge remains so.

    No pair comes to overlap by more than real pairs do, or than the two did.
    """
    start = copy(real, random, layout)
    corners, edge = start.corners.copy(), np.array([real.size[1], real.size[0]] * 2, float)
    for n in random.permutation(len(corners)):
        rest = _without(Boxes(corners, start.names), n)
        before = pairwise_overlap(start.corners[n : n + 1], _without(start, n).corners)[1]
        for _ in range(TRIES):
            scale = np.exp(random.normal(0, SCALE) + random.normal(0, ASPECT) * np.array([1, -1]))
            moved = _moved(start.corners[n], scale, random.normal(0, SHIFT, 2) * edge[:2], edge)
            cover = pairwise_overlap(moved[None], rest.corners)[1]
            if (real.overlaps.allowed(moved[None], start.names[n], rest) | (cover <= before)).all():
                corners[n] = moved
                break
    return Boxes(corners, start.names, real.size)


def recombine(real: RealLayouts, random: np.random.Generator, layout: Boxes) -> Boxes:
    """One part of the layout, and the other part of another real one, as many objects of each class as the first has.

    The line between the parts is upright or level, at 30 to 70 % of the side. What is missing after that comes from
    further real layouts, at the places where it is there, if it does not overlap by more than real pairs do.
    """
    axis, at = int(random.integers(2)), float(random.uniform(0.3, 0.7))
    line = at * real.size[1 - axis]
    wanted = {name: layout.names.count(name) for name in dict.fromkeys(layout.names)}
    first = copy(real, random, layout)
    others = [copy(real, random, real.layouts[i]) for i in random.integers(len(real.layouts), size=TRIES)]
    near, far = (lambda c: c < line), (lambda c: c >= line)
    offers = [(first, near), *((other, far) for other in others), *((other, near) for other in others)]
    corners, names, own = np.zeros((0, 4)), [], np.zeros(0, bool)
    # What is large finds no place among what is small, so it comes first.
    for name in sorted(wanted, key=lambda name: -real.area[name]):
        for boxes, side in offers:
            for n in random.permutation([n for n, other in enumerate(boxes.names) if other == name]):
                place = boxes.corners[n]
                if not side((place[axis] + place[axis + 2]) / 2) or names.count(name) >= wanted[name]:
                    continue
                fits = real.overlaps.allowed(place[None], name, Boxes(corners, tuple(names)))[0]
                if (fits | (own & (boxes is first))).all():
                    corners, names = np.concatenate([corners, place[None]]), [*names, name]
                    own = np.append(own, boxes is first)
    return Boxes(corners, tuple(names), real.size)


def sample(real: RealLayouts, random: np.random.Generator, layout: Boxes) -> Boxes:
    """A layout that no real one is: counts of its classes, sizes and places are drawn, each from kernels over real ones.

    Counts: those of the layout, smoothed, so that what comes together still does. A size comes with the sides of the
    image by which it is cut off. A place is drawn among PLACES by how likely it is beside all others (`Overlaps.ratio`,
    the pair potential of a Gibbs point process), and once again when all are there, so
    that the first are no freer than the last. What finds no place is left out.
    """
    names, edge = _counted(real, random, layout), np.array([real.size[1], real.size[0]] * 2, float)
    overlaps = real.overlaps.within(layout, float(np.exp(random.normal(*CROWD))))
    sized = [_sized(real, random, name, edge) for name in names]
    corners = np.full((len(names), 4), np.nan)
    # What is large finds no place among what is small, so it comes first.
    for n in [*sorted(range(len(names)), key=lambda n: -_area(sized[n])), *range(len(names))]:
        placed = np.isfinite(corners[:, 0])
        tries = 1 if placed[n] else TRIES
        placed[n] = False
        rest = Boxes(corners[placed], _kept(names, placed))
        for _ in range(tries):
            fresh = _places(real, random, names[n], sized[n], edge)
            weight = overlaps.weight(fresh, names[n], rest)
            if weight.sum() > 0:
                corners[n] = fresh[random.choice(len(fresh), p=weight / weight.sum())]
                break
    placed = np.isfinite(corners[:, 0])
    return Boxes(corners[placed], _kept(names, placed), real.size)


KINDS: Mapping[str, Kind] = {kind.__name__: kind for kind in (copy, jitter, recombine, sample)}
"""How new layouts are made of real ones."""


def generate_layouts(
    kind: str,
    boxes: Sequence[Boxes],
    count: int,
    seed: int,
    size: tuple[int, int],
    flips: tuple[bool, bool] = (True, True),
    most: int = MOST,
) -> list[Boxes]:
    """`count` new layouts for images of size (rows, cols), made of the real ones `boxes`; see `layout_generator`."""
    one = layout_generator(kind, boxes, seed, size, flips, most)
    return [one(n) for n in range(count)]


def layout_generator(
    kind: str,
    boxes: Sequence[Boxes],
    seed: int,
    size: tuple[int, int],
    flips: tuple[bool, bool] = (True, True),
    most: int = MOST,
) -> Callable[[int], Boxes]:
    """n -> layout n, for any n at any time. Each real layout has its turn, in an order that is drawn, before one comes again.

    flips: whether left and right, and top and bottom, may be exchanged. Boxes of another size are carried to `size`.
    Errors: an unknown kind; no layout with an object, and with no more than `most`.
    """
    if kind not in KINDS:
        raise Error(f"A layout is made in one of these ways: {', '.join(KINDS)}; found '{kind}'.")
    real = _real(boxes, size, flips, most)

    def one(n: int) -> Boxes:
        turn, place = divmod(n, len(real.layouts))
        chosen = random_generator(seed, turn, 0).permutation(len(real.layouts))[place]
        return KINDS[kind](real, random_generator(seed, n, 1), real.layouts[chosen])

    return one


def random_generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    """Randomness of its own for each (seed, index, purpose). Errors: a negative number."""
    if seed < 0 or index < 0:
        raise Error(f"Layouts and their seeds are numbered from 0; found seed {seed}, number {index}.")
    return np.random.default_rng(np.random.SeedSequence((seed, index, purpose)))


def flip(boxes: Boxes, across: bool, down: bool) -> Boxes:
    """The boxes on the image with left and right exchanged (across), and top and bottom (down)."""
    if boxes.size is None:
        raise Error("Boxes are flipped within their image, whose size has to be known; found boxes without.")
    corners, (rows, cols) = boxes.corners, boxes.size
    if across:
        corners = np.stack([cols - corners[:, 2], corners[:, 1], cols - corners[:, 0], corners[:, 3]], 1)
    if down:
        corners = np.stack([corners[:, 0], rows - corners[:, 3], corners[:, 2], rows - corners[:, 1]], 1)
    return Boxes(corners, boxes.names, boxes.size)


def _real(boxes: Sequence[Boxes], size: tuple[int, int], flips: tuple[bool, bool], most: int) -> RealLayouts:
    found = [b if b.size in (None, size) else resize(b, size) for b in boxes if len(b.names) <= most]
    layouts = [Boxes(b.corners, b.names, size) for b in found]
    if not any(b.names for b in layouts):
        raise Error(
            f"New layouts are made of real ones; found none that has objects, and {most} of them at most, among "
            f"{len(boxes)}. Give a data set with boxes: --like DATA"
        )
    overlaps = Overlaps.learn(layouts)
    objects = {
        name: np.concatenate([b.corners[[n == name for n in b.names]] for b in layouts]) for name in overlaps.names
    }
    counts = np.array([[b.names.count(name) for name in overlaps.names] for b in layouts])
    return RealLayouts(layouts, size, overlaps, objects, counts, smallest_sizes(layouts), flips, most)


def _coins(real: RealLayouts, random: np.random.Generator) -> tuple[bool, bool]:
    across, down = random.random(2) < 0.5
    return bool(across) and real.flips[0], bool(down) and real.flips[1]


def _without(boxes: Boxes, n: int) -> Boxes:
    return Boxes(np.delete(boxes.corners, n, 0), boxes.names[:n] + boxes.names[n + 1 :], boxes.size)


def _moved(box: np.ndarray, scale: np.ndarray, shift: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """A box (4,) scaled and shifted in the image; a side on the edge stays there, another does not come to it."""
    fresh = box.copy()
    for axis in range(2):
        low, high, end = box[axis], box[axis + 2], edge[axis]
        side = (high - low) * scale[axis]
        if low <= EDGE and high >= end - EDGE:
            continue
        if low <= EDGE or high >= end - EDGE:
            side = min(np.clip(side + shift[axis] / 2, 0.8 * (high - low), 1.25 * (high - low)), end - 2 * EDGE)
            fresh[axis], fresh[axis + 2] = (low, low + side) if low <= EDGE else (high - side, high)
        else:
            side = min(side, end - 2 * INSIDE)
            start = np.clip((low + high - side) / 2 + shift[axis], INSIDE, end - INSIDE - side)
            fresh[axis], fresh[axis + 2] = start, start + side
    return fresh


def _counted(real: RealLayouts, random: np.random.Generator, layout: Boxes) -> list[str]:
    """Class names, as many of each as the layout has and a few more or less; a class that is not there stays away."""
    counts = np.array([layout.names.count(name) for name in real.overlaps.names])
    more = np.rint(random.normal(0, COUNT * real.counts.std(0))).astype(int)
    counts = np.where(counts > 0, np.clip(counts + more, 1, real.counts.max(0)), 0)
    while counts.sum() > real.most:
        counts[counts.argmax()] -= 1
    return [name for name, count in zip(real.overlaps.names, counts, strict=True) for _ in range(count)]


def _sized(real: RealLayouts, random: np.random.Generator, name: str, edge: np.ndarray) -> np.ndarray:
    """(4,) a box of the class of a new size; one that the edge cuts off remains at the edge."""
    objects = real.objects[name]
    donor, sides = objects[random.integers(len(objects))], objects[:, 2:] - objects[:, :2]
    side = donor[2:] - donor[:2]
    spread = np.cov(np.log(sides).T) if len(objects) > 2 else np.zeros((2, 2))
    largest = np.minimum(sides.max(0), edge[:2] - 2 * INSIDE)
    fresh = side * np.exp(KERNEL * random.multivariate_normal(np.zeros(2), spread))
    return _grown(donor, np.clip(fresh, np.minimum(real.smallest[name], side), np.maximum(largest, 1)), edge)


def _grown(box: np.ndarray, sides: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """A box (4,) with other sides (2,), held at the edge where it is cut off, and in the middle elsewhere."""
    fresh = box.copy()
    for axis in range(2):
        low, high = box[axis] <= EDGE, box[axis + 2] >= edge[axis] - EDGE
        if low and not high:
            fresh[axis + 2] = box[axis] + sides[axis]
        elif high and not low:
            fresh[axis] = box[axis + 2] - sides[axis]
        elif not low:
            fresh[axis] = (box[axis] + box[axis + 2] - sides[axis]) / 2
            fresh[axis + 2] = fresh[axis] + sides[axis]
    return fresh


def _places(real: RealLayouts, random: np.random.Generator, name: str, box: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """(PLACES, 4): the box where objects of the class are, as seen in the image; along the edge if it is cut off."""
    objects, places = real.objects[name], np.repeat(box[None], PLACES, 0)
    for axis in range(2):
        end, side = edge[axis], box[axis + 2] - box[axis]
        if box[axis] > EDGE and box[axis + 2] < end - EDGE:
            other = objects[random.integers(len(objects), size=PLACES)]
            room = np.maximum(end - (other[:, axis + 2] - other[:, axis]), 1e-6)
            part = np.clip(other[:, axis] / room, 0, 1) + random.normal(0, PLACE, PLACES)
            part = 1 - np.abs(1 - np.abs(part) % 2)  # mirrored at both ends
            places[:, axis] = INSIDE + part * (end - 2 * INSIDE - side)
            places[:, axis + 2] = places[:, axis] + side
    return places


def _kept(names: Sequence[str], which: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, there in zip(names, which, strict=True) if there)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
