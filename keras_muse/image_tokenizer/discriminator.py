"""The two discriminators that an image tokenizer can be trained against."""

import math

import keras
import numpy as np
from keras import ops

from keras_muse.image_tokenizer.blocks import GroupNormalization
from keras_muse.layers import arguments, register

__all__ = ["PatchDiscriminator", "StyleDiscriminator"]


@register
class PatchDiscriminator(keras.Model):
    """A verdict on each patch of an image (PatchGAN, Isola et al. 2017).

    Strided 4x4 convolutions with leaky ReLUs. Group normalisation stands in for batch
    normalisation, so a verdict does not depend on the other images of the batch.

    Args:
        base_channels: int. Channels after the first convolution; they double with each
            further one, up to 8 times. Defaults to 64.
        num_layers: int. Convolutions with stride 2. Defaults to 3.
        groups: int. Groups of the normalisations. Defaults to 32.
        **kwargs: `name`, `trainable` of a Keras model.

    Call arguments:
        images: (B, H, W, 3) float in [0, 1], of any size.

    Returns:
        (B, h, w, 1) float32 logits, h and w about H and W over `2 ** num_layers`.
    """

    def __init__(self, base_channels=64, num_layers=3, groups=32, **kwargs):
        config = arguments(locals())
        x = images = keras.Input((None, None, 3), dtype="float32", name="images")
        for layer in range(num_layers + 1):
            filters = base_channels * min(2**layer, 8)
            stride = 2 if layer < num_layers else 1
            x = _convolution(filters, 4, f"conv_{layer}", stride)(x)
            if layer:
                name = f"norm_{layer}"
                x = GroupNormalization(groups, dtype="float32", name=name)(x)
            x = _leaky_relu(f"relu_{layer}")(x)
        logits = _convolution(1, 4, "logits")(x)
        super().__init__(inputs=images, outputs=logits, **kwargs)
        self._arguments = config

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable, **self._arguments}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


@register
class StyleDiscriminator(keras.Model):
    """One verdict on a whole image, StyleGAN's residual network as in MaskGIT.

    Each residual block halves the image after blurring it (arXiv 1904.11486), until 4
    pixels along the shorter side are left.

    Args:
        image_size: int or (H, W). Size of the images.
        base_channels: int. Channels at full size; they double with each halving.
            Defaults to 32.
        max_channels: int. Defaults to 512.
        minibatch_groups: int. Images whose standard deviation is appended as a
            channel before the last convolution (arXiv 1710.10196, section 3); it must
            divide the batch size. 1 leaves it out. Defaults to 1.
        **kwargs: `name`, `trainable` of a Keras model.

    Call arguments:
        images: (B, H, W, 3) float in [0, 1].

    Returns:
        (B, 1) float32 logits.

    Raises:
        ValueError: The image is smaller than 8 pixels, or cannot be halved as often as
            it must be.
    """

    def __init__(
        self,
        image_size,
        base_channels=32,
        max_channels=512,
        minibatch_groups=1,
        **kwargs,
    ):
        config = arguments(locals())
        height, width = np.broadcast_to(image_size, (2,)).tolist()
        halvings = int(math.log2(max(min(height, width), 1) / 4))
        if halvings < 1 or height % 2**halvings or width % 2**halvings:
            raise ValueError(
                "`image_size` must be at least 8 and divisible by "
                f"{2 ** max(halvings, 1)}, got {image_size}."
            )
        x = images = keras.Input((height, width, 3), dtype="float32", name="images")
        x = _convolution(min(base_channels, max_channels), 3, "conv_in")(x)
        x = _leaky_relu("relu_in")(x)
        for level in range(halvings):
            filters = min(base_channels * 2 ** (level + 1), max_channels)
            x = _style_block(x, filters, f"level_{level}")
        if minibatch_groups > 1:
            name = "minibatch_deviation"
            x = MinibatchDeviation(minibatch_groups, dtype="float32", name=name)(x)
        x = _convolution(filters, 3, "conv_out")(x)
        x = _leaky_relu("relu_conv_out")(x)
        x = keras.layers.Flatten(dtype="float32", name="flatten")(x)
        x = keras.layers.Dense(filters, dtype="float32", name="dense_out")(x)
        x = _leaky_relu("relu_dense_out")(x)
        logits = keras.layers.Dense(1, dtype="float32", name="logits")(x)
        super().__init__(inputs=images, outputs=logits, **kwargs)
        self._arguments = config

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable, **self._arguments}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


@register
class BlurPool(keras.layers.Layer):
    """Halves an image after the binomial blur (1, 3, 3, 1), which avoids aliasing.

    Args:
        **kwargs: `name`, `dtype` of a Keras layer.

    Call arguments:
        x: (B, H, W, C) float, H and W even.

    Returns:
        (B, H / 2, W / 2, C) float.
    """

    def build(self, input_shape):
        row = np.array([1.0, 3.0, 3.0, 1.0]) / 8.0
        kernel = np.outer(row, row)[:, :, None, None]
        self._kernel = np.tile(kernel, (1, 1, input_shape[-1], 1)).astype("float32")
        self.built = True

    def call(self, x):
        kernel = ops.convert_to_tensor(self._kernel, dtype=x.dtype)
        return ops.depthwise_conv(
            x, kernel, strides=2, padding="same", data_format="channels_last"
        )

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (batch, height // 2, width // 2, channels)


@register
class MinibatchDeviation(keras.layers.Layer):
    """Appends a channel: the mean standard deviation over a group of images.

    Args:
        group_size: int. Images of a group; it must divide B.
        **kwargs: `name`, `dtype` of a Keras layer.

    Call arguments:
        x: (B, H, W, C) float.

    Returns:
        (B, H, W, C + 1) float.
    """

    def __init__(self, group_size, **kwargs):
        super().__init__(**kwargs)
        self.group_size = group_size

    def call(self, x):
        height, width, channels = x.shape[1:]
        grouped = ops.reshape(x, (self.group_size, -1, height, width, channels))
        # `ops.std` has no finite gradient where all images are equal.
        deviation = ops.sqrt(ops.var(grouped, axis=0) + 1e-8)
        deviation = ops.mean(deviation, axis=(1, 2, 3), keepdims=True)
        deviation = ops.tile(deviation, (self.group_size, height, width, 1))
        return ops.concatenate([x, deviation], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + 1)

    def get_config(self):
        return {**super().get_config(), "group_size": self.group_size}


def _style_block(x, filters, name):
    shortcut = BlurPool(dtype="float32", name=f"{name}_shortcut_blur")(x)
    shortcut = _convolution(filters, 1, f"{name}_shortcut", use_bias=False)(shortcut)
    x = _convolution(x.shape[-1], 3, f"{name}_conv_1")(x)
    x = _leaky_relu(f"{name}_relu_1")(x)
    x = BlurPool(dtype="float32", name=f"{name}_blur")(x)
    x = _convolution(filters, 3, f"{name}_conv_2")(x)
    x = _leaky_relu(f"{name}_relu_2")(x)
    x = keras.layers.Add(dtype="float32", name=f"{name}_add")([x, shortcut])
    # Keeps the variance of a sum of two branches.
    scale = 1.0 / math.sqrt(2.0)
    return keras.layers.Rescaling(scale, dtype="float32", name=f"{name}_scale")(x)


def _leaky_relu(name):
    return keras.layers.LeakyReLU(0.2, dtype="float32", name=name)


def _convolution(filters, kernel_size, name, stride=1, use_bias=True):
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same",
        data_format="channels_last",
        use_bias=use_bias,
        dtype="float32",
        name=name,
    )
