"""Which folder of a tree names the class: the first below the root, as in torchvision's ImageFolder, where that is certain.

    rust/1.jpg, rust/plant_07/1.jpg            rust: what lies below a class divides it further (plant, day, site)
    train/rust/1.jpg, data/rust/1.jpg          rust: a split, or a folder that holds all of them, is no class
    coffee/rust/1.jpg, potato/scab/2.jpg       coffee___rust: a crop's folder, and in it those of its conditions

Contract. A tree whose words do not tell which level is the class is refused, with the levels as they are and how to say
which one is meant. A folder is known by words: splits, crops, conditions, and what divides a class (numbers, dates, plants).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from toolkit.example import Error

__all__ = ["JOIN", "NOWHERE", "Place", "find_files", "find_places", "find_strays", "parse_levels"]

JOIN = "___"
"""Between a crop and its condition in the name of a class."""

Parts = tuple[str, ...]

SPLIT = re.compile(
    r"(train|val(id)?|validation|test|dev|eval|holdout)(ing|ation)?[ _-]?(set|data|images?)?[ _-]?\d*", re.I
)
NEUTRAL = re.compile(
    r"colou?r|gr[ae]y(scale)?|segmented|rgb|originals?|raw|augmented|(without|with|no)[ _-]?augmentation|images?|imgs?|photos?|"
    r"photographs|pictures|data(set)?s?|jpe?gs?|pngs?|archive",
    re.I,
)
"""Folders that hold classes, whatever these are: other editions of the same pictures, or all there is."""

CONDITION = re.compile(
    r"health|normal|diseas|infect|blight|mildew|mou?ld(?!er)|viru|mosaic|canker|wilt|miner|phoma|cercospora|anthracnose|deficien|"
    r"scorch|smut|greening|blotch|streak|septoria|fusarium|alternaria|bacteri|fung|aphid|thrip|weevil|caterpillar|insect|"
    r"nematode|lesion|stress|damage|hispa|tungro|necro|chloro|dieback|borer|whitefl|decline|wither|crinkle|huanglongbing|"
    r"huánglóngbìng|melanose|(?<![a-z])(rust|spot|scab|rot|mite|curl|blast|yellow|burn|esca|gall|pest|sick)",
    re.I,
)
CROP = re.compile(
    r"(almond|apple|apricot|avocado|banana|barley|basil|bean|beet|blackgram|blueberry|brinjal|broccoli|cabbage|"
    r"cacao|canola|carrot|cashew|cassava|cauliflower|cherry|chickpea|chili|chilli|citrus|cocoa|coconut|coffee|corn|"
    r"cotton|cowpea|cucumber|eggplant|fig|garlic|ginger|gourd|grape|grapevine|groundnut|guava|jackfruit|jute|kiwi|"
    r"lemon|lentil|lettuce|lime|lychee|maize|mango|melon|millet|mulberry|mustard|oat|okra|olive|onion|orange|palm|"
    r"papaya|pea|peach|peanut|pear|pepper|persimmon|pineapple|plum|pomegranate|potato|pumpkin|quinoa|radish|"
    r"rapeseed|raspberry|rice|rose|rye|sesame|sorghum|soy|soya|soybean|spinach|squash|strawberry|sugarcane|"
    r"sunflower|taro|tea|tobacco|tomato|walnut|watermelon|wheat|yam|zucchini)(e?s)?"
)
PLANT = re.compile(
    r"(plant|leaf|leaves|tree|shrub|vine|specimen|individual|subject|patient|case|id)s?[ _-]*\d+\w?", re.I
)
"""A folder of photographs of one leaf or plant: a split must not cut it."""

DIVIDES = re.compile(
    r"(plant|leaf|leaves|tree|shrub|specimen|individual|subject|patient|case|day|date|week|month|field|plot|farm|row|site|location|"
    r"session|visit|camera|cam|phone|drone|batch|part|left|right|front|back|top|upper|lower|side|adaxial|abaxial|morning|noon|"
    r"evening|sun|sunny|shade|cloudy|indoor|outdoor|lab|greenhouse|spring|summer|autumn|winter|mild|moderate|severe|early|late|"
    r"new|old)s?",
    re.I,
)
DATE = re.compile(r"(19|20)\d\d([ ._-]?\d\d?){0,2}")
HIDDEN = re.compile(r"\..*|__MACOSX.*", re.S)
"""What computers keep beside files, none of it anybody's picture."""

MADE = re.compile(
    r"@eaDir|@__thumb|(?!.*(?<![a-z])(with|and)(?![a-z]))((.*[ _-])?(masks?|thumb(nail)?s?)|\w*masks|masks?[ _-].*)|previews?|"
    r"Segmentation(Class|Object)|annotations?|ground[ _-]?truths?|gt",
    re.I,
)
"""Folders of what was made from pictures: thumbnails (of Synology, of QNAP), masks."""

MADE_BESIDE = re.compile(
    r"(?P<before>(mask|thumb|seg)s?[ _.-]+)?(?P<stem>.+?)"
    r"(?P<after>[ _.-]+(binary[ _-])?(masks?|thumb(nail)?s?|seg(mentation)?|segm|gt|ground[ _-]?truth|labels?|overlay|preview|"
    r"annotat(ed|ions?)|pseg))?",
    re.I | re.S,
)
"""How such a picture is named that lies beside its original."""

NUMBERED = re.compile(r"(?!class|label|category|cls)[^\d]*\d.*", re.I)


@dataclass(frozen=True)
class Place:
    """Where the photographs of a folder belong.

    name: of the class, "" for none. plant: the folder of one plant or leaf below it, else "". below: the other folders
    below the class, with slashes.
    """

    name: str
    plant: str = ""
    below: str = ""


NOWHERE = Place("")


def parse_levels(text: str) -> tuple[int, ...]:
    """The levels that name a class, from 0, of words such as 1, 2 or 1+2. Errors: anything else."""
    words = [word.strip() for word in text.split("+")]
    if (
        not 1 <= len(words) <= 2
        or not all(re.fullmatch("[1-9]", word) for word in words)
        or sorted(set(words)) != words
    ):
        raise Error(
            "A level is the number of the folder that names the class, counted from 1 below the folder given, or two of them "
            f"for crop and condition, 1+2; found '{text}'."
        )
    return tuple(int(word) - 1 for word in words)


def find_places(
    folders: Iterable[Parts], root: object, level: str | None = None, told: Callable[[str], object] = lambda _: None
) -> dict[Parts, Place]:
    """The place of each folder that holds photographs, given as its parts below the root.

    level: as `parse_levels` takes it; None finds it. told(line) is called where folders lie below the classes, with what
    was taken. root is named in messages. Errors: no level is certain.
    """
    every = sorted(set(folders))
    if level is not None:
        chosen = parse_levels(level)
        return {parts: _place(parts, chosen) for parts in every}
    rest = _without_holders(every)
    classes = [parts for parts in rest.values() if parts]
    named = [next((k for k, word in enumerate(parts) if JOIN in word), None) for parts in classes]
    if classes and None not in named:
        found = {
            parts: _place(tail, (next(k for k, w in enumerate(tail) if JOIN in w),) if tail else (0,))
            for parts, tail in rest.items()
        }
    else:
        chosen = _levels(classes, root, _depth(rest))
        found = {parts: _place(tail, chosen) for parts, tail in rest.items()}
    if any(place.plant or place.below for place in found.values()):
        names = sorted({place.name for place in found.values() if place.name})
        told(
            f"Classes of '{root}' are {_some(names)}; the folders below them divide a class further. If those are the "
            f"classes: diffgraft prepare plant_disease ... --level {_depth(rest) + 2}"
        )
    return found


def find_files(base: Path, root: Path, refused: Callable[[Path, str], object]) -> list[Path]:
    """The files below a folder in the order of their names, without hidden ones; what a link leads to within root as well.

    A folder that is reached by a link and without one is read by the link's name: who made it named it. refused(path, reason)
    is told of links that are not followed and of files that have another name already.
    """
    found = sorted(_walk(base, root.resolve(), refused, {base.resolve()}))
    linked: dict[Path, Path] = {}
    for path, by_link in found:
        if by_link:
            linked.setdefault(path.resolve(), path)
    kept = []
    for path, by_link in found:
        first = linked.get(path.resolve(), path) if linked and (by_link or not path.is_symlink()) else path
        if first == path:
            kept.append(path)
        else:
            refused(
                path,
                f"A file is read once, by the name of a link if one leads to it; here '{first.relative_to(base)}'.",
            )
    return kept


def find_strays(pictures: Iterable[PurePath]) -> dict[PurePath, str]:
    """The pictures, given by their paths below the root, that are masks or thumbnails of others, each with the reason."""
    every = list(pictures)
    beside = defaultdict(set)
    for path in every:
        beside[path.parent].add(path.stem.casefold())
    found: dict[PurePath, str] = {}
    for path in every:
        folder = next((part for part in path.parts[:-1] if MADE.fullmatch(part)), None)
        if folder is not None:
            found[path] = f"A photograph lies in a folder of a class; '{folder}' holds masks or thumbnails."
            continue
        name = MADE_BESIDE.fullmatch(path.stem)
        if name is None or not (name["before"] or name["after"]):
            continue
        if name["stem"].casefold() in beside[path.parent]:
            found[path] = (
                f"A photograph is no mask or thumbnail; this one is named as that of '{name['stem']}' beside it."
            )
    return found


# ----------------------------------------------------------------------------------------------------------- details


def _walk(
    folder: Path, root: Path, refused: Callable[[Path, str], object], above: set[Path], by_link: bool = False
) -> Iterator[tuple[Path, bool]]:
    """Every file below a folder, and whether a link to a folder led there. above: the folders that hold it, resolved."""
    try:
        entries = [*folder.iterdir()]
    except OSError as problem:
        refused(folder, f"A folder can be read; this one can not: {problem.strerror}.")
        return
    for path in entries:
        if HIDDEN.fullmatch(path.name):
            continue
        target = path.resolve() if path.is_symlink() else None
        if not path.is_dir():
            if target is not None and not target.exists() and not path.suffix:
                refused(path, "A link leads to a file or a folder; this one leads nowhere. Copy what it stood for.")
            else:
                yield path, by_link
        elif target is None:
            yield from _walk(path, root, refused, above | {path.resolve()}, by_link)
        elif target in above or not target.is_relative_to(root):
            where = "folders above it" if target in above else "a folder outside the one given"
            refused(
                path, f"A linked folder lies within the folder given; this one leads to {where}. Copy its files here."
            )
        else:
            yield from _walk(path, root, refused, above | {target}, True)


def _place(parts: Parts, levels: Sequence[int]) -> Place:
    if len(parts) <= max(levels):
        return NOWHERE
    words = parts[max(levels) + 1 :]
    plant = next((k for k, word in enumerate(words) if PLANT.fullmatch(word)), None)
    name = JOIN.join(parts[k] for k in levels)
    if plant is None:
        return Place(name, "", "/".join(words))
    return Place(name, "/".join(words[: plant + 1]))


def _without_holders(every: Sequence[Parts]) -> dict[Parts, Parts]:
    """Each folder's parts without the splits and the folders above that hold everything."""
    rest = dict(zip(every, every, strict=True))
    while True:
        tails = [tail for tail in rest.values() if tail]
        tops = {tail[0] for tail in tails}
        passed = {top for top in tops if SPLIT.fullmatch(top)}
        deep = {tail[0] for tail in tails if len(tail) > 1}
        flat = {tail[0] for tail in tails if len(tail) == 1}
        passed |= {top for top in tops - flat if NEUTRAL.fullmatch(top)}
        if len(tops) == 1 and not flat and not passed and _holds_all(min(tops), {tail[1] for tail in tails}):
            passed = tops
        # A split without a folder in it beside others with some (a test without labels) holds pictures of no class.
        if not passed or not (passed & deep or (tops - passed)):
            return {parts: () if tail and tail[0] in passed else tail for parts, tail in rest.items()}
        rest = {parts: tail[1:] if tail and tail[0] in passed else tail for parts, tail in rest.items()}


def _holds_all(top: str, below: set[str]) -> bool:
    """Whether the only folder is one of classes, and no class that is divided."""
    divided = all(PLANT.fullmatch(word) or DATE.fullmatch(word) or DIVIDES.fullmatch(word) for word in below)
    return JOIN not in top and not divided and not (_is_condition(top) and not any(map(_is_condition, below)))


def _levels(classes: Sequence[Parts], root: object, above: int) -> tuple[int, ...]:
    """The levels that name the class. Errors: none is certain."""
    one = {parts[0] for parts in classes}
    two = {parts[1] for parts in classes if len(parts) > 1}
    deeper = {word for parts in classes for word in parts[2:]}
    flat = any(len(parts) == 1 for parts in classes)
    sick = [sum(map(_is_condition, words)) for words in (one, two, deeper)]
    if not two or (sick[0] and not sick[1] and not sick[2]):
        return (0,)
    if not sick[0] and sick[1] == len(two) and not flat and not sick[2]:
        if all(map(_is_crop, one)):
            return 0, 1
        if all(map(_divides, one)):
            return (1,)
    if not sick[1] and not sick[2] and (flat or all(map(_divides, two))):
        return (0,)
    first, second = above + 1, above + 2
    raise Error(
        f"One level of folders names the class; in '{root}' it may be level {first} ({_some(sorted(one))}) or level {second} "
        f"({_some(sorted(two))}). Say which: diffgraft prepare plant_disease ... --level {first}, --level {second}, or "
        f"--level {first}+{second} where they are crop and condition; or name the classes in a labels.csv (filename, class)."
    )


def _depth(rest: dict[Parts, Parts]) -> int:
    """How many levels lie above those that are left."""
    return min((len(parts) - len(tail) for parts, tail in rest.items() if tail), default=0)


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_\d]+", spaced.lower()) if word]


def _is_condition(name: str) -> bool:
    return bool(CONDITION.search(" ".join(_words(name))))


def _is_crop(name: str) -> bool:
    return any(map(CROP.fullmatch, _words(name)))


def _divides(name: str) -> bool:
    return bool(NUMBERED.fullmatch(name) or DATE.fullmatch(name) or any(map(DIVIDES.fullmatch, _words(name))))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
