"""A picture changed by a prompt alone, without a mask."""

import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import contradiction, refine_cells, resample
from keras_muse.layers import register
from keras_muse.models.backbone import as_resampler
from keras_muse.models.editing import MuseEditing
from keras_muse.models.generation import Reporter, to_int32
from keras_muse.models.inputs import (
    as_batch_seeds,
    as_count,
    as_edit_batches,
    as_scales,
    as_share,
)
from keras_muse.models.pictures import as_output
from keras_muse.models.stages import guided_prediction, is_guided

__all__ = ["MuseEdit"]

METHODS = ("resample", "contrast")


@register
class MuseEdit(MuseEditing, keras_hub.models.ImageToImage):
    """Changes pictures by a prompt, without a mask and without any training.

    There are three ways to change the tokens of the first stage; the later stages then
    translate them.

    - `method="resample"` (Muse, section 3.3): a random 8 % of the tokens is masked and
      drawn anew, guided by the prompt, again and again, so that the picture moves
      towards what the prompt says.
    - `method="contrast"`: the tokens that the prompt contradicts are found and made
      anew together, once (the idea of DiffEdit, arXiv 2210.11427). All else stays where
      it is. A negative prompt that tells what is there now sharpens the contrast.
    - `strength`: plain image-to-image, a random share of the tokens is made anew, once.

    Args:
        backbone: `MuseBackbone` with a text encoder.
        preprocessor: optional `MuseTextToImagePreprocessor`.
        samplers: optional `keras_muse.decoding.Sampler`, or one for each stage.
            Defaults to those of the backbone.
        resampler: optional `keras_muse.decoding.Resampler`: how the tokens of the first
            stage are drawn anew. Defaults to that of the backbone.
        **kwargs: `name`.

    Raises:
        ValueError: as `MuseTextToImage`.

    Example:
    ```python
    edit = keras_muse.models.MuseEdit.from_preset("muse_shapes")
    blue = edit.generate(
        {"images": "red_circle.png", "prompts": "a blue circle"}, seed=1
    )
    others = edit.variations("red_circle.png", "a red circle", strength=0.5)
    ```
    """

    preset_settings = ("samplers", "resampler")

    def __init__(
        self, backbone, preprocessor=None, samplers=None, resampler=None, **kwargs
    ):
        super().__init__(backbone, preprocessor, samplers, **kwargs)
        self.resampler = as_resampler(resampler or backbone.resampler)

    def generate(
        self,
        inputs,
        num_steps=None,
        strength=None,
        guidance_scale=None,
        seed=None,
        temperature=None,
        guidance_schedule=None,
        method=None,
        mask_rate=None,
        threshold=None,
        keep_unchanged=True,
        fit="letterbox",
        callback=None,
        callback_every=1,
        verbose=0,
    ):
        """Changes pictures.

        Args:
            inputs: dict, or `tf.data.Dataset` of batches of it, with `"images"` as of
                `MuseInpaint`, `"prompts"`, what the picture shall show then, a string
                or one for each image, and optionally `"negative_prompts"`.
            num_steps: int, or one a stage; an int is for the first stage alone. How
                often tokens are drawn anew when resampling, else the decoding steps of
                a picture that is masked wholly. Defaults to the resampler's, or the
                sampler's.
            strength: optional float in [0, 1]. Share of the tokens to make anew, a
                random one; 0 keeps the picture. Defaults to `None`: a `method`.
            guidance_scale: float, or one a stage; a float is for the first stage
                alone. Defaults to the resampler's, or the sampler's.
            seed: int, from which row i uses `seed + i`, or one int a picture. Defaults
                to random seeds.
            temperature: float, or one a stage; a float is for the first stage alone.
                Defaults to the resampler's, or the sampler's.
            guidance_schedule: `"linear"` or `"constant"`, for decoding. Defaults to
                the sampler's.
            method: `"resample"` or `"contrast"`, see above. Defaults to `"resample"`.
            mask_rate: float in (0, 1]. When resampling, share of the tokens that a step
                draws anew. Defaults to the resampler's.
            threshold: float, at least 0. With contrast, by how many nats the prompt
                must make a token less likely for it to be made anew. Defaults to 1.
            keep_unchanged: bool. Whether later stages keep their tokens where those of
                the first ended as they were; if not, they draw all anew, as in the
                paper. Defaults to `True`.
            fit: as of `MuseInpaint`.
            callback: optional function `callback(stage, step, tokens)`, called with
                the (B, N) int32 tokens so far; `decode_images(tokens, stage)` shows
                them.
            callback_every: int, at least 1. After how many steps of the first stage
                the callback is called; the last step counts always. Defaults to 1.
            verbose: 1 shows a progress bar. Defaults to 0.

        Returns:
            uint8 array (B, H, W, 3); (H, W, 3) for a single picture; a list of arrays
            if the pictures differ in size.

        Raises:
            TypeError, ValueError: naming the argument, what it was and what it has to
                be.
        """
        method = _as_method(method, strength, mask_rate, threshold)
        threshold = as_scales("threshold", threshold, [1.0])[0]
        resampler, samplers = self._edit_settings(
            method == "resample",
            {
                "num_steps": num_steps,
                "guidance_scale": guidance_scale,
                "temperature": temperature,
            },
            guidance_schedule,
            mask_rate,
        )
        callback_every = as_count("callback_every", callback_every, least=1)
        batches, is_single = as_edit_batches(inputs)
        seeds = as_batch_seeds(seed, [len(batch.pictures) for batch in batches])
        first = resampler if method == "resample" else samplers[0]
        steps = sum(settings.num_steps for settings in (first, *samplers[1:]))
        report = Reporter(steps * len(batches), callback, verbose)

        def change(ids, text, rows):
            """The tokens of the first stage after the edit."""
            if method == "resample":
                return self._resample_base(
                    ids, text, rows, resampler, report, callback_every
                )
            if method == "contrast":
                hole = self._contradiction(ids, text, rows) > threshold
            else:
                hole = self._holes(self._everywhere(ids), rows, strength)[0]
            [start] = self._masked([ids], [hole])
            return self._decode_stage(
                0, samplers[0], text, rows, start, callback=report.if_wanted()
            )

        guided = method == "contrast" or is_guided(first, *samplers[1:])
        images = []
        for index, (batch, rows) in enumerate(zip(batches, seeds), 1):
            frames, tokens = self._encode_batch(batch, fit)
            text = self._encode_prompts(batch.prompts, batch.negative_prompts, guided)
            base = change(tokens[0], text, rows)
            starts = self._later_starts(tokens, base, keep_unchanged)
            tokens = self._decode_stages(
                text, rows, samplers, starts, report.if_wanted()
            )
            # Stages that had little to do took fewer steps.
            report.move_to(index * steps)
            images += self._restored(batch, frames, tokens)
        return as_output(images, is_single)

    def variations(
        self, images, prompts="", strength=0.5, count=4, seed=None, **settings
    ):
        """Other pictures like given ones: image-to-image, several times.

        Args:
            images: as of `generate`.
            prompts: a string, or one for each image. Defaults to `""`, no text.
            strength: float in [0, 1]. Share of the tokens to make anew. Defaults to
                0.5.
            count: int, at least 1. How many of each picture. Defaults to 4.
            seed: int, from which each next variation uses the next, or one int for each
                variation of each picture. Defaults to random seeds.
            **settings: other arguments of `generate`.

        Returns:
            uint8 array (B, count, H, W, 3); (count, H, W, 3) for a single picture; a
            list of arrays if the pictures differ in size.

        Raises:
            TypeError, ValueError: as `generate`.
        """
        count = as_count("count", count, least=1)
        inputs = {"images": images, "prompts": prompts}
        [batch], is_single = as_edit_batches(inputs)
        repeated = {
            "images": [p for p in batch.pictures for _ in range(count)],
            "prompts": [p for p in batch.prompts for _ in range(count)],
        }
        made = self.generate(repeated, strength=strength, seed=seed, **settings)
        groups = [
            np.stack(list(made[start : start + count]))
            for start in range(0, len(made), count)
        ]
        return as_output(groups, is_single)

    def _edit_settings(self, iterative, values, guidance_schedule, mask_rate):
        """The resampler and the samplers of a call.

        One value is for the first stage: for the resampler if the edit is iterative,
        for the first sampler if not.
        """
        first, each = {"mask_rate": mask_rate}, {}
        for name, value in values.items():
            own = [getattr(sampler, name) for sampler in self.samplers]
            if value is not None and not isinstance(value, (list, tuple)):
                value = [value, *own[1:]]
            if value is not None and iterative:
                first[name] = value[0]
                value = [own[0], *value[1:]]
            each[name] = value
        samplers = self.samplers_for(**each, guidance_schedule=guidance_schedule)
        return self.resampler.replace(**first), samplers

    def _everywhere(self, tokens):
        height, width, _ = self.backbone.image_shape
        return ops.ones((len(tokens), height, width), "bool")

    def _later_starts(self, tokens, base, keep_unchanged):
        """Tokens of every stage: the new base, the others masked where it changed."""
        grid, size = self.backbone.transformers[0].grid_size, self.backbone.image_shape
        if keep_unchanged:
            changed = ops.convert_to_tensor(base != tokens[0])
            changed = refine_cells(changed, grid, size[:2])
            changed = ops.reshape(changed, (-1, *size[:2]))
        else:
            changed = self._everywhere(base)
        return [base, *self._masked(tokens, self._holes(changed, None))[1:]]

    def _resample_base(self, ids, text, seeds, resampler, report, every):
        """Draws tokens of the first stage anew: (B, N) int32 arrays in and out."""
        transformer = self.backbone.transformers[0]
        guided = is_guided(resampler)
        memory = self._project_memory(0, text, guided, None)

        def run(ids, memory, seeds, start, stop, guidance_scale, mask_rate):
            return resample(
                guided_prediction(transformer, memory, guided),
                ids,
                seeds,
                resampler,
                transformer.mask_id,
                start,
                stop,
                guidance_scale,
                mask_rate,
            )

        # Numbers are arguments of the compiled function, the rest is not.
        settings = resampler.replace(num_steps=1, guidance_scale=1.0, mask_rate=1.0)
        function = self._compiled(("resample", guided, settings), run)
        numbers = [
            ops.convert_to_tensor(np.full(len(seeds), value, "float32"))
            for value in (resampler.guidance_scale, resampler.mask_rate)
        ]
        ids, seeds, last = to_int32(ids), to_int32(seeds), resampler.num_steps
        every = every if report.if_wanted() else last
        for start in range(0, last, every):
            stop = min(start + every, last)
            ids = function(
                ids, memory, seeds, to_int32(start), to_int32(stop), *numbers
            )
            report(0, stop - 1, ops.convert_to_numpy(ids), stop - start)
        return np.asarray(ops.convert_to_numpy(ids), "int32")

    def _contradiction(self, ids, text, seeds):
        """`contradiction` of the tokens of the first stage: (B, N) float32 array."""
        transformer = self.backbone.transformers[0]
        memory = self._project_memory(0, text, True, None)

        def run(ids, memory, seeds):
            predict = guided_prediction(transformer, memory, True)
            return contradiction(predict, ids, seeds, transformer.mask_id)

        function = self._compiled(("contradiction",), run)
        score = function(to_int32(ids), memory, to_int32(seeds))
        return ops.convert_to_numpy(score)

    def get_config(self):
        return {**super().get_config(), "resampler": self.resampler.get_config()}


def _as_method(method, strength, mask_rate, threshold):
    """Which of the ways to edit is meant; refuses arguments of another."""
    if strength is not None:
        as_share("strength", strength)
        if method is not None:
            raise ValueError(
                "`method` must be left out with a `strength`: received "
                f"method={method!r}, strength={strength}."
            )
        method = "strength"
    elif method is None:
        method = "resample"
    elif method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}: received "
            f"{method!r}."
        )
    for name, value, its_method in (
        ("mask_rate", mask_rate, "resample"),
        ("threshold", threshold, "contrast"),
    ):
        if value is not None and method != its_method:
            raise ValueError(
                f"`{name}` belongs to the method {its_method!r}: received "
                f"{name}={value} with {method!r}."
            )
    return method
