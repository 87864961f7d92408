"""The contract of a quantizer, and its gradient estimators.

A quantizer turns each embedding of an image into the index of a code and back. The
concrete ones are `VectorQuantizer`, `FiniteScalarQuantizer` and
`LookupFreeQuantizer`.
"""

import keras
from keras import ops

__all__ = ["Quantizer", "rotate", "straight_through"]


def straight_through(embeddings, codes):
    """`codes`, with the gradient of the identity towards `embeddings`.

    Args:
        embeddings: (..., D) float. Output of the encoder.
        codes: (..., D) float. What they are replaced by.

    Returns:
        (..., D) float, equal to `codes`.
    """
    return embeddings + ops.stop_gradient(codes - embeddings)


def rotate(embeddings, codes, epsilon=1e-6):
    """`codes`, with the gradient of a rotation and rescaling of `embeddings`.

    The "rotation trick" (arXiv 2410.06424, section 4): the smallest rotation that
    takes an embedding to the direction of its code is treated as a constant, so the
    gradient keeps its angle to the embedding.

    Args:
        embeddings: (..., D) float. Output of the encoder.
        codes: (..., D) float. What they are replaced by.
        epsilon: float. Smallest norm that is divided by. Defaults to 1e-6.

    Returns:
        (..., D) float, equal to `codes` up to rounding.
    """
    codes = ops.stop_gradient(codes)
    constant = ops.stop_gradient(embeddings)

    def norm(x):
        return ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True))

    embedding_norm = ops.maximum(norm(constant), epsilon)
    code_norm = norm(codes)
    source = constant / embedding_norm
    target = codes / ops.maximum(code_norm, epsilon)
    middle = source + target
    middle = middle / ops.maximum(norm(middle), epsilon)

    def along(direction):
        return ops.sum(embeddings * direction, axis=-1, keepdims=True)

    rotated = embeddings - 2.0 * middle * along(middle) + 2.0 * target * along(source)
    return rotated * (code_norm / embedding_norm)


class Quantizer(keras.layers.Layer):
    """Base class: embeddings to codes of a finite codebook and back, in float32.

    A quantizer computes in float32 under every dtype policy; a `dtype` argument is
    accepted, as Keras hands one to every layer that it restores, and not obeyed.

    Subclasses define `codebook_size`, `embedding_dim`, `encode`, `decode`, `call` and,
    when they need further losses, `penalty_names` and `penalties`.

    Call arguments:
        embeddings: (..., D) float. Output of the encoder.
        training: bool. Whether statistics of the codebook are updated.

    Returns:
        A pair: (..., D) float32, the codes with a gradient towards `embeddings`, and
        (...) int32, the ids of the codes in `[0, codebook_size)`.
    """

    # Names of the terms that `penalties` returns.
    penalty_names = ()

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    @property
    def codebook_size(self):
        """Number of codes V, an int."""
        raise NotImplementedError

    @property
    def embedding_dim(self):
        """Width D of a code, an int."""
        raise NotImplementedError

    def encode(self, embeddings):
        """Ids of the codes that stand for embeddings.

        Args:
            embeddings: (..., D) float. Output of the encoder.

        Returns:
            (...) int32 in `[0, codebook_size)`.
        """
        raise NotImplementedError

    def decode(self, ids):
        """Codes of ids.

        Args:
            ids: (...) int in `[0, codebook_size)`.

        Returns:
            (..., D) float32.
        """
        raise NotImplementedError

    def call(self, embeddings, training=False):
        raise NotImplementedError

    def penalties(self, embeddings, codes, ids):
        """Further terms of the training loss, weighted but not yet averaged.

        They are left unreduced so that a trainer averages them through a
        `keras.losses.Loss`, which is what divides by the replicas of `tf.distribute`.

        Args:
            embeddings: (..., D) float. What the quantizer was called on.
            codes: (..., D) float. The first of what it returned.
            ids: (...) int32. The second of what it returned.

        Returns:
            dict of the names in `penalty_names` to (...) float32.
        """
        del embeddings, codes, ids
        return {}

    def check_width(self, input_shape):
        """Raises ValueError when embeddings are not `embedding_dim` wide."""
        if input_shape[-1] != self.embedding_dim:
            raise ValueError(
                f"{type(self).__name__} quantizes embeddings of width "
                f"{self.embedding_dim}, got shape {tuple(input_shape)}."
            )

    def compute_output_spec(self, embeddings, training=False):
        self.check_width(embeddings.shape)
        return (
            keras.KerasTensor(embeddings.shape, dtype="float32"),
            keras.KerasTensor(embeddings.shape[:-1], dtype="int32"),
        )
