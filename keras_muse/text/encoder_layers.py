"""What a T5 encoder is made of: the relative position bias and the layer."""

import functools

import keras
import numpy as np
from keras import ops

from keras_muse.layers import Dense, Embedding, arguments, register

__all__ = ["RelativePositionBias", "T5EncoderLayer", "normal"]


def normal(variance):
    """A normal initializer of the given variance, as T5 states its own."""
    return keras.initializers.RandomNormal(stddev=variance**-0.5)


def activation_function(name):
    """The function that an `activation` argument names."""
    if name == "gelu_approximate":
        return functools.partial(keras.activations.gelu, approximate=True)
    return keras.activations.get(name)


@register
class RelativePositionBias(keras.layers.Layer):
    """What the distance between two positions adds to their attention logit.

    Distances fall into buckets: half of them for keys behind the query and half for
    keys ahead of it; in each half the first buckets hold one distance each, and the
    others grow geometrically up to `max_distance`, beyond which all share the last
    (Raffel et al. 2020, section 2.1).

    Args:
        num_heads: int. Attention heads, each with its own bias.
        num_buckets: int, even, at least 4. Defaults to 32.
        max_distance: int. Above `num_buckets // 4`. Defaults to 128.
        embeddings_initializer: Keras initializer of the table.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        token_ids: (B, L). Only the length is used.

    Returns:
        (1, num_heads, L, L) in the compute dtype; axis 2 is the query.

    Raises:
        ValueError: if the buckets do not fit the distance.
    """

    def __init__(
        self,
        num_heads,
        num_buckets=32,
        max_distance=128,
        embeddings_initializer="truncated_0.02",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_buckets < 4 or num_buckets % 2:
            raise ValueError(
                "`num_relative_buckets` must be even and at least 4. "
                f"Received: {num_buckets}."
            )
        if max_distance <= num_buckets // 4:
            raise ValueError(
                "`max_relative_distance` must be above num_relative_buckets // 4 = "
                f"{num_buckets // 4}. Received: {max_distance}."
            )
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.table = Embedding(
            num_buckets,
            num_heads,
            embeddings_initializer,
            dtype=self.dtype_policy,
            name="table",
        )

    @functools.cached_property
    def bucket_of_distance(self):
        """(max_distance + 1,) int32: the bucket within its half of a distance."""
        half = self.num_buckets // 2
        exact = half // 2
        distance = np.arange(self.max_distance + 1)
        octaves = np.log(np.maximum(distance, exact) / exact)
        # The small number keeps exact powers from falling into the bucket below.
        growth = octaves / np.log(self.max_distance / exact) * (half - exact) + 1e-6
        coarse = np.minimum(exact + growth.astype("int32"), half - 1)
        return np.where(distance < exact, distance, coarse).astype("int32")

    def build(self, token_ids_shape):
        self.table.build()
        self.built = True

    def call(self, token_ids):
        positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        offset = positions[None, :] - positions[:, None]
        distance = ops.minimum(ops.abs(offset), self.max_distance)
        bucket = ops.take(self.bucket_of_distance, distance, axis=0)
        ahead = ops.cast(offset > 0, "int32") * (self.num_buckets // 2)
        return ops.transpose(self.table(bucket + ahead), (2, 0, 1))[None]

    def compute_output_shape(self, token_ids_shape):
        return (1, self.num_heads, token_ids_shape[1], token_ids_shape[1])

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "embeddings_initializer": keras.initializers.serialize(
                self.table.embeddings_initializer
            ),
        }


@register
class T5EncoderLayer(keras.layers.Layer):
    """Self-attention and a feed-forward network, each normalised before and added.

    Attention logits are not divided by `sqrt(key_value_dim)`: T5 puts that factor
    into the initial queries. The softmax is float32 under every dtype policy.

    Args:
        hidden_dim: int. Width D.
        intermediate_dim: int. Width inside the feed-forward network.
        num_heads: int. Attention heads.
        key_value_dim: int. Width of one head.
        dropout: float in [0, 1). Defaults to 0.
        activation: str. See `T5TextEncoder`.
        use_gated_activation: bool. Multiply the activation by a second projection.
        layer_norm_epsilon: float. Defaults to 1e-6.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        hidden_states: (B, L, D).
        position_bias: (1, num_heads, L, L), added to the logits.
        padding_mask: (B, L) int32; keys where it is 0 are not attended to.
        training: bool. Whether dropout is on.

    Returns:
        (B, L, D) in the compute dtype.

    Raises:
        ValueError: if `padding_mask` has another shape than the tokens.
    """

    def __init__(
        self,
        hidden_dim,
        intermediate_dim,
        num_heads,
        key_value_dim,
        dropout=0.0,
        activation="gelu_approximate",
        use_gated_activation=True,
        layer_norm_epsilon=1e-6,
        **kwargs,
    ):
        own_arguments = arguments(locals())
        super().__init__(**kwargs)
        self.own_arguments = own_arguments
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.key_value_dim = key_value_dim
        self.activation = activation_function(activation)

        def dense(units, variance, name):
            return Dense(
                units,
                use_bias=False,
                kernel_initializer=normal(variance),
                dtype=self.dtype_policy,
                name=name,
            )

        def drop(name):
            return keras.layers.Dropout(dropout, dtype=self.dtype_policy, name=name)

        def norm(name):
            return keras.layers.RMSNormalization(
                epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name=name
            )

        width = num_heads * key_value_dim
        self.attention_norm = norm("attention_norm")
        self.query = dense(width, hidden_dim * key_value_dim, "query")
        self.key = dense(width, hidden_dim, "key")
        self.value = dense(width, hidden_dim, "value")
        self.attention_output = dense(hidden_dim, width, "attention_output")
        self.feedforward_norm = norm("feedforward_norm")
        self.feedforward_input = dense(
            intermediate_dim, hidden_dim, "feedforward_input"
        )
        self.feedforward_gate = None
        if use_gated_activation:
            self.feedforward_gate = dense(
                intermediate_dim, hidden_dim, "feedforward_gate"
            )
        self.feedforward_output = dense(
            hidden_dim, intermediate_dim, "feedforward_output"
        )
        self.attention_dropout = drop("attention_dropout")
        self.residual_dropout = drop("residual_dropout")

    def build(
        self, hidden_states_shape, position_bias_shape=None, padding_mask_shape=None
    ):
        width = self.num_heads * self.key_value_dim
        self.attention_norm.build((None, None, self.hidden_dim))
        for projection in (self.query, self.key, self.value):
            projection.build((None, None, self.hidden_dim))
        self.attention_output.build((None, None, width))
        self.feedforward_norm.build((None, None, self.hidden_dim))
        self.feedforward_input.build((None, None, self.hidden_dim))
        if self.feedforward_gate is not None:
            self.feedforward_gate.build((None, None, self.hidden_dim))
        self.feedforward_output.build((None, None, self.intermediate_dim))
        self.built = True

    def call(self, hidden_states, position_bias, padding_mask, training=None):
        for ours, theirs in zip(hidden_states.shape[:2], padding_mask.shape):
            # A mask of length one would broadcast and pass unnoticed.
            if None not in (ours, theirs) and ours != theirs:
                raise ValueError(
                    "`padding_mask` must have the shape of `token_ids`, "
                    f"{tuple(hidden_states.shape[:2])}. "
                    f"Received: {tuple(padding_mask.shape)}."
                )
        attended = self.attend(
            self.attention_norm(hidden_states), position_bias, padding_mask, training
        )
        hidden_states = hidden_states + self.residual_dropout(
            attended, training=training
        )
        transformed = self.transform(self.feedforward_norm(hidden_states), training)
        return hidden_states + self.residual_dropout(transformed, training=training)

    def attend(self, x, position_bias, padding_mask, training):
        """Multi-head self-attention, (B, L, D) to (B, L, D)."""
        batch, length, _ = ops.shape(x)
        heads = (batch, length, self.num_heads, self.key_value_dim)
        query, key, value = (
            ops.transpose(ops.reshape(projection(x), heads), (0, 2, 1, 3))
            for projection in (self.query, self.key, self.value)
        )
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        logits = ops.cast(logits, "float32") + ops.cast(position_bias, "float32")
        hidden = 1.0 - ops.cast(padding_mask, "float32")
        logits = logits - 1e9 * hidden[:, None, None, :]
        weights = ops.cast(ops.softmax(logits), self.compute_dtype)
        weights = self.attention_dropout(weights, training=training)
        x = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        width = self.num_heads * self.key_value_dim
        return self.attention_output(ops.reshape(x, (batch, length, width)))

    def transform(self, x, training):
        """The feed-forward network, (B, L, D) to (B, L, D)."""
        y = self.activation(self.feedforward_input(x))
        if self.feedforward_gate is not None:
            y = y * self.feedforward_gate(x)
        return self.feedforward_output(self.residual_dropout(y, training=training))

    def compute_output_shape(
        self, hidden_states_shape, position_bias_shape=None, padding_mask_shape=None
    ):
        return hidden_states_shape

    def get_config(self):
        return {**super().get_config(), **self.own_arguments}
