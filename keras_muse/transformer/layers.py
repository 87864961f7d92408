"""Attention, MLP and positions: what every masked transformer here is made of."""

import keras
from keras import ops

from keras_muse.layers import Dense, register

__all__ = [
    "Attention",
    "MLP",
    "MemoryProjection",
    "MultiAxisAttention",
    "PositionEmbedding2D",
    "TransformerBlock",
]


def _normal(scale=1.0):
    """Truncated normal of width 0.02: with wider starts the text stays unused."""
    return keras.initializers.TruncatedNormal(stddev=0.02 * scale)


def split_heads(x, num_heads):
    """(B, N, D) -> (B, N, heads, D / heads)."""
    return ops.reshape(x, (*ops.shape(x)[:2], num_heads, x.shape[-1] // num_heads))


def dot_product_attention(queries, keys, values, bias=None):
    """Attention of scaled queries, its softmax in float32 under every policy.

    Written out: at a few hundred tokens this is as fast as a fused kernel.

    Args:
        queries: (B, N, heads, d).
        keys: (B, L, heads, d).
        values: (B, L, heads, d).
        bias: optional, of a shape that broadcasts to (B, heads, N, L).

    Returns:
        (B, N, heads, d).
    """
    queries = ops.transpose(queries, (0, 2, 1, 3))
    keys = ops.transpose(keys, (0, 2, 3, 1))
    values = ops.transpose(values, (0, 2, 1, 3))
    logits = ops.cast(ops.matmul(queries, keys), "float32")
    if bias is not None:
        logits = logits + ops.cast(bias, "float32")
    # A label is a memory of one: all weight lies on it, and Keras would warn.
    one = logits.shape[-1] == 1
    weights = ops.ones_like(logits) if one else ops.softmax(logits, axis=-1)
    weights = ops.cast(weights, values.dtype)
    return ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3))


@register
class PositionEmbedding2D(keras.layers.Layer):
    """Learned positions of a grid: one row table plus one column table.

    Muse, section 2.3: "learned 2D positional embeddings".

    Args:
        grid_size: (int, int). Rows and columns of the token grid.
        output_dim: int. Width D.

    Call arguments:
        x: (B, N, D) with N = rows * columns, row-major.

    Returns:
        (B, N, D): `x` plus the position of each token.
    """

    def __init__(self, grid_size, output_dim, **kwargs):
        super().__init__(**kwargs)
        self.grid_size = tuple(grid_size)
        self.output_dim = output_dim

    def build(self, input_shape=None):
        rows, columns = self.grid_size
        width = self.output_dim
        self.rows = self.add_weight(
            shape=(rows, 1, width), initializer=_normal(), name="rows"
        )
        self.columns = self.add_weight(
            shape=(1, columns, width), initializer=_normal(), name="columns"
        )
        self.built = True

    def call(self, x):
        table = ops.add(self.rows, self.columns)
        table = ops.reshape(table, (1, -1, self.output_dim))
        return x + ops.cast(table, x.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "grid_size": self.grid_size,
            "output_dim": self.output_dim,
        }


@register
class MemoryProjection(keras.layers.Layer):
    """Keys and values of one attention layer, apart from its queries.

    The text does not change while tokens are decoded, so its keys and values are
    computed once a prompt and not once a step.

    Args:
        hidden_dim: int. Width D of the transformer.
        num_heads: int. Divides `hidden_dim`.
        use_qk_norm: bool. RMS-normalises every head of the keys. Defaults to `False`.

    Call arguments:
        memory: (B, L, any width).

    Returns:
        Keys and values, both (B, L, heads, D / heads).
    """

    def __init__(self, hidden_dim, num_heads, use_qk_norm=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.use_qk_norm = use_qk_norm
        options = {"use_bias": False, "dtype": self.dtype_policy}
        self.key_dense = Dense(
            hidden_dim, kernel_initializer=_normal(), name="key", **options
        )
        self.value_dense = Dense(
            hidden_dim, kernel_initializer=_normal(), name="value", **options
        )
        self.key_norm = None
        if use_qk_norm:
            self.key_norm = keras.layers.RMSNormalization(
                name="key_norm", dtype=self.dtype_policy
            )

    def build(self, input_shape):
        self.key_dense.build(input_shape)
        self.value_dense.build(input_shape)
        if self.key_norm:
            self.key_norm.build((None, None, None, self.hidden_dim // self.num_heads))
        self.built = True

    def call(self, memory):
        keys = split_heads(self.key_dense(memory), self.num_heads)
        values = split_heads(self.value_dense(memory), self.num_heads)
        return (self.key_norm(keys) if self.key_norm else keys), values

    def compute_output_shape(self, input_shape):
        head = (self.num_heads, self.hidden_dim // self.num_heads)
        shape = (*input_shape[:-1], *head)
        return shape, shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "use_qk_norm": self.use_qk_norm,
        }


@register
class Attention(keras.layers.Layer):
    """Multi-head attention of queries over given keys and values.

    Args:
        hidden_dim: int. Width D.
        num_heads: int. Divides `hidden_dim`.
        use_qk_norm: bool. RMS-normalises every head of the queries. Defaults to
            `False`.
        output_scale: float. Factor on the start of the output kernel, for residual
            branches of deep stacks. Defaults to `1.0`.

    Call arguments:
        x: (B, N, D).
        keys, values: (B, L, heads, D / heads), of a `MemoryProjection`.
        bias: optional (B, 1, 1, L) float32, added to the attention logits.

    Returns:
        (B, N, D).
    """

    def __init__(
        self, hidden_dim, num_heads, use_qk_norm=False, output_scale=1.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.use_qk_norm = use_qk_norm
        self.output_scale = output_scale
        options = {"use_bias": False, "dtype": self.dtype_policy}
        self.query_dense = Dense(
            hidden_dim, kernel_initializer=_normal(), name="query", **options
        )
        self.output_dense = Dense(
            hidden_dim,
            kernel_initializer=_normal(output_scale),
            name="output",
            **options,
        )
        self.query_norm = None
        if use_qk_norm:
            self.query_norm = keras.layers.RMSNormalization(
                name="query_norm", dtype=self.dtype_policy
            )

    def build(self, input_shape, *args):
        width = (None, None, self.hidden_dim)
        self.query_dense.build(input_shape)
        self.output_dense.build(width)
        if self.query_norm:
            head = self.hidden_dim // self.num_heads
            self.query_norm.build((None, None, None, head))
        self.built = True

    def call(self, x, keys, values, bias=None):
        queries = split_heads(self.query_dense(x), self.num_heads)
        if self.query_norm:
            queries = self.query_norm(queries)
        queries = queries * (self.hidden_dim // self.num_heads) ** -0.5
        outputs = self.mix(queries, keys, values, bias)
        return self.output_dense(ops.reshape(outputs, ops.shape(x)))

    def mix(self, queries, keys, values, bias):
        """Values by the weights of their keys, (B, N, heads, D / heads)."""
        return dot_product_attention(queries, keys, values, bias)

    def compute_output_shape(self, input_shape, *args):
        return (*input_shape[:-1], self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "use_qk_norm": self.use_qk_norm,
            "output_scale": self.output_scale,
        }


@register
class MultiAxisAttention(Attention):
    """Self-attention of a grid along two axes, at a cost linear in its size.

    Muse, section 2.4, after MaxViT (arXiv 2204.01697) and HiT (arXiv 2106.07631): half
    of the heads attend inside blocks of neighbours, half over a dilated grid, the
    tokens that lie `grid / block` apart. Both see `rows * columns` of a block. Where no
    side of the grid is longer than that of a block squared, two layers carry something
    from any token to any other.

    Args:
        hidden_dim: int. Width D.
        num_heads: int, even. Divides `hidden_dim`.
        grid_size: (int, int). Rows and columns of the tokens.
        block_size: (int, int). Rows and columns of a block; divide those of the grid.
        use_qk_norm, output_scale: as in `Attention`.

    Call arguments:
        x: (B, N, D) with N = rows * columns of the grid, row by row.
        keys, values: (B, N, heads, D / heads), of a `MemoryProjection` of the same.

    Returns:
        (B, N, D).

    Raises:
        ValueError: if `block_size` does not divide `grid_size` or `num_heads` is odd.
    """

    def __init__(
        self,
        hidden_dim,
        num_heads,
        grid_size,
        block_size,
        use_qk_norm=False,
        output_scale=1.0,
        **kwargs,
    ):
        super().__init__(hidden_dim, num_heads, use_qk_norm, output_scale, **kwargs)
        self.grid_size = tuple(grid_size)
        self.block_size = tuple(block_size)
        for side, block in zip(self.grid_size, self.block_size):
            if block < 1 or side % block:
                raise ValueError(
                    f"`block_size` must divide `grid_size`: received block_size="
                    f"{self.block_size}, grid_size={self.grid_size}."
                )
        if num_heads % 2:
            raise ValueError(
                "`num_heads` must be even, half for blocks and half for the dilated "
                f"grid: received {num_heads}."
            )

    def mix(self, queries, keys, values, bias):
        half = self.num_heads // 2
        axes = []
        for dilated, heads in ((False, slice(half)), (True, slice(half, None))):
            groups = [
                self.group(x[:, :, heads], dilated) for x in (queries, keys, values)
            ]
            axes.append(self.ungroup(dot_product_attention(*groups), dilated))
        return ops.concatenate(axes, axis=2)

    def group(self, x, dilated):
        """(B, N, heads, d) to (B * groups, tokens of a block, heads, d)."""
        (rows, columns), (height, width) = self.grid_size, self.block_size
        heads, dim = x.shape[2:]
        across, along = rows // height, columns // width
        if dilated:
            x = ops.reshape(x, (-1, height, across, width, along, heads, dim))
            x = ops.transpose(x, (0, 2, 4, 1, 3, 5, 6))
        else:
            x = ops.reshape(x, (-1, across, height, along, width, heads, dim))
            x = ops.transpose(x, (0, 1, 3, 2, 4, 5, 6))
        return ops.reshape(x, (-1, height * width, heads, dim))

    def ungroup(self, x, dilated):
        """The inverse of `group`."""
        (rows, columns), (height, width) = self.grid_size, self.block_size
        heads, dim = x.shape[2:]
        across, along = rows // height, columns // width
        x = ops.reshape(x, (-1, across, along, height, width, heads, dim))
        order = (0, 3, 1, 4, 2, 5, 6) if dilated else (0, 1, 3, 2, 4, 5, 6)
        return ops.reshape(ops.transpose(x, order), (-1, rows * columns, heads, dim))

    def get_config(self):
        return {
            **super().get_config(),
            "grid_size": self.grid_size,
            "block_size": self.block_size,
        }


@register
class MLP(keras.layers.Layer):
    """Two dense layers with GELU, or a gated pair of them.

    Args:
        hidden_dim: int. Width D.
        intermediate_dim: int. Width between the two layers.
        use_gate: bool. Multiplies the activation with a second projection (GEGLU,
            arXiv 2002.05202). Defaults to `False`.
        output_scale: float. As in `Attention`.

    Call arguments:
        x: (B, N, D).

    Returns:
        (B, N, D).
    """

    def __init__(
        self, hidden_dim, intermediate_dim, use_gate=False, output_scale=1.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.use_gate = use_gate
        self.output_scale = output_scale
        options = {"dtype": self.dtype_policy}
        self.up = Dense(
            intermediate_dim, kernel_initializer=_normal(), name="up", **options
        )
        self.gate = None
        if use_gate:
            self.gate = Dense(
                intermediate_dim, kernel_initializer=_normal(), name="gate", **options
            )
        self.down = Dense(
            hidden_dim, kernel_initializer=_normal(output_scale), name="down", **options
        )

    def build(self, input_shape):
        self.up.build(input_shape)
        if self.gate:
            self.gate.build(input_shape)
        self.down.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, x):
        hidden = ops.gelu(self.up(x), approximate=True)
        if self.gate:
            hidden = hidden * self.gate(x)
        return self.down(hidden)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "use_gate": self.use_gate,
            "output_scale": self.output_scale,
        }


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention, cross-attention over a memory, MLP; pre-norm, residual.

    Muse, section 2.3 and table of the base model: every layer has the three.

    Args:
        hidden_dim: int. Width D.
        num_heads: int. Divides `hidden_dim`.
        intermediate_dim: int. Width inside the MLP.
        use_cross_attention: bool. Whether a memory is read. Defaults to `True`.
        use_qk_norm: bool. Defaults to `False`.
        use_gated_mlp: bool. Defaults to `False`.
        dropout: float. Of each branch's output. Defaults to `0.0`.
        output_scale: float. As in `Attention`.
        grid_size: optional (int, int). Rows and columns of the tokens.
        block_size: optional (int, int). With it, self-attention is that of
            `MultiAxisAttention`. Defaults to `None`: every token sees every other.

    Call arguments:
        x: (B, N, D).
        keys, values: (B, L, heads, D / heads) of the memory, or `None`.
        bias: optional (B, 1, 1, L) float32.

    Returns:
        (B, N, D).
    """

    def __init__(
        self,
        hidden_dim,
        num_heads,
        intermediate_dim,
        use_cross_attention=True,
        use_qk_norm=False,
        use_gated_mlp=False,
        dropout=0.0,
        output_scale=1.0,
        grid_size=None,
        block_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._arguments = {
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "use_cross_attention": use_cross_attention,
            "use_qk_norm": use_qk_norm,
            "use_gated_mlp": use_gated_mlp,
            "dropout": dropout,
            "output_scale": output_scale,
            "grid_size": grid_size,
            "block_size": block_size,
        }
        dtype = self.dtype_policy
        heads = (hidden_dim, num_heads, use_qk_norm)

        def norm(name):
            return keras.layers.LayerNormalization(
                epsilon=1e-6, center=False, dtype=dtype, name=name
            )

        self.self_norm = norm("self_attention_norm")
        self.self_memory = MemoryProjection(
            *heads, dtype=dtype, name="self_attention_memory"
        )
        options = {
            "use_qk_norm": use_qk_norm,
            "output_scale": output_scale,
            "dtype": dtype,
            "name": "self_attention",
        }
        if block_size is None:
            self.self_attention = Attention(hidden_dim, num_heads, **options)
        else:
            self.self_attention = MultiAxisAttention(
                hidden_dim, num_heads, grid_size, block_size, **options
            )
        self.use_cross_attention = use_cross_attention
        if use_cross_attention:
            self.cross_norm = norm("cross_attention_norm")
            self.cross_attention = Attention(
                *heads, output_scale, dtype=dtype, name="cross_attention"
            )
        self.mlp_norm = norm("mlp_norm")
        self.mlp = MLP(
            hidden_dim,
            intermediate_dim,
            use_gated_mlp,
            output_scale,
            dtype=dtype,
            name="mlp",
        )
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype, name="dropout")

    def build(self, input_shape, *args):
        layers = [self.self_norm, self.self_memory, self.self_attention]
        if self.use_cross_attention:
            layers += [self.cross_norm, self.cross_attention]
        for layer in [*layers, self.mlp_norm, self.mlp]:
            layer.build(input_shape)
        self.built = True

    def call(self, x, keys=None, values=None, bias=None, training=None):
        normed = self.self_norm(x)
        return self._attend(
            x, normed, self.self_memory(normed), keys, values, bias, training=training
        )

    def pass_on(self, x, others=None, keys=None, values=None, bias=None):
        """A call that returns what self-attention saw of `x`, and may see others, too.

        Args:
            x: (B, N, D).
            others: optional keys and values, (B, M, heads, D / heads), of tokens
                beside those of `x`, and a bias (B, 1, 1, N + M) of all.
            keys: as of a call.
            values: likewise.
            bias: likewise.

        Returns:
            (B, N, D), and keys and values of `x`, (B, N, heads, D / heads).
        """
        normed = self.self_norm(x)
        own = self.self_memory(normed)
        seen, self_bias = own, None
        if others is not None:
            *others, self_bias = others
            seen = [ops.concatenate(pair, axis=1) for pair in zip(own, others)]
        return self._attend(x, normed, seen, keys, values, bias, self_bias), own

    def _attend(
        self, x, normed, seen, keys, values, bias, self_bias=None, training=None
    ):
        branch = self.self_attention(normed, *seen, self_bias)
        x = x + self.dropout(branch, training=training)
        if self.use_cross_attention:
            branch = self.cross_attention(self.cross_norm(x), keys, values, bias)
            x = x + self.dropout(branch, training=training)
        return x + self.dropout(self.mlp(self.mlp_norm(x)), training=training)

    def compute_output_shape(self, input_shape, *args):
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self._arguments}
