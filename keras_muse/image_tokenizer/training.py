"""Training of the image tokenizer with plain `fit`, on every backend."""

import keras
from keras import ops

from keras_muse.distribution import DistributedTrainer, mean
from keras_muse.image_tokenizer import losses, metrics
from keras_muse.image_tokenizer.images import unit_images
from keras_muse.losses import Average

__all__ = ["VQGANTrainer"]

_RECONSTRUCTION = {
    "l1": keras.losses.MeanAbsoluteError,
    "l2": keras.losses.MeanSquaredError,
}
_ADVERSARIAL = {
    "hinge": (losses.HingeGeneratorLoss, losses.HingeDiscriminatorLoss),
    "non_saturating": (
        losses.NonSaturatingGeneratorLoss,
        losses.NonSaturatingDiscriminatorLoss,
    ),
}


class VQGANTrainer(DistributedTrainer, keras.Model):
    """Trains a `VQGAN`, and its discriminator if it has one, in one step.

    One optimizer updates both. The generator's term sees the discriminator's weights
    as constants and the discriminator's term sees the reconstruction as a constant, so
    the gradients are those of the usual two alternating losses. For two learning rates
    pass a `keras.optimizers.MultiOptimizer`. What is saved after training is `vqgan`;
    the trainer only holds it.

    With `use_ema` of the optimizer, `fit` leaves all weights at their moving average,
    as Keras does, and with the same momentum also what the quantizer learns without
    gradients: the codebook of an encoder's average is the average of its codebooks.
    The codebook that belongs to the last encoder would be ahead of it. A
    `MultiOptimizer` averages what has gradients alone.

    `fit` and `evaluate` take batches of images, (B, H, W, 3), uint8 or float in [0,
    1], or dicts with the key `"images"`. The logs show every term before it is
    weighted (the quantizer's terms are shown with their weights), and `psnr`,
    `codebook_usage` and `codebook_perplexity`.

    Args:
        vqgan: `keras_muse.image_tokenizer.VQGAN`.
        discriminator: built `keras.Model` from (B, H, W, 3) images to logits of any
            shape. Defaults to None, no adversarial term.
        **kwargs: `name` of a Keras model.

    Example:
    ```python
    from keras_muse.image_tokenizer import VQGAN, VQGANTrainer, VectorQuantizer

    vqgan = VQGAN(VectorQuantizer(codebook_size=1024, embedding_dim=32))
    trainer = VQGANTrainer(vqgan)
    trainer.compile(keras.optimizers.Adam(1e-4, beta_2=0.99))
    trainer.fit(images, batch_size=32)
    vqgan.save_to_preset("my_tokenizer")
    ```
    """

    def __init__(self, vqgan, discriminator=None, **kwargs):
        super().__init__(**kwargs)
        if discriminator is not None and not discriminator.built:
            raise ValueError(
                "`discriminator` must be built, call it on a batch of images first; "
                f"got {discriminator.name!r} unbuilt."
            )
        self.vqgan = vqgan
        self.discriminator = discriminator
        self.steps = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
            name="steps",
        )
        self._running = {}
        self._momentum = None
        self.built = True

    @property
    def parts(self):
        """The models it is made of, frozen ones among them: a list."""
        vqgan = self.vqgan
        parts = [vqgan.encoder, vqgan.quantizer, vqgan.decoder]
        return parts + ([] if self.discriminator is None else [self.discriminator])

    def compile(
        self,
        optimizer="adam",
        reconstruction="l2",
        reconstruction_weight=1.0,
        perceptual=None,
        perceptual_weight=0.05,
        adversarial=None,
        adversarial_weight=0.1,
        adversarial_start_step=0,
        lecam_weight=0.0,
        lecam_decay=0.99,
        **kwargs,
    ):
        """Sets the optimizer and the terms of the loss.

        The quantizer brings its own terms and weights.

        Args:
            optimizer: Keras optimizer or its name. Defaults to `"adam"`. The paper
                uses Adam with learning rate 1e-4, beta_1 0.9, beta_2 0.99.
            reconstruction: `"l1"`, `"l2"` or a `keras.losses.Loss` of images. Defaults
                to `"l2"`.
            reconstruction_weight: float. Defaults to 1.
            perceptual: `keras.losses.Loss` of images such as `PerceptualLoss`, or
                None. Defaults to None.
            perceptual_weight: float. Defaults to 0.05, the paper's.
            adversarial: `"hinge"`, `"non_saturating"` or None. Defaults to None, which
                is `"hinge"` where there is a discriminator.
            adversarial_weight: float. Weight of the generator's term. Defaults to 0.1,
                the paper's.
            adversarial_start_step: int. Training steps before which the adversarial
                terms are multiplied by 0. Defaults to 0.
            lecam_weight: float. Weight of the term that holds the discriminator's
                logits of images near the running mean of those of reconstructions, and
                the other way round (LeCAM, arXiv 2104.03310, section 3.2), which helps
                where images are few. Defaults to 0, no such term.
            lecam_decay: float in [0, 1). Of these running means. They begin with the
                first batch of the adversarial terms. Defaults to 0.99, the paper's.
            **kwargs: `jit_compile`, `steps_per_execution`, `run_eagerly`,
                `auto_scale_loss` of `keras.Model.compile`.

        Raises:
            ValueError: A term is not one of the above, a weight or decay is out of
                range, or `adversarial` or `lecam_weight` is given without a
                discriminator.
        """
        if isinstance(reconstruction, str):
            if reconstruction not in _RECONSTRUCTION:
                raise ValueError(
                    f"`reconstruction` must be one of {list(_RECONSTRUCTION)} or a "
                    f"`keras.losses.Loss`, got {reconstruction!r}."
                )
            reconstruction = _RECONSTRUCTION[reconstruction]()
        if adversarial is None and self.discriminator is not None:
            adversarial = "hinge"
        if adversarial is not None and adversarial not in _ADVERSARIAL:
            raise ValueError(
                f"`adversarial` must be one of {list(_ADVERSARIAL)} or None, got "
                f"{adversarial!r}."
            )
        if adversarial is not None and self.discriminator is None:
            raise ValueError(
                f"`adversarial={adversarial!r}` needs a trainer with a discriminator, "
                "got `discriminator=None`."
            )
        if lecam_weight < 0:
            raise ValueError(
                f"`lecam_weight` must not be negative, got {lecam_weight}."
            )
        if lecam_weight and self.discriminator is None:
            raise ValueError(
                f"`lecam_weight={lecam_weight}` needs a trainer with a discriminator, "
                "got `discriminator=None`."
            )
        if not 0 <= lecam_decay < 1:
            raise ValueError(f"`lecam_decay` must be in [0, 1), got {lecam_decay}.")
        super().compile(optimizer=optimizer, loss=None, metrics=[], **kwargs)
        self.reconstruction_loss = reconstruction
        self.reconstruction_weight = reconstruction_weight
        self.perceptual_loss = perceptual
        self.perceptual_weight = perceptual_weight
        self.average = Average()
        if adversarial is not None:
            generator_loss, discriminator_loss = _ADVERSARIAL[adversarial]
            self.generator_loss = generator_loss()
            self.discriminator_loss = discriminator_loss()
        self.adversarial_weight = adversarial_weight
        self.adversarial_start_step = adversarial_start_step
        self.lecam_weight = lecam_weight
        self.lecam_decay = lecam_decay
        if lecam_weight:
            self._mean_real = self._running_mean("mean_real_logit")
            self._mean_fake = self._running_mean("mean_fake_logit")
        # One that scales the loss has it inside.
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        self._momentum = inner.ema_momentum if inner.use_ema else None
        for variable, average in self.averages:
            # A copy: JAX cannot give one buffer to a step twice.
            average.assign(ops.copy(variable))

        names = ["loss", "reconstruction", *self.vqgan.quantizer.penalty_names]
        names += ["perceptual"] if perceptual is not None else []
        names += ["generator", "discriminator"] if adversarial is not None else []
        names += ["lecam"] if lecam_weight else []
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        self.psnr = metrics.PSNR()
        self.codebook_usage = metrics.CodebookUsage(self.vqgan.codebook_size)
        self.codebook_perplexity = metrics.CodebookPerplexity(self.vqgan.codebook_size)

    def call(self, inputs, training=False):
        """Embeddings, codes, tokens and reconstruction of images, as a dict."""
        images = unit_images(inputs["images"] if isinstance(inputs, dict) else inputs)
        embeddings = self.vqgan.encoder(images, training=training)
        codes, tokens = self.vqgan.quantizer(embeddings, training=training)
        return {
            "images": images,
            "embeddings": embeddings,
            "codes": codes,
            "tokens": tokens,
            "reconstruction": self.vqgan.decoder(codes, training=training),
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The weighted sum of all terms; also updates what the logs show."""
        del x, y, sample_weight
        real, fake = y_pred["images"], y_pred["reconstruction"]
        terms = {"reconstruction": self.reconstruction_loss(real, fake)}
        penalties = self.vqgan.quantizer.penalties(
            y_pred["embeddings"], y_pred["codes"], y_pred["tokens"]
        )
        for name, values in penalties.items():
            terms[name] = self.average(values, values)
        weights = {"reconstruction": self.reconstruction_weight}
        if self.perceptual_loss is not None:
            terms["perceptual"] = self.perceptual_loss(real, fake)
            weights["perceptual"] = self.perceptual_weight
        if "generator" in self.trackers:
            gate = ops.cast(self.steps >= self.adversarial_start_step, "float32")
            terms.update(self._adversarial_terms(real, fake, training))
            weights["generator"] = gate * self.adversarial_weight
            weights["discriminator"] = gate
            weights["lecam"] = gate * self.lecam_weight
        if training:
            for variable, average in self.averages:
                share = ops.where(self.steps > 0, self._momentum, 0.0)
                average.assign(share * average + (1.0 - share) * variable)
            self.steps.assign_add(1)
        loss = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        self._track({"loss": loss, **terms}, y_pred)
        return loss

    def _adversarial_terms(self, real, fake, training):
        verdict = losses.frozen_call(self.discriminator, fake)
        real_logits = self.discriminator(real, training=True)
        fake_logits = self.discriminator(ops.stop_gradient(fake), training=True)
        on_real = self.discriminator_loss(ops.ones_like(real_logits), real_logits)
        on_fake = self.discriminator_loss(ops.zeros_like(fake_logits), fake_logits)
        terms = {
            "generator": self.generator_loss(ops.ones_like(verdict), verdict),
            "discriminator": (on_real + on_fake) / 2.0,
        }
        if self.lecam_weight:
            terms["lecam"] = self._lecam(real_logits, fake_logits, training)
        return terms

    def _lecam(self, real_logits, fake_logits, training):
        """Squared distances of logits to the running mean of the other side's."""
        if training:
            # Before the adversarial terms begin, logits say nothing.
            since = self.steps - self.adversarial_start_step
            decay = ops.where(since > 0, self.lecam_decay, 0.0)
            share = ops.where(since < 0, 1.0, decay)
            for average, logits in (
                (self._mean_real, real_logits),
                (self._mean_fake, fake_logits),
            ):
                now = mean(ops.stop_gradient(ops.mean(logits)))
                average.assign(share * average + (1.0 - share) * now)
        on_real = ops.square(real_logits - self._mean_fake)
        on_fake = ops.square(fake_logits - self._mean_real)
        return self.average(on_real, on_real) + self.average(on_fake, on_fake)

    @property
    def averages(self):
        """Pairs of variables that have no gradient and their averages, a list.

        Empty where the optimizer has no `use_ema`, or the quantizer learns all by
        gradients or nothing.
        """
        quantizer = self.vqgan.quantizer
        if self._momentum is None or not quantizer.trainable:
            return []
        return [
            (variable, self._running_mean(f"mean_{variable.name}", variable.shape))
            for variable in quantizer.non_trainable_variables
            if "float" in variable.dtype
        ]

    def _running_mean(self, name, shape=()):
        """A weight of the trainer, the same one after another `compile`."""
        if name not in self._running:
            self._running[name] = self.add_weight(
                shape=shape,
                initializer="zeros",
                trainable=False,
                dtype="float32",
                aggregation="only_first_replica",
                name=name,
            )
        return self._running[name]

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; see `keras_muse.distribution.DistributedTrainer`."""
        history = super().fit(x, *args, **kwargs)
        for variable, average in self.averages:
            variable.assign(ops.copy(average))
        return history

    def _track(self, terms, y_pred):
        # A loss divides by the replicas of `tf.distribute`, a metric sums over them.
        share = self.average(ops.ones((1,)), ops.ones((1,)))
        for name, term in terms.items():
            self.trackers[name].update_state(term / share)
        self.psnr.update_state(y_pred["images"], y_pred["reconstruction"])
        self.codebook_usage.update_state(y_pred["tokens"])
        self.codebook_perplexity.update_state(y_pred["tokens"])
