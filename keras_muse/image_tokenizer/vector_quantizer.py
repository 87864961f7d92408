"""A learned codebook: VQ with exponential averages or with a codebook loss."""

import keras
from keras import ops

from keras_muse.distribution import mean, replica
from keras_muse.image_tokenizer.quantizers import Quantizer, rotate, straight_through
from keras_muse.layers import register

__all__ = ["VectorQuantizer"]


@register
class VectorQuantizer(Quantizer):
    """Replaces each embedding by the nearest row of a learned codebook.

    Two ways to learn the codebook: `update="ema"` moves each code to the running mean
    of the embeddings it stands for (van den Oord et al. 2017, appendix A.1), and
    `update="loss"` adds the squared distance between code and embedding to the loss,
    as MaskGIT's tokenizer does. Freezing the layer (`trainable = False`) stops both.

    With `update="ema"`, `usage` is the running share of the embeddings that chose a
    code, times `codebook_size`, so 1 is its fair share. Codes whose usage is below
    `revival_threshold` are replaced by embeddings of the batch, drawn in proportion to
    their squared distance from their code, and their usage is set to twice the
    threshold. As usage starts at 0, the first batch of a training initialises the
    codebook. The statistics are those of the whole batch, on however many devices.

    Args:
        codebook_size: int. Number of codes V. Muse uses 8192.
        embedding_dim: int. Width D of a code. MaskGIT uses 256.
        update: str. `"ema"` or `"loss"`. Defaults to `"ema"`.
        gradient: str. How the decoder's gradient reaches the encoder:
            `"straight_through"`, or `"rotation"` (arXiv 2410.06424). Defaults to
            `"straight_through"`.
        commitment_weight: float. Weight of the term that pulls embeddings to their
            codes. Defaults to 0.25.
        entropy_weight: float. Weight of the term that makes each choice certain and
            the choices of a batch diverse; MaskGIT uses 0.1. Defaults to 0.
        entropy_temperature: float. Distances are divided by it. Defaults to 0.01.
        decay: float. Of the running means, for `update="ema"`. Defaults to 0.99.
        revival_threshold: float. 0 never revives a code, and it must be 0 for
            `update="loss"`. Defaults to 0.03 for `update="ema"`, else 0.
        l2_normalize: bool. Whether embeddings and codes are scaled to length one
            before they are compared. Defaults to False.
        seed: int. Of the choice of the embeddings that revive codes. Defaults to 0.
        **kwargs: `name`, `trainable` of a Keras layer.

    Raises:
        ValueError: An argument is outside of what is listed above.
    """

    def __init__(
        self,
        codebook_size,
        embedding_dim,
        update="ema",
        gradient="straight_through",
        commitment_weight=0.25,
        entropy_weight=0.0,
        entropy_temperature=0.01,
        decay=0.99,
        revival_threshold=None,
        l2_normalize=False,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_choice("update", update, ("ema", "loss"))
        _check_choice("gradient", gradient, ("straight_through", "rotation"))
        for name, value in {
            "codebook_size": codebook_size,
            "embedding_dim": embedding_dim,
            "entropy_temperature": entropy_temperature,
        }.items():
            if value <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
        if revival_threshold is None:
            revival_threshold = 0.03 if update == "ema" else 0.0
        if not 0 <= revival_threshold < 1:
            raise ValueError(
                f"`revival_threshold` must be in [0, 1), got {revival_threshold}."
            )
        if revival_threshold and update == "loss":
            raise ValueError(
                "`revival_threshold` must be 0 with `update='loss'`, because the "
                f"optimizer alone moves that codebook; got {revival_threshold}."
            )
        self._codebook_size = codebook_size
        self._embedding_dim = embedding_dim
        self.update = update
        self.gradient = gradient
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.entropy_temperature = entropy_temperature
        self.decay = decay
        self.revival_threshold = revival_threshold
        self.l2_normalize = l2_normalize
        self.seed = seed
        if revival_threshold:
            self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def codebook_size(self):
        return self._codebook_size

    @property
    def embedding_dim(self):
        return self._embedding_dim

    @property
    def penalty_names(self):
        names = ["commitment"] if self.commitment_weight else []
        names += ["codebook"] if self.update == "loss" else []
        return (*names, *(["entropy"] if self.entropy_weight else []))

    def build(self, input_shape):
        self.check_width(input_shape)
        shape = (self.codebook_size, self.embedding_dim)
        learned_by_means = self.update == "ema"
        self.codebook = self.add_weight(
            shape=shape,
            initializer=keras.initializers.VarianceScaling(
                scale=1.0, mode="fan_in", distribution="uniform"
            ),
            trainable=not learned_by_means,
            aggregation="only_first_replica" if learned_by_means else "mean",
            name="codebook",
        )
        if learned_by_means:
            self.usage = self.add_weight(
                shape=(self.codebook_size,),
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
                name="usage",
            )
        self.built = True

    def encode(self, embeddings):
        embeddings = self._normalize(ops.cast(embeddings, "float32"))
        return ops.cast(ops.argmin(self._distances(embeddings), axis=-1), "int32")

    def decode(self, ids):
        # The product by one makes TensorFlow sum the gradients of repeated ids.
        table = self._normalize(ops.multiply(self.codebook, 1.0))
        return ops.take(table, ops.cast(ids, "int32"), axis=0)

    def call(self, embeddings, training=False):
        embeddings = self._normalize(embeddings)
        ids = self.encode(embeddings)
        codes = ops.stop_gradient(self.decode(ids))
        if training and self.trainable and self.update == "ema":
            self._update_codebook(ops.stop_gradient(embeddings), ids)
        estimate = rotate if self.gradient == "rotation" else straight_through
        return estimate(embeddings, codes), ids

    def penalties(self, embeddings, codes, ids):
        embeddings = self._normalize(ops.cast(embeddings, "float32"))
        terms = {}
        if self.commitment_weight:
            distance = ops.square(embeddings - ops.stop_gradient(codes))
            terms["commitment"] = self.commitment_weight * ops.mean(distance, axis=-1)
        if self.update == "loss":
            distance = ops.square(ops.stop_gradient(embeddings) - self.decode(ids))
            terms["codebook"] = ops.mean(distance, axis=-1)
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * self._entropy(embeddings)
        return terms

    def _entropy(self, embeddings):
        """Entropy of each choice minus the entropy of the mean choice, (...)."""
        logits = -self._distances(embeddings) / self.entropy_temperature
        log_p = ops.log_softmax(logits, axis=-1)
        p = ops.exp(log_p)
        each = -ops.sum(p * log_p, axis=-1)
        choice = ops.mean(ops.reshape(p, (-1, self.codebook_size)), axis=0)
        # Of the whole batch, with the gradient of this replica's part of it.
        choice = choice + ops.stop_gradient(mean(choice) - choice)
        return each + ops.sum(choice * ops.log(choice + 1e-8))

    def _normalize(self, vectors):
        if not self.l2_normalize:
            return vectors
        squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
        return vectors * ops.rsqrt(squares + 1e-12)

    def _distances(self, embeddings):
        """Squared distances to all codes, less the embedding's own square: (..., V).

        What is left out is the same for every code, so neither the nearest code nor a
        softmax over the codes depends on it.
        """
        table = self._normalize(ops.multiply(self.codebook, 1.0))
        squares = ops.sum(ops.square(table), axis=-1)
        return squares - 2.0 * ops.matmul(embeddings, ops.transpose(table))

    def _update_codebook(self, embeddings, ids):
        """Moves codes to the running means of their embeddings, revives dead ones."""
        flat = ops.reshape(embeddings, (-1, self.embedding_dim))
        ids = ops.reshape(ids, (-1,))
        positions = ops.shape(flat)[0]
        share = self.codebook_size / ops.cast(positions, "float32")
        ones = ops.ones_like(flat[:, 0])
        hits = ops.segment_sum(ones, ids, self.codebook_size) * share
        sums = ops.segment_sum(flat, ids, self.codebook_size) * share

        codebook = ops.convert_to_tensor(self.codebook)
        old_usage = ops.convert_to_tensor(self.usage)
        fresh = 1.0 - self.decay
        usage = self.decay * old_usage + fresh * hits
        sums = self.decay * old_usage[:, None] * codebook + fresh * sums
        if self.revival_threshold:
            # Each code is revived by one replica: a mean of several far embeddings
            # would be near none.
            index, count = replica()
            turn = ops.arange(self.codebook_size, dtype="int32") % count == index
            dead = old_usage < self.revival_threshold
            # Far embeddings are the likelier choice, as in k-means++: most positions
            # of a picture are alike, and a copy of their code would die again.
            error = ops.sum(ops.square(flat - self.decode(ids)), axis=-1)
            sums_of_errors = ops.cumsum(error)
            uniform = keras.random.uniform(
                (self.codebook_size,), seed=self.seed_generator
            )
            chosen = ops.searchsorted(sums_of_errors, uniform * sums_of_errors[-1])
            chosen = ops.take(flat, ops.minimum(chosen, positions - 1), axis=0)
            # A small usage: it follows its first embeddings fast, and dies soon
            # where there are none.
            revived = 2.0 * self.revival_threshold
            usage = ops.where(dead, revived, usage)
            chosen = ops.where(turn[:, None], count * revived * chosen, 0.0)
            sums = ops.where(dead[:, None], chosen, sums)
        # Both are linear in the batch, so their means over the replicas are those of
        # the whole of it; the mean of codebooks would not be.
        usage, sums = mean(usage), mean(sums)
        self.usage.assign(usage)
        usage = usage[:, None]
        means = sums / ops.maximum(usage, 1e-8)
        self.codebook.assign(ops.where(usage > 1e-8, means, codebook))

    def get_config(self):
        return {
            **super().get_config(),
            "codebook_size": self.codebook_size,
            "embedding_dim": self.embedding_dim,
            "update": self.update,
            "gradient": self.gradient,
            "commitment_weight": self.commitment_weight,
            "entropy_weight": self.entropy_weight,
            "entropy_temperature": self.entropy_temperature,
            "decay": self.decay,
            "revival_threshold": self.revival_threshold,
            "l2_normalize": self.l2_normalize,
            "seed": self.seed,
        }


def _check_choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
