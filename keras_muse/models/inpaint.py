"""A part of a picture made anew, the rest untouched."""

import math

import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import feathered, grow
from keras_muse.layers import register
from keras_muse.models.editing import MuseEditing
from keras_muse.models.inputs import as_batch_seeds, as_count, as_edit_batches, as_share
from keras_muse.models.pictures import as_output

__all__ = ["MuseInpaint", "overlay"]


@register
class MuseInpaint(MuseEditing, keras_hub.models.Inpaint):
    """Fills the masked part of a picture (Muse, section 3.3), without any training.

    The tokens that the mask touches start masked, all others are known and never
    change. The tokens of the smallest picture are filled first, then those of each
    finer one, which see what the stage before made of the hole.

    A hole takes as many tokens a step as a whole picture does, so a quarter of the
    picture takes a quarter of `num_steps`.

    Args:
        backbone: `MuseBackbone` with a text encoder.
        preprocessor: optional `MuseTextToImagePreprocessor`.
        samplers: optional `keras_muse.decoding.Sampler`, or one for each stage.
            Defaults to those of the backbone.
        **kwargs: `name`.

    Raises:
        ValueError: as `MuseTextToImage`.

    Example:
    ```python
    inpaint = keras_muse.models.MuseInpaint.from_preset("muse_shapes")
    mask = np.zeros((128, 128), bool)
    mask[32:80, 32:80] = True  # what is true is made anew
    painted = inpaint.generate(
        {"images": "picture.png", "masks": mask, "prompts": "a large red circle"},
        seed=1,
    )
    ```
    """

    def generate(
        self,
        inputs,
        num_steps=None,
        strength=1.0,
        guidance_scale=None,
        seed=None,
        temperature=None,
        guidance_schedule=None,
        mask_dilation=0,
        feather=0,
        composite=True,
        fit="letterbox",
        callback=None,
        verbose=0,
    ):
        """Fills the masks of pictures.

        The same picture, mask, prompt and seed make the same image tokens on every
        backend, whatever else is in the batch.

        Args:
            inputs: dict, or `tf.data.Dataset` of batches of it, with
                `"images"`: paths, PIL images, uint8 arrays or float arrays in [0, 1],
                (H, W, 3), of any size, one or several;
                `"masks"`: likewise, (H, W) of the size of their images, bool, uint8 or
                float in [0, 1]: **white (true, 255, 1) is made anew, black is kept**,
                as in KerasHub;
                `"prompts"`: what the whole picture shall show then, a string or one
                for each image; and optionally `"negative_prompts"`.
            num_steps: int, or one a stage. Decoding steps of a picture that is masked
                wholly, from 1 to the number of image tokens. Defaults to the sampler's.
            strength: float in [0, 1]. Share of the masked tokens that start masked, a
                random one. 1 makes all anew, less keeps more of what was there.
                Defaults to 1.
            guidance_scale: float, or one a stage, as of `MuseTextToImage`.
            seed: int, from which row i uses `seed + i`, or one int a picture. Defaults
                to random seeds.
            temperature: float, or one a stage. Defaults to the sampler's.
            guidance_schedule: `"linear"` or `"constant"`. Defaults to the sampler's.
            mask_dilation: int, at least 0. By how many token cells of the first stage
                the mask grows on every side, which hides seams. Defaults to 0.
            feather: int, at least 0. Width of the soft edge between the new part and
                the old, in pixels of the picture, inside the mask. Defaults to 0.
            composite: bool. Whether the pixels outside the (grown) mask are those of
                the picture, one by one; if not, the whole picture is what the image
                tokenizer makes of the tokens. Defaults to `True`.
            fit: how pictures of another size are brought to that of the model:
                `"letterbox"` shows all of it and continues its edges, `"crop"` cuts
                out the centre. The result has the size of the picture. Defaults to
                `"letterbox"`.
            callback: optional function `callback(stage, step, tokens)`, called after
                each step with the tokens so far, a (B, N) int32 array in which
                `codebook_size` stands for masked.
            verbose: 1 shows a progress bar. Defaults to 0.

        Returns:
            uint8 array (B, H, W, 3); (H, W, 3) for a single picture; a list of arrays
            if the pictures differ in size.

        Raises:
            TypeError, ValueError: naming the argument, what it was and what it has to
                be.
        """
        samplers = self.samplers_for(
            num_steps, guidance_scale, temperature, guidance_schedule
        )
        strength = as_share("strength", strength)
        mask_dilation = as_count("mask_dilation", mask_dilation)
        feather = as_count("feather", feather)
        batches, is_single = as_edit_batches(inputs, with_masks=True)
        seeds = as_batch_seeds(seed, [len(batch.pictures) for batch in batches])

        masks = [self._grown(batch, mask_dilation, fit) for batch in batches]
        images = self._fill(
            batches, masks, seeds, samplers, strength, fit, callback, verbose
        )
        pictures = [picture for batch in batches for picture in batch.pictures]
        if composite:
            masks = [mask for rows in masks for mask in rows]
            images = [overlay(*rows, feather) for rows in zip(pictures, images, masks)]
        return as_output(images, is_single)

    def _grown(self, batch, mask_dilation, fit):
        """The masks of a batch, grown by cells of the first stage."""
        grown = []
        for index, (picture, mask) in enumerate(zip(batch.pictures, batch.masks)):
            frame = self._frame(picture, fit)
            if not frame.covers(mask):
                raise ValueError(
                    f"`masks[{index}]` must lie in the centre of its image with "
                    "`fit`='crop': received one with white pixels outside. "
                    "`fit`='letterbox' shows all of the image."
                )
            pixels = math.ceil(mask_dilation * self._cell_size(frame))
            grown.append(_to_numpy(grow(ops.convert_to_tensor(mask[None]), pixels))[0])
        return grown

    def _cell_size(self, frame):
        """Pixels of a picture along the longer side of a cell of the first stage."""
        grid = self.backbone.transformers[0].grid_size
        return max(
            side / cells * source / target
            for side, cells, source, target in zip(
                frame.shape, grid, frame.source[2:], frame.target[2:]
            )
        )


def overlay(picture, image, mask, feather):
    """An image where the mask is true, the picture elsewhere, a soft edge between.

    Args:
        picture: (H, W, 3) uint8.
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        feather: int. Pixels of the edge, see `keras_muse.decoding.feathered`.

    Returns:
        (H, W, 3) uint8.
    """
    share = _to_numpy(feathered(ops.convert_to_tensor(mask[None]), feather))[0]
    share = share[..., None]
    mixed = share * image + (1.0 - share) * picture
    return np.rint(mixed).astype("uint8")


def _to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))
