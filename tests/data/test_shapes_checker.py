import dataclasses
import random
import time

import numpy as np
import pytest

from keras_muse.data import shapes
from keras_muse.data.shapes_checker import (
    Object,
    agreement,
    parse_caption,
    parse_image,
    parse_images,
)
from tests.tools import on_one_backend

pytestmark = on_one_backend
SCORES = ("background", "count", "colors", "shapes", "sizes", "relation", "whole")


def group(count, size, shape, color, *cells):
    return shapes.Group(count, size, shape, color, cells)


def scene(*groups, relation=None, background="white"):
    return shapes.Scene(groups, relation, background)


def check(picture, caption):
    """The scores of one scene or picture that are wrong, "exact" apart."""
    if isinstance(picture, shapes.Scene):
        picture = shapes.render(picture)
    result = agreement(picture[None], [caption])
    wrong = {name for name in SCORES if not result[name][0]}
    assert result["exact"].dtype == bool
    assert not (wrong and result["exact"][0])
    return wrong, bool(result["exact"][0])


def blurred_and_noisy(images, sigma, seed=0):
    x = np.pad(images.astype("float32"), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    x = 0.1 * x[:, :-2] + 0.8 * x[:, 1:-1] + 0.1 * x[:, 2:]
    x = 0.1 * x[:, :, :-2] + 0.8 * x[:, :, 1:-1] + 0.1 * x[:, :, 2:]
    x += np.random.default_rng(seed).normal(0, sigma, x.shape)
    return np.clip(np.rint(x), 0, 255).astype("uint8")


# --- Captions -----------------------------------------------------------------------


def test_parse_caption_reads_what_caption_writes():
    for index, drawn in enumerate(shapes.scenes("all", 0, 1000, seed=0)):
        request = parse_caption(shapes.caption(drawn, random.Random(index)))
        assert request.relation == drawn.relation
        assert request.background in (None, drawn.background)
        for asked, shown in zip(request.groups, drawn.groups, strict=True):
            assert asked.size in (None, shown.size)
            assert asked == dataclasses.replace(shown, cells=(), size=asked.size)


def test_parse_caption_accepts_every_caption_of_the_grammar():
    for text in shapes.all_captions():
        assert len(parse_caption(text).groups) == 1
    for text, _ in zip(shapes.all_captions(2), range(2000)):
        assert len(parse_caption(text).groups) == 2


def test_parse_caption_examples():
    request = parse_caption("two large green triangles to the left of a yellow square")
    assert request.groups == (
        group(2, "large", "triangle", "green"),
        group(1, None, "square", "yellow"),
    )
    assert (request.relation, request.background) == ("left of", None)
    assert parse_caption(b"a red circle on gray background").background == "gray"


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "red circle",
        "a red circles",
        "two red circle",
        "four large red circles",
        "five red circles",
        "a teal circle",
        "A red circle",
        "a red circle.",
        "a red circle on blue",
        "a red circle above",
        "a red circle near a blue circle",
        "a red circle above two red circles",
        "a red circle above a blue circle above a green circle",
    ],
)
def test_parse_caption_names_what_it_refuses(caption):
    with pytest.raises(ValueError, match="`caption`.*Received: ") as error:
        parse_caption(caption)
    assert repr(caption) in str(error.value)


# --- Pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2])
def test_parse_images_sees_the_scene(scale):
    drawn = shapes.scenes("all", 0, 300, seed=7)
    images = np.stack([shapes.render(s, scale) for s in drawn])
    for seen, true in zip(parse_images(images), drawn, strict=True):
        assert seen.background == true.background and not seen.unknown
        expected = {
            Object(g.shape, g.color, g.size, cell)
            for g in true.groups
            for cell in g.cells
        }
        assert set(seen.objects) == expected and len(seen.objects) == len(expected)


def test_floats_and_bytes_are_the_same_picture():
    images, _ = shapes.examples("all", 0, 20, seed=8)
    assert parse_images(images) == parse_images((images / 255.0).astype("float32"))
    assert parse_image(images[3]) == parse_images(images)[3]


@pytest.mark.parametrize(("scale", "count"), [(1, 2000), (2, 400)])
def test_ground_truth_agrees(scale, count):
    images, captions = shapes.examples("all", 0, count, seed=3, scale=scale)
    result = agreement(images, captions)
    assert result["exact"].mean() >= 0.999
    for name in SCORES:
        assert result[name][result["exact"]].all()
    requests = [parse_caption(text) for text in captions]
    assert result["num_groups"].tolist() == [len(r.groups) for r in requests]
    totals = [sum(g.count for g in r.groups) for r in requests]
    assert result["counts"].tolist() == totals


def test_mild_noise_and_blur_change_nothing():
    images, captions = shapes.examples("all", 0, 1000, seed=4)
    result = agreement(blurred_and_noisy(images, sigma=8), captions)
    assert result["exact"].mean() >= 0.99


def test_heavy_noise_is_not_explained_away():
    images, captions = shapes.examples("all", 0, 100, seed=4)
    result = agreement(blurred_and_noisy(images, sigma=40), captions)
    assert result["exact"].mean() < 0.05
    noise = np.random.default_rng(0).integers(0, 256, images.shape, "uint8")
    assert not agreement(noise, captions)["whole"].any()


def other(options, value):
    names = list(options)
    return names[(names.index(value) + 1) % len(names)]


MUTATIONS = {
    "colors": lambda s, g: dataclasses.replace(g, color=other(shapes.COLORS, g.color)),
    "shapes": lambda s, g: dataclasses.replace(g, shape=other(shapes.SHAPES, g.shape)),
    "sizes": lambda s, g: dataclasses.replace(g, size=other(shapes.SIZES, g.size)),
    "count": lambda s, g: dataclasses.replace(g, count=1 + g.count % 3),
}


class Full:
    """Says everything there is to say."""

    def random(self):
        return 0.5


@pytest.mark.parametrize("score", [*MUTATIONS, "relation", "background"])
def test_mutated_captions_disagree(score):
    drawn, images, captions = [], [], []
    for true in shapes.scenes("all", 0, 400, seed=5):
        changed = dataclasses.replace(
            true,
            background=other(shapes.BACKGROUNDS, true.background),
        )
        if score == "relation":
            if true.relation is None:
                continue
            opposite = {"left of": "right of", "above": "below"}
            opposite |= {b: a for a, b in opposite.items()}
            changed = dataclasses.replace(true, relation=opposite[true.relation])
        elif score != "background":
            first = MUTATIONS[score](true, true.groups[0])
            if first.count > shapes.MAX_COUNT[first.size]:
                continue
            changed = dataclasses.replace(true, groups=(first, *true.groups[1:]))
            if len({(g.shape, g.color) for g in changed.groups}) < len(changed.groups):
                continue
        drawn.append(true)
        images.append(shapes.render(true))
        captions.append(shapes.caption(changed, Full()))
    assert len(images) > 150
    result = agreement(np.stack(images), captions)
    assert not result["exact"].any()
    if score in ("count", "relation", "background"):
        assert not result[score].any()
    else:
        # One group of two may lend the other the attribute that it lost.
        single = np.array([s.relation is None for s in drawn])
        assert not result[score][single].any()
    for name in set(SCORES) - {score, "relation", "colors", "shapes", "sizes"}:
        assert result[name].all()


def test_an_additional_object_disagrees():
    images, captions = shapes.examples("all", 0, 300, seed=6)
    before = parse_images(images)
    rng = np.random.default_rng(0)
    for image, seen in zip(images, before):
        background = np.array(shapes.BACKGROUNDS[seen.background], "uint8")
        empty = [
            (r, c)
            for r in range(8)
            for c in range(8)
            if (image[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] == background).all()
        ]
        r, c = empty[rng.integers(len(empty))]
        shape = rng.choice(list(shapes.SHAPES))
        color = rng.choice(list(shapes.COLORS))
        extra = shapes.sprite(str(shape), str(color), "small", seen.background)
        image[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] = extra
    result = agreement(images, captions)
    assert not result["exact"].any() and not result["count"].any()


@pytest.mark.parametrize("missing", ["left", "right", "top", "bottom"])
def test_half_objects_disagree(missing):
    images, captions = shapes.examples("all", 0, 500, seed=6)
    for image, seen in zip(images, parse_images(images)):
        item = seen.objects[0]
        y, x = (8 * place for place in item.cell)
        half = 4 * shapes.SIZES[item.size]
        window = image[y : y + 2 * half, x : x + 2 * half]
        if missing in ("left", "right"):
            window = window.swapaxes(0, 1)
        part = slice(half) if missing in ("left", "top") else slice(half, None)
        window[part] = shapes.BACKGROUNDS[seen.background]
    assert agreement(images, captions)["exact"].mean() < 0.01


def test_a_speck_is_unknown():
    picture = shapes.render(scene(group(1, "small", "circle", "red", (0, 0))))
    picture[41:44, 50:53] = (40, 170, 60)
    assert parse_image(picture).unknown == ((5, 6),)
    assert check(picture, "a red circle") == ({"whole"}, False)


def test_three_quarters_of_a_large_object_are_not_one():
    picture = shapes.render(scene(group(1, "large", "circle", "red", (2, 2))))
    picture[24:32, 24:32] = 250
    assert parse_image(picture).unknown
    assert not check(picture, "a red circle")[1]


def test_four_small_squares_in_a_block_are_a_large_one():
    picture = shapes.render(scene(group(1, "large", "square", "red", (2, 5))))
    (item,) = parse_image(picture).objects
    assert item == Object("square", "red", "large", (2, 5))


def test_sixteen_large_objects_are_all_seen():
    cells = [(r, c) for r in (0, 2, 4, 6) for c in (0, 2, 4, 6)]
    picture = shapes.render(scene(group(16, "large", "circle", "blue", *cells)))
    seen = parse_image(picture)
    assert [item.cell for item in seen.objects] == cells


# --- Agreement ----------------------------------------------------------------------


def test_a_missing_size_word_leaves_one_class_for_the_group():
    small = group(2, "small", "circle", "red", (0, 0), (0, 2))
    picture = scene(small)
    assert check(picture, "two red circles") == (set(), True)
    assert check(picture, "two small red circles") == (set(), True)
    assert check(picture, "two large red circles") == ({"sizes"}, False)
    mixed = scene(
        group(1, "small", "circle", "red", (0, 0)),
        group(1, "large", "circle", "red", (4, 4)),
    )
    assert check(mixed, "two red circles") == ({"sizes"}, False)
    # Both classes are asked for, but not within one group.
    square = group(1, "large", "square", "blue", (6, 2))
    both = scene(*mixed.groups, square)
    caption = "two red circles above a large blue square"
    assert check(both, caption) == (set(), False)


def test_binding_is_more_than_its_parts():
    picture = scene(
        group(1, "small", "circle", "red", (3, 0)),
        group(2, "large", "square", "blue", (0, 4), (4, 4)),
        relation="left of",
    )
    assert check(picture, "a red circle left of two blue squares") == (set(), True)
    assert check(picture, "two blue squares right of a red circle") == (set(), True)
    # The right colours and shapes, on each other's objects: both groups are missing.
    swapped = "a blue circle left of two red squares"
    assert check(picture, swapped) == ({"relation"}, False)
    # The right total with the counts exchanged.
    assert check(picture, "two red circles left of a blue square") == (set(), False)
    # The right sizes on the wrong groups.
    swapped = "a large red circle left of two small blue squares"
    assert check(picture, swapped) == (set(), False)
    assert check(picture, "a red circle above two blue squares")[0] == {"relation"}


def test_a_relation_holds_for_every_pair_of_centres():
    def picture(size, column):
        return scene(
            group(2, "small", "circle", "red", (0, 0), (7, 3)),
            group(1, size, "square", "blue", (3, column)),
        )

    caption = "two red circles to the left of a blue square"
    assert check(picture("large", 3), caption) == (set(), True)
    assert check(picture("large", 2), caption) == ({"relation"}, False)
    assert check(picture("small", 4), caption) == (set(), True)
    # Centres that are level are not left of each other.
    assert check(picture("small", 3), caption) == ({"relation"}, False)


def test_groups_that_differ_in_colour_only():
    picture = scene(
        group(1, "small", "circle", "red", (0, 0)),
        group(1, "small", "circle", "pink", (4, 0)),
        relation="above",
    )
    assert check(picture, "a red circle over a pink circle on white") == (set(), True)
    assert check(picture, "a pink circle over a red circle") == ({"relation"}, False)
    assert check(picture, "a red circle over a pink circle on black") == (
        {"background"},
        False,
    )


def test_an_empty_canvas_agrees_with_nothing():
    wrong, exact = check(np.full((64, 64, 3), 250, "uint8"), "a red circle")
    assert wrong == {"count", "colors", "shapes", "sizes"} and not exact


def test_bad_input_is_refused():
    images, captions = shapes.examples("all", 0, 2, seed=0)
    with pytest.raises(ValueError, match="`captions`"):
        agreement(images, captions[:1])
    with pytest.raises(ValueError, match="shape: "):
        agreement(images[:, :60, :60], captions)
    with pytest.raises(ValueError, match="dtype: int64"):
        agreement(images.astype("int64"), captions)
    assert agreement(images[:0], [])["exact"].shape == (0,)


def test_checker_speed():
    images, captions = shapes.examples("all", 0, 500, seed=0)
    agreement(images[:10], captions[:10])
    start = time.process_time()
    agreement(images, captions)
    assert time.process_time() - start < 1.0
