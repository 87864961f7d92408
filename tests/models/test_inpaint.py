"""What is masked is made anew, what is not stays."""

import copy

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_muse.decoding import Sampler
from keras_muse.models import MuseInpaint
from keras_muse.models.inpaint import overlay
from tests.decoding import reference
from tests.tools import tiny_muse

SIDE = 32
PROMPTS = ["a red circle", "a blue square", "a green circle", "on white", ""]
RNG = np.random.default_rng(7)
PICTURES = RNG.integers(0, 256, (5, SIDE, SIDE, 3), "uint8")
SAMPLERS = (
    Sampler(num_steps=8, guidance_scale=2.0, order="random", spacing=1),
    Sampler(num_steps=12, guidance_scale=1.5),
)


def as_inpaint(muse):
    return MuseInpaint(muse.backbone, muse.preprocessor, muse.samplers)


@pytest.fixture(scope="module")
def muse():
    return tiny_muse(2, samplers=SAMPLERS)


@pytest.fixture(scope="module")
def inpaint(muse):
    return as_inpaint(muse)


def random_masks(seed=0):
    """Five masks: a speck, two boxes, noise, all but a box."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((5, SIDE, SIDE), "bool")
    masks[0, rng.integers(SIDE), rng.integers(SIDE)] = True
    for row in (1, 2):
        top, left = rng.integers(0, SIDE - 8, 2)
        height, width = rng.integers(2, 16, 2)
        masks[row, top : top + height, left : left + width] = True
    masks[3] = rng.random((SIDE, SIDE)) < 0.02
    masks[4] = True
    masks[4, 4:13, 9:22] = False
    return masks


def cells(mask, grid):
    """Which tokens a mask touches, a pixel at a time."""
    touched = np.zeros((grid, grid), "bool")
    for y, x in np.argwhere(mask):
        touched[y * grid // SIDE, x * grid // SIDE] = True
    return touched.reshape(-1)


def watched(inpaint, masks, prompts=PROMPTS, seed=3, **settings):
    """The pictures, and the tokens of each stage after each step."""
    seen = [[], []]
    inputs = {"images": PICTURES, "masks": masks, "prompts": prompts}
    images = inpaint.generate(
        inputs,
        seed=seed,
        callback=lambda stage, step, tokens: seen[stage].append(tokens),
        **settings,
    )
    return images, seen


@pytest.mark.parametrize("seed", range(3))
def test_known_tokens_and_pixels_never_change(inpaint, seed):
    masks = random_masks(seed)
    images, seen = watched(inpaint, masks)
    for stage, tokens in enumerate(inpaint.encode_images(PICTURES)):
        grid = (4, 8)[stage]
        hole = np.stack([cells(mask, grid) for mask in masks])
        for ids in seen[stage]:
            np.testing.assert_array_equal(ids[~hole], tokens[~hole])
        assert np.all(seen[stage][-1] < 32)
        assert np.any(seen[stage][-1][hole] != tokens[hole])
    np.testing.assert_array_equal(images[~masks], PICTURES[~masks])
    assert np.all([np.any(a[m] != b[m]) for a, b, m in zip(images, PICTURES, masks)])


@pytest.mark.parametrize("seed", range(3))
def test_every_row_follows_the_schedule_of_its_own_hole(inpaint, seed):
    masks = random_masks(seed)
    _, seen = watched(inpaint, masks)
    for stage, grid in enumerate((4, 8)):
        sampler = SAMPLERS[stage]
        for row, mask in enumerate(masks):
            start = unknown = int(cells(mask, grid).sum())
            # As many tokens a step as a whole picture.
            steps = -(-sampler.num_steps * start // grid**2)
            for step, ids in enumerate(seen[stage]):
                unknown = reference.num_masked_after(step, steps, start, unknown)
                assert np.sum(ids[row] == 32) == unknown
        largest = max(cells(mask, grid).sum() for mask in masks)
        assert len(seen[stage]) == -(-sampler.num_steps * largest // grid**2)


def test_a_quarter_takes_a_quarter_of_the_steps(inpaint):
    masks = np.zeros((5, SIDE, SIDE), "bool")
    masks[:, :16, :16] = True
    _, seen = watched(inpaint, masks)
    assert [len(steps) for steps in seen] == [2, 3]
    _, seen = watched(inpaint, np.ones_like(masks))
    assert [len(steps) for steps in seen] == [8, 12]


def test_an_empty_mask_returns_the_picture(inpaint):
    images, seen = watched(inpaint, np.zeros((5, SIDE, SIDE), "bool"))
    np.testing.assert_array_equal(images, PICTURES)
    assert seen == [[], []]
    # Without the old pixels, it is what the image tokenizer makes of them.
    images, _ = watched(inpaint, np.zeros((5, SIDE, SIDE), "bool"), composite=False)
    tokens = inpaint.encode_images(PICTURES)[-1]
    np.testing.assert_array_equal(images, inpaint.decode_images(tokens))


@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_full_mask_is_text_to_image(muse, inpaint, scale):
    inputs = {"images": PICTURES, "masks": np.ones((5, SIDE, SIDE)), "prompts": PROMPTS}
    painted = inpaint.generate(inputs, guidance_scale=scale, seed=9)
    made = muse.generate(PROMPTS, guidance_scale=scale, seed=9)
    np.testing.assert_array_equal(painted, made)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_row_depends_on_itself_alone(inpaint, strength):
    masks, seeds = random_masks(5), [4, -9, 77, 2**31 - 1, 0]
    together, seen = watched(inpaint, masks, seed=seeds, strength=strength)
    for row in range(5):
        inputs = {"images": PICTURES[row], "masks": masks[row], "prompts": PROMPTS[row]}
        alone = inpaint.generate(inputs, seed=seeds[row], strength=strength)
        np.testing.assert_array_equal(alone, together[row])


def test_the_same_on_every_backend(inpaint, parity):
    _, seen = watched(inpaint, random_masks(8), strength=0.7)
    for stage in (0, 1):
        parity(f"inpaint_{stage}", seen[stage][-1])


def test_strength_masks_a_part(inpaint):
    masks = np.zeros((5, SIDE, SIDE), "bool")
    masks[:, :, :16] = True
    tokens = inpaint.encode_images(PICTURES)
    images, _ = watched(inpaint, masks, strength=0.0)
    np.testing.assert_array_equal(
        images[masks], inpaint.decode_images(tokens[1])[masks]
    )
    _, seen = watched(inpaint, masks, strength=0.5, num_steps=(16, 64))
    # 4 of 8 tokens, one a step, and the 16 finer ones on them.
    assert [len(steps) for steps in seen] == [4, 16]
    first = seen[0][0]
    assert np.all(np.sum(first == 32, axis=1) == 3)
    assert len({(row == 32).tobytes() for row in first}) > 1


def test_the_mask_grows_by_cells(inpaint):
    masks = np.zeros((5, SIDE, SIDE), "bool")
    masks[:, 8:16, 8:16] = True
    for dilation, count in ((0, 1), (1, 9), (4, 16)):
        images, seen = watched(
            inpaint, masks, mask_dilation=dilation, num_steps=(16, 64)
        )
        assert [len(steps) for steps in seen] == [count, 4 * count]
        side = slice(max(8 - 8 * dilation, 0), 16 + 8 * dilation)
        grown = np.zeros_like(masks)
        grown[:, side, side] = True
        np.testing.assert_array_equal(images[~grown], PICTURES[~grown])


def test_the_edge_is_soft_inside_the_mask():
    picture = np.zeros((12, 12, 3), "uint8")
    image = np.full_like(picture, 200)
    mask = np.zeros((12, 12), "bool")
    mask[2:, 3:] = True
    hard, soft = (overlay(picture, image, mask, feather)[..., 0] for feather in (0, 3))
    np.testing.assert_array_equal(hard, 200 * mask)
    assert np.all(soft[~mask] == 0)
    # A quarter more with each pixel from the edge; that of the picture is none.
    np.testing.assert_array_equal(soft[8, 3:8], [50, 100, 150, 200, 200])
    np.testing.assert_array_equal(soft[2:7, 11], [50, 100, 150, 200, 200])
    assert soft[2, 3] == 50 and soft[3, 4] == 100


def test_feather_of_generate(inpaint):
    masks = random_masks(2)
    hard, _ = watched(inpaint, masks)
    soft, _ = watched(inpaint, masks, feather=2)
    np.testing.assert_array_equal(soft[~masks], PICTURES[~masks])
    expected = [
        overlay(picture, image, mask, 2)
        for picture, image, mask in zip(PICTURES, hard, masks)
    ]
    np.testing.assert_array_equal(soft, expected)


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_pictures_of_other_sizes_come_back_in_theirs(inpaint, fit):
    sizes = [(48, 80), (32, 32), (20, 17)]
    pictures = [RNG.integers(0, 256, (*size, 3), "uint8") for size in sizes]
    masks = [np.zeros(size, "bool") for size in sizes]
    for mask, (height, width) in zip(masks, sizes):
        mask[height // 3 : height // 2, width // 3 : width // 2] = True
    inputs = {"images": pictures, "masks": masks, "prompts": "a red circle"}
    painted = inpaint.generate(inputs, seed=1, fit=fit)
    assert [image.shape for image in painted] == [(*size, 3) for size in sizes]
    for image, picture, mask in zip(painted, pictures, masks):
        np.testing.assert_array_equal(image[~mask], picture[~mask])
        assert np.any(image[mask] != picture[mask])


def test_a_mask_that_a_crop_hides_is_refused(inpaint):
    mask = np.zeros((32, 64), "bool")
    mask[:, 0] = True
    inputs = {"images": np.zeros((32, 64, 3), "uint8"), "masks": mask, "prompts": "a"}
    inpaint.generate(inputs, seed=1)
    with pytest.raises(ValueError, match=r"`masks\[0\]` must lie in the centre"):
        inpaint.generate(inputs, seed=1, fit="crop")


def test_every_kind_of_input_gives_the_same(inpaint, tmp_path):
    masks = random_masks(1)
    inputs = {"images": PICTURES, "masks": masks, "prompts": PROMPTS}
    before = copy.deepcopy(inputs)
    expected = inpaint.generate(inputs, seed=2)
    for key, value in before.items():
        np.testing.assert_array_equal(inputs[key], value)
    paths = [tmp_path / f"{row}.png" for row in range(10)]
    for path, array in zip(paths, [*PICTURES, *masks]):
        Image.fromarray(array).save(path)
    for images, holes in (
        (list(PICTURES), [mask[..., None] for mask in masks]),
        (PICTURES / 255.0, masks.astype("float32")),
        (paths[:5], [str(path) for path in paths[5:]]),
        ([Image.open(p) for p in paths[:5]], masks.astype("uint8") * 255),
    ):
        same = inpaint.generate(
            {"images": images, "masks": holes, "prompts": PROMPTS}, seed=2
        )
        np.testing.assert_array_equal(same, expected)
    dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(2)
    np.testing.assert_array_equal(inpaint.generate(dataset, seed=2), expected)
    one = inpaint.generate(
        {"images": paths[0], "masks": paths[5], "prompts": PROMPTS[0]}, seed=2
    )
    np.testing.assert_array_equal(one, expected[0])


def test_negative_prompts(inpaint):
    masks = random_masks(4)
    plain, _ = watched(inpaint, masks)
    inputs = {"images": PICTURES, "masks": masks, "prompts": PROMPTS}
    same = inpaint.generate({**inputs, "negative_prompts": ""}, seed=3)
    np.testing.assert_array_equal(same, plain)
    other = inpaint.generate({**inputs, "negative_prompts": "white"}, seed=3)
    assert np.any(other != plain)


def test_the_progress_bar_counts_the_steps_of_the_holes(inpaint, capsys):
    inputs = {"images": PICTURES, "masks": random_masks(), "prompts": PROMPTS}
    inpaint.generate(inputs, seed=1, verbose=1)
    steps = sum(
        -(-sampler.num_steps * cells(random_masks()[4], grid).sum() // grid**2)
        for sampler, grid in zip(SAMPLERS, (4, 8))
    )
    assert f"{steps}/{steps}" in capsys.readouterr().out


GOOD = {"images": PICTURES, "masks": random_masks(), "prompts": PROMPTS}


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"inputs": PICTURES}, TypeError, "`inputs` must be a dict with the keys"),
        ({"inputs": {"images": PICTURES}}, ValueError, "received the keys"),
        ({"images": []}, ValueError, "`images` must hold at least one"),
        ({"images": PICTURES[..., :2]}, ValueError, r"`images.*\(H, W, 3\)"),
        ({"images": np.full((5, 32, 32, 3), np.nan)}, ValueError, "`images.*finite"),
        ({"images": "no.png"}, FileNotFoundError, "there is no 'no.png'"),
        ({"masks": random_masks()[:, :16]}, ValueError, r"`masks\[0\]` .*32 x 32.*16"),
        ({"masks": random_masks()[:3]}, ValueError, "5 images: received 3"),
        ({"prompts": PROMPTS[:2]}, ValueError, "5 images: received 2"),
        ({"negative_prompts": ["a", "b"]}, ValueError, "5 images: received 2"),
        ({"strength": 1.5}, ValueError, r"`strength` must lie in \[0, 1\]"),
        ({"strength": "1"}, TypeError, "`strength` must be a number"),
        ({"mask_dilation": -1}, ValueError, "`mask_dilation` must be at least 0"),
        ({"feather": 0.5}, TypeError, "`feather` must be an int"),
        ({"fit": "stretch"}, ValueError, "`fit` must be one of"),
        ({"num_steps": 17}, ValueError, r"`num_steps` must lie in \[1, 16\]"),
        ({"seed": [1, 2]}, ValueError, "2 seeds for 5 prompts"),
    ],
)
def test_bad_arguments_stop_before_anything_is_made(inpaint, change, error, message):
    calls = []
    arguments = {"callback": lambda *step: calls.append(step)}
    inputs = dict(GOOD)
    for key, value in change.items():
        where = inputs if key in (*GOOD, "negative_prompts") else arguments
        where[key] = value
    arguments.setdefault("inputs", inputs)
    with pytest.raises(error, match=message):
        inpaint.generate(**arguments)
    assert not calls


def test_a_preset_of_any_task_has_its_samplers(muse, inpaint, tmp_path):
    muse.save_to_preset(str(tmp_path / "muse"))
    inpaint.save_to_preset(str(tmp_path / "inpaint"))
    for folder in ("muse", "inpaint"):
        for kind in (MuseInpaint, keras_hub.models.Inpaint):
            task = kind.from_preset(str(tmp_path / folder))
            assert isinstance(task, MuseInpaint)
            assert task.samplers == list(SAMPLERS)
        other = keras_hub.models.TextToImage.from_preset(str(tmp_path / folder))
        assert other.samplers == list(SAMPLERS)
    inputs = {"images": PICTURES, "masks": random_masks(), "prompts": PROMPTS}
    np.testing.assert_array_equal(
        task.generate(inputs, seed=5), inpaint.generate(inputs, seed=5)
    )


def test_it_does_not_train(inpaint):
    with pytest.raises(TypeError, match="`MuseInpaint` generates"):
        inpaint.fit(PICTURES)
