"""The masked transformer once more: numpy, float64, a loop over rows and heads."""

import math

import keras
import numpy as np

__all__ = ["attend", "block", "forward", "mlp", "values_of"]


def values_of(model, prefix=""):
    """dict of weight path to float64 array; `prefix` is cut off the paths."""
    return {
        weight.path.removeprefix(prefix): np.asarray(
            keras.ops.convert_to_numpy(weight), "float64"
        )
        for weight in model.weights
    }


def layer_norm(x, gamma, beta=0.0):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-6) * gamma + beta


def rms_norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def gelu(x):
    """By the error function."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def fast_gelu(x):
    """By the hyperbolic tangent."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attend(values, query_at, memory_at, x, memory, num_heads, visible=None):
    """(N, D) queries over an (L, any) memory; `visible` lists what can be read."""
    memory = memory if visible is None else memory[visible]
    queries = x @ values[f"{query_at}/query/kernel"]
    keys = memory @ values[f"{memory_at}/key/kernel"]
    contents = memory @ values[f"{memory_at}/value/kernel"]
    width = queries.shape[-1] // num_heads
    outputs = []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        query, key = queries[:, part], keys[:, part]
        if f"{query_at}/query_norm/scale" in values:
            query = rms_norm(query, values[f"{query_at}/query_norm/scale"])
            key = rms_norm(key, values[f"{memory_at}/key_norm/scale"])
        weights = np.exp(query @ key.T / math.sqrt(width))
        weights /= weights.sum(-1, keepdims=True)
        outputs.append(weights @ contents[:, part])
    return np.concatenate(outputs, -1) @ values[f"{query_at}/output/kernel"]


def mlp(values, at, x):
    """(N, D) to (N, D)."""
    hidden = fast_gelu(x @ values[f"{at}/up/kernel"] + values[f"{at}/up/bias"])
    if f"{at}/gate/kernel" in values:
        hidden *= x @ values[f"{at}/gate/kernel"] + values[f"{at}/gate/bias"]
    return hidden @ values[f"{at}/down/kernel"] + values[f"{at}/down/bias"]


def block(values, at, memory_at, x, memory, num_heads, visible=None):
    """(N, D) to (N, D); without a memory there is no cross-attention."""
    normed = layer_norm(x, values[f"{at}/self_attention_norm/gamma"])
    x = x + attend(
        values,
        f"{at}/self_attention",
        f"{at}/self_attention_memory",
        normed,
        normed,
        num_heads,
    )
    if memory is not None:
        normed = layer_norm(x, values[f"{at}/cross_attention_norm/gamma"])
        x = x + attend(
            values,
            f"{at}/cross_attention",
            memory_at,
            normed,
            memory,
            num_heads,
            visible,
        )
    normed = layer_norm(x, values[f"{at}/mlp_norm/gamma"])
    return x + mlp(values, f"{at}/mlp", normed)


def forward(model, inputs):
    """(B, N, V) float64 logits of a `MaskedTransformer`."""
    values = values_of(model)
    rows, columns = model.grid_size
    table = values["positions/rows"] + values["positions/columns"]
    logits = []
    for row, ids in enumerate(inputs["image_ids"]):
        tokens = values["token_embedding/embeddings"][ids]
        x = tokens + table.reshape(rows * columns, -1)
        x = layer_norm(x, values["embedding_norm/gamma"], values["embedding_norm/beta"])
        memory = visible = None
        if "text_embeddings" in inputs:
            text = np.asarray(inputs["text_embeddings"][row], "float64")
            memory = text @ values["text_projection/kernel"]
            visible = np.asarray(inputs["padding_mask"][row], bool)
        if "labels" in inputs:
            memory = values["label_embedding/embeddings"][inputs["labels"][row]][None]
        for i in range(model.num_layers):
            x = block(
                values,
                f"block_{i}",
                f"memory_projection_{i}",
                x,
                memory,
                model.num_heads,
                visible,
            )
        hidden = gelu(x @ values["head_dense/kernel"] + values["head_dense/bias"])
        hidden = layer_norm(hidden, values["head_norm/gamma"], values["head_norm/beta"])
        logits.append(hidden @ values["head/kernel"] + values["head/bias"])
    return np.array(logits)
