"""What several test files use."""

import functools

import keras
import numpy as np
import pytest

__all__ = [
    "WORDS",
    "compiled",
    "on_one_backend",
    "only_on",
    "set_weights",
    "tiny_backbone",
    "tiny_critic",
    "tiny_muse",
    "tiny_preprocessor",
]

WORDS = ("a", "red", "blue", "green", "circle", "square", "on", "white", "black")


def only_on(backend, reason):
    """A mark of tests that are skipped on the other two backends."""
    return pytest.mark.skipif(keras.config.backend() != backend, reason=reason)


# Of files, words, NumPy: on PyTorch, which compiles nothing.
on_one_backend = only_on("torch", "the backend does not matter")


def compiled(function):
    """One program on JAX, which otherwise compiles each operation of each shape."""
    if keras.config.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def set_weights(model, seed=0, scale=0.1):
    """Sets all weights to numbers that do not depend on the backend.

    Kernels and tables become normal with the given scale; scales of normalisation
    layers come out near one.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "int" in str(variable.dtype) or "seed" in variable.path:
            continue
        noise = rng.normal(size=variable.shape).astype("float32") * scale
        is_gain = variable.path.endswith(("gamma", "scale"))
        variable.assign(noise + 1.0 if is_gain else noise)


@functools.cache
def _vocabulary():
    from keras_muse.text import train_vocabulary

    return train_vocabulary([], WORDS)


def tiny_preprocessor(sequence_length=8):
    """Knows `WORDS` as pieces, and letters."""
    from keras_muse.models import MuseTextToImagePreprocessor
    from keras_muse.text import MuseTokenizer

    tokenizer = MuseTokenizer(proto=_vocabulary())
    return MuseTextToImagePreprocessor(tokenizer, sequence_length)


def tiny_backbone(num_stages=1, text=True, num_classes=None, seed=0, dtype=None):
    """A Muse of 32 x 32 pixels: 4 x 4 tokens, then 8 x 8, then 16 x 16."""
    from keras_muse.image_tokenizer import VQGAN, VectorQuantizer
    from keras_muse.models import MuseBackbone
    from keras_muse.text import T5TextEncoder
    from keras_muse.transformer import MaskedTransformer, SuperResolutionTransformer

    stages = []
    for index in range(num_stages):
        factor = 8 // 2**index
        tokenizer = VQGAN(
            VectorQuantizer(32, 8, revival_threshold=0.0),
            base_channels=4,
            channel_multipliers=(1, 2),
            strides=(factor,),
            num_residual_blocks=(0, 1),
            groups=2,
            upsampling="depth_to_space",
            name=f"image_tokenizer_{index}",
        )
        options = {
            "codebook_size": 32,
            "grid_size": 32 // factor,
            "num_layers": 2,
            "hidden_dim": 32,
            "num_heads": 2,
            "intermediate_dim": 48,
            "text_dim": 16 if text else None,
            "dtype": dtype,
            "name": f"transformer_{index}",
        }
        if index == 0:
            transformer = MaskedTransformer(num_classes=num_classes, **options)
        else:
            transformer = SuperResolutionTransformer(
                low_res_codebook_size=32,
                low_res_grid_size=16 // factor,
                num_low_res_layers=1,
                block_size=4,
                **options,
            )
        stages.append((tokenizer, transformer))
    encoder = None
    if text:
        encoder = T5TextEncoder(
            vocabulary_size=64,
            num_layers=1,
            num_heads=2,
            hidden_dim=16,
            intermediate_dim=24,
            dtype=dtype,
            name="text_encoder",
        )
    backbone = MuseBackbone(encoder, stages, name="tiny_muse")
    set_weights(backbone, seed, scale=0.3)
    for tokenizer in backbone.image_tokenizers:
        # Numbers that a trained codebook could have.
        tokenizer.quantizer.usage.assign(np.ones(32, "float32"))
    return backbone


def tiny_critic(backbone, seed=5):
    """A backbone of the same parts with a critic of the first stage."""
    from keras_muse.models import MuseBackbone
    from keras_muse.transformer import TokenCritic

    base = backbone.transformers[0]
    critic = TokenCritic(
        codebook_size=base.codebook_size,
        grid_size=base.grid_size,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        text_dim=base.text_dim,
        num_classes=base.num_classes,
        name="critic",
    )
    set_weights(critic, seed, scale=0.5)
    return MuseBackbone(
        backbone.text_encoder,
        backbone.stages,
        backbone.samplers,
        critics=[critic, None, None][: len(backbone.stages)],
        name=backbone.name,
    )


def tiny_muse(num_stages=1, seed=0, dtype=None, samplers=None):
    """A `MuseTextToImage` of a `tiny_backbone`, the same on every backend."""
    from keras_muse.models import MuseTextToImage

    backbone = tiny_backbone(num_stages, seed=seed, dtype=dtype)
    return MuseTextToImage(backbone, tiny_preprocessor(), samplers=samplers)
