"""The few layers and helpers that several rooms share; it imports none of them.

Two of the layers repair what was measured in stock Keras: `Embedding` (gradients of
repeated ids on TensorFlow) and `Dense` (speed on CPU).
"""

import keras
from keras import ops

__all__ = [
    "Dense",
    "Embedding",
    "arguments",
    "refuse_unknown",
    "register",
    "set_trainable",
]

register = keras.saving.register_keras_serializable(package="keras_muse")


def arguments(scope):
    """The arguments of a constructor, for `get_config`.

    Args:
        scope: dict. `locals()`, taken as the first statement of `__init__`.

    Returns:
        dict. Every argument but `self` and `**kwargs`.
    """
    hidden = ("self", "kwargs", "__class__")
    return {name: value for name, value in scope.items() if name not in hidden}


def refuse_unknown(kwargs, *known):
    """Raises for arguments that a functional model of Keras would pass over.

    Args:
        kwargs: dict. What is left over in a constructor.
        *known: str. Names that may be there beside `name` and `trainable`.

    Raises:
        TypeError: naming the arguments that do not exist.
    """
    unknown = sorted(set(kwargs) - {"name", "trainable", *known})
    if unknown:
        raise TypeError(f"There is no argument {', '.join(map(repr, unknown))}.")


def set_trainable(layer, trainable):
    """Freezes or thaws a layer with all its parts.

    Keras does nothing where the layer itself has the value already. A model that was
    saved frozen comes back with trainable parts, and weight decay would change them.
    Of a model with LoRA nothing but the adapters thaws; Keras would thaw all of it.

    Args:
        layer: Keras layer or model.
        trainable: bool.
    """
    layer.trainable = not trainable
    layer.trainable = trainable
    adapters = {id(v) for v in layer.variables if v.name.startswith("lora_kernel")}
    if trainable and adapters:
        for variable in layer.variables:
            variable.trainable = id(variable) in adapters


@register
class Embedding(keras.layers.Layer):
    """A lookup table whose gradient sums repeated ids on every backend.

    `keras.layers.Embedding` hands TensorFlow optimizers one gradient row per
    occurrence of an id, and Adam squares them before they are summed; `[MASK]`
    occurs thousands of times a batch. Here the gradient is dense.

    Args:
        input_dim: int. Number of ids.
        output_dim: int. Width of a row.
        embeddings_initializer: Keras initializer. Defaults to a normal
            distribution, truncated, with standard deviation 0.02.
        **kwargs: `name`, `dtype`, `trainable` of a Keras layer.

    Call arguments:
        ids: (...) int32 in `[0, input_dim)`.

    Returns:
        (..., output_dim) in the compute dtype.
    """

    def __init__(
        self, input_dim, output_dim, embeddings_initializer="truncated_0.02", **kwargs
    ):
        super().__init__(**kwargs)
        if embeddings_initializer == "truncated_0.02":
            embeddings_initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, input_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            autocast=False,
            name="embeddings",
        )
        self.built = True

    def call(self, ids):
        # The product by one is what makes TensorFlow's gradient dense: it turns
        # the variable into a tensor before the lookup, so rows are summed.
        table = ops.multiply(self.embeddings, 1.0)
        # Cast behind the lookup: a GPU needs ten times as long as for all the rest to
        # sum thousands of bfloat16 gradients of one row.
        return ops.cast(
            ops.take(table, ops.cast(ids, "int32"), axis=0), self.compute_dtype
        )

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
        }


@register
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` that multiplies a matrix, whatever the rank of its input.

    XLA on CPU takes 1.6 times longer for the gradient of a (B, N, D) product than
    for the same product as (B * N, D).
    """

    def call(self, inputs, training=None):
        if len(inputs.shape) == 2:
            return super().call(inputs, training=training)
        shape = ops.shape(inputs)
        flat = ops.reshape(inputs, (-1, inputs.shape[-1]))
        flat = super().call(flat, training=training)
        return ops.reshape(flat, (*shape[:-1], self.units))

    def quantize(self, mode=None, type_check=True, config=None):
        # The base class refuses its subclasses, and `Model.quantize` then leaves
        # them as they were. Nothing that it relies on is different here.
        super().quantize(mode, type_check=False, config=config)
