"""From a prompt to a picture."""

import sys

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import Sampler, decode
from keras_muse.layers import refuse_unknown, register
from keras_muse.models.backbone import MuseBackbone
from keras_muse.models.compilation import compile_inference
from keras_muse.models.inputs import as_batches, as_num_steps, as_scales, as_seeds
from keras_muse.models.preprocessor import MuseTextToImagePreprocessor
from keras_muse.presets.loading import PresetLoading

__all__ = ["MuseTextToImage"]


@register
class MuseTextToImage(PresetLoading, keras_hub.models.TextToImage):
    """Makes pictures from prompts (Muse, arXiv 2301.00704).

    The prompt becomes text embeddings; every stage starts from nothing but masked
    tokens and fills them in a few parallel steps, guided by the text; the image
    tokenizer of the last stage turns its tokens into pixels.

    Args:
        backbone: `MuseBackbone` with a text encoder.
        preprocessor: optional `MuseTextToImagePreprocessor`. Without one, `generate`
            has no way to read strings.
        samplers: optional `keras_muse.decoding.Sampler`, or one for each stage: the
            settings that `generate` falls back to; a preset stores them. Defaults to
            the defaults of `Sampler`.
        **kwargs: `name`.

    Raises:
        ValueError: if the backbone has no text encoder, or there are neither one nor
            as many samplers as stages.

    Example:
    ```python
    muse = keras_muse.models.MuseTextToImage.from_preset("muse_shapes")
    image = muse.generate("three small red circles on a black background", seed=1)
    images = muse.generate(
        {"prompts": ["a blue square", "a red cross"], "negative_prompts": "on white"},
        num_steps=24, guidance_scale=2.0, seed=[4, 7],
    )
    ```
    """

    backbone_cls = MuseBackbone
    preprocessor_cls = MuseTextToImagePreprocessor

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
        self.samplers = _samplers(samplers, len(backbone.stages))

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
            "`MuseTextToImage` generates; to train its backbone use "
            "`keras_muse.models.MuseMaskedImageModel(backbone, preprocessor).fit(...)`."
        )

    def generate(
        self,
        inputs,
        num_steps=None,
        guidance_scale=None,
        seed=None,
        temperature=None,
        guidance_schedule=None,
        callback=None,
        verbose=0,
    ):
        """Makes one picture for every prompt.

        The same prompt and seed make the same image tokens on every backend, whatever
        else is in the batch, and so the same picture, up to the rounding of a pixel.

        Args:
            inputs: a string, a list of strings, a dict with `"prompts"` and optionally
                `"negative_prompts"` (what guidance leads away from; one string serves
                all), or a `tf.data.Dataset` of batches of these. The empty prompt is
                the unconditional picture.
            num_steps: int, or one int a stage, such as the paper's `(24, 8)`. Decoding
                steps, from 1 to the number of image tokens. Defaults to the sampler's.
            guidance_scale: float, or one a stage, at least 0. s of
                `uncond + s (cond - uncond)`; 1 is no guidance and costs no second
                pass. Defaults to the sampler's.
            seed: int, from which row i uses `seed + i`, or one int a prompt. Defaults
                to random seeds.
            temperature: float, or one a stage, at least 0. Defaults to the sampler's.
            guidance_schedule: `"linear"` or `"constant"`. Defaults to the sampler's.
            callback: optional function `callback(stage, step, tokens)`, called after
                each step with the tokens so far, a (B, N) int32 array in which
                `codebook_size` stands for masked.
            verbose: 1 shows a progress bar. Defaults to 0.

        Returns:
            uint8 array (B, H, W, 3); (H, W, 3) for a single string.

        Raises:
            TypeError, ValueError: naming the argument, what it was and what it has to
                be.
        """
        stages = self.backbone.stages
        steps = as_num_steps(
            num_steps,
            [sampler.num_steps for sampler in self.samplers],
            [stage.transformer.num_tokens for stage in stages],
        )
        scales = as_scales(
            "guidance_scale",
            guidance_scale,
            [sampler.guidance_scale for sampler in self.samplers],
        )
        temperatures = as_scales(
            "temperature", temperature, [s.temperature for s in self.samplers]
        )
        samplers = [
            sampler.replace(
                num_steps=steps[i],
                guidance_scale=scales[i],
                temperature=temperatures[i],
                guidance_schedule=guidance_schedule,
            )
            for i, sampler in enumerate(self.samplers)
        ]
        batches, is_single = as_batches(inputs)
        seeds = as_seeds(seed, sum(len(prompts) for prompts, _ in batches))
        report = _reporter(samplers, len(batches), callback, verbose)
        images, done = [], 0
        for prompts, negative_prompts in batches:
            rows = seeds[done : done + len(prompts)]
            done += len(prompts)
            tokens = self.generate_tokens(
                prompts, negative_prompts, rows, samplers, report
            )
            images.append(self.decode_images(tokens[-1]))
        images = np.concatenate(images)
        return images[0] if is_single else images

    def generate_tokens(
        self,
        prompts,
        negative_prompts,
        seeds,
        samplers=None,
        callback=None,
        tokens=(),
    ):
        """Image tokens of every stage, base first.

        With the tokens of a picture's first stages given, the stages behind them
        translate that picture.

        Args:
            prompts: list of B strings.
            negative_prompts: list of B strings, or `None` for the null caption.
            seeds: (B,) int32.
            samplers: list of `Sampler`, one a stage. Defaults to the preset's.
            callback: as of `generate`.
            tokens: list of (B, N) int32 arrays, the tokens of the first stages if they
                are there already. Defaults to none.

        Returns:
            list of (B, N) int32 arrays.

        Raises:
            ValueError: if the shape of given tokens is not the stage's, or all stages
                are given.
        """
        samplers = samplers or self.samplers
        text = self._encode_text(prompts)
        null = None
        if any(sampler.guidance_scale != 1.0 for sampler in samplers):
            null = self._encode_text(negative_prompts or [""] * len(prompts))
        tokens = self._given_tokens(tokens, len(prompts))
        for index in range(len(tokens), len(samplers)):
            sampler = samplers[index]
            rows = [text] if sampler.guidance_scale == 1.0 else [text, null]
            if tokens:
                # Without its caption a row still sees its low-res tokens.
                rows = [{**row, "low_res_ids": tokens[-1]} for row in rows]
            tokens.append(self._decode_stage(index, sampler, rows, seeds, callback))
        return [np.asarray(ops.convert_to_numpy(ids), "int32") for ids in tokens]

    def _given_tokens(self, tokens, count):
        stages = self.backbone.stages
        if len(tokens) >= len(stages):
            raise ValueError(
                "`tokens` must leave a stage to decode, at most "
                f"{len(stages) - 1} may be given: received {len(tokens)}."
            )
        for index, ids in enumerate(tokens):
            wanted = (count, stages[index].transformer.num_tokens)
            if tuple(ids.shape) != wanted:
                raise ValueError(
                    f"`tokens[{index}]` must have the shape {wanted}: received "
                    f"{tuple(ids.shape)}."
                )
        return [_int32(ids) for ids in tokens]

    def decode_images(self, tokens, stage=-1):
        """Pixels of the image tokens of a stage.

        Args:
            tokens: (B, N) int32 in `[0, codebook_size)`.
            stage: int. Whose tokens they are. Defaults to -1, the last.

        Returns:
            uint8 array (B, H, W, 3).

        Raises:
            TypeError: if the tokens are not integers.
            ValueError: if a token is out of range, or N is not the stage's.
        """
        tokenizer, transformer = self.backbone.stages[stage]
        tokens = np.asarray(tokens)
        if not np.issubdtype(tokens.dtype, np.integer):
            raise TypeError(f"`tokens` must be integers: received {tokens.dtype}.")
        if tokens.ndim != 2 or tokens.shape[1] != transformer.num_tokens:
            raise ValueError(
                f"`tokens` must have the shape (B, {transformer.num_tokens}): received "
                f"{tokens.shape}."
            )
        if tokens.min() < 0 or tokens.max() >= tokenizer.codebook_size:
            raise ValueError(
                f"`tokens` must lie in [0, {tokenizer.codebook_size}): received values "
                f"from {tokens.min()} to {tokens.max()}."
            )

        def pixels(tokens):
            images = tokenizer.decode(tokens, grid=transformer.grid_size)
            return ops.cast(ops.round(images * 255.0), "uint8")

        function = self._compiled(("pixels", tokenizer.name), pixels)
        return np.asarray(ops.convert_to_numpy(function(_int32(tokens))))

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

    def _decode_stage(self, index, sampler, rows, seeds, callback):
        """Fills all tokens of one stage.

        `rows` is `[text]`, or `[text, null]` if the stage is guided: both passes are
        then one of twice the batch.
        """
        transformer = self.backbone.stages[index].transformer
        guided = len(rows) == 2
        memory = {
            name: ops.concatenate([row[name] for row in rows], axis=0)
            for name in rows[0]
        }
        memory = self._compiled(("memory", index), transformer.project_memory)(memory)

        def run(image_ids, memory, seeds, start, stop, num_steps, guidance_scale):
            def predict(ids, guidance):
                if not guided:
                    return transformer.head(transformer.features(ids, memory))
                both = transformer.features(ops.concatenate([ids, ids]), memory)
                cond, uncond = ops.split(ops.cast(both, "float32"), 2)
                mixed = uncond + guidance[:, None, None] * (cond - uncond)
                return transformer.head(mixed)

            return decode(
                predict,
                image_ids,
                seeds,
                sampler,
                transformer.mask_id,
                start,
                stop,
                num_start=ops.full_like(seeds, transformer.num_tokens),
                num_steps=num_steps,
                guidance_scale=guidance_scale,
                stage=index,
                grid=transformer.grid_size,
            )

        # Steps and scale are arguments of the compiled function, the rest is not.
        settings = sampler.replace(num_steps=1, guidance_scale=1.0)
        function = self._compiled(("decode", index, guided, settings), run)
        image_ids = _int32(
            np.full((len(seeds), transformer.num_tokens), transformer.mask_id)
        )
        scale = np.full(len(seeds), sampler.guidance_scale, "float32")
        scale = ops.convert_to_tensor(scale)
        seeds, last = _int32(seeds), sampler.num_steps
        if callback is None:
            return function(
                image_ids, memory, seeds, _int32(0), _int32(last), _int32(last), scale
            )
        for step in range(last):
            image_ids = function(
                image_ids,
                memory,
                seeds,
                _int32(step),
                _int32(step + 1),
                _int32(last),
                scale,
            )
            callback(index, step, ops.convert_to_numpy(image_ids))
        return image_ids

    def _compiled(self, key, function):
        if key not in self._functions:
            self._functions[key] = compile_inference(self, function)
        return self._functions[key]

    def quantize(self, *args, **kwargs):
        """Quantizes the backbone, see `keras.Model.quantize`."""
        super().quantize(*args, **kwargs)
        self._functions = {}

    def get_config(self):
        return {
            **super().get_config(),
            "samplers": [sampler.get_config() for sampler in self.samplers],
        }


def _samplers(samplers, count):
    if samplers is None or isinstance(samplers, Sampler):
        samplers = [samplers or Sampler()] * count
    if len(samplers) != count:
        raise ValueError(
            f"`samplers` must be one `Sampler` or one for each of the {count} stages: "
            f"received {len(samplers)}."
        )
    return [Sampler(**s) if isinstance(s, dict) else s for s in samplers]


def _reporter(samplers, num_batches, callback, verbose):
    """The callback of a call: the caller's, a progress bar, both or `None`."""
    if not verbose:
        return callback
    total = num_batches * sum(sampler.num_steps for sampler in samplers)
    bar = keras.utils.Progbar(total, unit_name="step", verbose=1)

    def report(stage, step, tokens):
        bar.add(1)
        sys.stdout.flush()
        if callback is not None:
            callback(stage, step, tokens)

    return report


def _int32(value):
    return ops.convert_to_tensor(value, "int32")
