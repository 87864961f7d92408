"""What a transformer reads beside the tokens of the first stage: text or a label."""

import keras
from keras import ops

from keras_muse.layers import Embedding
from keras_muse.transformer.base import (
    attention_bias,
    project,
    text_inputs,
    text_projection,
)

__all__ = ["add_condition", "condition_inputs", "has_condition", "project_condition"]


def has_condition(config):
    """Whether there is something to attend to beside the tokens.

    Args:
        config: dict of the arguments of `MaskedTransformer`.

    Returns:
        bool.

    Raises:
        ValueError: if `text_dim` and `num_classes` are both given.
    """
    text_dim, num_classes = config["text_dim"], config["num_classes"]
    if text_dim is not None and num_classes is not None:
        raise ValueError(
            "Give `text_dim` or `num_classes`, not both: received "
            f"text_dim={text_dim}, num_classes={num_classes}."
        )
    return text_dim is not None or num_classes is not None


def add_condition(parts, config, dtype):
    """Adds the layers that read text or labels to those of `predictor_parts`.

    Args:
        parts: `types.SimpleNamespace` of layers. Gets `text_projection` and
            `label_embedding`, `None` where there is nothing to read.
        config: dict of the arguments of `MaskedTransformer`.
        dtype: dtype policy.
    """
    parts.text_projection = parts.label_embedding = None
    if config["text_dim"] is not None:
        parts.text_projection = text_projection(config["hidden_dim"], dtype)
    if config["num_classes"] is not None:
        parts.label_embedding = Embedding(
            config["num_classes"] + 1,
            config["hidden_dim"],
            embeddings_initializer="uniform",
            dtype=dtype,
            name="label_embedding",
        )


def condition_inputs(config):
    """The symbolic text or labels of a functional model: dict of `keras.Input`."""
    inputs = text_inputs(config["text_dim"])
    if config["num_classes"] is not None:
        inputs["labels"] = keras.Input((), dtype="int32", name="labels")
    return inputs


def project_condition(parts, inputs):
    """See `MaskedTransformer.project_memory`."""
    if parts.text_projection is not None:
        text = parts.text_projection(inputs["text_embeddings"])
        return project(parts, text, attention_bias(inputs["padding_mask"]))
    if parts.label_embedding is not None:
        label = parts.label_embedding(inputs["labels"])
        return project(parts, ops.expand_dims(label, 1))
    return {}
