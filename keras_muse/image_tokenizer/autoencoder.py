"""The two convolutional networks of the image tokenizer, as functional models."""

import keras

from keras_muse.image_tokenizer.blocks import (
    Downsample,
    ResidualBlock,
    Upsample,
    convolution,
    normalization,
)

__all__ = ["build_decoder", "build_encoder"]


def build_encoder(
    channels, strides, num_blocks, embedding_dim, groups, downsampling, local, dtype
):
    """The encoder, from images to embeddings.

    Args:
        channels: list of int. Channels of each level, at full size first.
        strides: sequence of int. Downsampling from each level to the next.
        num_blocks: int or sequence of int. Residual blocks of each level.
        embedding_dim: int. Width D of the embeddings.
        groups: int. Groups of each normalisation.
        downsampling: str. Mode of `Downsample`.
        local: bool. Whether an embedding depends on its own patch alone.
        dtype: dtype policy.

    Returns:
        `keras.Model` from (B, H, W, 3) to (B, h, w, D).

    Raises:
        ValueError: `num_blocks` has not one entry for each level.
    """
    x = images = keras.Input((None, None, 3), dtype="float32", name="images")
    num_blocks = _per_level(num_blocks, channels)

    def residual(name):
        return ResidualBlock(filters, groups, local, dtype=dtype, name=name)

    x = convolution(channels[0], 1 if local else 3, dtype, "conv_in")(x)
    for level, filters in enumerate(channels):
        for block in range(num_blocks[level]):
            x = residual(f"level_{level}_block_{block}")(x)
        if level < len(strides):
            x = Downsample(
                strides[level],
                channels[level + 1],
                downsampling,
                local,
                dtype=dtype,
                name=f"level_{level}_down",
            )(x)
    for block in range(num_blocks[-1]):
        x = residual(f"end_{block}")(x)
    x = normalization(groups, local, dtype, "norm_out")(x)
    x = keras.layers.Activation("silu", dtype=dtype, name="swish_out")(x)
    x = convolution(embedding_dim, 1, dtype, "to_codes")(x)
    return keras.Model(images, x, name="encoder")


def build_decoder(channels, strides, num_blocks, embedding_dim, groups, upsampling):
    """The decoder, from codes to images, in float32.

    Args:
        channels: list of int. Channels of each level, at full size first.
        strides: sequence of int. Upsampling to each level from the next.
        num_blocks: int or sequence of int. Residual blocks of each level.
        embedding_dim: int. Width D of the codes.
        groups: int. Groups of each normalisation.
        upsampling: str. Mode of `Upsample`.

    Returns:
        `keras.Model` from (B, h, w, D) to (B, H, W, 3).

    Raises:
        ValueError: `num_blocks` has not one entry for each level.
    """
    dtype = "float32"
    num_blocks = _per_level(num_blocks, channels)
    x = codes = keras.Input((None, None, embedding_dim), dtype=dtype, name="codes")
    x = convolution(channels[-1], 1, dtype, "from_codes")(x)
    for block in range(num_blocks[-1]):
        x = ResidualBlock(channels[-1], groups, dtype=dtype, name=f"start_{block}")(x)
    for level, filters in reversed(list(enumerate(channels))):
        for block in range(num_blocks[level]):
            name = f"level_{level}_block_{block}"
            x = ResidualBlock(filters, groups, dtype=dtype, name=name)(x)
        if level:
            name = f"level_{level}_up"
            x = Upsample(
                strides[level - 1],
                channels[level - 1],
                upsampling,
                dtype=dtype,
                name=name,
            )(x)
    x = normalization(groups, False, dtype, "norm_out")(x)
    x = keras.layers.Activation("silu", dtype=dtype, name="swish_out")(x)
    x = convolution(3, 3, dtype, "conv_out")(x)
    return keras.Model(codes, x, name="decoder")


def _per_level(num_blocks, channels):
    if isinstance(num_blocks, int):
        return [num_blocks] * len(channels)
    if len(num_blocks) != len(channels):
        raise ValueError(
            "`num_residual_blocks` must be an int or have one entry for each of the "
            f"{len(channels)} levels, got {list(num_blocks)}."
        )
    return list(num_blocks)
