"""The preset in the package: it is whole, small, and does what it says."""

import pathlib

import keras
import numpy as np
import pytest

from keras_muse import presets
from keras_muse.data import shapes, shapes_checker
from keras_muse.models import MuseBackbone, MuseMaskedImageModel, MuseOutpaint
from keras_muse.recipes.measures import TextUse, Translation, turn_round

CAPTION = "three small red circles on a black background"


@pytest.fixture(scope="module")
def muse():
    return presets.load("muse_shapes")


@pytest.fixture(scope="module")
def held_out():
    return shapes.examples("held_out_captions", 0, 32, 11)[1]


def test_one_picture(muse):
    image = muse.generate(CAPTION, seed=1)
    assert image.shape == (128, 128, 3)
    assert image.dtype == np.uint8
    assert presets.describe("muse_shapes")["image_size"] == (128, 128)


def test_its_files():
    folder = pathlib.Path(presets.describe("muse_shapes")["path"])
    assert (folder / "checksums.json").is_file()
    presets.verify(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size <= 30 * 2**20


@pytest.fixture(scope="module")
def made(muse, held_out):
    """Tokens of both stages."""
    seeds = np.arange(len(held_out), dtype="int32")
    return muse.generate_tokens(held_out, None, seeds)


def test_the_same_tokens_on_every_backend(made, parity):
    parity("muse_shapes_tokens", np.concatenate(made, axis=1))


def test_what_was_made_is_read_as_what_it_was_made_of(muse, made):
    # A generated picture is not as clean as a drawn one. Read as codes that training
    # never had, it cannot be edited.
    again = muse.encode_images(muse.decode_images(made[-1]))
    for tokens, ids in zip(made, again):
        assert np.mean(tokens == ids) > 0.99


def test_words_are_bound_to_their_groups(muse):
    use = TextUse(muse.backbone, muse.preprocessor, seed=5, count=64)
    true = use.cross_entropy(use.captions)
    turned = use.cross_entropy([turn_round(caption) for caption in use.captions])
    unread = use.cross_entropy([""] * len(use.captions))
    # Half of the captions hold a relation. A bag of words finds both as likely.
    assert true + 0.5 < turned
    assert turned < unread


def test_the_transformer_knows_the_tokens_of_its_tokenizer(muse):
    # Weights are rounded when they are stored: a cell must not change its code then.
    base = MuseBackbone(muse.backbone.text_encoder, muse.backbone.stages[:1])
    trainer = MuseMaskedImageModel(base, muse.preprocessor)
    images, captions = shapes.examples("held_out_captions", 0, 64, seed=6)
    rows = {"images": images, "captions": np.array(captions)}
    logs = trainer.evaluate(rows, verbose=0, return_dict=True)
    assert logs["loss_0.00_0.25"] < 0.2
    assert logs["loss"] < 0.6


def test_the_second_stage_translates_the_first(muse):
    use = Translation(muse.backbone, muse.preprocessor, muse.samplers, seed=6, count=16)
    quality = use()
    assert quality["test_tokens"] > 0.99
    assert quality["test_psnr"] > 34.0


@pytest.mark.slow
def test_every_object_is_translated(muse):
    # The base draws tokens of 64-pixel drawings: the second stage must know them all.
    objects = [
        (shape, color, size, background)
        for shape in shapes.SHAPES
        for color in shapes.COLORS
        for size in shapes.SIZES
        for background in shapes.BACKGROUNDS
        if (color, shape) not in shapes.HELD_OUT_PAIRS
    ]
    scenes = []
    for background in shapes.BACKGROUNDS:
        kinds = [kind[:3] for kind in objects if kind[3] == background]
        for start in range(0, len(kinds), 4):
            groups = [
                shapes.Group(1, size, shape, color, (cell,))
                for (shape, color, size), cell in zip(
                    kinds[start : start + 4], ((0, 0), (0, 4), (4, 1), (5, 5))
                )
            ]
            scenes.append(shapes.Scene(tuple(groups), None, background))
    low, high = (
        keras.ops.convert_to_numpy(
            tokenizer.encode(np.stack([shapes.render(s, scale) for s in scenes]))
        )
        for tokenizer, scale in zip(muse.backbone.image_tokenizers, (1, 2))
    )
    seeds = np.zeros(len(scenes), "int32")
    made = muse.generate_tokens(
        [""] * len(scenes), None, seeds, start_tokens=[low, None]
    )[-1]
    # An unknown token spoils four.
    assert (made != high).sum(1).max() <= 1


def test_pictures_are_what_was_asked_for(muse, made, held_out):
    agreement = shapes_checker.agreement(muse.decode_images(made[-1]), held_out)
    # What the model card says of held-out captions, less four standard errors.
    assert np.mean(agreement["exact"]) >= 0.7
    assert np.mean(agreement["colors"]) >= 0.9
    assert np.mean(agreement["background"]) >= 0.95


def test_a_continued_picture_has_no_seam(muse):
    """Pictures that end in the middle of an object, continued on the right."""
    outpaint = MuseOutpaint(muse.backbone, muse.preprocessor)
    pictures, captions = [], []
    for row, (shape, color, background) in enumerate(
        (
            ("square", "red", "white"),
            ("circle", "blue", "black"),
            ("cross", "yellow", "gray"),
            ("triangle", "green", "white"),
        )
    ):
        group = shapes.Group(1, "large", shape, color, ((row, 3),))
        whole = shapes.render(shapes.Scene((group,), None, background), 2)
        picture = np.full_like(whole, shapes.BACKGROUNDS[background])
        picture[:, 64:] = whole[:, :64]
        pictures.append(picture)
        captions.append(f"a large {color} {shape} on a {background} background")
    inputs = {"images": np.stack(pictures), "prompts": captions}
    images = outpaint.generate(inputs, (0, 64, 0, 0), seed=0)[:, :, 64:]
    assert shapes_checker.agreement(images, captions)["exact"].all()
    energy = np.mean(np.diff(images.astype("float32"), axis=2) ** 2, axis=(0, 1, 3))
    assert energy[63] < np.delete(energy, 63).mean()
