"""The training of a token critic: tell drawn tokens from a picture's own."""

import keras
from keras import ops

from keras_muse.decoding import mask_rate, random_mask
from keras_muse.layers import register
from keras_muse.models.stage_trainer import StageTrainer, draw_masked

__all__ = ["MuseTokenCriticModel"]

# Streams of training noise, apart from those of decoding.
_RATE, _ORDER, _DRAWN = range(3)


@register
class MuseTokenCriticModel(StageTrainer):
    """Trains the token critic of a stage with `fit`.

    Token-Critic (arXiv 2209.04439, section 3.1): a random share of a picture's tokens
    is masked, from the cosine density, and the transformer of the stage draws them in
    one step, at temperature 1 and without guidance. The critic sees the filled grid and
    the text, and the binary cross-entropy is taken at all tokens; the target is 1 where
    a token is the picture's own and 0 where it was drawn.

    A drawn token is a drawn one even where it is what the picture has, as in the paper.
    Other implementations ask whether a token is the *right* one, and so teach the
    critic to doubt whatever could have been something else: objects, and never the
    background. A token that fits cannot be told from the picture's own, so this critic
    has nothing against it.

    Nothing but the critic is trained; all other parts are set to `trainable = False`.
    It belongs to the weights of its transformer: after these have changed, train it
    again.

    `fit` and `evaluate` take the dicts of `MuseMaskedImageModel`, without
    `"token_weights"`. No caption is dropped, since decoding does not guide a critic.
    The logs show `loss` in nats and `accuracy`, the share of tokens of which the critic
    is right; a critic that says the same of all has 0.655 and 0.64.

    What is masked and drawn is a function of `seed`, the training step and the row, the
    same on every backend; in `evaluate` it is one of the picture alone.

    Args:
        backbone: `MuseBackbone` with a critic.
        preprocessor: optional `MuseTextToImagePreprocessor`, for `"captions"`.
        stage: int. Whose critic to train. Defaults to 0, the base.
        seed: int32. Defaults to 0.
        **kwargs: `name`.

    Raises:
        ValueError: if `stage` is out of range, or has no critic.

    Example:
    ```python
    critic = keras_muse.transformer.TokenCritic(
        codebook_size=512, grid_size=8, num_layers=2, hidden_dim=128, num_heads=4,
        text_dim=128,
    )
    backbone = keras_muse.models.MuseBackbone(
        muse.backbone.text_encoder, muse.backbone.stages, critics=[critic, None]
    )
    trainer = keras_muse.models.MuseTokenCriticModel(backbone, muse.preprocessor)
    trainer.compile(keras.optimizers.AdamW(1e-3))
    trainer.fit(dataset)  # of {"images": ..., "captions": ...}
    sampler = keras_muse.decoding.Sampler(order="critic")
    ```
    """

    def __init__(self, backbone, preprocessor=None, stage=0, seed=0, **kwargs):
        compile_now = kwargs.pop("compile", True)
        super().__init__(backbone, preprocessor, stage, seed, **kwargs)

        # === Config ===
        self.critic = backbone.critics[stage]
        if self.critic is None:
            raise ValueError(
                f"`backbone` must have a `TokenCritic` at stage {stage} to train: "
                "received None among its `critics`."
            )
        self.train_only(self.critic)
        self.cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        # This `loss` replaces that of Keras, which averages batches and not tokens.
        names = ("loss", "accuracy")
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        if compile_now:
            self.compile()

    def call(self, inputs, training=False):
        """Logits of the critic, what it saw and what was drawn, as a dict."""
        # PyTorch's loaders leave them on the CPU, and layers move floats alone.
        inputs = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
        ids = self._image_ids(inputs)
        noise = self._noise_for(ids, training)
        num_tokens = self.transformer.num_tokens
        mask = random_mask(mask_rate(noise(_RATE, 1)[:, 0]), noise(_ORDER, num_tokens))
        kept = ops.zeros_like(mask[:, 0])
        condition = self._condition(inputs, self.transformer, dropped=kept)
        memory = self.transformer.project_memory(condition)
        filled = draw_masked(
            self.transformer, memory, ids, mask, noise(_DRAWN, num_tokens)
        )
        memory = self.critic.project_memory(condition)
        return {
            "logits": self.critic.judge(filled, memory, training=training),
            "image_ids": filled,
            "mask": mask,
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Mean binary cross-entropy of all tokens; also updates what the logs show."""
        del x, y, sample_weight
        logits = y_pred["logits"]
        is_own = ops.cast(ops.logical_not(y_pred["mask"]), "float32")
        loss = self.cross_entropy(is_own, logits)
        if training:
            self.steps.assign_add(1)
        losses = ops.binary_crossentropy(is_own, logits, from_logits=True)
        correct = ops.cast(logits > 0, "float32") == is_own
        self.trackers["loss"].update_state(ops.stop_gradient(losses))
        self.trackers["accuracy"].update_state(ops.cast(correct, "float32"))
        return loss
