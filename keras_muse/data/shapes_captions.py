"""The language of the shapes world: writing, normalising and reading captions.

The grammar, of which everything in brackets with a question mark may be missing:

    number [size]? colour shape [relation number [size]? colour shape]?
    ["on" ["a"]? background ["background"]?]?
"""

import dataclasses
import functools
import hashlib
import itertools
import re

from keras_muse.data.shapes_world import (
    BACKGROUNDS,
    COLORS,
    MAX_COUNT,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    pick,
)

__all__ = [
    "Request",
    "all_captions",
    "canonical_caption",
    "caption",
    "caption_is_held_out",
    "caption_key",
    "key_is_held_out",
    "parse_caption",
    "words",
]

BACKGROUND_FORMS = ("on a {} background", "on {} background", "on {}")
UNSAID = 0.3  # probability that a size word, or the background, goes unsaid


def caption(scene, rng, unsaid=UNSAID):
    """One of the captions of a scene.

    Args:
        scene: `Scene`.
        rng: anything with a method `random()` that returns a float in [0, 1):
            `random.Random` or `numpy.random.Generator`.
        unsaid: float in [0, 1]. Probability with which each size word, and the
            background, is left out. Defaults to 0.3.

    Returns:
        str. For example "two large green triangles to the left of a yellow square".
    """
    parts = []
    for group in scene.groups:
        if parts:
            parts.append(pick(rng, RELATIONS[scene.relation]))
        parts.append(pick(rng, NUMBERS[group.count]))
        if rng.random() >= unsaid:
            parts.append(group.size)
        parts.append(group.color)
        parts.append(group.shape if group.count == 1 else SHAPES[group.shape])
    if rng.random() >= unsaid:
        parts.append(pick(rng, BACKGROUND_FORMS).format(scene.background))
    return " ".join(parts)


def words():
    """Every word of the captions, for a vocabulary.

    Returns:
        list of str, sorted, each once.
    """
    phrases = [*BACKGROUND_FORMS, *BACKGROUNDS, *COLORS, *SIZES]
    phrases += [*SHAPES, *SHAPES.values()]
    for synonyms in (*NUMBERS.values(), *RELATIONS.values()):
        phrases += synonyms
    return sorted(set(" ".join(phrases).split()) - {"{}"})


def all_group_phrases():
    for count, numbers in NUMBERS.items():
        for number, size in itertools.product(numbers, (None, *SIZES)):
            if size is None or count <= MAX_COUNT[size]:
                start = number if size is None else f"{number} {size}"
                for shape, color in itertools.product(SHAPES, COLORS):
                    noun = shape if count == 1 else SHAPES[shape]
                    yield (shape, color), f"{start} {color} {noun}"


def all_captions(num_groups=1):
    """Every caption that `caption` can write.

    Args:
        num_groups: int. 1 (4,480 captions) or 2 (about 15 million). Defaults to 1.

    Yields:
        str.
    """
    ends = [""]
    ends += [f" {f.format(b)}" for f in BACKGROUND_FORMS for b in BACKGROUNDS]
    if num_groups == 1:
        for (_, phrase), end in itertools.product(all_group_phrases(), ends):
            yield phrase + end
        return
    phrases = list(all_group_phrases())
    relations = [word for synonyms in RELATIONS.values() for word in synonyms]
    for (first, start), (second, rest) in itertools.product(phrases, phrases):
        if first != second:
            for relation, end in itertools.product(relations, ends):
                yield f"{start} {relation} {rest}{end}"


# --- Normalised captions ------------------------------------------------------------


@functools.cache
def canonical_group(count, color, shape):
    noun = shape if count == 1 else SHAPES[shape]
    return f"{NUMBERS[count][0]} {color} {noun}"


def canonical_caption(groups, relation):
    """`caption_key` of the captions of a scene, without writing one first."""
    texts = [canonical_group(g.count, g.color, g.shape) for g in groups]
    return texts[0] if relation is None else f"{texts[0]} {relation} {texts[1]}"


@functools.lru_cache(2**17)
def key_is_held_out(key):
    """Whether the hash of a normalised caption is 0 modulo 20."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 20 == 0


def caption_key(caption):
    """What a caption says with sizes, background and choice of synonyms taken out.

    The words small and large go, everything from "on" goes, "one" becomes "a", "to
    the left of" and "to the right of" become "left of" and "right of", "over" and
    "under" become "above" and "below". White space is single, letters are lower case.

    Args:
        caption: str.

    Returns:
        str. For example "two red circles left of a blue square".
    """
    text = f" {' '.join(caption.lower().split())} ".partition(" on ")[0] + " "
    for first, *others in (*NUMBERS.values(), *RELATIONS.values()):
        for other in others:
            text = text.replace(f" {other} ", f" {first} ")
    for size in SIZES:
        text = text.replace(f" {size} ", " ")
    return text.strip()


def caption_is_held_out(caption):
    """Whether training never shows this caption, in any wording.

    Args:
        caption: str.

    Returns:
        bool. True when the first 8 hex digits of the SHA-256 of `caption_key(caption)`
        are 0 modulo 20.
    """
    return key_is_held_out(caption_key(caption))


# --- Reading ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a caption asks for.

    Attributes:
        groups: tuple of one or two `Group` without cells; `size` is None where
            the caption names none.
        relation: str, a key of `RELATIONS`; None with one group.
        background: str, a key of `BACKGROUNDS`, or None.
    """

    groups: tuple
    relation: str | None
    background: str | None


def either(words):
    return "|".join(sorted(words, key=len, reverse=True))


COUNT_OF = {word: n for n, words in NUMBERS.items() for word in words}
RELATION_OF = {word: r for r, words in RELATIONS.items() for word in words}
SHAPE_OF = {name: name for name in SHAPES}
SHAPE_OF |= {plural: name for name, plural in SHAPES.items()}
GROUP = (
    f"({either(COUNT_OF)}) (?:({either(SIZES)}) )?"
    f"({either(COLORS)}) ({either(SHAPE_OF)})"
)
GRAMMAR = re.compile(
    f"{GROUP}(?: ({either(RELATION_OF)}) {GROUP})?"
    f"(?: on (?:a )?({either(BACKGROUNDS)})(?: background)?)?"
)


def requested_group(count, size, color, shape):
    count, name = COUNT_OF[count], SHAPE_OF[shape]
    if shape != (name if count == 1 else SHAPES[name]):
        raise ValueError(f"{shape!r} does not go with the number {count}")
    if size and count > MAX_COUNT[size]:
        raise ValueError(f"{count} {size} objects are more than the world has room for")
    return Group(count, size, name, color)


def parse_caption(caption):
    """Reads a caption.

    Args:
        caption: str, or bytes in UTF-8.

    Returns:
        `Request`.

    Raises:
        ValueError: If the caption is not of the world's grammar.
    """
    text = caption.decode() if isinstance(caption, bytes) else str(caption)
    match = GRAMMAR.fullmatch(text)
    try:
        if match is None:
            raise ValueError(
                "write [number] [size] colour shape, relation and a second group, "
                "on BACKGROUND, in lower case"
            )
        parts = match.groups()
        groups = [requested_group(*parts[:4])]
        if parts[4]:
            groups.append(requested_group(*parts[5:9]))
            if len({(group.shape, group.color) for group in groups}) == 1:
                raise ValueError("the two groups differ in neither shape nor colour")
    except ValueError as error:
        raise ValueError(
            f"`caption` is not one of the shapes world: {error}. Received: {text!r}"
        ) from None
    return Request(tuple(groups), RELATION_OF.get(parts[4]), parts[9])
