"""A fixed codebook of bits: the sign of each dimension (arXiv 2310.05737)."""

import numpy as np
from keras import ops

from keras_muse.distribution import mean
from keras_muse.image_tokenizer.quantizers import Quantizer, straight_through
from keras_muse.layers import register

__all__ = ["LookupFreeQuantizer"]


@register
class LookupFreeQuantizer(Quantizer):
    """Replaces each dimension of an embedding by its sign, -1 or 1.

    The codebook is the set of all combinations, {-1, 1}^D: it has no weights, no code
    is looked up, and the bits of an id are the signs, the first dimension being the
    lowest bit (MAGVIT-v2, arXiv 2310.05737, section 3.1).

    The entropy penalty E[H(q(z))] - H(E[q(z)]) makes each choice certain and the
    choices of a batch diverse. q(z) is a softmax over the codes of minus their squared
    distances to z over a temperature, in which bits are independent. So H(q(z)) is the
    sum of the entropies of the bits, and E[q(z)] over all 2^D codes is one product of
    two matrices, of the first and of the second half of the bits: both terms are exact
    for a large codebook as well, where a table of all codes for each embedding would
    fill the memory. 2^18 codes and N embeddings take 1,024 N + 2^18 numbers, not
    2^18 N. The statistics are those of the whole batch, on however many devices.

    Args:
        codebook_size: int. Number of codes V, a power of two of at most 2^31; D is its
            logarithm.
        commitment_weight: float. Weight of the term that pulls embeddings to their
            codes. Defaults to 0.25.
        entropy_weight: float. Weight of the entropy penalty. Defaults to 0.1.
        entropy_temperature: float. Squared distances are divided by it. The lower it
            is, the fewer embeddings feel the penalty: those close to a change of sign.
            Defaults to 1.
        diversity: float. Weight of H(E[q(z)]) within the entropy penalty. Defaults to
            1, as in the paper.
        **kwargs: `name`, `trainable` of a Keras layer.

    Raises:
        ValueError: An argument is outside of what is listed above.
    """

    def __init__(
        self,
        codebook_size,
        commitment_weight=0.25,
        entropy_weight=0.1,
        entropy_temperature=1.0,
        diversity=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        bits = int(codebook_size).bit_length() - 1
        if not 1 <= bits <= 31 or codebook_size != 2**bits:
            raise ValueError(
                "`codebook_size` must be a power of two from 2 to 2^31, got "
                f"{codebook_size}."
            )
        if entropy_temperature <= 0:
            raise ValueError(
                f"`entropy_temperature` must be positive, got {entropy_temperature}."
            )
        for name, value in {
            "commitment_weight": commitment_weight,
            "entropy_weight": entropy_weight,
            "diversity": diversity,
        }.items():
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        self._embedding_dim = bits
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.entropy_temperature = entropy_temperature
        self.diversity = diversity
        self._strides = (2 ** np.arange(bits)).astype("int32")

    @property
    def codebook_size(self):
        return 2**self._embedding_dim

    @property
    def embedding_dim(self):
        return self._embedding_dim

    @property
    def penalty_names(self):
        names = ["commitment"] if self.commitment_weight else []
        return (*names, *(["entropy"] if self.entropy_weight else []))

    def build(self, input_shape):
        self.check_width(input_shape)
        self.built = True

    def encode(self, embeddings):
        bits = ops.cast(ops.cast(embeddings, "float32") > 0, "int32")
        return ops.cast(ops.sum(ops.multiply(bits, self._strides), axis=-1), "int32")

    def decode(self, ids):
        ids = ops.cast(ids, "int32")[..., None]
        bits = ops.mod(ops.floor_divide(ids, self._strides), 2)
        return 2.0 * ops.cast(bits, "float32") - 1.0

    def call(self, embeddings, training=False):
        # Not `ops.sign`: that of 0 is 0, which no id stands for.
        codes = ops.where(embeddings > 0, 1.0, -1.0)
        return straight_through(embeddings, codes), self.encode(embeddings)

    def penalties(self, embeddings, codes, ids):
        del ids
        embeddings = ops.cast(embeddings, "float32")
        terms = {}
        if self.commitment_weight:
            distance = ops.square(embeddings - ops.stop_gradient(codes))
            terms["commitment"] = self.commitment_weight * ops.mean(distance, axis=-1)
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * self._entropy(embeddings)
        return terms

    def _entropy(self, embeddings):
        """Entropy of each choice minus that of the mean choice, (...)."""
        # (z + 1)^2 - (z - 1)^2 = 4 z: log-odds of a 1 against a -1.
        logits = 4.0 / self.entropy_temperature * embeddings
        size = ops.abs(logits)
        # Of a bit, in a form that neither overflows nor cancels.
        bits = ops.softplus(-size) + size * ops.sigmoid(-size)
        choice = self._mean_choice(ops.reshape(logits, (-1, self.embedding_dim)))
        # Of the whole batch, with the gradient of this replica's part of it.
        choice = choice + ops.stop_gradient(mean(choice) - choice)
        diversity = -ops.sum(choice * ops.log(choice + 1e-12))
        return ops.sum(bits, axis=-1) - self.diversity * diversity

    def _mean_choice(self, logits):
        """Mean probability of each code, a table: first half of the bits by second.

        As bits are independent, the probability of a code is that of its first half
        times that of its second, and the mean over N of them a product of matrices.
        """
        half = self.embedding_dim // 2
        low = _products(logits[:, :half])
        high = _products(logits[:, half:])
        count = ops.cast(ops.shape(logits)[0], "float32")
        return ops.matmul(ops.transpose(low), high) / count

    def get_config(self):
        return {
            **super().get_config(),
            "codebook_size": self.codebook_size,
            "commitment_weight": self.commitment_weight,
            "entropy_weight": self.entropy_weight,
            "entropy_temperature": self.entropy_temperature,
            "diversity": self.diversity,
        }


def _products(logits):
    """Probabilities of all combinations of bits: (N, D) log-odds to (N, 2^D)."""
    table = ops.ones_like(ops.sum(logits, axis=-1, keepdims=True))
    for bit in range(logits.shape[-1]):
        one = logits[:, bit : bit + 1]
        table = ops.concatenate(
            [table * ops.sigmoid(-one), table * ops.sigmoid(one)], axis=-1
        )
    return table
