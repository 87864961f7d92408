"""What all trainings of a stage share: what they read, their noise, what is frozen."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import filter_logits, sample_tokens, uniform
from keras_muse.distribution import DistributedTrainer, first_row
from keras_muse.layers import refuse_unknown, set_trainable
from keras_muse.models.backbone import MuseBackbone
from keras_muse.models.preprocessor import MuseTextToImagePreprocessor
from keras_muse.presets.loading import PresetLoading

__all__ = ["StageTrainer", "check_keys", "draw_masked"]


class StageTrainer(DistributedTrainer, PresetLoading, keras_hub.models.Task):
    """Base of the tasks that train a part of one stage with `fit`.

    Args:
        backbone: `MuseBackbone`.
        preprocessor: optional `MuseTextToImagePreprocessor`, for `"captions"`.
        stage: int. Which stage to train.
        seed: int32.
        **kwargs: `name`.

    Raises:
        ValueError: if `stage` is out of range.
    """

    backbone_cls = MuseBackbone
    preprocessor_cls = MuseTextToImagePreprocessor
    layout_is_for_it = True
    train_text_encoder = False

    def __init__(self, backbone, preprocessor, stage, seed, **kwargs):
        if not 0 <= stage < len(backbone.stages):
            raise ValueError(
                f"`stage` must lie in [0, {len(backbone.stages)}): received {stage}."
            )
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
        self.seed = seed
        # PyTorch finds the weights of what is assigned after the constructor above. It
        # would find only one of two graph weights of one name, and never clear the
        # gradient of the other.
        self.text_encoder = backbone.text_encoder
        self.image_tokenizer, self.transformer = backbone.stages[stage]
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

    @property
    def parts(self):
        """The models it is made of, frozen ones among them: a list."""
        backbone = self.backbone
        parts = [
            backbone.text_encoder,
            *backbone.image_tokenizers,
            *backbone.transformers,
            *backbone.critics,
        ]
        return [part for part in parts if part is not None]

    def train_only(self, *trained):
        """Freezes all parts but some, which are thawed."""
        for part in self.parts:
            set_trainable(part, any(part is other for other in trained))

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
                raise ValueError(f"`{name}` is fixed, leave it out.")
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

    def _image_ids(self, inputs):
        check_keys(inputs, ("image_ids",), ("images",))
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

    def _noise_for(self, ids, training):
        """The noise of a batch: a function of a stream and a number of positions.

        In training one of the seed, the step and the row, the same on every backend;
        else one of the picture alone.
        """
        rows, step = self._noise_keys(ids, training)
        return lambda stream, count: uniform(rows, self.seed, step, stream, count)

    def _noise_keys(self, ids, training):
        if training:
            count = ops.shape(ids)[0]
            rows = ops.arange(count, dtype="int32") + first_row(count)
            return rows, ops.convert_to_tensor(self.steps)
        # A sum over the tokens that depends on their order: evaluating a picture
        # masks the same tokens in every batch and at every time.
        weights = 2 * np.arange(1, ids.shape[1] + 1) ** 2 + 1
        return ops.sum(ids * ops.convert_to_tensor(weights, "int32"), axis=1), 0

    def _condition(self, inputs, transformer, dropped):
        """What a transformer reads beside tokens, null where a caption is dropped."""
        if transformer.num_classes is not None:
            check_keys(inputs, ("labels",))
            labels = ops.cast(inputs["labels"], "int32")
            return {"labels": ops.where(dropped, transformer.num_classes, labels)}
        if transformer.text_dim is None:
            return {}
        check_keys(
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
        return {**super().get_config(), "stage": self.stage, "seed": self.seed}


def draw_masked(transformer, memory, ids, mask, noise):
    """Tokens of which the masked ones are drawn by a transformer, in one step.

    Args:
        transformer: one that has a `mask_id`.
        memory: result of its `project_memory`.
        ids: (B, N) int32.
        mask: (B, N) bool.
        noise: (B, N) float32 in (0, 1).

    Returns:
        (B, N) int32.
    """
    features = transformer.features(ops.where(mask, transformer.mask_id, ids), memory)
    drawn = sample_tokens(filter_logits(transformer.head(features)), noise)
    return ops.where(mask, drawn, ids)


def check_keys(inputs, *choices):
    """Raises unless `inputs` holds all keys of one of the choices."""
    if not any(set(choice) <= set(inputs) for choice in choices):
        wanted = " or ".join(" and ".join(map(repr, choice)) for choice in choices)
        raise ValueError(
            f"`inputs` must hold {wanted}: received the keys {sorted(inputs)}."
        )
