"""The super-resolution model: coarse tokens and text in, fine tokens out."""

from keras import ops

from keras_muse.layers import Embedding, arguments, refuse_unknown, register
from keras_muse.transformer.base import (
    TokenPredictor,
    as_grid,
    attention_bias,
    image_input,
    norm,
    predictor_parts,
    project,
    run_block,
    text_inputs,
    text_projection,
)
from keras_muse.transformer.layers import PositionEmbedding2D, TransformerBlock

__all__ = ["SuperResolutionTransformer"]


@register
class SuperResolutionTransformer(TokenPredictor):
    """A masked transformer that translates low-res tokens into high-res ones.

    Muse (arXiv 2301.00704, section 2.4). The low-res tokens pass through a stack of
    self-attention; what comes out of it, together with the projected text, is the
    memory that every layer attends to. The self-attention of the high-res tokens is
    multi-axis (`MultiAxisAttention`), so its cost is linear in their number.

    Call it on a dict, or use its parts: `project_memory` once a picture, then
    `features` and `head` at every decoding step, as with `MaskedTransformer`.

    Args:
        codebook_size: int. Number of high-res image tokens V; V itself is `mask_id`.
        grid_size: int or (int, int). Rows and columns of the high-res grid.
        num_layers: int.
        hidden_dim: int. Width D.
        num_heads: int, even. Divides `hidden_dim`.
        low_res_codebook_size: int. Number of low-res image tokens.
        low_res_grid_size: int or (int, int). Rows and columns of the low-res grid.
        num_low_res_layers: int. Layers of self-attention of the low-res tokens.
        block_size: int or (int, int). Rows and columns of a block of high-res
            attention; divide those of the grid. Defaults to 8: on the paper's grid of
            64 x 64 there are then as many blocks as tokens in one.
        intermediate_dim: optional int. Width inside the MLPs. Defaults to
            `4 * hidden_dim`.
        text_dim: optional int. Width of the text embeddings. Defaults to `None`: no
            text.
        use_qk_norm, use_gated_mlp, dropout, dtype: as in `MaskedTransformer`.
        **kwargs: `name`, `trainable`.

    Call arguments:
        inputs: dict of
            `"image_ids"`: (B, N) int32 in `[0, V]`;
            `"low_res_ids"`: (B, M) int32 in `[0, low_res_codebook_size]`;
            with `text_dim`: `"text_embeddings"` (B, L, text_dim) and `"padding_mask"`
            (B, L) bool.

    Returns:
        (B, N, V) float32 logits.

    Raises:
        TypeError: if there is an argument that does not exist.
        ValueError: if `num_heads` is odd or does not divide `hidden_dim`, `block_size`
            does not divide `grid_size`, or there are not M low-res tokens.

    Example:
    ```python
    transformer = keras_muse.transformer.SuperResolutionTransformer(
        codebook_size=1024, grid_size=16, num_layers=4, hidden_dim=128, num_heads=4,
        low_res_codebook_size=512, low_res_grid_size=8, num_low_res_layers=2,
        text_dim=64,
    )
    logits = transformer({
        "image_ids": np.full((1, 256), transformer.mask_id),
        "low_res_ids": np.zeros((1, 64), "int32"),
        "text_embeddings": np.zeros((1, 7, 64)),
        "padding_mask": np.ones((1, 7), bool),
    })
    ```
    """

    num_classes = None

    def __init__(
        self,
        codebook_size,
        grid_size,
        num_layers,
        hidden_dim,
        num_heads,
        low_res_codebook_size,
        low_res_grid_size,
        num_low_res_layers,
        block_size=8,
        intermediate_dim=None,
        text_dim=None,
        use_qk_norm=False,
        use_gated_mlp=False,
        dropout=0.0,
        dtype=None,
        **kwargs,
    ):
        config = arguments(locals())
        refuse_unknown(kwargs)
        for name in ("grid_size", "low_res_grid_size", "block_size"):
            config[name] = as_grid(config[name])
        config["intermediate_dim"] = intermediate_dim or 4 * hidden_dim

        # === Layers ===
        parts = predictor_parts(config, dtype, True, config["block_size"])
        parts.text_projection = None
        if text_dim is not None:
            parts.text_projection = text_projection(hidden_dim, dtype)
        # One more for the mask: a base model that is not finished can be read as well.
        parts.low_res_embedding = Embedding(
            low_res_codebook_size + 1, hidden_dim, dtype=dtype, name="low_res_embedding"
        )
        parts.low_res_positions = PositionEmbedding2D(
            config["low_res_grid_size"],
            hidden_dim,
            dtype=dtype,
            name="low_res_positions",
        )
        parts.low_res_embedding_norm = norm("low_res_embedding_norm", dtype)
        parts.low_res_blocks = [
            TransformerBlock(
                hidden_dim,
                num_heads,
                config["intermediate_dim"],
                use_cross_attention=False,
                use_qk_norm=use_qk_norm,
                use_gated_mlp=use_gated_mlp,
                dropout=dropout,
                output_scale=(2.0 * max(num_low_res_layers, 1)) ** -0.5,
                dtype=dtype,
                name=f"low_res_block_{i}",
            )
            for i in range(num_low_res_layers)
        ]
        parts.low_res_norm = norm("low_res_norm", dtype)

        # === Functional Model ===
        inputs = {
            "image_ids": image_input(config["grid_size"]),
            "low_res_ids": image_input(config["low_res_grid_size"], "low_res_ids"),
            **text_inputs(text_dim),
        }
        memory = _project_memory(parts, inputs)
        super().__init__(parts, config, inputs, memory, dtype=dtype, **kwargs)

    def project_memory(self, inputs, training=None):
        """What all decoding steps of one picture share.

        Args:
            inputs: dict, as in a call; `"image_ids"` is not looked at.
            training: optional bool. Whether the low-res layers drop anything.

        Returns:
            dict of `"keys"` and `"values"`, one (B, M + L, heads, D / heads) a layer,
            low-res tokens first, and with text `"bias"` (B, 1, 1, M + L).

        Raises:
            ValueError: if the number of low-res tokens is not that of their grid.
        """
        rows, columns = self.low_res_grid_size
        count = inputs["low_res_ids"].shape[1]
        if count != rows * columns:
            raise ValueError(
                f"`low_res_ids` must hold the {rows * columns} tokens of a grid of "
                f"{rows} x {columns}: received {count}."
            )
        return _project_memory(self, inputs, training)


def _project_memory(parts, inputs, training=None):
    x = parts.low_res_positions(parts.low_res_embedding(inputs["low_res_ids"]))
    x = parts.low_res_embedding_norm(x)
    for block in parts.low_res_blocks:
        x = run_block(parts, block, x, training=training)
    memory = parts.low_res_norm(x)
    if parts.text_projection is None:
        return project(parts, memory)
    text = parts.text_projection(inputs["text_embeddings"])
    mask = ops.cast(inputs["padding_mask"], "bool")
    visible = ops.ones_like(inputs["low_res_ids"], dtype="bool")
    bias = attention_bias(ops.concatenate([visible, mask], axis=1))
    return project(parts, ops.concatenate([memory, text], axis=1), bias)
