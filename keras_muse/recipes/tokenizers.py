"""The image tokenizers of the shapes world, and their larger decoder."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_muse.data import shapes
from keras_muse.image_tokenizer import VQGAN, VectorQuantizer, VQGANTrainer
from keras_muse.presets import store_as_float16
from keras_muse.recipes.fitting import WarmupStableDecay, fit
from keras_muse.recipes.measures import Log, reconstruction_quality

__all__ = [
    "make_tokenizer",
    "retire_unused_codes",
    "train_decoder",
    "train_tokenizer",
]

SEED = 7
FAR_AWAY = 1000.0  # from every embedding, and a number of float16


def make_tokenizer(stage=0):
    """One token for 8 x 8 pixels, of 64 x 64 at stage 0 and of 128 x 128 at stage 1.

    A token of stage 0 is a cell of the world, of which there are 340; a token of
    stage 1 is a quarter of one, of which there are 731, some of them rare.
    """
    quantizer = (
        VectorQuantizer(512, 32, name="quantizer"),
        VectorQuantizer(1024, 32, revival_threshold=0.01, name="quantizer"),
    )[stage]
    return VQGAN(
        quantizer,
        base_channels=16,
        channel_multipliers=(1, 4),
        strides=(8,),
        num_residual_blocks=(0, 1),
        groups=8,
        upsampling="depth_to_space",
        local_encoder=True,
        dtype="float32",
        name=("image_tokenizer", "high_res_tokenizer")[stage],
    )


def train_tokenizer(
    folder, steps, steps_per_epoch, batch_size=32, stage=0, test_pictures=500
):
    """Trains the VQGAN of a stage on reconstruction; returns it."""
    name = ("tokenizer", "high_res_tokenizer")[stage]
    settings = (steps, steps_per_epoch, batch_size, stage, test_pictures)
    return fit_tokenizer(folder, name, lambda: make_tokenizer(stage), *settings)


def train_decoder(
    folder, vqgan, steps, steps_per_epoch, batch_size=32, stage=1, test_pictures=500
):
    """Trains a decoder of twice the width and depth; returns the VQGAN that has it.

    Muse, section 2.5: the encoder, the codebook and the transformers stay what they
    are, so the pictures get better and nothing has to be trained again.
    """

    def make():
        return vqgan.with_decoder(base_channels=32, num_residual_blocks=(0, 2))

    settings = (steps, steps_per_epoch, batch_size, stage, test_pictures)
    return fit_tokenizer(folder, "large_decoder", make, *settings)


def fit_tokenizer(
    folder, name, make, steps, steps_per_epoch, batch_size, stage, test_pictures=500
):
    """Trains what is trainable of a VQGAN on the pictures of a stage; returns it.

    After every epoch it is measured on `test_pictures` of held-out captions.
    """
    done = folder / name
    if done.exists():
        return VQGAN.from_preset(str(done))
    vqgan = make()
    trainer = VQGANTrainer(vqgan)
    trainer.compile(
        keras.optimizers.Adam(
            WarmupStableDecay(2e-3, 100, int(0.6 * steps), steps),
            beta_2=0.99,
            global_clipnorm=1.0,
        ),
        reconstruction="l2",
        reconstruction_weight=10.0,
    )
    scale = 2**stage
    images, captions = shapes.examples(
        "held_out_captions", 0, test_pictures, SEED + 1, scale
    )
    log = Log(
        folder / f"{name}.csv",
        batch_size * steps_per_epoch,
        lambda: reconstruction_quality(vqgan, images, captions),
    )
    # Fresh scenes for ever; a resumed run goes on where the stream was cut off.
    pictures = shapes.dataset(
        "train", SEED, scale, batch_size, start=log.pictures_seen()
    ).map(lambda batch: batch["images"])
    fit(trainer, folder / f"{name}_backup", log, pictures, steps, steps_per_epoch)
    vqgan.save_to_preset(done)
    # Before a transformer learns its tokens: rounding moves some cells to a code that
    # lies beside theirs.
    store_as_float16(done)
    return VQGAN.from_preset(str(done))


def retire_unused_codes(vqgan, scale):
    """Moves codes that no picture of the world has out of reach of every embedding.

    The transformers have never seen them. A picture that is not perfect, such as one
    that was generated, would otherwise be read as such codes in most of its cells, and
    the first edit of it would fail.

    Args:
        vqgan: `VQGAN` of a recipe, whose tokens depend on their own patch alone.
        scale: int. Of the pictures that it was trained on, see `shapes.render`.

    Returns:
        int. How many codes are left.
    """
    kinds = itertools.product(
        shapes.SIZES, shapes.SHAPES, shapes.COLORS, shapes.BACKGROUNDS
    )
    images = np.stack(
        [
            shapes.render(
                shapes.Scene((shapes.Group(1, *kind, ((1, 1),)),), None, background),
                scale,
            )
            for *kind, background in kinds
        ]
    )
    ids = ops.convert_to_numpy(vqgan.encode(ops.convert_to_tensor(images)))
    unused = np.setdiff1d(np.arange(vqgan.codebook_size), ids)
    codebook = ops.convert_to_numpy(vqgan.quantizer.codebook).copy()
    codebook[unused] = FAR_AWAY
    vqgan.quantizer.codebook.assign(codebook)
    return vqgan.codebook_size - len(unused)
