"""The token critic: a filled grid of tokens in, which of them were drawn out."""

from keras import ops

from keras_muse.layers import arguments, refuse_unknown, register
from keras_muse.transformer.base import (
    TokenTransformer,
    as_grid,
    image_input,
    predictor_parts,
)
from keras_muse.transformer.condition import (
    add_condition,
    condition_inputs,
    has_condition,
    project_condition,
)

__all__ = ["TokenCritic"]

# What layers of the same shapes have in common.
_SHARED = (
    "codebook_size",
    "grid_size",
    "hidden_dim",
    "num_heads",
    "intermediate_dim",
    "text_dim",
    "num_classes",
    "use_qk_norm",
    "use_gated_mlp",
)


@register
class TokenCritic(TokenTransformer):
    """A bidirectional transformer that tells drawn tokens from a picture's own.

    Token-Critic (arXiv 2209.04439). A masked transformer draws the tokens of a step
    without knowing each other; the critic sees all of them together, and those that do
    not fit are masked again, see the order `"critic"` of `keras_muse.decoding.Sampler`.
    Train it with `keras_muse.models.MuseTokenCriticModel`.

    It has the layers of a `MaskedTransformer` but for the head, and may be smaller. It
    is made for the first stage; what judges the tokens of a super-resolution stage
    would have to see the low-res ones.

    Args:
        codebook_size: int. Number of image tokens V.
        grid_size: int or (int, int). Rows and columns of the token grid.
        num_layers: int.
        hidden_dim: int. Width D.
        num_heads: int. Divides `hidden_dim`.
        intermediate_dim: optional int. Width inside the MLPs. Defaults to
            `4 * hidden_dim`.
        text_dim: optional int. Width of the text embeddings. Defaults to `None`: no
            text.
        num_classes: optional int. Number of labels, as of `MaskedTransformer`. Defaults
            to `None`: no labels.
        use_qk_norm: bool. RMS-normalises queries and keys. Defaults to `False`.
        use_gated_mlp: bool. GEGLU in place of GELU. Defaults to `False`.
        dropout: float. Defaults to `0.0`.
        dtype: dtype policy. The logits are float32 under every policy.
        **kwargs: `name`, `trainable`.

    Call arguments:
        inputs: dict as of `MaskedTransformer`, but for `"image_ids"`, (B, N) int32 in
            `[0, V)`: nothing is masked.

    Returns:
        (B, N) float32 logits: above 0 for a token that is more likely the picture's own
        than drawn.

    Raises:
        ValueError: if `text_dim` and `num_classes` are both given, or `num_heads`
            does not divide `hidden_dim`.

    Example:
    ```python
    critic = keras_muse.transformer.TokenCritic(
        codebook_size=1024, grid_size=8, num_layers=2, hidden_dim=128, num_heads=4,
        text_dim=128,
    )
    logits = critic({
        "image_ids": np.zeros((1, 64), "int32"),
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
        parts = predictor_parts(
            config, dtype, has_condition(config), num_ids=codebook_size, num_outputs=1
        )
        add_condition(parts, config, dtype)

        # === Functional Model ===
        inputs = {
            "image_ids": image_input(config["grid_size"]),
            **condition_inputs(config),
        }
        memory = project_condition(parts, inputs)
        super().__init__(parts, config, inputs, memory, dtype=dtype, **kwargs)

    def start_from(self, transformer):
        """Copies the first layers of a trained transformer, all but the head.

        These know the tokens and the text already, which a critic that starts from
        nothing has to learn before it can judge.

        Args:
            transformer: `MaskedTransformer` of the same widths with at least as many
                layers.

        Raises:
            ValueError: if a setting of the two differs, or there are too few layers.
        """
        for name in _SHARED:
            value, wanted = (getattr(model, name) for model in (transformer, self))
            if value != wanted:
                raise ValueError(
                    f"`transformer` must have the `{name}` of the critic, {wanted}: "
                    f"received {value}."
                )
        if transformer.num_layers < self.num_layers:
            raise ValueError(
                f"`transformer` must have at least the {self.num_layers} layers of the "
                f"critic: received {transformer.num_layers}."
            )
        learned = {weight.path: weight.value for weight in transformer.weights}
        for weight in self.weights:
            if not weight.path.startswith("head/"):
                # The mask is the last token of the table, which a critic never sees.
                weight.assign(learned[weight.path][: weight.shape[0]])

    @staticmethod
    def read_out(parts, features):
        """One logit a token: (B, N, D) to (B, N) float32."""
        return ops.squeeze(parts.head(features), -1)

    def project_memory(self, inputs, training=None):
        """What all decoding steps of one prompt share; as of `MaskedTransformer`."""
        del training
        return project_condition(self, inputs)

    def judge(self, image_ids, memory, training=None):
        """What a call returns, with the memory of `project_memory`.

        Args:
            image_ids: (B, N) int32 in `[0, V)`.
            memory: result of `project_memory`.
            training: optional bool.

        Returns:
            (B, N) float32 logits.
        """
        return self.read_out(self, self.features(image_ids, memory, training))
