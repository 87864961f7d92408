"""From a prompt to a picture."""

import keras_hub
import numpy as np

from keras_muse.layers import register
from keras_muse.models.generation import MuseGeneration, Reporter
from keras_muse.models.inputs import as_batch_seeds, as_batches

__all__ = ["MuseTextToImage"]


@register
class MuseTextToImage(MuseGeneration, keras_hub.models.TextToImage):
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
            those of the backbone.
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
        samplers = self.samplers_for(
            num_steps, guidance_scale, temperature, guidance_schedule
        )
        batches, is_single = as_batches(inputs)
        seeds = as_batch_seeds(seed, [len(prompts) for prompts, _ in batches])
        total = len(batches) * sum(sampler.num_steps for sampler in samplers)
        report = Reporter(total, callback, verbose).if_wanted()
        images = []
        for (prompts, negative_prompts), rows in zip(batches, seeds):
            tokens = self.generate_tokens(
                prompts, negative_prompts, rows, samplers, report
            )
            images.append(self.decode_images(tokens[-1]))
        images = np.concatenate(images)
        return images[0] if is_single else images
