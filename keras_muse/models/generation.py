"""What every task that makes pictures has: from prompts and tokens to pictures."""

import functools
import sys

import keras
import numpy as np
from keras import ops

from keras_muse.decoding import num_steps_for
from keras_muse.layers import refuse_unknown
from keras_muse.models.backbone import MuseBackbone, as_samplers
from keras_muse.models.compilation import compile_inference
from keras_muse.models.inputs import as_num_steps, as_scales
from keras_muse.models.preprocessor import MuseTextToImagePreprocessor
from keras_muse.models.stages import (
    critic_of,
    filled,
    is_guided,
    judgement,
    num_changing_of,
    pass_inputs,
    pixels_of,
    tokens_of,
)
from keras_muse.presets.loading import PresetLoading

__all__ = ["MuseGeneration", "Reporter", "to_int32"]


class MuseGeneration(PresetLoading):
    """Mixin of KerasHub tasks: one way from prompts to pictures for all of them.

    A task differs in the tokens that it starts from. Text is encoded once, the tokens
    of one stage after another are filled, each stage by one compiled function, and
    those of the last become pixels.

    Args:
        backbone: `MuseBackbone` with a text encoder.
        preprocessor: optional `MuseTextToImagePreprocessor`. Without one, `generate`
            has no way to read strings.
        samplers: optional `keras_muse.decoding.Sampler`, or one for each stage: the
            settings that `generate` falls back to; a preset stores them. Defaults to
            those of the backbone.
        **kwargs: `name`.

    Raises:
        ValueError: if the backbone has no text encoder, or there are neither one nor
            as many samplers as stages.
    """

    backbone_cls = MuseBackbone
    preprocessor_cls = MuseTextToImagePreprocessor
    # What a preset takes from the task that saves it: attributes of its backbone, too.
    preset_settings = ("samplers",)

    def __init__(self, backbone, preprocessor=None, samplers=None, **kwargs):
        if backbone.text_encoder is None:
            raise ValueError("`backbone` must have a text encoder: received none.")

        refuse_unknown(kwargs, "compile")

        # === Functional Model ===
        super().__init__(inputs=backbone.input, outputs=backbone.output, **kwargs)

        # === Config ===
        # Assigned earlier, what is off the graph would not be tracked on PyTorch.
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.samplers = as_samplers(
            backbone.samplers if samplers is None else samplers, len(backbone.stages)
        )

    def compile(self, optimizer="auto", loss=None, *, metrics=(), **kwargs):
        """Drops compiled functions; `MuseMaskedImageModel` is the task that trains."""
        keras.Model.compile(
            self,
            optimizer="rmsprop" if optimizer == "auto" else optimizer,
            loss=loss,
            metrics=list(metrics or ()),
            **kwargs,
        )
        self._functions = {}

    def fit(self, *args, **kwargs):
        """Not here: train with `keras_muse.models.MuseMaskedImageModel(backbone)`."""
        raise TypeError(
            f"`{type(self).__name__}` generates; to train its backbone use "
            "`keras_muse.models.MuseMaskedImageModel(backbone, preprocessor).fit(...)`."
        )

    def encode_images(self, images):
        """Image tokens of pictures at every stage.

        Args:
            images: (B, H, W, 3) uint8 or float in [0, 1], H and W those of
                `image_shape`. The stages before the last see them downscaled.

        Returns:
            list of (B, N) int32 arrays, base first.

        Raises:
            ValueError: if the images have another shape.
        """
        shape = self.backbone.image_shape
        if tuple(images.shape[1:]) != shape:
            raise ValueError(
                f"`images` must have the shape (B, {', '.join(map(str, shape))}): "
                f"received {tuple(images.shape)}."
            )
        images = ops.convert_to_tensor(images)
        transformers = self.backbone.transformers
        return [
            self._encode_stage(index, images, transformer.grid_size)
            for index, transformer in enumerate(transformers)
        ]

    def _encode_stage(self, index, images, grid):
        """Tokens of pictures of any size, scaled to a grid: (B, N) int32 array."""
        tokenizer = self.backbone.image_tokenizers[index]

        def encode(images):
            return tokens_of(tokenizer, images, grid)

        ids = self._compiled(("encode", index, *grid), encode)(images)
        return np.asarray(ops.convert_to_numpy(ids), "int32")

    def generate_tokens(
        self,
        prompts,
        negative_prompts,
        seeds,
        samplers=None,
        callback=None,
        start_tokens=None,
    ):
        """Image tokens of every stage, base first.

        Args:
            prompts: list of B strings.
            negative_prompts: list of B strings, or `None` for the null caption.
            seeds: (B,) int32.
            samplers: list of `Sampler`, one a stage. Defaults to the task's.
            callback: optional function `callback(stage, step, tokens)`, called after
                each step.
            start_tokens: optional list, one entry a stage: (B, N) int32 with the
                stage's `mask_id` where a token is to be filled, or `None` where all
                are. Known tokens stay; a stage in which nothing is masked is passed
                through. A picture with few tokens masked takes fewer steps, see
                `keras_muse.decoding.num_steps_for`. Defaults to all masked.

        Returns:
            list of (B, N) int32 arrays.

        Raises:
            ValueError: if there are not as many entries as stages, or one has another
                shape or tokens out of range.
        """
        samplers = samplers or self.samplers
        start_tokens = self._checked_starts(start_tokens, len(prompts))
        text = self._encode_prompts(prompts, negative_prompts, is_guided(*samplers))
        return self._decode_stages(text, seeds, samplers, start_tokens, callback)

    def _decode_stages(self, text, seeds, samplers, start_tokens, callback=None):
        """Fills the masked tokens of one stage after another."""
        tokens = []
        for index, sampler in enumerate(samplers):
            low_res_ids = tokens[-1] if tokens else None
            tokens.append(
                self._decode_stage(
                    index,
                    sampler,
                    text,
                    seeds,
                    start_tokens[index],
                    low_res_ids,
                    callback,
                )
            )
        return tokens

    def decode_images(self, tokens, stage=-1, grid=None):
        """Pixels of the image tokens of a stage.

        Args:
            tokens: (B, N) int32 in `[0, codebook_size)`.
            stage: int. Whose tokens they are. Defaults to -1, the last.
            grid: optional (rows, columns) of the tokens. Defaults to those of the
                stage; a larger grid makes a larger picture.

        Returns:
            uint8 array (B, H, W, 3).

        Raises:
            TypeError: if the tokens are not integers.
            ValueError: if a token is out of range, or N is not that of the grid.
        """
        tokenizer, transformer = self.backbone.stages[stage]
        grid = tuple(grid or transformer.grid_size)
        tokens = np.asarray(tokens)
        if not np.issubdtype(tokens.dtype, np.integer):
            raise TypeError(f"`tokens` must be integers: received {tokens.dtype}.")
        if tokens.ndim != 2 or tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"`tokens` must have the shape (B, {grid[0] * grid[1]}): received "
                f"{tokens.shape}."
            )
        if tokens.min() < 0 or tokens.max() >= tokenizer.codebook_size:
            raise ValueError(
                f"`tokens` must lie in [0, {tokenizer.codebook_size}): received values "
                f"from {tokens.min()} to {tokens.max()}."
            )

        def pixels(tokens):
            return pixels_of(tokenizer, tokens, grid)

        function = self._compiled(("pixels", tokenizer.name, grid), pixels)
        return np.asarray(ops.convert_to_numpy(function(to_int32(tokens))))

    def samplers_for(
        self,
        num_steps=None,
        guidance_scale=None,
        temperature=None,
        guidance_schedule=None,
    ):
        """The samplers of a call: the task's, with what the caller says.

        Args:
            num_steps: int, or one a stage. Defaults to the sampler's, like the others.
            guidance_scale: float, or one a stage.
            temperature: float, or one a stage.
            guidance_schedule: str, see `Sampler`.

        Returns:
            list of `Sampler`, one a stage.

        Raises:
            TypeError, ValueError: naming the argument, what it was and what it has to
                be.
        """
        steps = as_num_steps(
            num_steps,
            [sampler.num_steps for sampler in self.samplers],
            [stage.transformer.num_tokens for stage in self.backbone.stages],
        )
        scales = as_scales(
            "guidance_scale",
            guidance_scale,
            [sampler.guidance_scale for sampler in self.samplers],
        )
        temperatures = as_scales(
            "temperature", temperature, [s.temperature for s in self.samplers]
        )
        return [
            sampler.replace(
                num_steps=steps[i],
                guidance_scale=scales[i],
                temperature=temperatures[i],
                guidance_schedule=guidance_schedule,
            )
            for i, sampler in enumerate(self.samplers)
        ]

    def _checked_starts(self, start_tokens, count):
        """The start of every stage, all masked where there is none."""
        stages = self.backbone.stages
        if start_tokens is None:
            start_tokens = [None] * len(stages)
        if len(start_tokens) != len(stages):
            raise ValueError(
                f"`start_tokens` must have an entry for each of the {len(stages)} "
                f"stages: received {len(start_tokens)}."
            )
        starts = []
        for index, (ids, stage) in enumerate(zip(start_tokens, stages)):
            shape = (count, stage.transformer.num_tokens)
            mask_id = stage.transformer.mask_id
            if ids is None:
                ids = np.full(shape, mask_id, "int32")
            ids = np.asarray(ids)
            if ids.shape != shape:
                raise ValueError(
                    f"`start_tokens[{index}]` must have the shape {shape}: received "
                    f"{ids.shape}."
                )
            if ids.min() < 0 or ids.max() > mask_id:
                raise ValueError(
                    f"`start_tokens[{index}]` must lie in [0, {mask_id}]: received "
                    f"values from {ids.min()} to {ids.max()}."
                )
            starts.append(ids)
        return starts

    def _encode_prompts(self, prompts, negative_prompts, guided):
        """`[text, null]`, or `[text]` if nothing is guided."""
        text = [self._encode_text(prompts)]
        if guided:
            text.append(self._encode_text(negative_prompts or [""] * len(prompts)))
        return text

    def _encode_text(self, prompts):
        if self.preprocessor is None:
            raise ValueError("`preprocessor` is needed to read prompts: received None.")
        rows = self.preprocessor.generate_preprocess(prompts)

        def embed(token_ids, padding_mask):
            return self.backbone.text_encoder(
                {"token_ids": token_ids, "padding_mask": padding_mask}
            )

        embeddings = self._compiled(("text",), embed)(
            rows["token_ids"], rows["padding_mask"]
        )
        return {"text_embeddings": embeddings, "padding_mask": rows["padding_mask"]}

    def _project_memory(self, index, text, guided, low_res_ids):
        """Keys and values of a stage; of both passes in one batch if it is guided."""
        if low_res_ids is not None:
            low_res_ids = to_int32(low_res_ids)
        memory = pass_inputs(text, guided, low_res_ids)
        transformer = self.backbone.transformers[index]
        return self._compiled(("memory", index), transformer.project_memory)(memory)

    def _decode_stage(
        self, index, sampler, text, seeds, image_ids, low_res_ids=None, callback=None
    ):
        """Fills the masked tokens of one stage: (B, N) int32 arrays in and out."""
        transformer = self.backbone.stages[index].transformer
        fillable = image_ids == transformer.mask_id
        num_masked = np.sum(fillable, axis=1)
        if not num_masked.any():
            return image_ids
        guided = is_guided(sampler)
        memory = self._project_memory(index, text, guided, low_res_ids)
        critic, critic_memory = critic_of(self.backbone, index, sampler), {}
        if critic is not None:
            project = self._compiled(("critic_memory", index), critic.project_memory)
            critic_memory = project(text[0])

        def run(
            num_changing,
            ids,
            start,
            stop,
            num_steps,
            fillable,
            scale,
            seeds,
            memory,
            critic_memory,
        ):
            return filled(
                transformer,
                memory,
                guided,
                ids,
                seeds,
                sampler,
                index,
                num_changing,
                start=start,
                stop=stop,
                fillable=fillable,
                num_steps=num_steps,
                guidance_scale=scale,
                critic=judgement(critic, critic_memory),
            )

        # Steps and scale are arguments of the compiled function, the rest is not.
        settings = sampler.replace(num_steps=1, guidance_scale=1.0)
        steps = num_steps_for(num_masked, transformer.num_tokens, sampler.num_steps)
        scale = np.full(len(seeds), sampler.guidance_scale, "float32")
        constants = (
            to_int32(steps),
            ops.convert_to_tensor(fillable),
            ops.convert_to_tensor(scale),
            to_int32(seeds),
            memory,
            critic_memory,
        )
        last = int(steps.max())
        # All steps in one call, unless somebody wants to see them.
        length = 1 if callback is not None else last
        if sampler.refresh_every > 1:
            _check_can_refresh(transformer)
            length = sampler.refresh_every
        ids = to_int32(image_ids)
        for start in range(0, last, length):
            stop = min(start + length, last)
            num_changing = None
            if sampler.refresh_every > 1:
                num_changing = num_changing_of(ops.convert_to_numpy(ids), transformer)
            function = self._compiled(
                ("decode", index, guided, settings, num_changing),
                functools.partial(run, num_changing),
            )
            before = ids
            # What is kept between the steps of one call ends with it.
            for end in [stop] if callback is None else range(start + 1, stop + 1):
                ids = function(before, to_int32(start), to_int32(end), *constants)
                if callback is not None:
                    callback(index, end - 1, ops.convert_to_numpy(ids))
        return np.asarray(ops.convert_to_numpy(ids), "int32")

    def _compiled(self, key, function):
        if key not in self._functions:
            self._functions[key] = compile_inference(self, function)
        return self._functions[key]

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Quantizes the text encoder, the transformers and their critics.

        Image tokenizers and the logits of image tokens stay as they are: they are
        small, and what they lose is seen.

        Args:
            mode: str, such as `"int8"`; see `keras.Model.quantize`.
            config: optional `keras.quantizers.QuantizationConfig`.
            filters: optional, which layers. Defaults to all `Dense` layers but the
                heads of the transformers.
            **kwargs: as of `keras.Model.quantize`.
        """
        backbone = self.backbone
        critics = filter(None, backbone.critics)
        for part in (backbone.text_encoder, *backbone.transformers, *critics):
            part.quantize(
                mode, config=config, filters=filters or _is_hidden_dense, **kwargs
            )
        self._functions = {}

    def save_to_preset(self, preset_dir, *args, **kwargs):
        """Saves to a folder, with checksums; see the class of KerasHub.

        The settings of this task are those of every task that is loaded from there.
        """
        kept = {name: getattr(self.backbone, name) for name in self.preset_settings}
        for name in kept:
            setattr(self.backbone, name, getattr(self, name))
        try:
            super().save_to_preset(preset_dir, *args, **kwargs)
        finally:
            for name, value in kept.items():
                setattr(self.backbone, name, value)

    def export(self, filepath, format="tf_saved_model", **options):
        """Exports this Muse for TF Serving: `keras_muse.serving.export`.

        Args:
            filepath: str or path `BASE/VERSION`, such as `"served/muse/1"`.
            format: `"tf_saved_model"`, or one of `keras.Model.export`, which exports
                the logits of the backbone alone. Defaults to `"tf_saved_model"`.
            **options: as of `keras_muse.serving.export`.

        Returns:
            `pathlib.Path` of the SavedModel.
        """
        if format != "tf_saved_model":
            return super().export(filepath, format, **options)
        from keras_muse import serving

        return serving.export(self, filepath, **options)

    def get_config(self):
        return {
            **super().get_config(),
            "samplers": [sampler.get_config() for sampler in self.samplers],
        }


def _check_can_refresh(transformer):
    if getattr(transformer, "block_size", None) is not None:
        raise ValueError(
            "`refresh_every` must be 1 for a transformer with multi-axis attention: "
            f"received more for {transformer.name!r}."
        )


def _is_hidden_dense(layer):
    return isinstance(layer, keras.layers.Dense) and layer.name != "head"


class Reporter:
    """Tells of the steps of a call: to the caller's callback, on a progress bar, both.

    Args:
        total: int. How many steps there will be at most.
        callback: optional function `callback(stage, step, tokens)`.
        verbose: bool. Whether to show a bar.
    """

    def __init__(self, total, callback=None, verbose=0):
        self.callback = callback
        self.done = 0
        self.bar = None
        if verbose:
            self.bar = keras.utils.Progbar(total, unit_name="step", verbose=1)

    def __call__(self, stage, step, tokens, num_steps=1):
        self.move_to(self.done + num_steps)
        if self.callback is not None:
            self.callback(stage, step, tokens)

    def move_to(self, step):
        """Moves the bar on, such as past steps that were not needed."""
        if self.bar is not None and step > self.done:
            self.bar.update(step)
            sys.stdout.flush()
        self.done = step

    def if_wanted(self):
        """Itself, or `None` if nobody listens: decoding then need not stop."""
        return self if self.bar is not None or self.callback is not None else None


def to_int32(value):
    """An int32 tensor."""
    return ops.convert_to_tensor(value, "int32")
