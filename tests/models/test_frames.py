"""Pictures of any size in the model's frame and back, against slow references."""

import dataclasses
import fractions
import math

import numpy as np
import pytest

from keras_muse.models.frames import FITS, Frame

fits = pytest.mark.parametrize("fit", FITS)


def noise(*size):
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3)).astype("uint8")


def smooth(height, width):
    """Half a wave along each side, another along the diagonal."""
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None, :] + 0.5) / width
    waves = np.broadcast_arrays(np.cos(np.pi * y), np.cos(np.pi * x), np.cos(x + y))
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype("uint8")


def sizes(count, low, high, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield tuple(rng.integers(low, high, 2)), tuple(rng.integers(low, high, 2))


def rounded(number):
    return max(1, math.floor(number + fractions.Fraction(1, 2)))


def boxes(size, shape, fit):
    """The source and target sides, by the ratios of the sides."""
    ratios = [fractions.Fraction(int(b), int(a)) for a, b in zip(size, shape)]
    if fit == "letterbox":
        return size, tuple(rounded(int(side) * min(ratios)) for side in size)
    return tuple(rounded(int(side) / max(ratios)) for side in shape), shape


@fits
def test_geometry(fit):
    cases = [*sizes(200, 1, 40), *sizes(50, 1, 2000), ((1, 1000), (64, 64))]
    for size, shape in cases:
        frame = Frame.of(size, shape, fit)
        source, target = boxes(size, shape, fit)
        assert frame.source[2:] == source
        assert frame.target[2:] == target
        for box, whole in ((frame.source, size), (frame.target, shape)):
            for start, length, side in zip(box, box[2:], whole):
                # As much before as behind, up to a pixel.
                assert length >= 1
                assert 0 <= side - length - 2 * start <= 1
        assert all(type(number) is int for number in frame.source + frame.target)


@fits
def test_the_pixels_of_whole_numbers(fit):
    """Every pixel of the model by the mean of its block, one at a time."""
    size, shape = ((12, 32), (8, 8)) if fit == "letterbox" else ((12, 33), (4, 4))
    picture = noise(*size)
    fitted = Frame.of(size, shape, fit).fit(picture)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if fit == "letterbox":
                # Three rows of blocks of 4 x 4, below two rows of the upper bar.
                top, left, factor = 4 * min(max(y - 2, 0), 2), 4 * x, 4
            else:
                # The centre 12 of 33 columns, blocks of 3 x 3.
                top, left, factor = 3 * y, 10 + 3 * x, 3
            block = picture[top : top + factor, left : left + factor]
            mean = block.reshape(-1, 3).mean(axis=0)
            assert np.abs(fitted[y, x] - mean).max() <= 0.5


def test_large_blocks_have_the_right_mean():
    picture = noise(1, 1).repeat(900, axis=0).repeat(700, axis=1)
    picture[:450] = 7
    fitted = Frame.of((900, 700), (9, 7), "crop").fit(picture)
    assert (fitted[5:] == picture[-1, -1]).all()
    whole = Frame.of((900, 700), (1, 1), "crop").fit(picture)
    assert np.abs(whole[0, 0] - picture.mean(axis=(0, 1))).max() <= 0.5


@fits
def test_a_ramp_stays_where_it_is(fit):
    """A picture of its own coordinates tells where each pixel came from."""
    for size, shape in sizes(40, 24, 90):
        frame = Frame.of(size, shape, fit)
        rows, columns = np.indices(size) + 0.5
        ramp = np.stack([255 * rows / size[0], 255 * columns / size[1], rows * 0], -1)
        fitted = frame.fit(np.rint(ramp).astype("uint8"))
        for axis in (0, 1):
            start, length = frame.source[axis], frame.source[2 + axis]
            before, scaled = frame.target[axis], frame.target[2 + axis]
            pixel = np.clip(np.arange(shape[axis]) - before, 0, scaled - 1) + 0.5
            expected = 255 * (start + pixel * length / scaled) / size[axis]
            found = fitted[..., axis] if axis == 1 else fitted[..., axis].T
            assert np.abs(found - expected).max() <= 255 * 0.5 / size[axis] + 2


def test_the_bars_continue_the_edge():
    wide = Frame.of((10, 30), (21, 21), "letterbox")
    fitted = wide.fit(noise(10, 30))
    assert wide.target == (7, 0, 7, 21)
    assert (fitted[:7] == fitted[7]).all()
    assert (fitted[14:] == fitted[13]).all()
    tall = Frame.of((30, 10), (21, 21), "letterbox")
    fitted = tall.fit(noise(30, 10))
    assert (fitted[:, :7] == fitted[:, 7:8]).all()
    assert (fitted[:, 14:] == fitted[:, 13:14]).all()


@fits
def test_equal_sizes_keep_everything(fit):
    for size in [(1, 1), (7, 13), (32, 32)]:
        frame = Frame.of(size, size, fit)
        picture, result = noise(*size), 255 - noise(*size)
        mask = picture[..., 0] > 99
        for found, right in (
            (frame.fit(picture), picture),
            (frame.fit_mask(mask), mask),
            (frame.restore(result, picture), result),
        ):
            np.testing.assert_array_equal(found, right)
            assert found.dtype == right.dtype
            assert not np.shares_memory(found, right)
        assert frame.covers(mask)


@fits
def test_round_trips_of_smooth_pictures(fit):
    for size, shape in sizes(60, 24, 100):
        picture = smooth(*size)
        frame = Frame.of(size, shape, fit)
        back = frame.restore(frame.fit(picture), picture)
        assert back.shape == picture.shape and back.dtype == np.uint8
        error = np.abs(back.astype(int) - picture)
        assert error.mean() < 1.5
        # At the border a scaled pixel has neighbours on one side only.
        assert error.max() <= 2 + 200 / min(frame.target[2:])


def test_a_crop_restores_what_the_model_did_not_see():
    for size, shape in sizes(40, 1, 40):
        frame = Frame.of(size, shape, "crop")
        picture, result = noise(*size), np.full((*shape, 3), 77, "uint8")
        before = picture.copy()
        restored = frame.restore(result, picture)
        top, left, height, width = frame.source
        seen = np.zeros(size, bool)
        seen[top : top + height, left : left + width] = True
        assert (restored[seen] == 77).all()
        np.testing.assert_array_equal(restored[~seen], picture[~seen])
        np.testing.assert_array_equal(picture, before)


def test_a_letterbox_restores_nothing_of_the_bars():
    for size, shape in sizes(40, 1, 40):
        frame = Frame.of(size, shape, "letterbox")
        top, left, height, width = frame.target
        result = np.zeros((*shape, 3), "uint8")
        result[top : top + height, left : left + width] = 77
        assert (frame.restore(result, noise(*size)) == 77).all()


@fits
@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (2, 777), (3, 100_000)])
@pytest.mark.parametrize("shape", [(64, 64), (32, 48), (1, 5)])
def test_extreme_sizes(fit, size, shape):
    frame = Frame.of(size, shape, fit)
    picture = noise(*size)
    fitted = frame.fit(picture)
    assert fitted.shape == (*shape, 3)
    assert frame.restore(fitted, picture).shape == picture.shape
    mask = np.zeros(size, bool)
    mask[(size[0] - 1) // 2, (size[1] - 1) // 2] = True
    assert frame.covers(mask)
    assert frame.fit_mask(mask).any()


def meets(pixel, length, i, scaled):
    """Whether pixel `i` of `scaled` and one of `length` along a side share some of it.

    In units in which both pixels have whole lengths.
    """
    return i * length < (pixel + 1) * scaled and (i + 1) * length > pixel * scaled


def slow_fit_mask(mask, frame):
    """Every masked pixel marks the model's pixels with which it shares some area."""
    fitted = np.zeros(frame.shape, bool)
    top, left, height, width = frame.source
    above, before, rows, columns = frame.target
    for y, x in np.argwhere(mask[top : top + height, left : left + width]):
        for i, j in np.ndindex(rows, columns):
            if meets(y, height, i, rows) and meets(x, width, j, columns):
                fitted[above + i, before + j] = True
    return fitted


@fits
def test_masks_are_exact(fit):
    rng = np.random.default_rng(2)
    for size, shape in sizes(150, 1, 14):
        mask = rng.random(size) < rng.choice([0.02, 0.2, 0.9])
        frame = Frame.of(size, shape, fit)
        fitted = frame.fit_mask(mask)
        assert fitted.dtype == bool
        np.testing.assert_array_equal(fitted, slow_fit_mask(mask, frame))


@fits
def test_no_masked_pixel_is_lost(fit):
    """One pixel among many, at every place."""
    for size, shape in [((30, 17), (5, 4)), ((4, 5), (30, 17)), ((31, 7), (8, 8))]:
        frame = Frame.of(size, shape, fit)
        for place in np.ndindex(*size):
            mask = np.zeros(size, bool)
            mask[place] = True
            assert frame.fit_mask(mask).any() == frame.covers(mask)


def test_the_bars_are_never_masked():
    frame = Frame.of((10, 30), (21, 21), "letterbox")
    fitted = frame.fit_mask(np.ones((10, 30), bool))
    assert fitted[7:14].all()
    assert fitted.sum() == 7 * 21


def test_covers():
    crop = Frame.of((8, 20), (16, 16), "crop")
    letterbox = Frame.of((8, 20), (16, 16), "letterbox")
    assert crop.source == (0, 6, 8, 8)
    for column in range(20):
        mask = np.zeros((8, 20), bool)
        mask[3, column] = True
        assert crop.covers(mask) == (6 <= column < 14)
        assert letterbox.covers(mask) is True
    assert crop.covers(np.zeros((8, 20), bool))
    assert not crop.covers(np.ones((8, 20), bool))


def test_a_frame_is_frozen_and_equal_to_its_like():
    frame = Frame.of((8, 20), (16, 16), "crop")
    assert frame == Frame.of(np.array([8, 20]), [16, 16], "crop")
    assert hash(frame) == hash(Frame.of([8, 20], [16, 16], "crop"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.size = (1, 1)


@pytest.mark.parametrize("fit", ["stretch", None, "Crop", ["crop"]])
def test_bad_fits(fit):
    with pytest.raises(ValueError, match="`fit` must be one of 'letterbox', 'crop': r"):
        Frame.of((8, 8), (8, 8), fit)


def test_bad_sizes():
    frame = Frame.of((8, 20), (16, 16), "crop")
    picture, mask = noise(8, 20), np.ones((8, 20), bool)
    for call, message in (
        (lambda: frame.fit(noise(20, 8)), r"`picture` .*\(8, 20, 3\).*\(20, 8, 3\)"),
        (lambda: frame.fit_mask(mask.T), r"`mask` .*\(8, 20\): received \(20, 8\)"),
        (lambda: frame.covers(mask[..., None]), r"`mask` .*received \(8, 20, 1\)"),
        (lambda: frame.restore(picture, picture), r"`result` .*\(16, 16, 3\).*\(8, 20"),
        (lambda: frame.restore(noise(16, 16), noise(9, 9)), r"`picture` .*\(9, 9, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
