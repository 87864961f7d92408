"""Models of ours of the sizes that `peers.py` has, untrained."""

import dataclasses

import peers


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a Muse of one stage; the classes that it is passed to tell what it means."""

    codes: int = peers.CODES
    side: int = peers.SIDE
    width: int = peers.WIDTH
    depth: int = peers.DEPTH
    heads: int = peers.HEADS
    inner: int = peers.INNER
    text_width: int = peers.TEXT_WIDTH
    text_length: int = peers.TEXT
    vqgan_channels: int = 44
    vqgan_multipliers: tuple = (1, 1, 2, 4, 8)
    vqgan_blocks: tuple = (0, 0, 0, 0, 2)
    vqgan_groups: int = 4


# Its VQGAN has the parameters, and its decoder the products, of `peers.maskgit`.
# Its MLPs are a little wider: 1365 is no multiple of what a processor loads at once.
LIKE_MASKGIT = Size(inner=1376)
# Of a step whose tokens are given: the image tokenizer has nothing to do.
TRAINING = Size(
    vqgan_channels=4,
    vqgan_multipliers=(1, 1, 1, 1, 1),
    vqgan_blocks=(0, 0, 0, 0, 0),
    vqgan_groups=2,
)
LIKE_AMUSED_SMALL = Size(
    width=384,
    depth=10,
    heads=6,
    inner=1024,
    text_length=peers.AMUSED_SMALL.text_length,
    vqgan_channels=64,
    vqgan_multipliers=(1, 1, 2, 2, 4),
    vqgan_blocks=(2, 2, 2, 2, 2),
    vqgan_groups=32,
)


def transformer(size, dtype):
    """A base model like the peer's: normalised queries and keys, gated MLPs."""
    from keras_muse.transformer import MaskedTransformer

    return MaskedTransformer(
        size.codes,
        size.side,
        num_layers=size.depth,
        hidden_dim=size.width,
        num_heads=size.heads,
        intermediate_dim=size.inner,
        text_dim=size.text_width,
        use_qk_norm=True,
        use_gated_mlp=True,
        dtype=dtype,
    )


def backbone(size, dtype):
    """A `MuseBackbone` of one stage, its text encoder of one thin layer."""
    from keras_muse.image_tokenizer import VQGAN, VectorQuantizer
    from keras_muse.models import MuseBackbone
    from keras_muse.text import T5TextEncoder

    vqgan = VQGAN(
        VectorQuantizer(size.codes, 32),
        base_channels=size.vqgan_channels,
        channel_multipliers=size.vqgan_multipliers,
        strides=(2,) * (len(size.vqgan_multipliers) - 1),
        num_residual_blocks=size.vqgan_blocks,
        groups=size.vqgan_groups,
        dtype=dtype,
    )
    encoder = T5TextEncoder(
        64,
        num_layers=1,
        num_heads=2,
        hidden_dim=size.text_width,
        intermediate_dim=8,
        dtype=dtype,
    )
    return MuseBackbone(encoder, [(vqgan, transformer(size, dtype))])


def muse(size, dtype, **settings):
    """A `MuseTextToImage`; `settings` are those of its `Sampler`."""
    from keras_muse.decoding import Sampler
    from keras_muse.models import MuseTextToImage, MuseTextToImagePreprocessor
    from keras_muse.text import MuseTokenizer, train_vocabulary

    words = peers.PROMPT.split()
    tokenizer = MuseTokenizer(proto=train_vocabulary([], words, 64))
    return MuseTextToImage(
        backbone(size, dtype),
        MuseTextToImagePreprocessor(tokenizer, size.text_length),
        samplers=Sampler(**settings),
    )
