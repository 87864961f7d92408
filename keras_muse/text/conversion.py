"""Weights of other T5s, by the names of the Hugging Face checkpoints.

Every reader returns a dict of those names, and `assign` puts such a dict into an
encoder, so that a further source needs one more reader and nothing else.
"""

import numpy as np

__all__ = ["assign", "hugging_face_arrays", "t5_arguments", "t5_arrays"]

TABLE = "shared.weight"
OUTPUT_NORM = "encoder.final_layer_norm.weight"
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
# The encoder's table has a second name in checkpoints, for the same numbers.
TABLE_ALIAS = "encoder.embed_tokens.weight"
KERNELS = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")


def layer_names(index, parts):
    """Full names of one layer's weights, from a dict of their short names."""
    places = {
        "q": "layer.0.SelfAttention.q",
        "k": "layer.0.SelfAttention.k",
        "v": "layer.0.SelfAttention.v",
        "o": "layer.0.SelfAttention.o",
        "attention_norm": "layer.0.layer_norm",
        "wi": "layer.1.DenseReluDense.wi",
        "wi_0": "layer.1.DenseReluDense.wi_0",
        "wi_1": "layer.1.DenseReluDense.wi_1",
        "wo": "layer.1.DenseReluDense.wo",
        "feedforward_norm": "layer.1.layer_norm",
    }
    return {
        f"encoder.block.{index}.{places[part]}.weight": weight
        for part, weight in parts.items()
    }


def feedforward(first, gate):
    """The input projections under their names, which tell gated from plain."""
    if gate is None:
        return {"wi": first.kernel}
    return {"wi_0": first.kernel, "wi_1": gate.kernel}


def encoder_variables(encoder):
    """The variables of a `T5TextEncoder` by Hugging Face name."""
    variables = {
        TABLE: encoder.token_embedding.embeddings,
        BIAS: encoder.relative_position_bias.table.embeddings,
        OUTPUT_NORM: encoder.output_norm.scale,
    }
    for index, layer in enumerate(encoder.encoder_layers):
        parts = {
            "q": layer.query.kernel,
            "k": layer.key.kernel,
            "v": layer.value.kernel,
            "o": layer.attention_output.kernel,
            "attention_norm": layer.attention_norm.scale,
            **feedforward(layer.feedforward_input, layer.feedforward_gate),
            "wo": layer.feedforward_output.kernel,
            "feedforward_norm": layer.feedforward_norm.scale,
        }
        variables |= layer_names(index, parts)
    return variables


def t5_arguments(t5):
    """The arguments of a `T5TextEncoder` of the same architecture.

    Args:
        t5: `keras_hub.models.T5Backbone`.

    Returns:
        dict. KerasHub's T5 fixes the number of buckets and the largest distance of its
        position bias to the defaults of `T5TextEncoder`.
    """
    return {
        "vocabulary_size": t5.vocabulary_size,
        "num_layers": t5.num_layers,
        "num_heads": t5.num_heads,
        "hidden_dim": t5.hidden_dim,
        "intermediate_dim": t5.intermediate_dim,
        "key_value_dim": t5.key_value_dim,
        "activation": t5.activation.__name__,
        "use_gated_activation": t5.use_gated_activation,
        "layer_norm_epsilon": t5.layer_norm_epsilon,
        "dtype": t5.dtype_policy,
    }


def t5_arrays(t5):
    """The encoder variables of a `keras_hub.models.T5Backbone` by name.

    Args:
        t5: `keras_hub.models.T5Backbone`; its output table, if untied, is not read.

    Returns:
        dict of name -> Keras variable.
    """
    layers = t5.encoder_transformer_layers
    arrays = {
        TABLE: t5.token_embedding.embeddings,
        BIAS: layers[0].self_attention.relative_attention_bias,
        OUTPUT_NORM: t5.encoder_layer_norm.weight,
    }
    for index, layer in enumerate(layers):
        attention = layer.self_attention
        gate = layer.gate_projector if layer.use_gated_activation else None
        parts = {
            "q": attention.query_projector.kernel,
            "k": attention.key_projector.kernel,
            "v": attention.value_projector.kernel,
            "o": attention.output_projector.kernel,
            "attention_norm": layer.self_attention_layer_norm.weight,
            **feedforward(layer.input_projector, gate),
            "wo": layer.output_projector.kernel,
            "feedforward_norm": layer.layer_norm.weight,
        }
        arrays |= layer_names(index, parts)
    return arrays


def hugging_face_arrays(arrays):
    """The encoder's part of a Hugging Face T5 state, kernels as (inputs, outputs).

    Args:
        arrays: dict of name -> float numpy array.

    Returns:
        dict of name -> float32 numpy array.
    """
    found = {}
    for name, array in arrays.items():
        if name.startswith(("decoder.", "lm_head.")):
            continue
        array = np.asarray(array, "float32")
        is_kernel = name.split(".")[-2:-1] and name.split(".")[-2] in KERNELS
        found[TABLE if name == TABLE_ALIAS else name] = array.T if is_kernel else array
    return found


def assign(encoder, arrays):
    """Gives an encoder other weights, all of them or none.

    Args:
        encoder: `T5TextEncoder`.
        arrays: dict of Hugging Face name -> array or variable, kernels as
            (inputs, outputs).

    Returns:
        The encoder.

    Raises:
        ValueError: if names are missing or left over, or a shape differs.
    """
    variables = encoder_variables(encoder)
    missing = sorted(set(variables) - set(arrays))
    unknown = sorted(set(arrays) - set(variables))
    if missing or unknown:
        raise ValueError(
            "The weights do not belong to an encoder with these arguments: compare "
            "`num_layers` and `use_gated_activation`. "
            f"Missing: {summary(missing)}. Left over: {summary(unknown)}."
        )
    for name, variable in variables.items():
        if tuple(arrays[name].shape) != tuple(variable.shape):
            raise ValueError(
                f"The weight {name} must have the shape {tuple(variable.shape)} in an "
                f"encoder with these arguments. Received: {tuple(arrays[name].shape)}."
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return encoder


def summary(names):
    """The first names of a list, short enough for an error message."""
    if not names:
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
