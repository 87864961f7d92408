"""Models whose initial weights are not drawn, as a file has better ones."""

import contextlib
import functools

import keras
import numpy as np

__all__ = ["weights_from_a_file"]

RANDOM = (
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
)


@contextlib.contextmanager
def weights_from_a_file():
    """Leaves out random initial weights of layers that are built and loaded inside.

    Drawing them takes longer than reading a small model: JAX compiles a program for
    each shape. What was not loaded by the end is drawn then, so that the layers are the
    same as without this.
    """
    add_weight, made = keras.layers.Layer.add_weight, []

    @functools.wraps(add_weight)
    def add_placeholder(layer, *args, initializer=None, **kwargs):
        drawn = initializer
        if isinstance(initializer, (str, dict)):
            drawn = keras.initializers.get(initializer)
        if not isinstance(drawn, RANDOM):
            return add_weight(layer, *args, initializer=initializer, **kwargs)
        weight = add_weight(layer, *args, initializer=_placeholder, **kwargs)
        made.append((weight, drawn))
        return weight

    # Layers of Keras and KerasHub draw theirs as well as ours do.
    keras.layers.Layer.add_weight = add_placeholder
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight
        for weight, drawn in made:
            first = np.ravel(keras.ops.convert_to_numpy(weight))[:1]
            if np.isneginf(first.astype("float32")).any():
                weight.assign(drawn(weight.shape, dtype=weight.dtype))


def _placeholder(shape, dtype=None):
    """Minus infinity: no file has it, not even one of a training that diverged."""
    return keras.ops.convert_to_tensor(np.full(shape, -np.inf, "float32"), dtype)
