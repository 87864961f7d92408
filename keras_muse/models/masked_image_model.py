"""The training of a stage: predict masked image tokens from the rest and the text."""

import keras
from keras import ops

from keras_muse.decoding import mask_rate, random_mask
from keras_muse.distribution import mean
from keras_muse.image_tokenizer import downscale
from keras_muse.layers import register
from keras_muse.losses import Average
from keras_muse.models.stage_trainer import StageTrainer, check_keys, draw_masked

__all__ = ["MuseMaskedImageModel"]

# Streams of training noise, apart from those of decoding.
_RATE, _ORDER, _DROPOUT, _CORRUPTED, _REPLACEMENT, _RESAMPLED, _DRAWN = range(7)
# Mask rates from a quarter to the next share a loss and an accuracy in the logs.
_BUCKETS = (0.0, 0.25, 0.5, 0.75, 1.0)


@register
class MuseMaskedImageModel(StageTrainer):
    """Trains one stage of a Muse with `fit`.

    Muse, section 2.6: a random share of a picture's tokens is masked, drawn from the
    cosine density, and the cross-entropy is taken at the masked tokens alone. For some
    captions the null caption is put in, which is what guidance needs (section 2.7).

    Nothing but the transformer of the stage is trained, and the text encoder with it
    if `train_text_encoder` is set; the others are set to `trainable = False`. After
    `backbone.transformers[stage].enable_lora(rank)` only the adapters are trained; the
    transformer's `save_lora_weights` saves them alone, and presets have them merged.

    `fit` and `evaluate` take dicts with
    - the picture: `"images"` (B, H, W, 3), uint8 or float in [0, 1], or `"image_ids"`
      (B, N) int32 in `[0, codebook_size)`;
    - the text: `"captions"`, strings, or `"token_ids"` and `"padding_mask"`, (B, L),
      or `"text_embeddings"` (B, L, D) and `"padding_mask"`; or `"labels"` (B,) for a
      class-conditional stage, or nothing for an unconditional one;
    - for a stage behind the first optionally `"low_res_ids"` (B, M) int32, such as
      samples of the stage before it; without them they are the tokens of the
      downscaled picture;
    - optionally `"token_weights"` (B, N) float, at least 0: what the loss of each token
      counts when it is masked, 1 without them.

    The logs show `loss`, the cross-entropy of masked tokens in nats (an untrained
    model has ln(codebook_size)), their `accuracy`, both once more for each quarter of
    mask rates, and `dropped_captions`, the share of captions that were dropped.

    Which tokens are masked is a function of `seed`, the training step and the row, the
    same on every backend; in `evaluate` it is one of the picture alone.

    Args:
        backbone: `MuseBackbone`.
        preprocessor: optional `MuseTextToImagePreprocessor`, for `"captions"`.
        stage: int. Which stage to train. Defaults to 0, the base.
        caption_dropout: float in [0, 1]. Share of the captions that become the null
            caption in training. Defaults to 0.1, the paper's.
        train_text_encoder: bool. Defaults to `False`, as in the paper.
        min_mask_rate: float in [0, 1]. Lower mask rates are raised to it. At 1 all
            tokens are masked, always: only the text can tell what is in the picture,
            so a text encoder that is trained along learns from it first. Defaults to
            0, the paper's.
        low_res_corruption: float in [0, 1]. Behind the first stage, largest share of
            low-res tokens that training replaces by random ones; each picture draws
            its own share up to it. Defaults to 0: fine-tuning with 0.3 made a trained
            stage worse, see benchmarks/results/low_res_tokens.md.
        low_res_resampling: float in [0, 1]. Behind the first stage, largest share of
            low-res tokens that training masks and lets the stage before draw anew, in
            one step; each picture draws its own share up to it. A third stage then
            needs `"images"`, for the tokens that its second saw. Defaults to 0, for
            the same reason.
        remat: bool. Whether the layers of the transformer are computed a second time in
            the backward pass, so that their activations need not be kept: less memory
            for a fifth to a third more time. Needs `dropout=0`. Defaults to `False`.
        seed: int32. Defaults to 0.
        **kwargs: `name`.

    Raises:
        ValueError: if `stage` or one of the shares is out of range, or `remat` is set
            for a transformer with dropout.

    Example:
    ```python
    trainer = keras_muse.models.MuseMaskedImageModel(backbone, preprocessor)
    trainer.compile(keras.optimizers.AdamW(1e-4, beta_2=0.96, weight_decay=0.045))
    trainer.fit(dataset)  # of {"images": ..., "captions": ...}
    trainer.backbone.save_to_preset("my_muse")
    ```
    """

    def __init__(
        self,
        backbone,
        preprocessor=None,
        stage=0,
        caption_dropout=0.1,
        train_text_encoder=False,
        min_mask_rate=0.0,
        low_res_corruption=0.0,
        low_res_resampling=0.0,
        remat=False,
        seed=0,
        **kwargs,
    ):
        compile_now = kwargs.pop("compile", True)
        super().__init__(backbone, preprocessor, stage, seed, **kwargs)

        for name, value in (
            ("caption_dropout", caption_dropout),
            ("min_mask_rate", min_mask_rate),
            ("low_res_corruption", low_res_corruption),
            ("low_res_resampling", low_res_resampling),
        ):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}` must lie in [0, 1]: received {value}.")
        if remat and self.transformer.dropout:
            # The second time it would drop other units.
            raise ValueError(
                "`remat` must be False for a transformer with dropout: received a "
                f"dropout of {self.transformer.dropout}."
            )
        # === Config ===
        self.caption_dropout = caption_dropout
        self.train_text_encoder = train_text_encoder
        self.min_mask_rate = min_mask_rate
        self.low_res_corruption = low_res_corruption
        self.low_res_resampling = low_res_resampling
        self.remat = remat
        self.transformer.remat = remat
        self.train_only(
            self.transformer, *([self.text_encoder] if train_text_encoder else [])
        )
        self.average = Average(reduction="mean_with_sample_weight")
        # This `loss` replaces that of Keras, which averages batches and not tokens.
        names = ["loss", "accuracy", "dropped_captions"]
        for low, high in zip(_BUCKETS, _BUCKETS[1:]):
            names += [f"loss_{low:.2f}_{high:.2f}", f"accuracy_{low:.2f}_{high:.2f}"]
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        if compile_now:
            self.compile()

    def call(self, inputs, training=False):
        """Logits of the stage, and what was masked and dropped, as a dict."""
        # PyTorch's loaders leave them on the CPU, and layers move floats alone.
        inputs = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
        ids = self._image_ids(inputs)
        num_tokens = self.transformer.num_tokens
        noise = self._noise_for(ids, training)
        rate = ops.maximum(mask_rate(noise(_RATE, 1)[:, 0]), self.min_mask_rate)
        mask = random_mask(rate, noise(_ORDER, num_tokens))
        dropped = noise(_DROPOUT, 1)[:, 0] < (self.caption_dropout if training else 0.0)
        condition = self._condition(inputs, self.transformer, dropped)
        if self.stage:
            low_res_ids = self._low_res_ids(inputs, self.stage)
            if training:
                low_res_ids = self._resample(
                    low_res_ids, condition, inputs, dropped, noise
                )
                low_res_ids = self._corrupt(low_res_ids, noise)
            condition["low_res_ids"] = low_res_ids
        memory = self.transformer.project_memory(condition)
        masked_ids = ops.where(mask, self.transformer.mask_id, ids)
        features = self.transformer.features(masked_ids, memory, training=training)
        weights = ops.cast(mask, "float32")
        if "token_weights" in inputs:
            weights = weights * ops.cast(inputs["token_weights"], "float32")
        return {
            "logits": self.transformer.head(features),
            "image_ids": ids,
            "mask": mask,
            "weights": weights,
            "dropped": dropped,
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Mean cross-entropy of all masked tokens; also updates what the logs show."""
        del x, y, sample_weight
        ids, logits = y_pred["image_ids"], y_pred["logits"]
        losses = ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)
        loss = self.average(losses, losses, sample_weight=y_pred["weights"])
        # Of all tokens masked, and not the mean of as many means as there are replicas.
        count = ops.sum(y_pred["weights"])
        loss = loss * count / ops.maximum(mean(count), 1e-9)
        if training:
            self.steps.assign_add(1)
        correct = ops.cast(ops.argmax(logits, axis=-1), "int32") == ids
        self._track(ops.stop_gradient(losses), ops.cast(correct, "float32"), y_pred)
        return loss

    def _track(self, losses, correct, y_pred):
        weights = y_pred["weights"]
        rate = ops.mean(ops.cast(y_pred["mask"], "float32"), axis=1)
        counts = ops.sum(weights, axis=1)
        # A row without weight counts nothing, and must not divide by it.
        some = ops.maximum(counts, 1e-9)
        row_losses = ops.sum(losses * weights, axis=1) / some
        row_correct = ops.sum(correct * weights, axis=1) / some
        self.trackers["loss"].update_state(row_losses, counts)
        self.trackers["accuracy"].update_state(row_correct, counts)
        self.trackers["dropped_captions"].update_state(
            ops.cast(y_pred["dropped"], "float32")
        )
        for low, high in zip(_BUCKETS, _BUCKETS[1:]):
            inside = ops.logical_and(rate > low, rate <= high)
            weight = counts * ops.cast(inside, "float32")
            bucket = f"{low:.2f}_{high:.2f}"
            self.trackers[f"loss_{bucket}"].update_state(row_losses, weight)
            self.trackers[f"accuracy_{bucket}"].update_state(row_correct, weight)

    def _low_res_ids(self, inputs, stage):
        """Tokens of the stage before: given, or those of the downscaled picture."""
        if stage == self.stage:
            check_keys(inputs, ("low_res_ids",), ("images",))
            if "low_res_ids" in inputs:
                return ops.cast(inputs["low_res_ids"], "int32")
        check_keys(inputs, ("images",))
        tokenizer, transformer = self.backbone.stages[stage - 1]
        factor = tokenizer.downsampling_factor
        height, width = (side * factor for side in transformer.grid_size)
        images = downscale(inputs["images"], height, width)
        return ops.stop_gradient(tokenizer.encode(images))

    def _resample(self, ids, condition, inputs, dropped, noise):
        """Lets the stage before draw some low-res tokens anew."""
        if not self.low_res_resampling:
            return ids
        transformer = self.backbone.transformers[self.stage - 1]
        if transformer.num_classes is not None:
            # Labels are for the base alone.
            condition = self._condition(inputs, transformer, dropped)
        if self.stage > 1:
            coarser = self._low_res_ids(inputs, self.stage - 1)
            condition = {**condition, "low_res_ids": coarser}
        draws = noise(_RESAMPLED, ids.shape[1] + 1)
        mask = draws[:, 1:] < self.low_res_resampling * draws[:, :1]
        memory = transformer.project_memory(condition)
        return draw_masked(transformer, memory, ids, mask, noise(_DRAWN, ids.shape[1]))

    def _corrupt(self, ids, noise):
        """Replaces some low-res tokens by random ones."""
        if not self.low_res_corruption:
            return ids
        draws = noise(_CORRUPTED, ids.shape[1] + 1)
        share = self.low_res_corruption * draws[:, :1]
        vocabulary = self.transformer.low_res_codebook_size
        others = ops.cast(noise(_REPLACEMENT, ids.shape[1]) * vocabulary, "int32")
        return ops.where(draws[:, 1:] < share, others, ids)

    def get_config(self):
        return {
            **super().get_config(),
            "caption_dropout": self.caption_dropout,
            "train_text_encoder": self.train_text_encoder,
            "min_mask_rate": self.min_mask_rate,
            "low_res_corruption": self.low_res_corruption,
            "low_res_resampling": self.low_res_resampling,
            "remat": self.remat,
        }
