"""The training of a stage: predict masked image tokens from the rest and the text."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import (
    filter_logits,
    mask_rate,
    random_mask,
    sample_tokens,
    uniform,
)
from keras_muse.distribution import DistributedTrainer, first_row, mean
from keras_muse.image_tokenizer import downscale
from keras_muse.layers import refuse_unknown, register, set_trainable
from keras_muse.losses import Average
from keras_muse.models.backbone import MuseBackbone
from keras_muse.models.preprocessor import MuseTextToImagePreprocessor
from keras_muse.presets.loading import PresetLoading

__all__ = ["MuseMaskedImageModel"]

# Streams of training noise, apart from those of decoding.
_RATE, _ORDER, _DROPOUT, _CORRUPTED, _REPLACEMENT, _RESAMPLED, _DRAWN = range(7)
# Mask rates from a quarter to the next share a loss and an accuracy in the logs.
_BUCKETS = (0.0, 0.25, 0.5, 0.75, 1.0)


@register
class MuseMaskedImageModel(DistributedTrainer, PresetLoading, keras_hub.models.Task):
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

    backbone_cls = MuseBackbone
    preprocessor_cls = MuseTextToImagePreprocessor
    layout_is_for_it = True

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
        if not 0 <= stage < len(backbone.stages):
            raise ValueError(
                f"`stage` must lie in [0, {len(backbone.stages)}): received {stage}."
            )
        for name, value in (
            ("caption_dropout", caption_dropout),
            ("min_mask_rate", min_mask_rate),
            ("low_res_corruption", low_res_corruption),
            ("low_res_resampling", low_res_resampling),
        ):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}` must lie in [0, 1]: received {value}.")
        if remat and backbone.transformers[stage].dropout:
            # The second time it would drop other units.
            raise ValueError(
                "`remat` must be False for a transformer with dropout: received a "
                f"dropout of {backbone.transformers[stage].dropout}."
            )
        compile_now = kwargs.pop("compile", True)
        refuse_unknown(kwargs)

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Functional Model ===
        # Keras makes every class of tasks functional once one of them is, so this one
        # has to be as well; `call` then takes other inputs than the graph has.
        super().__init__(
            inputs=backbone.input, outputs=backbone.output, compile=False, **kwargs
        )
        self.input_spec = None
        # The parts have policies of their own; under a lower one here the codebook
        # would be read in it.
        self.dtype_policy = keras.DTypePolicy("float32")

        # === Config ===
        self.stage = stage
        self.caption_dropout = caption_dropout
        self.train_text_encoder = train_text_encoder
        self.min_mask_rate = min_mask_rate
        self.low_res_corruption = low_res_corruption
        self.low_res_resampling = low_res_resampling
        self.remat = remat
        self.seed = seed
        # PyTorch finds the weights of what is assigned after the constructor above. It
        # would find only one of two graph weights of one name, and never clear the
        # gradient of the other.
        self.text_encoder = backbone.text_encoder
        self.image_tokenizer, self.transformer = backbone.stages[stage]
        self.transformer.remat = remat
        for part in (*backbone.image_tokenizers, *backbone.transformers):
            set_trainable(part, part is self.transformer)
        if backbone.text_encoder is not None:
            set_trainable(backbone.text_encoder, train_text_encoder)
        # Which noise comes next; saved with the optimizer, so a resumed training
        # masks what an unbroken one would have masked.
        self.steps = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
            name="steps",
        )
        self.average = Average(reduction="mean_with_sample_weight")
        # This `loss` replaces that of Keras, which averages batches and not tokens.
        names = ["loss", "accuracy", "dropped_captions"]
        for low, high in zip(_BUCKETS, _BUCKETS[1:]):
            names += [f"loss_{low:.2f}_{high:.2f}", f"accuracy_{low:.2f}_{high:.2f}"]
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        if compile_now:
            self.compile()

    @property
    def parts(self):
        """The models it is made of, frozen ones among them: a list."""
        text_encoder = self.backbone.text_encoder
        return [
            *([] if text_encoder is None else [text_encoder]),
            *self.backbone.image_tokenizers,
            *self.backbone.transformers,
        ]

    def compile(self, optimizer="auto", **kwargs):
        """Sets the optimizer.

        Args:
            optimizer: Keras optimizer or its name. `"auto"` stands for the nearest
                stock optimizer to the paper's, AdamW with learning rate 1e-4, betas
                .9 and .96, weight decay .045. Defaults to `"auto"`.
            **kwargs: `jit_compile`, `steps_per_execution`, `run_eagerly`,
                `auto_scale_loss` of `keras.Model.compile`.

        Raises:
            ValueError: if `loss` or `metrics` is given; both are fixed.
        """
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.pop(name, None):
                raise ValueError(
                    f"`{name}` is fixed by masked modelling, leave it out."
                )
        if optimizer == "auto":
            optimizer = keras.optimizers.AdamW(
                1e-4, beta_1=0.9, beta_2=0.96, weight_decay=0.045
            )
        keras.Model.compile(self, optimizer=optimizer, loss=None, metrics=[], **kwargs)

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if isinstance(x, dict) and "captions" in x:
            if self.preprocessor is None:
                raise ValueError(
                    "`preprocessor` is needed to read `captions`: received None."
                )
            x = dict(x)
            x.update(self.preprocessor.generate_preprocess(x.pop("captions")))
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def call(self, inputs, training=False):
        """Logits of the stage, and what was masked and dropped, as a dict."""
        # PyTorch's loaders leave them on the CPU, and layers move floats alone.
        inputs = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
        ids = self._image_ids(inputs)
        num_tokens = self.transformer.num_tokens
        rows, step = self._noise_keys(ids, training)

        def noise(stream, count):
            return uniform(rows, self.seed, step, stream, count)

        rate = ops.maximum(mask_rate(noise(_RATE, 1)[:, 0]), self.min_mask_rate)
        mask = random_mask(rate, noise(_ORDER, num_tokens))
        dropped = noise(_DROPOUT, 1)[:, 0] < (self.caption_dropout if training else 0.0)
        condition = self._condition(inputs, dropped, self.transformer)
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

    def _image_ids(self, inputs):
        _check_keys(inputs, ("image_ids",), ("images",))
        if "image_ids" in inputs:
            ids = ops.cast(inputs["image_ids"], "int32")
        else:
            ids = ops.stop_gradient(self.image_tokenizer.encode(inputs["images"]))
        if ids.shape[1] not in (None, self.transformer.num_tokens):
            raise ValueError(
                f"A picture must have {self.transformer.num_tokens} tokens at stage "
                f"{self.stage}: received {ids.shape[1]}."
            )
        return ids

    def _low_res_ids(self, inputs, stage):
        """Tokens of the stage before: given, or those of the downscaled picture."""
        if stage == self.stage:
            _check_keys(inputs, ("low_res_ids",), ("images",))
            if "low_res_ids" in inputs:
                return ops.cast(inputs["low_res_ids"], "int32")
        _check_keys(inputs, ("images",))
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
            condition = self._condition(inputs, dropped, transformer)
        if self.stage > 1:
            coarser = self._low_res_ids(inputs, self.stage - 1)
            condition = {**condition, "low_res_ids": coarser}
        draws = noise(_RESAMPLED, ids.shape[1] + 1)
        mask = draws[:, 1:] < self.low_res_resampling * draws[:, :1]
        features = transformer.features(
            ops.where(mask, transformer.mask_id, ids),
            transformer.project_memory(condition),
        )
        logits = filter_logits(transformer.head(features))
        return ops.where(mask, sample_tokens(logits, noise(_DRAWN, ids.shape[1])), ids)

    def _corrupt(self, ids, noise):
        """Replaces some low-res tokens by random ones."""
        if not self.low_res_corruption:
            return ids
        draws = noise(_CORRUPTED, ids.shape[1] + 1)
        share = self.low_res_corruption * draws[:, :1]
        vocabulary = self.transformer.low_res_codebook_size
        others = ops.cast(noise(_REPLACEMENT, ids.shape[1]) * vocabulary, "int32")
        return ops.where(draws[:, 1:] < share, others, ids)

    def _noise_keys(self, ids, training):
        if training:
            count = ops.shape(ids)[0]
            rows = ops.arange(count, dtype="int32") + first_row(count)
            return rows, ops.convert_to_tensor(self.steps)
        # A sum over the tokens that depends on their order: evaluating a picture
        # masks the same tokens in every batch and at every time.
        weights = 2 * np.arange(1, ids.shape[1] + 1) ** 2 + 1
        return ops.sum(ids * ops.convert_to_tensor(weights, "int32"), axis=1), 0

    def _condition(self, inputs, dropped, transformer):
        """What a transformer reads beside tokens, null where a caption is dropped."""
        if transformer.num_classes is not None:
            _check_keys(inputs, ("labels",))
            labels = ops.cast(inputs["labels"], "int32")
            return {"labels": ops.where(dropped, transformer.num_classes, labels)}
        if transformer.text_dim is None:
            return {}
        _check_keys(
            inputs, ("token_ids", "padding_mask"), ("text_embeddings", "padding_mask")
        )
        mask = ops.cast(inputs["padding_mask"], "bool")
        first = ops.arange(mask.shape[1], dtype="int32")[None, :] == 0
        null_mask = ops.logical_and(dropped[:, None], first)
        kept_mask = ops.logical_and(ops.logical_not(dropped)[:, None], mask)
        padding_mask = ops.logical_or(null_mask, kept_mask)
        if "text_embeddings" in inputs:
            null = self.backbone.text_encoder(
                {
                    "token_ids": self._null_ids(1),
                    "padding_mask": ops.ones((1, 1), "bool"),
                }
            )
            embeddings = ops.where(
                dropped[:, None, None],
                ops.cast(null, inputs["text_embeddings"].dtype),
                inputs["text_embeddings"],
            )
        else:
            ids = ops.cast(inputs["token_ids"], "int32")
            ids = ops.where(dropped[:, None], self._null_ids(ids.shape[1]), ids)
            embeddings = self.backbone.text_encoder(
                {"token_ids": ids, "padding_mask": padding_mask}
            )
        if not self.train_text_encoder:
            embeddings = ops.stop_gradient(embeddings)
        return {"text_embeddings": embeddings, "padding_mask": padding_mask}

    def _null_ids(self, length):
        """The null caption: `</s>`, which is visible, then pads: (1, length) int32."""
        end, pad = 1, 0  # of every T5 vocabulary
        if self.preprocessor is not None:
            tokenizer = self.preprocessor.tokenizer
            end, pad = tokenizer.end_token_id, tokenizer.pad_token_id
        ids = np.full((1, length), pad, "int32")
        ids[0, 0] = end
        return ops.convert_to_tensor(ids)

    def get_config(self):
        return {
            **super().get_config(),
            "stage": self.stage,
            "caption_dropout": self.caption_dropout,
            "train_text_encoder": self.train_text_encoder,
            "min_mask_rate": self.min_mask_rate,
            "low_res_corruption": self.low_res_corruption,
            "low_res_resampling": self.low_res_resampling,
            "remat": self.remat,
            "seed": self.seed,
        }


def _check_keys(inputs, *choices):
    """Raises unless `inputs` holds all keys of one of the choices."""
    if not any(set(choice) <= set(inputs) for choice in choices):
        wanted = " or ".join(" and ".join(map(repr, choice)) for choice in choices)
        raise ValueError(
            f"`inputs` must hold {wanted}: received the keys {sorted(inputs)}."
        )
