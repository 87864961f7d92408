"""All trained parts of a Muse in one model."""

import typing

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import Resampler, Sampler
from keras_muse.layers import refuse_unknown, register
from keras_muse.presets.loading import PresetLoading

__all__ = ["MuseBackbone", "Stage", "as_resampler", "as_samplers"]


class Stage(typing.NamedTuple):
    """One image tokenizer and the masked transformer over its tokens."""

    image_tokenizer: keras.Model
    transformer: keras.Model


@register
class MuseBackbone(PresetLoading, keras_hub.models.Backbone):
    """A text encoder and a list of stages.

    Muse (arXiv 2301.00704, figure 3). It holds the parts; `MuseTextToImage` makes
    pictures with them and `MuseMaskedImageModel` trains them. Called, it returns the
    logits of every stage for given tokens; a stage behind the first also sees the
    tokens of the stage before it.

    Args:
        text_encoder: optional `keras_hub.models.Backbone` from `"token_ids"` and
            `"padding_mask"`, both (B, L), to (B, L, D), such as
            `keras_muse.text.T5TextEncoder`. `None` for a Muse without text.
        stages: list of `(image_tokenizer, transformer)` pairs, base first: `VQGAN` with
            `MaskedTransformer`, then `VQGAN` with `SuperResolutionTransformer`, as
            many as there are. Codebook sizes must agree within a pair, the
            transformers' `text_dim` with the text encoder, and the low-res codebook
            and grid of a stage with the stage before it.
        samplers: optional `keras_muse.decoding.Sampler`, or one for each stage: the
            settings that suit the weights, which tasks begin with. Defaults to those
            of `Sampler`.
        resampler: optional `keras_muse.decoding.Resampler`, likewise for `MuseEdit`.
        critics: optional list of `keras_muse.transformer.TokenCritic` or `None`, one
            for each stage, for samplers of the order `"critic"`. A critic has the
            `codebook_size`, `grid_size`, `text_dim` and `num_classes` of its
            transformer; stages behind the first have none. Defaults to no critics.
        dtype: ignored here, each part has its own policy; kept for
            `from_preset(dtype=...)`, which hands it to every part.
        **kwargs: `name`, `trainable`.

    Call arguments:
        inputs: dict of `"token_ids"`, `"padding_mask"` (with a text encoder),
            `"labels"` (with a class-conditional transformer) and `"image_ids_0"`,
            `"image_ids_1"`, ... (B, N) int32, one for each stage.

    Returns:
        dict of `"logits_0"`, ...: (B, N, V) float32.

    Raises:
        TypeError: if there is an argument that does not exist.
        ValueError: if there is no stage, parts do not fit, there are neither one nor
            as many samplers as stages, or not as many critics.

    Example:
    ```python
    backbone = keras_muse.models.MuseBackbone(
        text_encoder=keras_muse.text.T5TextEncoder(
            vocabulary_size=100, num_layers=2, num_heads=4, hidden_dim=64,
            intermediate_dim=128,
        ),
        stages=[(
            keras_muse.image_tokenizer.VQGAN(
                keras_muse.image_tokenizer.VectorQuantizer(512, 32),
                base_channels=32, channel_multipliers=(1, 2), strides=(8,),
            ),
            keras_muse.transformer.MaskedTransformer(
                codebook_size=512, grid_size=8, num_layers=2, hidden_dim=64,
                num_heads=2, text_dim=64,
            ),
        )],
    )
    ```
    """

    def __init__(
        self,
        text_encoder=None,
        stages=(),
        samplers=None,
        resampler=None,
        critics=None,
        dtype=None,
        **kwargs,
    ):
        refuse_unknown(kwargs)
        if not stages:
            raise ValueError("`stages` must hold at least one stage: received none.")
        text_encoder = _revive(text_encoder, dtype)
        stages = [Stage(*(_revive(part, dtype) for part in stage)) for stage in stages]
        critics = [_revive(critic, dtype) for critic in critics or [None] * len(stages)]
        _check_parts(text_encoder, stages)
        _check_critics(critics, stages)

        # === Functional Model ===
        inputs, memory = {}, {}
        if text_encoder is not None:
            inputs["token_ids"] = keras.Input((None,), dtype="int32", name="token_ids")
            inputs["padding_mask"] = keras.Input(
                (None,), dtype="bool", name="padding_mask"
            )
            memory["text_embeddings"] = text_encoder(dict(inputs))
            memory["padding_mask"] = inputs["padding_mask"]
        if stages[0].transformer.num_classes is not None:
            inputs["labels"] = memory["labels"] = keras.Input(
                (), dtype="int32", name="labels"
            )
        outputs = {}
        for index, stage in enumerate(stages):
            name = f"image_ids_{index}"
            inputs[name] = keras.Input(
                (stage.transformer.num_tokens,), dtype="int32", name=name
            )
            if index:
                memory["low_res_ids"] = inputs[f"image_ids_{index - 1}"]
            given = {**memory, "image_ids": inputs[name]}
            # Labels are for the base alone, and Keras sorts out no key that is unknown.
            outputs[f"logits_{index}"] = stage.transformer(
                {key: given[key] for key in stage.transformer.input}
            )
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

        # === Config ===
        self.text_encoder = text_encoder
        self.image_tokenizers = [stage.image_tokenizer for stage in stages]
        self.transformers = [stage.transformer for stage in stages]
        self.samplers = as_samplers(samplers, len(stages))
        self.resampler = as_resampler(resampler)
        self.critics = critics

    @property
    def stages(self):
        """The stages, base first: a list of `Stage`."""
        return [
            Stage(*parts) for parts in zip(self.image_tokenizers, self.transformers)
        ]

    @property
    def image_shape(self):
        """(H, W, 3) of the pictures of the last stage."""
        tokenizer, transformer = self.stages[-1]
        rows, columns = transformer.grid_size
        factor = tokenizer.downsampling_factor
        return rows * factor, columns * factor, 3

    def replace_image_tokenizer(self, stage, image_tokenizer):
        """A backbone that draws the pictures of a stage with another decoder.

        Nothing has to be trained again: the tokens mean what they meant (Muse,
        section 2.5). All other parts are shared with this backbone.

        Args:
            stage: int. Which stage.
            image_tokenizer: what `VQGAN.with_decoder` made from the tokenizer of the
                stage, trained since.

        Returns:
            `MuseBackbone`.

        Raises:
            ValueError: if the codebook is not that of the stage.
        """
        stages = self.stages
        old = stages[stage].image_tokenizer
        codebooks = [
            ops.convert_to_numpy(t.quantizer.decode(np.arange(t.codebook_size)))
            for t in (old, image_tokenizer)
        ]
        if codebooks[0].shape != codebooks[1].shape:
            raise ValueError(
                "`image_tokenizer` must have codes of the number and width of the "
                f"stage's own, {codebooks[0].shape}: received {codebooks[1].shape}."
            )
        if np.any(codebooks[0] != codebooks[1]):
            raise ValueError(
                "`image_tokenizer` must have the codebook of the stage's own; make it "
                "with `VQGAN.with_decoder`. Received one with other codes."
            )
        stages[stage] = Stage(image_tokenizer, stages[stage].transformer)
        return type(self)(
            self.text_encoder,
            stages,
            self.samplers,
            self.resampler,
            self.critics,
            name=self.name,
        )

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "text_encoder": keras.layers.serialize(self.text_encoder),
            "stages": [
                [keras.layers.serialize(part) for part in stage]
                for stage in self.stages
            ],
            "samplers": [sampler.get_config() for sampler in self.samplers],
            "resampler": self.resampler.get_config(),
            "critics": [
                critic and keras.layers.serialize(critic) for critic in self.critics
            ],
        }


def as_samplers(samplers, count):
    """A list of `count` `Sampler`, from one, as many, their configs or `None`."""
    if samplers is None or isinstance(samplers, Sampler):
        samplers = [samplers or Sampler()] * count
    if len(samplers) != count:
        raise ValueError(
            f"`samplers` must be one `Sampler` or one for each of the {count} stages: "
            f"received {len(samplers)}."
        )
    return [Sampler(**s) if isinstance(s, dict) else s for s in samplers]


def as_resampler(resampler):
    """A `Resampler`, from one, its config or `None`."""
    if isinstance(resampler, dict):
        return Resampler(**resampler)
    return resampler or Resampler()


def _revive(part, dtype):
    """A part, from itself or from its config."""
    if not isinstance(part, dict):
        return part
    if dtype is not None:
        dtype = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
        part = {**part, "config": {**part["config"], "dtype": dtype}}
    return keras.layers.deserialize(part)


def _check_parts(text_encoder, stages):
    for index, (tokenizer, transformer) in enumerate(stages):
        if tokenizer.codebook_size != transformer.codebook_size:
            raise ValueError(
                f"The parts of `stages[{index}]` must have one `codebook_size`: "
                f"received {tokenizer.codebook_size} for the image tokenizer and "
                f"{transformer.codebook_size} for the transformer."
            )
        _check_low_res(index, stages)
        if (text_encoder is None) != (transformer.text_dim is None):
            raise ValueError(
                f"The transformer of `stages[{index}]` must have a `text_dim` if and "
                f"only if there is a `text_encoder`: received text_dim="
                f"{transformer.text_dim}, text_encoder={text_encoder}."
            )
        if text_encoder is None:
            continue
        width = text_encoder.output.shape[-1]
        if width != transformer.text_dim:
            raise ValueError(
                f"`text_dim` of the transformer of `stages[{index}]` must be the width "
                f"of the text encoder, {width}: received {transformer.text_dim}."
            )


def _check_low_res(index, stages):
    transformer = stages[index].transformer
    codebook_size = getattr(transformer, "low_res_codebook_size", None)
    if index == 0:
        if codebook_size is not None:
            raise ValueError(
                "The transformer of `stages[0]` must not need low-res tokens, nothing "
                f"makes them: received {transformer}."
            )
        return
    if codebook_size is None:
        raise ValueError(
            f"The transformer of `stages[{index}]` must take the tokens of the stage "
            f"before it, as `SuperResolutionTransformer` does: received {transformer}."
        )
    before = stages[index - 1].transformer
    for name, wanted in (
        ("low_res_codebook_size", before.codebook_size),
        ("low_res_grid_size", tuple(before.grid_size)),
    ):
        value = getattr(transformer, name)
        if value != wanted:
            raise ValueError(
                f"`{name}` of the transformer of `stages[{index}]` must be what the "
                f"stage before it has, {wanted}: received {value}."
            )


def _check_critics(critics, stages):
    if len(critics) != len(stages):
        raise ValueError(
            f"`critics` must hold a `TokenCritic` or `None` for each of the "
            f"{len(stages)} stages: received {len(critics)}."
        )
    for index, (critic, stage) in enumerate(zip(critics, stages)):
        if critic is None:
            continue
        if index:
            raise ValueError(
                f"`critics[{index}]` must be `None`: a `TokenCritic` does not see the "
                f"low-res tokens of a super-resolution stage. Received {critic}."
            )
        for name in ("codebook_size", "grid_size", "text_dim", "num_classes"):
            wanted, value = (getattr(part, name) for part in (stage[1], critic))
            if value != wanted:
                raise ValueError(
                    f"`{name}` of `critics[{index}]` must be that of the transformer "
                    f"of the stage, {wanted}: received {value}."
                )
