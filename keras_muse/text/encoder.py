"""The encoder half of T5 v1.1: token ids in, text embeddings out."""

import keras
import keras_hub
from keras import ops

from keras_muse.layers import Embedding, arguments, refuse_unknown, register
from keras_muse.presets.loading import PresetLoading
from keras_muse.text.conversion import (
    assign,
    hugging_face_arrays,
    t5_arguments,
    t5_arrays,
)
from keras_muse.text.encoder_layers import (
    RelativePositionBias,
    T5EncoderLayer,
    normal,
)

__all__ = ["T5TextEncoder"]


@register
class T5TextEncoder(PresetLoading, keras_hub.models.Backbone):
    """The T5 v1.1 encoder: turns tokenised prompts into text embeddings.

    Muse conditions on the frozen embeddings of T5-XXL (arXiv 2301.00704, section 2.1);
    small encoders of the same kind can be trained along with the image model. An
    output depends on the real tokens of its own row alone: neither the number of pads
    nor the other rows change it. Outputs at padded positions are zeros.

    Args:
        vocabulary_size: int. Number of token ids.
        num_layers: int. Number of layers.
        num_heads: int. Attention heads of a layer.
        hidden_dim: int. Width D of the text embeddings.
        intermediate_dim: int. Width inside the feed-forward networks.
        key_value_dim: int or `None`. Width of one head; `None` stands for
            `hidden_dim // num_heads`. Defaults to `None`.
        dropout: float in [0, 1). Defaults to 0: a frozen encoder that is part of a
            model in training must not drop anything.
        activation: str. `"gelu_approximate"` (tanh, what T5 v1.1 and Flan-T5 were
            trained with), `"gelu"` (erf), `"relu"` (the first T5) or another name that
            Keras knows. Defaults to `"gelu_approximate"`.
        use_gated_activation: bool. `True` for T5 v1.1, `False` for the first T5.
            Defaults to `True`.
        num_relative_buckets: int, even, at least 4. Buckets of the relative position
            bias that all layers share. Defaults to 32.
        max_relative_distance: int. Distances above it share a bucket. Defaults to 128.
        layer_norm_epsilon: float. Defaults to 1e-6.
        dtype: str or `keras.DTypePolicy`. Normalisation and softmax are float32 under
            every policy. Defaults to the global policy.
        **kwargs: `name`, `trainable` of a Keras model.

    Call arguments:
        inputs: dict of `token_ids`, (B, L) int32 in `[0, vocabulary_size)`, and
            `padding_mask`, (B, L) bool or int, 1 at real tokens. A row that is masked
            throughout gives zeros.

    Returns:
        Text embeddings, (B, L, D) in the compute dtype.

    Raises:
        ValueError: if `hidden_dim` cannot be split into heads, or the shapes of the
            inputs do not agree.

    Example:
        ```python
        encoder = keras_muse.text.T5TextEncoder(
            vocabulary_size=100,
            num_layers=2,
            num_heads=4,
            hidden_dim=64,
            intermediate_dim=128,
        )
        embeddings = encoder(keras_muse.text.tokenize_prompts(tokenizer, "a cat", 8))
        ```
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        key_value_dim=None,
        dropout=0.0,
        activation="gelu_approximate",
        use_gated_activation=True,
        num_relative_buckets=32,
        max_relative_distance=128,
        layer_norm_epsilon=1e-6,
        dtype=None,
        **kwargs,
    ):
        own_arguments = arguments(locals())
        own_arguments.pop("dtype")
        refuse_unknown(kwargs)
        if key_value_dim is None and hidden_dim % num_heads:
            raise ValueError(
                "Without `key_value_dim`, `hidden_dim` must be divisible by "
                f"`num_heads`. Received: hidden_dim={hidden_dim}, "
                f"num_heads={num_heads}."
            )
        token_embedding = Embedding(
            vocabulary_size,
            hidden_dim,
            normal(1.0),
            dtype=dtype,
            name="token_embedding",
        )
        relative_position_bias = RelativePositionBias(
            num_heads,
            num_relative_buckets,
            max_relative_distance,
            normal(hidden_dim),
            dtype=dtype,
            name="relative_position_bias",
        )
        embedding_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="embedding_dropout"
        )
        encoder_layers = [
            T5EncoderLayer(
                hidden_dim,
                intermediate_dim,
                num_heads,
                key_value_dim or hidden_dim // num_heads,
                dropout,
                activation,
                use_gated_activation,
                layer_norm_epsilon,
                dtype=dtype,
                name=f"encoder_layer_{index}",
            )
            for index in range(num_layers)
        ]
        output_norm = keras.layers.RMSNormalization(
            epsilon=layer_norm_epsilon, dtype=dtype, name="output_norm"
        )
        output_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="output_dropout"
        )

        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="int32", name="padding_mask")
        position_bias = relative_position_bias(token_ids)
        x = embedding_dropout(token_embedding(token_ids))
        for layer in encoder_layers:
            x = layer(x, position_bias, padding_mask)
        x = output_dropout(output_norm(x))
        x = x * ops.cast(padding_mask, x.dtype)[:, :, None]
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=x,
            dtype=dtype,
            **kwargs,
        )
        self.token_embedding = token_embedding
        self.relative_position_bias = relative_position_bias
        self.encoder_layers = encoder_layers
        self.output_norm = output_norm
        self.own_arguments = own_arguments
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim

    def get_config(self):
        return {**super().get_config(), **self.own_arguments}

    @classmethod
    def from_t5(cls, t5, **kwargs):
        """An encoder with the weights of the encoder of a KerasHub T5.

        KerasHub's T5 v1.1 and Flan-T5 presets compute the exact gelu, which is kept;
        pass `activation="gelu_approximate"` for the one they were trained with.

        Args:
            t5: `keras_hub.models.T5Backbone`, of any size.
            **kwargs: arguments of this class that replace those read from `t5`.
                Dropout is not read from it.

        Returns:
            `T5TextEncoder` with weights of its own.

        Raises:
            TypeError: if `t5` is something else.
            ValueError: if an argument does not fit the weights.

        Example:
            ```python
            t5 = keras_hub.models.T5Backbone.from_preset("t5_1.1_small")
            encoder = keras_muse.text.T5TextEncoder.from_t5(t5)
            ```
        """
        if not isinstance(t5, keras_hub.models.T5Backbone):
            raise TypeError(
                "`t5` must be a `keras_hub.models.T5Backbone`. "
                f"Received: {type(t5).__name__}."
            )
        return assign(cls(**{**t5_arguments(t5), **kwargs}), t5_arrays(t5))

    def load_hugging_face_weights(self, arrays):
        """Takes over the weights of a Hugging Face T5, which KerasHub cannot read.

        Args:
            arrays: dict of name -> (...) float numpy array: the state of a
                `T5EncoderModel` or of a whole T5, whose decoder is ignored. The
                arguments of this encoder must be those of the checkpoint's
                `config.json`: `vocab_size`, `num_layers`, `num_heads`, `d_model`
                (`hidden_dim`), `d_ff` (`intermediate_dim`), `d_kv`
                (`key_value_dim`), `feed_forward_proj`.

        Returns:
            The encoder itself.

        Raises:
            ValueError: if names are missing or left over, or a shape differs. No weight
                has changed then.

        Example:
            ```python
            arrays = safetensors.numpy.load_file("model.safetensors")
            encoder.load_hugging_face_weights(arrays)
            ```
        """
        return assign(self, hugging_face_arrays(arrays))
