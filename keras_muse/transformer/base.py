"""What all masked transformers share: from masked tokens and a memory to logits."""

import functools
import types

import keras
import keras_hub
from keras import ops

from keras_muse.layers import Dense, Embedding
from keras_muse.presets.loading import PresetLoading
from keras_muse.transformer.layers import (
    MemoryProjection,
    PositionEmbedding2D,
    TransformerBlock,
)

__all__ = [
    "TokenPredictor",
    "TokenTransformer",
    "as_grid",
    "attention_bias",
    "embed",
    "memory_of",
    "predictor_parts",
    "run_block",
]


def as_grid(size):
    """(int, int) of an int or a pair of them."""
    return (size, size) if isinstance(size, int) else tuple(size)


def attention_bias(padding_mask):
    """What keeps attention from padded positions.

    Args:
        padding_mask: (B, L) bool. True where there is something to read. Every row
            needs one such position: an all-masked row has wrong gradients on torch.

    Returns:
        (B, 1, 1, L) float32: 0 where the mask is true, -1e9 elsewhere.
    """
    mask = ops.cast(padding_mask, "float32")
    return (mask[:, None, None, :] - 1.0) * 1e9


def predictor_parts(
    config, dtype, has_memory, block_size=None, num_ids=None, num_outputs=None
):
    """The layers from tokens to logits.

    Args:
        config: dict of the arguments of `MaskedTransformer`, `grid_size` a pair.
        dtype: dtype policy.
        has_memory: bool. Whether there is something to attend to beside the tokens.
        block_size: optional (int, int), see `TransformerBlock`.
        num_ids: optional int. Ids that can be read. Defaults to the codebook and the
            mask.
        num_outputs: optional int. Logits of a token. Defaults to one for each of the
            codebook.

    Returns:
        `types.SimpleNamespace` of layers.

    Raises:
        ValueError: if `num_heads` does not divide `hidden_dim`.
    """
    hidden_dim, num_heads = config["hidden_dim"], config["num_heads"]
    num_layers = config["num_layers"]
    if hidden_dim % num_heads:
        raise ValueError(
            "`num_heads` must divide `hidden_dim`: received "
            f"num_heads={num_heads}, hidden_dim={hidden_dim}."
        )
    memory_projections = []
    if has_memory:
        memory_projections = [
            MemoryProjection(
                hidden_dim,
                num_heads,
                config["use_qk_norm"],
                dtype=dtype,
                name=f"memory_projection_{i}",
            )
            for i in range(num_layers)
        ]
    blocks = [
        TransformerBlock(
            hidden_dim,
            num_heads,
            config["intermediate_dim"],
            use_cross_attention=has_memory,
            use_qk_norm=config["use_qk_norm"],
            use_gated_mlp=config["use_gated_mlp"],
            dropout=config["dropout"],
            # Keeps the variance of the residual stream independent of the depth.
            output_scale=(2.0 * num_layers) ** -0.5,
            grid_size=config["grid_size"] if block_size else None,
            block_size=block_size,
            dtype=dtype,
            name=f"block_{i}",
        )
        for i in range(num_layers)
    ]
    return types.SimpleNamespace(
        token_embedding=Embedding(
            num_ids or config["codebook_size"] + 1,
            hidden_dim,
            dtype=dtype,
            name="token_embedding",
        ),
        positions=PositionEmbedding2D(
            config["grid_size"], hidden_dim, dtype=dtype, name="positions"
        ),
        # Without this norm the first layers see the positions alone, see the tests.
        embedding_norm=norm("embedding_norm", dtype),
        memory_projections=memory_projections,
        blocks=blocks,
        head_dense=Dense(hidden_dim, activation="gelu", dtype=dtype, name="head_dense"),
        head_norm=norm("head_norm", dtype),
        head=Dense(
            num_outputs or config["codebook_size"],
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",
            name="head",
        ),
    )


def norm(name, dtype):
    """The layer norm between parts."""
    return keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name=name)


def text_projection(hidden_dim, dtype):
    """From text embeddings to the width of the transformer."""
    return Dense(hidden_dim, use_bias=False, dtype=dtype, name="text_projection")


def text_inputs(text_dim):
    """The symbolic text of a functional model; none without a `text_dim`."""
    if text_dim is None:
        return {}
    return {
        "text_embeddings": keras.Input((None, text_dim), name="text_embeddings"),
        "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
    }


def image_input(grid_size, name="image_ids"):
    """The symbolic tokens of a functional model."""
    return keras.Input((grid_size[0] * grid_size[1],), dtype="int32", name=name)


def project(parts, memory, bias=None):
    """Keys and values of every layer, and the bias: what `project_memory` returns."""
    pairs = [projection(memory) for projection in parts.memory_projections]
    keys, values = zip(*pairs)
    projected = {"keys": list(keys), "values": list(values)}
    return projected if bias is None else {**projected, "bias": bias}


def run_block(parts, block, *inputs, training=None):
    """Calls a block; where `parts.remat` is set and it is trained, twice.

    Then its activations are not kept for the backward pass but computed anew there
    (arXiv 1604.06174).
    """
    call = functools.partial(block, training=training)
    if training and getattr(parts, "remat", False):
        call = keras.remat(call)
    return call(*inputs)


def embed(parts, image_ids):
    """What the first block sees of tokens: (B, N) to (B, N, D)."""
    return parts.embedding_norm(parts.positions(parts.token_embedding(image_ids)))


def memory_of(memory, layer):
    """Keys, values and bias of a layer, as far as there are any."""
    if not memory:
        return ()
    # Without a bias there is no argument: `remat` takes nothing but tensors.
    bias = (memory["bias"],) if "bias" in memory else ()
    return (memory["keys"][layer], memory["values"][layer], *bias)


def predict_features(parts, image_ids, memory, training=None):
    """See `TokenTransformer.features`."""
    x = embed(parts, image_ids)
    for i, block in enumerate(parts.blocks):
        x = run_block(parts, block, x, *memory_of(memory, i), training=training)
    return parts.head_norm(parts.head_dense(x))


class TokenTransformer(PresetLoading, keras_hub.models.Backbone):
    """A functional model from image tokens and a memory to logits of every token.

    Args:
        parts: what `predictor_parts` returned, and the layers of the memory.
        config: dict of the constructor's arguments.
        inputs: dict of `keras.Input`, with `"image_ids"`.
        memory: what `project_memory` returns for `inputs`.
        **kwargs: `name`, `trainable`, `dtype`.
    """

    # Whether training computes activations twice to keep fewer; no part of the config.
    remat = False

    def __init__(self, parts, config, inputs, memory, **kwargs):
        hidden = predict_features(parts, inputs["image_ids"], memory)
        outputs = self.read_out(parts, hidden)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._config = {k: v for k, v in config.items() if k != "dtype"}
        for name, value in {**vars(parts), **self._config}.items():
            setattr(self, name, value)

    @staticmethod
    def read_out(parts, features):
        """The output of the model from its last hidden state: (B, N, D) to logits."""
        return parts.head(features)

    @property
    def num_tokens(self):
        """N, the number of tokens of a picture, an int."""
        return self.grid_size[0] * self.grid_size[1]

    def features(self, image_ids, memory, training=None):
        """The last hidden state, one linear layer before the logits.

        Guidance is linear, and so is `head`: mixing two predictions here is exact and
        halves the cost of the head.

        Args:
            image_ids: (B, N) int32 in `[0, V]`.
            memory: result of `project_memory`.
            training: optional bool.

        Returns:
            (B, N, D) in the compute dtype.
        """
        return predict_features(self, image_ids, memory, training)

    def get_config(self):
        return {**super().get_config(), **self._config}


class TokenPredictor(TokenTransformer):
    """A `TokenTransformer` from masked tokens to (B, N, V) logits of what they are."""

    @property
    def mask_id(self):
        """The id of a masked token: `codebook_size`, an int."""
        return self.codebook_size
