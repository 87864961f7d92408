"""The convolutional blocks of the image tokenizer and of its discriminator."""

import keras
from keras import ops

from keras_muse.layers import register

__all__ = [
    "Downsample",
    "GroupNormalization",
    "ResidualBlock",
    "Upsample",
    "convolution",
    "normalization",
]


@register
class GroupNormalization(keras.layers.Layer):
    """Group normalisation in fewer passes over the image than Keras' own layer.

    The statistics come from sums over each channel, E[x^2] - E[x]^2 in float32, and
    normalisation, scale and shift are one multiplication and one addition.

    Args:
        groups: int. Number of groups of channels. Defaults to 32.
        epsilon: float. Added to the variance. Defaults to 1e-6, VQGAN's.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        x: (B, H, W, C) float.

    Returns:
        (B, H, W, C) float.

    Raises:
        ValueError: `groups` does not divide C.
    """

    def __init__(self, groups=32, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(
                "`groups` must divide the channels of every level, got "
                f"groups={self.groups} for {channels} channels."
            )
        self.gamma = self.add_weight(
            shape=(channels,), initializer="ones", autocast=False, name="gamma"
        )
        self.beta = self.add_weight(
            shape=(channels,), initializer="zeros", autocast=False, name="beta"
        )
        self.built = True

    def call(self, x):
        channels = x.shape[-1]
        per_group = (self.groups, channels // self.groups)
        x = ops.cast(x, "float32")

        def group_means(values):
            means = ops.reshape(ops.mean(values, axis=(1, 2)), (-1, *per_group))
            return ops.mean(means, axis=-1, keepdims=True)

        mean = group_means(x)
        variance = ops.maximum(group_means(ops.square(x)) - ops.square(mean), 0.0)
        gamma = ops.reshape(ops.cast(self.gamma, "float32"), per_group)
        beta = ops.reshape(ops.cast(self.beta, "float32"), per_group)
        scale = ops.rsqrt(variance + self.epsilon) * gamma
        shift = beta - mean * scale
        scale = ops.reshape(scale, (-1, 1, 1, channels))
        shift = ops.reshape(shift, (-1, 1, 1, channels))
        return ops.cast(x * scale + shift, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "groups": self.groups,
            "epsilon": self.epsilon,
        }


def convolution(filters, kernel_size, dtype, name):
    """A convolution that leaves height and width.

    Args:
        filters: int. Channels of the output.
        kernel_size: int.
        dtype: dtype policy of the layer.
        name: str. Name of the layer.

    Returns:
        A Keras layer.
    """
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        data_format="channels_last",
        dtype=dtype,
        name=name,
    )


def normalization(groups, local, dtype, name):
    """Group normalisation, or one of each position by itself.

    Args:
        groups: int. Groups of the former.
        local: bool. Whether the latter is wanted.
        dtype: dtype policy of the layer.
        name: str. Name of the layer.

    Returns:
        A Keras layer.
    """
    if local:
        return keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name=name)
    return GroupNormalization(groups, dtype=dtype, name=name)


@register
class ResidualBlock(keras.layers.Layer):
    """Twice normalisation, swish and a 3x3 convolution, around a shortcut.

    The shortcut is a 1x1 convolution of the block's input where the channels change.

    Args:
        filters: int. Channels of the output.
        groups: int. Groups of the normalisations. Defaults to 32.
        local: bool. Whether positions stay apart: 1x1 convolutions, and normalisation
            over the channels of each position. Defaults to False.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        x: (B, H, W, C) float.

    Returns:
        (B, H, W, filters) float.
    """

    def __init__(self, filters, groups=32, local=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.groups = groups
        self.local = local

    def build(self, input_shape):
        dtype, channels = self.dtype_policy, input_shape[-1]
        hidden_shape = (*input_shape[:-1], self.filters)
        size = 1 if self.local else 3
        self.norm_1 = normalization(self.groups, self.local, dtype, "norm_1")
        self.conv_1 = convolution(self.filters, size, dtype, "conv_1")
        self.norm_2 = normalization(self.groups, self.local, dtype, "norm_2")
        self.conv_2 = convolution(self.filters, size, dtype, "conv_2")
        self.norm_1.build(input_shape)
        self.conv_1.build(input_shape)
        self.norm_2.build(hidden_shape)
        self.conv_2.build(hidden_shape)
        self.shortcut = None
        if channels != self.filters:
            self.shortcut = convolution(self.filters, 1, dtype, "shortcut")
            self.shortcut.build(input_shape)
        self.built = True

    def call(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.conv_1(ops.silu(self.norm_1(x)))
        return self.conv_2(ops.silu(self.norm_2(x))) + shortcut

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "groups": self.groups,
            "local": self.local,
        }


@register
class Downsample(keras.layers.Layer):
    """Divides height and width by a whole number.

    Args:
        stride: int. What the sizes are divided by.
        filters: int. Channels of the output of `"conv"`; an average leaves them.
        mode: str. `"conv"`, a strided convolution, or `"average"`, the mean of each
            block, as MaskGIT does. Defaults to `"conv"`.
        local: bool. Whether the blocks stay apart. Defaults to False.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        x: (B, H, W, C) float.

    Returns:
        (B, H / stride, W / stride, filters) float.
    """

    def __init__(self, stride, filters, mode="conv", local=False, **kwargs):
        super().__init__(**kwargs)
        if mode not in ("conv", "average"):
            raise ValueError(
                f"`downsampling` must be 'conv' or 'average', got {mode!r}."
            )
        self.stride = stride
        self.filters = filters
        self.mode = mode
        self.local = local

    def build(self, input_shape):
        if self.mode == "conv":
            self.layer = keras.layers.Conv2D(
                self.filters,
                # A smaller kernel than the stride would skip pixels.
                self.stride if self.local else max(3, self.stride),
                strides=self.stride,
                padding="same",
                data_format="channels_last",
                dtype=self.dtype_policy,
                name="conv",
            )
        else:
            self.layer = keras.layers.AveragePooling2D(
                self.stride,
                data_format="channels_last",
                dtype=self.dtype_policy,
                name="pool",
            )
        self.layer.build(input_shape)
        self.built = True

    def call(self, x):
        return self.layer(x)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        height = None if height is None else height // self.stride
        width = None if width is None else width // self.stride
        channels = self.filters if self.mode == "conv" else channels
        return (batch, height, width, channels)

    def get_config(self):
        return {
            **super().get_config(),
            "stride": self.stride,
            "filters": self.filters,
            "mode": self.mode,
            "local": self.local,
        }


@register
class Upsample(keras.layers.Layer):
    """Multiplies height and width by a whole number.

    Args:
        stride: int. What the sizes are multiplied by.
        filters: int. Channels of the output.
        mode: str. `"nearest"` repeats pixels and convolves them 3x3, as VQGAN does;
            `"depth_to_space"` convolves first, to the channels of `stride * stride`
            pixels each, which is cheaper for large strides. Defaults to `"nearest"`.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        x: (B, H, W, C) float.

    Returns:
        (B, H * stride, W * stride, filters) float.
    """

    def __init__(self, stride, filters, mode="nearest", **kwargs):
        super().__init__(**kwargs)
        if mode not in ("nearest", "depth_to_space"):
            raise ValueError(
                f"`upsampling` must be 'nearest' or 'depth_to_space', got {mode!r}."
            )
        self.stride = stride
        self.filters = filters
        self.mode = mode

    def build(self, input_shape):
        filters = self.filters
        if self.mode == "depth_to_space":
            filters *= self.stride**2
        self.conv = convolution(filters, 3, self.dtype_policy, "conv")
        self.conv.build(input_shape)
        self.built = True

    def call(self, x):
        if self.mode == "depth_to_space":
            batch, height, width, _ = ops.shape(x)
            stride, filters = self.stride, self.filters
            shape = (batch, height, width, stride, stride, filters)
            x = ops.transpose(ops.reshape(self.conv(x), shape), (0, 1, 3, 2, 4, 5))
            return ops.reshape(x, (batch, height * stride, width * stride, filters))
        # Repeating by broadcast has a cheap gradient; `keras.layers.UpSampling2D`
        # gathers, and on CPU the gradient of that is slow.
        batch, height, width, channels = ops.shape(x)
        stride = self.stride
        x = ops.reshape(x, (batch, height, 1, width, 1, channels))
        x = ops.broadcast_to(x, (batch, height, stride, width, stride, channels))
        x = ops.reshape(x, (batch, height * stride, width * stride, channels))
        return self.conv(x)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        height = None if height is None else height * self.stride
        width = None if width is None else width * self.stride
        return (batch, height, width, self.filters)

    def compute_output_spec(self, x):
        return keras.KerasTensor(
            self.compute_output_shape(x.shape), dtype=self.compute_dtype
        )

    def get_config(self):
        return {
            **super().get_config(),
            "stride": self.stride,
            "filters": self.filters,
            "mode": self.mode,
        }
