"""The base model: masked image tokens and text in, a guess for every token out."""

from keras_muse.layers import arguments, refuse_unknown, register
from keras_muse.transformer.base import (
    TokenPredictor,
    as_grid,
    attention_bias,
    image_input,
    predictor_parts,
)
from keras_muse.transformer.condition import (
    add_condition,
    condition_inputs,
    has_condition,
    project_condition,
)

__all__ = ["MaskedTransformer", "attention_bias"]


@register
class MaskedTransformer(TokenPredictor):
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
        refuse_unknown(kwargs)
        config["grid_size"] = as_grid(grid_size)
        config["intermediate_dim"] = intermediate_dim or 4 * hidden_dim

        # === Layers ===
        parts = predictor_parts(config, dtype, has_condition(config))
        add_condition(parts, config, dtype)

        # === Functional Model ===
        inputs = {
            "image_ids": image_input(config["grid_size"]),
            **condition_inputs(config),
        }
        memory = project_condition(parts, inputs)
        super().__init__(parts, config, inputs, memory, dtype=dtype, **kwargs)

    def project_memory(self, inputs, training=None):
        """What all decoding steps of one prompt share.

        Args:
            inputs: dict, as in a call; `"image_ids"` is not looked at.
            training: not used here.

        Returns:
            dict of `"keys"` and `"values"`, one (B, L, heads, D / heads) a layer, and
            `"bias"` (B, 1, 1, L). An empty dict for an unconditional model.
        """
        del training
        return project_condition(self, inputs)
