"""A picture is continued, window by window, and stays what it was."""

import numpy as np
import pytest

from keras_muse.decoding import Sampler, seeds_of
from keras_muse.models import MuseInpaint, MuseOutpaint
from keras_muse.models.canvas import Canvas
from tests.tools import tiny_muse

SIDE = 32
PROMPTS = ["a red circle", "a blue square"]
PICTURES = np.random.default_rng(4).integers(0, 256, (2, SIDE, SIDE, 3), "uint8")
INPUTS = {"images": PICTURES, "prompts": PROMPTS}


@pytest.fixture(scope="module")
def outpaint():
    muse = tiny_muse(
        2, samplers=[Sampler(num_steps=8, guidance_scale=2.0), Sampler(num_steps=4)]
    )
    return MuseOutpaint(muse.backbone, muse.preprocessor, muse.samplers)


@pytest.mark.parametrize(
    "extend, canvas, windows",
    [
        ((0, 0, 0, 0), (32, 32), 0),
        ((0, 16, 0, 0), (32, 48), 1),
        ((0, 9, 0, 5), (32, 46), 2),
        ((8, 0, 24, 0), (64, 32), 3),
        ((0, 32, 32, 0), (64, 64), 8),
        ((48, 48, 48, 48), (128, 128), 48),
    ],
)
def test_the_picture_stays_and_the_canvas_grows(outpaint, extend, canvas, windows):
    steps = []
    images = outpaint.generate(
        INPUTS,
        extend,
        num_steps=(1, 1),
        seed=1,
        callback=lambda stage, step, tokens: steps.append((stage, tokens.shape)),
    )
    assert images.shape == (2, *canvas, 3)
    top, left = extend[0], extend[3]
    inside = images[:, top : top + SIDE, left : left + SIDE]
    np.testing.assert_array_equal(inside, PICTURES)
    # Every window of the first stage, then every one of the second.
    assert steps == [(0, (2, 16))] * windows + [(1, (2, 64))] * windows


def test_tokens_of_the_picture_are_known_to_every_window(outpaint):
    seen = []
    outpaint.generate(
        INPUTS, (0, 16, 0, 0), seed=1, callback=lambda *step: seen.append(step)
    )
    for stage, tokens in enumerate(outpaint.encode_images(PICTURES)):
        grid = (4, 8)[stage]
        half = tokens.reshape(2, grid, grid)[:, :, grid // 2 :]
        steps = [ids for index, _, ids in seen if index == stage]
        # Half a window is new: half the steps.
        assert len(steps) == (4, 2)[stage]
        for ids in steps:
            ids = ids.reshape(2, grid, grid)
            np.testing.assert_array_equal(ids[:, :, : grid // 2], half)


def test_one_window_is_an_inpainting(outpaint):
    """Half of a canvas of one window is filled as half of a picture would be."""
    canvas = Canvas(outpaint.backbone, PICTURES.shape[1:], (0, 16, 0, 0))
    assert canvas.windows == [(0, 2)]
    seen = []
    outpaint.generate(
        INPUTS, (0, 16, 0, 0), seed=1, callback=lambda *step: seen.append(step)
    )
    last = {stage: ids for stage, _, ids in seen}
    start = []
    for stage, tokens in enumerate(outpaint.encode_images(PICTURES)):
        grid, mask_id = (4, 8)[stage], 32
        ids = np.full((2, grid, grid), mask_id, "int32")
        half = grid // 2
        ids[:, :, :half] = tokens.reshape(2, grid, grid)[:, :, half:]
        start.append(ids.reshape(2, -1))
    inpaint = MuseInpaint(outpaint.backbone, outpaint.preprocessor, outpaint.samplers)
    seeds = np.asarray(seeds_of(np.array([1, 2], "int32"), 1))
    tokens = inpaint.generate_tokens(PROMPTS, None, seeds, start_tokens=start)
    for stage in (0, 1):
        np.testing.assert_array_equal(tokens[stage], last[stage])


def test_windows_draw_noise_of_their_own(outpaint):
    black = np.zeros((SIDE, SIDE, 3), "uint8")
    image = outpaint.generate(
        {"images": black, "prompts": ""}, (0, 32, 0, 32), temperature=3.0, seed=1
    )
    assert np.any(image[:, 16:32] != image[:, -16:])


def test_a_row_depends_on_itself_alone(outpaint):
    together = outpaint.generate(INPUTS, (16, 0, 0, 8), seed=[5, 9])
    for row in (0, 1):
        inputs = {"images": PICTURES[row], "prompts": PROMPTS[row]}
        alone = outpaint.generate(inputs, (16, 0, 0, 8), seed=[5, 9][row])
        np.testing.assert_array_equal(alone, together[row])


def test_the_same_on_every_backend(outpaint, parity):
    last = {}
    outpaint.generate(
        INPUTS, 16, seed=3, callback=lambda stage, step, ids: last.update({stage: ids})
    )
    for stage in (0, 1):
        parity(f"outpaint_{stage}", last[stage])


def test_pictures_of_other_sizes(outpaint):
    """The shorter side is the trained one; the result has the picture's scale."""
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (40, 90), (32, 32), (64, 64)]
    pictures = [rng.integers(0, 256, (*size, 3), "uint8") for size in sizes]
    images = outpaint.generate(
        {"images": pictures, "prompts": "a"}, (0, 7, 5, 0), seed=1, num_steps=1
    )
    for image, picture, (height, width) in zip(images, pictures, sizes):
        assert image.shape == (height + 5, width + 7, 3)
        np.testing.assert_array_equal(image[:height, :width], picture)
    plain = outpaint.generate(
        {"images": pictures, "prompts": "a"},
        (0, 7, 5, 0),
        seed=1,
        num_steps=1,
        composite=False,
    )
    for image, whole in zip(plain, images):
        assert image.shape == whole.shape
        np.testing.assert_array_equal(image[-5:], whole[-5:])


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (100, 100), (7, 9), (110, 32)])
def test_the_canvas_holds_the_picture(outpaint, size):
    extend = (3, 8, 0, 5)
    canvas = Canvas(outpaint.backbone, (*size, 3), extend)
    assert min(canvas.known) == 4
    assert np.all(np.array(canvas.known) >= 4)
    scale = np.array(canvas.known) * 8 / size
    # Whole cells: the aspect ratio changes by half of one at most.
    assert abs(scale[0] / scale[1] - 1) <= 0.5 / 4
    # White where the canvas has the picture: that is where the cut has it, too.
    image = np.zeros((*(8 * cells for cells in canvas.cells), 3), "uint8")
    rows, columns = (
        slice(8 * a, 8 * (a + b)) for a, b in zip(canvas.before, canvas.known)
    )
    image[rows, columns] = 255
    cut = canvas.cut(image)
    assert cut.shape == (size[0] + 3, size[1] + 13, 3)
    # To a pixel of the canvas, which may be several of the picture.
    blur = int(np.ceil(1 / scale.min())) - 1
    top, left = 3 - blur, 5 - blur
    outer, inner = np.zeros((2, *cut.shape), "bool")
    outer[max(top, 0) : 3 + size[0] + blur, left : 5 + size[1] + blur] = True
    inner[3 + blur : 3 + size[0] - blur, 5 + blur : 5 + size[1] - blur] = True
    assert np.all(cut[inner] > 127) and np.all(cut[~outer] <= 127)


@pytest.mark.parametrize(
    "inputs, extend, error, message",
    [
        (INPUTS, (0, 97, 0, 0), ValueError, "`extend` must leave .*4 times as wide"),
        (INPUTS, (50, 0, 50, 0), ValueError, "4 times as high.*32 \\+ 100 pixels"),
        (INPUTS, (0, 1, 2), ValueError, r"`extend` must be \(top, right, bottom"),
        (INPUTS, (0, -1, 0, 0), ValueError, "`extend` must be at least 0"),
        (INPUTS, (0, 0.5, 0, 0), TypeError, "`extend` must be an int"),
        ({"images": PICTURES}, 8, ValueError, "received the keys"),
        ({**INPUTS, "masks": PICTURES}, 8, ValueError, "received the keys"),
        ({**INPUTS, "prompts": ["a"]}, 8, ValueError, "2 images: received 1"),
    ],
)
def test_bad_arguments_stop_before_anything_is_made(
    outpaint, inputs, extend, error, message
):
    calls = []
    with pytest.raises(error, match=message):
        outpaint.generate(inputs, extend, callback=lambda *step: calls.append(step))
    assert not calls


def test_a_preset_has_its_samplers(outpaint, tmp_path):
    outpaint.save_to_preset(str(tmp_path))
    loaded = MuseOutpaint.from_preset(str(tmp_path))
    assert loaded.samplers == outpaint.samplers
    np.testing.assert_array_equal(
        loaded.generate(INPUTS, 8, seed=1), outpaint.generate(INPUTS, 8, seed=1)
    )
