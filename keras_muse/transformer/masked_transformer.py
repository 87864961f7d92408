"""The base model: masked image tokens and text in, a guess for every token out."""

import types

import keras
import keras_hub
from keras import ops

from keras_muse.layers import Dense, Embedding, arguments, register
from keras_muse.transformer.layers import (
    MemoryProjection,
    PositionEmbedding2D,
    TransformerBlock,
)

__all__ = ["MaskedTransformer", "attention_bias"]


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


@register
class MaskedTransformer(keras_hub.models.Backbone):
    """A bidirectional transformer that predicts masked image tokens.

    The base model of Muse (arXiv 2301.00704, section 2.3): each layer has
    self-attention, cross-attention over the text embeddings and an MLP. With
    `num_classes` in place of `text_dim` it is the class-conditional MaskGIT (arXiv
    2202.04200), with neither the unconditional one.

    Call it on a dict, or use its parts: `project_memory` once a prompt, then
    `features` and `head` at every decoding step.

    Args:
        codebook_size: int. Number of image tokens V. The id V itself is `mask_id`:
            it can be read, never predicted.
        grid_size: int or (int, int). Rows and columns of the token grid.
        num_layers: int.
        hidden_dim: int. Width D.
        num_heads: int. Divides `hidden_dim`.
        intermediate_dim: optional int. Width inside the MLPs. Defaults to
            `4 * hidden_dim`.
        text_dim: optional int. Width of the text embeddings. Defaults to `None`: no
            text.
        num_classes: optional int. Number of labels; the label `num_classes` is the
            null label of guidance. Defaults to `None`: no labels.
        use_qk_norm: bool. RMS-normalises queries and keys. Defaults to `False`.
        use_gated_mlp: bool. GEGLU in place of GELU. Defaults to `False`.
        dropout: float. Defaults to `0.0`.
        dtype: dtype policy. Logits are float32 under every policy.
        **kwargs: `name`, `trainable`.

    Call arguments:
        inputs: dict of
            `"image_ids"`: (B, N) int32 in `[0, V]`, N = rows * columns;
            with `text_dim`: `"text_embeddings"` (B, L, text_dim) and `"padding_mask"`
            (B, L) bool, true at least once a row;
            with `num_classes`: `"labels"` (B,) int32 in `[0, num_classes]`.

    Returns:
        (B, N, V) float32 logits.

    Raises:
        ValueError: if `text_dim` and `num_classes` are both given, or `num_heads`
            does not divide `hidden_dim`.

    Example:
    ```python
    transformer = keras_muse.transformer.MaskedTransformer(
        codebook_size=1024, grid_size=8, num_layers=4, hidden_dim=192, num_heads=6,
        text_dim=128,
    )
    logits = transformer({
        "image_ids": np.full((1, 64), transformer.mask_id),
        "text_embeddings": np.zeros((1, 7, 128)),
        "padding_mask": np.ones((1, 7), bool),
    })
    ```
    """

    def __init__(
        self,
        codebook_size,
        grid_size,
        num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim=None,
        text_dim=None,
        num_classes=None,
        use_qk_norm=False,
        use_gated_mlp=False,
        dropout=0.0,
        dtype=None,
        **kwargs,
    ):
        config = arguments(locals())
        if text_dim is not None and num_classes is not None:
            raise ValueError(
                "Give `text_dim` or `num_classes`, not both: received "
                f"text_dim={text_dim}, num_classes={num_classes}."
            )
        if hidden_dim % num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_dim`: received "
                f"num_heads={num_heads}, hidden_dim={hidden_dim}."
            )
        if isinstance(grid_size, int):
            grid_size = (grid_size, grid_size)
        config["grid_size"] = grid_size = tuple(grid_size)
        config["intermediate_dim"] = intermediate_dim or 4 * hidden_dim
        has_memory = text_dim is not None or num_classes is not None
        # Keeps the variance of the residual stream independent of the depth.
        output_scale = (2.0 * num_layers) ** -0.5

        # === Layers ===
        token_embedding = Embedding(
            codebook_size + 1, hidden_dim, dtype=dtype, name="token_embedding"
        )
        positions = PositionEmbedding2D(
            grid_size, hidden_dim, dtype=dtype, name="positions"
        )
        # Without this norm the first layers see the positions alone, see the tests.
        embedding_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, dtype=dtype, name="embedding_norm"
        )
        text_projection = label_embedding = None
        if text_dim is not None:
            text_projection = Dense(
                hidden_dim, use_bias=False, dtype=dtype, name="text_projection"
            )
        if num_classes is not None:
            label_embedding = Embedding(
                num_classes + 1,
                hidden_dim,
                embeddings_initializer="uniform",
                dtype=dtype,
                name="label_embedding",
            )
        memory_projections = []
        if has_memory:
            memory_projections = [
                MemoryProjection(
                    hidden_dim,
                    num_heads,
                    use_qk_norm,
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
                use_qk_norm=use_qk_norm,
                use_gated_mlp=use_gated_mlp,
                dropout=dropout,
                output_scale=output_scale,
                dtype=dtype,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        head_dense = Dense(
            hidden_dim, activation="gelu", dtype=dtype, name="head_dense"
        )
        head_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, dtype=dtype, name="head_norm"
        )
        head = Dense(
            codebook_size,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",
            name="head",
        )
        parts = types.SimpleNamespace(
            token_embedding=token_embedding,
            positions=positions,
            embedding_norm=embedding_norm,
            text_projection=text_projection,
            label_embedding=label_embedding,
            memory_projections=memory_projections,
            blocks=blocks,
            head_dense=head_dense,
            head_norm=head_norm,
            head=head,
        )

        # === Functional Model ===
        num_tokens = grid_size[0] * grid_size[1]
        inputs = {
            "image_ids": keras.Input((num_tokens,), dtype="int32", name="image_ids")
        }
        if text_dim is not None:
            inputs["text_embeddings"] = keras.Input(
                (None, text_dim), name="text_embeddings"
            )
            inputs["padding_mask"] = keras.Input(
                (None,), dtype="bool", name="padding_mask"
            )
        if num_classes is not None:
            inputs["labels"] = keras.Input((), dtype="int32", name="labels")
        memory = _project_memory(parts, inputs)
        outputs = head(_features(parts, inputs["image_ids"], memory))
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

        # === Config ===
        for name, part in vars(parts).items():
            setattr(self, name, part)
        for name, value in config.items():
            if name != "dtype":
                setattr(self, name, value)
        self._config = {k: v for k, v in config.items() if k != "dtype"}

    @property
    def mask_id(self):
        """The id of a masked token: `codebook_size`, an int."""
        return self.codebook_size

    @property
    def num_tokens(self):
        """N, the number of tokens of a picture, an int."""
        return self.grid_size[0] * self.grid_size[1]

    def project_memory(self, inputs):
        """What all decoding steps of one prompt share.

        Args:
            inputs: dict, as in a call; `"image_ids"` is not looked at.

        Returns:
            dict of `"keys"` and `"values"`, one (B, L, heads, D / heads) a layer, and
            `"bias"` (B, 1, 1, L). An empty dict for an unconditional model.
        """
        return _project_memory(self, inputs)

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
        return _features(self, image_ids, memory, training)

    def get_config(self):
        return {**super().get_config(), **self._config}


def _project_memory(parts, inputs):
    bias = None
    if parts.text_projection is not None:
        memory = parts.text_projection(inputs["text_embeddings"])
        bias = attention_bias(inputs["padding_mask"])
    elif parts.label_embedding is not None:
        memory = ops.expand_dims(parts.label_embedding(inputs["labels"]), 1)
    else:
        return {}
    pairs = [project(memory) for project in parts.memory_projections]
    keys, values = zip(*pairs)
    projected = {"keys": list(keys), "values": list(values)}
    return {**projected, "bias": bias} if bias is not None else projected


def _features(parts, image_ids, memory, training=None):
    x = parts.embedding_norm(parts.positions(parts.token_embedding(image_ids)))
    for i, block in enumerate(parts.blocks):
        if memory:
            keys, values = memory["keys"][i], memory["values"][i]
            x = block(x, keys, values, memory.get("bias"), training=training)
        else:
            x = block(x, training=training)
    return parts.head_norm(parts.head_dense(x))
