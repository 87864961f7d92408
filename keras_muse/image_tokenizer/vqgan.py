"""The image tokenizer: images to image tokens and back (Muse, sections 2.2 and A)."""

import math

import keras
import keras_hub
from keras import ops

from keras_muse.image_tokenizer.autoencoder import build_decoder, build_encoder
from keras_muse.image_tokenizer.images import unit_images
from keras_muse.layers import arguments, refuse_unknown, register, set_trainable
from keras_muse.presets.loading import PresetLoading

__all__ = ["VQGAN"]


@register
class VQGAN(PresetLoading, keras_hub.models.Backbone):
    """A fully convolutional autoencoder whose embeddings are quantized.

    It is VQGAN (Esser et al. 2021) without attention, as in Muse, so images of any
    size that `downsampling_factor` divides can be tokenized. Called on images, it
    returns their reconstruction, not clipped. The quantizer and the decoder compute in
    float32 under every dtype policy; the encoder follows `dtype`.

    Args:
        quantizer: `keras_muse.image_tokenizer.Quantizer`, or its serialised config.
        base_channels: int. Channels of the first level. Defaults to 128.
        channel_multipliers: sequence of int. Channels of each level, in units of
            `base_channels`. Defaults to (1, 1, 2, 2, 4).
        strides: sequence of int. Downsampling between one level and the next, one
            fewer than `channel_multipliers`. Its product is the downsampling factor.
            Defaults to (2, 2, 2, 2).
        num_residual_blocks: int, or one int for each level. Residual blocks of a level.
            Defaults to 2.
        decoder_base_channels: int. Defaults to `base_channels`; Muse's larger decoder
            has 256.
        decoder_num_residual_blocks: as the former. Defaults to it; Muse's
            larger decoder has 4.
        groups: int. Groups of each normalisation; it must divide the channels of every
            level. Defaults to 32.
        downsampling: str. `"conv"` for strided convolutions, `"average"` for average
            pooling. Defaults to `"conv"`.
        upsampling: str. `"nearest"` repeats pixels before a convolution,
            `"depth_to_space"` turns channels to pixels after one. Defaults to
            `"nearest"`.
        local_encoder: bool. Whether a token is to depend on its own patch of pixels
            alone. Equal patches are then equal tokens, which suits pictures that are
            made of cells; other pictures want the context. Defaults to False.
        dtype: dtype policy of the encoder. Defaults to the global policy.
        **kwargs: `name`, `trainable` of a Keras model.

    Raises:
        ValueError: `strides` and `channel_multipliers` do not fit each other, or
            `groups` does not divide a level's channels.

    Examples:
    ```python
    from keras_muse.image_tokenizer import VQGAN, VectorQuantizer

    # The base tokenizer of Muse, 256 pixels to 16 x 16 tokens.
    base = VQGAN(VectorQuantizer(codebook_size=8192, embedding_dim=256))
    # The one of its super-resolution stage, 512 pixels to 64 x 64 tokens.
    high = VQGAN(
        VectorQuantizer(codebook_size=8192, embedding_dim=256),
        channel_multipliers=(1, 1, 2, 4),
        strides=(2, 2, 2),
    )
    # The tokenizer of MaskGIT.
    maskgit = VQGAN(
        VectorQuantizer(1024, 256, update="loss", entropy_weight=0.1),
        downsampling="average",
    )
    tokens = base.encode(images)  # (B, 256)
    images = base.decode(tokens)  # (B, 256, 256, 3)
    ```
    """

    def __init__(
        self,
        quantizer,
        base_channels=128,
        channel_multipliers=(1, 1, 2, 2, 4),
        strides=(2, 2, 2, 2),
        num_residual_blocks=2,
        decoder_base_channels=None,
        decoder_num_residual_blocks=None,
        groups=32,
        downsampling="conv",
        upsampling="nearest",
        local_encoder=False,
        dtype=None,
        **kwargs,
    ):
        config = arguments(locals())
        refuse_unknown(kwargs)
        if len(channel_multipliers) != len(strides) + 1:
            raise ValueError(
                "`channel_multipliers` must have one more entry than `strides`, got "
                f"{list(channel_multipliers)} and {list(strides)}."
            )
        if not all(stride >= 1 for stride in strides):
            raise ValueError(f"`strides` must be at least 1, got {list(strides)}.")
        if not isinstance(quantizer, keras.layers.Layer):
            quantizer = keras.layers.deserialize(quantizer)

        # === Layers ===
        encoder = build_encoder(
            [base_channels * multiplier for multiplier in channel_multipliers],
            strides,
            num_residual_blocks,
            quantizer.embedding_dim,
            groups,
            downsampling,
            local_encoder,
            dtype,
        )
        decoder_base_channels = decoder_base_channels or base_channels
        decoder = build_decoder(
            [decoder_base_channels * multiplier for multiplier in channel_multipliers],
            strides,
            decoder_num_residual_blocks or num_residual_blocks,
            quantizer.embedding_dim,
            groups,
            upsampling,
        )

        # === Functional Model ===
        images = keras.Input((None, None, 3), dtype="float32", name="images")
        codes, _ = quantizer(encoder(images))
        super().__init__(inputs=images, outputs=decoder(codes), dtype=dtype, **kwargs)

        # === Config ===
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.strides = tuple(strides)
        del config["quantizer"], config["dtype"]
        # Lists, as JSON would return them.
        self._arguments = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.items()
        }

    @property
    def downsampling_factor(self):
        """Pixels along a side of what one image token stands for, an int."""
        return math.prod(self.strides)

    @property
    def codebook_size(self):
        """Number of different image tokens V, an int."""
        return self.quantizer.codebook_size

    def grid_size(self, height, width):
        """Height and width of the token grid of an image.

        Args:
            height: int. Pixels.
            width: int. Pixels.

        Returns:
            (h, w), int.

        Raises:
            ValueError: The downsampling factor does not divide a size.
        """
        factor = self.downsampling_factor
        for name, size in (("height", height), ("width", width)):
            if size is not None and (size % factor or size < 1):
                raise ValueError(
                    f"`{name}` must be a positive multiple of the downsampling factor "
                    f"{factor}, got {size}."
                )
        return (
            None if height is None else height // factor,
            None if width is None else width // factor,
        )

    def encode(self, images):
        """Image tokens of images.

        Args:
            images: (B, H, W, 3), float in [0, 1] or uint8.

        Returns:
            (B, h * w) int32 in `[0, codebook_size)`, row by row.

        Raises:
            ValueError: The downsampling factor does not divide H or W.
        """
        ids = self.quantizer.encode(self._embed(images))
        _, height, width = ops.shape(ids)
        return ops.reshape(ids, (-1, height * width))

    def decode(self, tokens, grid=None):
        """Images of image tokens.

        Args:
            tokens: (B, N) int in `[0, codebook_size)`, row by row.
            grid: (h, w). Height and width of the token grid. Defaults to a square.

        Returns:
            (B, H, W, 3) float32 in [0, 1].

        Raises:
            ValueError: N is not h * w, or no square when `grid` is None.
        """
        tokens = ops.convert_to_tensor(tokens)
        length = tokens.shape[1]
        if grid is None:
            if length is None or math.isqrt(length) ** 2 != length:
                raise ValueError(
                    f"`tokens` of shape {tuple(tokens.shape)} are no square grid; pass "
                    "`grid=(h, w)`."
                )
            grid = (math.isqrt(length),) * 2
        height, width = grid
        if length is not None and length != height * width:
            raise ValueError(
                f"`grid={tuple(grid)}` holds {height * width} tokens, got `tokens` of "
                f"shape {tuple(tokens.shape)}."
            )
        ids = ops.reshape(tokens, (-1, height, width))
        return self.decode_embeddings(self.quantizer.decode(ids))

    def decode_embeddings(self, embeddings):
        """Images of a grid of codes.

        Args:
            embeddings: (B, h, w, D) float. Codes of the quantizer.

        Returns:
            (B, H, W, 3) float32 in [0, 1].
        """
        return ops.clip(self.decoder(ops.cast(embeddings, "float32")), 0.0, 1.0)

    def reconstruct(self, images):
        """Images after a passage through their tokens.

        Args:
            images: (B, H, W, 3), float in [0, 1] or uint8.

        Returns:
            (B, H, W, 3) float32 in [0, 1].

        Raises:
            ValueError: The downsampling factor does not divide H or W.
        """
        codes = self.quantizer.decode(self.quantizer.encode(self._embed(images)))
        return self.decode_embeddings(codes)

    def with_decoder(self, base_channels=256, num_residual_blocks=4):
        """A copy with a new, larger decoder; all the rest is frozen.

        Training the copy is Muse's decoder fine-tuning (section 2.5): image tokens
        keep their meaning, so transformers trained on them need no further training.

        Args:
            base_channels: int. Channels of the decoder's first level. Defaults to 256.
            num_residual_blocks: int, or one int for each level. Residual blocks of a
                level of the decoder. Defaults to 4.

        Returns:
            `VQGAN` with the encoder and the codebook of this one.
        """
        config = {
            **self.get_config(),
            "decoder_base_channels": base_channels,
            "decoder_num_residual_blocks": num_residual_blocks,
        }
        copy = type(self).from_config(config)
        for part in ("encoder", "quantizer"):
            getattr(copy, part).set_weights(getattr(self, part).get_weights())
            set_trainable(getattr(copy, part), False)
        return copy

    def _embed(self, images):
        """Images to what the quantizer quantizes, (B, h, w, D) float32."""
        images = unit_images(images)
        self.grid_size(*images.shape[1:3])
        return ops.cast(self.encoder(images), "float32")

    def get_config(self):
        return {
            **super().get_config(),
            **self._arguments,
            "quantizer": keras.layers.serialize(self.quantizer),
        }
