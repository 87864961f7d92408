"""The sizes of the paper: configurations without weights.

Muse (arXiv 2301.00704) publishes the tables of its 3B models and the number of
parameters of the two models trained on CC3M, but no number of heads, no norm placement
and no layout of the latter. What is `published` stands in the paper; what is `chosen`
is ours.
"""

import concurrent.futures
import dataclasses
import importlib

import keras

__all__ = ["ARCHITECTURES", "Architecture", "build_without_weights"]

_LICENSE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model that is known by its arguments alone.

    Args:
        room: str. Room of `keras_muse` in which the class is.
        kind: str. Name of the class.
        description: str.
        published: dict. Arguments that the paper gives.
        chosen: dict. Arguments that it does not give.
    """

    room: str
    kind: str
    description: str
    published: dict
    chosen: dict

    def model_class(self):
        """The class itself; only here are layers imported."""
        return getattr(importlib.import_module(f"keras_muse.{self.room}"), self.kind)

    def build(self, **kwargs):
        """A new model with random weights, of the arguments and others given here."""
        arguments = {**self.published, **self.chosen, **kwargs}
        if self.kind == "VQGAN":
            # The codebook is an argument of the quantizer.
            quantizers = importlib.import_module("keras_muse.image_tokenizer")
            arguments["quantizer"] = quantizers.VectorQuantizer(
                arguments.pop("codebook_size"), arguments.pop("embedding_dim")
            )
        return self.model_class()(**arguments)

    def describe(self):
        """What `keras_muse.presets.describe` says of it."""
        return {
            "description": f"{self.description} A configuration without weights.",
            "license": _LICENSE,
            "class": self.kind,
            "published": dict(self.published),
            "chosen": dict(self.chosen),
        }


def _base(description, published, chosen):
    return Architecture(
        "transformer",
        "MaskedTransformer",
        description,
        {"codebook_size": 8192, "grid_size": 16, "text_dim": 4096, **published},
        {"use_qk_norm": True, **chosen},
    )


def _super_resolution(description, published, chosen):
    return Architecture(
        "transformer",
        "SuperResolutionTransformer",
        description,
        {
            "codebook_size": 8192,
            "grid_size": 64,
            "low_res_codebook_size": 8192,
            "low_res_grid_size": 16,
            "text_dim": 4096,
            **published,
        },
        {"use_qk_norm": True, "block_size": 8, **chosen},
    )


def _tokenizer(description, strides, channel_multipliers, **published):
    return Architecture(
        "image_tokenizer",
        "VQGAN",
        description,
        {
            "codebook_size": 8192,
            "base_channels": 128,
            "num_residual_blocks": 2,
            "strides": strides,
            **published,
        },
        # Both are MaskGIT's.
        {"embedding_dim": 256, "channel_multipliers": channel_multipliers},
    )


ARCHITECTURES = {
    "muse_base_3b": _base(
        "The 3B base model: 16 x 16 tokens of 256 x 256 pixels.",
        {"num_layers": 48, "hidden_dim": 2048, "intermediate_dim": 8192},
        {"num_heads": 32},
    ),
    "muse_super_resolution_3b": _super_resolution(
        "The super-resolution model behind the 3B base: 64 x 64 tokens of 512 x 512 "
        "pixels.",
        # The paper's table says 16 layers for the low-res tokens, its figure 8.
        {
            "num_layers": 32,
            "hidden_dim": 1024,
            "intermediate_dim": 4096,
            "num_low_res_layers": 16,
        },
        {"num_heads": 16},
    ),
    "muse_632m": _base(
        "The 632M base model trained on CC3M.",
        {},
        {"num_layers": 36, "hidden_dim": 1024, "num_heads": 16},
    ),
    "muse_268m": _super_resolution(
        "The 268M super-resolution model trained on CC3M.",
        {},
        {
            "num_layers": 12,
            "hidden_dim": 1024,
            "num_low_res_layers": 3,
            "num_heads": 16,
        },
    ),
    "vqgan_f16_8192": _tokenizer(
        "The image tokenizer of the base models, 16 x 16 pixels a token.",
        (2, 2, 2, 2),
        (1, 1, 2, 2, 4),
    ),
    "vqgan_f8_8192": _tokenizer(
        "The image tokenizer of the super-resolution models, 8 x 8 pixels a token.",
        (2, 2, 2),
        (1, 1, 2, 4),
    ),
    "vqgan_f8_8192_large_decoder": _tokenizer(
        "The image tokenizer of the super-resolution models with the larger decoder.",
        (2, 2, 2),
        (1, 1, 2, 4),
        decoder_base_channels=256,
        decoder_num_residual_blocks=4,
    ),
}


def build_without_weights(build):
    """What `build()` returns, its variables known by shape and dtype alone.

    A model of any size can be built and counted; it cannot be called.

    Args:
        build: function without arguments that builds a Keras model.

    Returns:
        The model.
    """
    # Keras remembers, for each thread, the variables that have no value yet, and gives
    # them one at the next occasion. With this thread that memory is gone.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_build_stateless, build).result()


def _build_stateless(build):
    with keras.StatelessScope(initialize_variables=False):
        return build()
