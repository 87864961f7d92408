"""A picture continued beyond its edges."""

import keras_hub
import numpy as np
from keras import ops

from keras_muse.decoding import seeds_of
from keras_muse.layers import register
from keras_muse.models.canvas import Canvas
from keras_muse.models.generation import MuseGeneration, Reporter
from keras_muse.models.inputs import as_batch_seeds, as_count, as_edit_batches
from keras_muse.models.pictures import as_output
from keras_muse.models.stages import is_guided

__all__ = ["MuseOutpaint"]


@register
class MuseOutpaint(MuseGeneration, keras_hub.models.Task):
    """Continues pictures beyond their edges (Muse, section 3.3).

    The model looks at the canvas through a window of the size that it was trained on.
    The window moves outwards from the picture by half its side at a time; what it shows
    already is known, the rest is filled. Then the same is done with the finer tokens of
    the next stage, which see the coarser ones of their window. The prompt tells what
    each window shows.

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
    outpaint = keras_muse.models.MuseOutpaint.from_preset("muse_shapes")
    wide = outpaint.generate(
        {"images": "picture.png", "prompts": "a red circle left of a blue square"},
        extend=(0, 64, 0, 0),
        seed=1,
    )
    ```
    """

    def generate(
        self,
        inputs,
        extend,
        num_steps=None,
        guidance_scale=None,
        seed=None,
        temperature=None,
        guidance_schedule=None,
        composite=True,
        callback=None,
        verbose=0,
    ):
        """Continues pictures.

        A picture is scaled so that its shorter side is that of the trained picture,
        the larger one to whole tokens of the first stage; the result has the scale of
        the picture.

        Args:
            inputs: dict, or `tf.data.Dataset` of batches of it, with `"images"` as of
                `MuseInpaint`, `"prompts"`, a string or one for each image, and
                optionally `"negative_prompts"`.
            extend: (top, right, bottom, left), int, pixels of the picture to add on
                each side, at least 0; or one int for all sides. The whole may be up to
                4 times as wide and high as the trained picture.
            num_steps: int, or one a stage. Decoding steps of a whole window; one that
                is known in part takes fewer. Defaults to the sampler's.
            guidance_scale: float, or one a stage, as of `MuseTextToImage`.
            seed: int, from which row i uses `seed + i`, or one int a picture. Defaults
                to random seeds.
            temperature: float, or one a stage. Defaults to the sampler's.
            guidance_schedule: `"linear"` or `"constant"`. Defaults to the sampler's.
            composite: bool. Whether the pixels of the picture are kept one by one; if
                not, all is what the image tokenizer makes of the tokens. Defaults to
                `True`.
            callback: optional function `callback(stage, step, tokens)`, called after
                each step with the tokens of the window.
            verbose: 1 shows a progress bar. Defaults to 0.

        Returns:
            uint8 array (B, top + H + bottom, left + W + right, 3); without B for a
            single picture; a list of arrays if they differ in size.

        Raises:
            TypeError, ValueError: naming the argument, what it was and what it has to
                be.
        """
        samplers = self.samplers_for(
            num_steps, guidance_scale, temperature, guidance_schedule
        )
        extend = _as_extend(extend)
        batches, is_single = as_edit_batches(inputs)
        seeds = as_batch_seeds(seed, [len(batch.pictures) for batch in batches])
        groups, total = [], 0
        for batch, batch_seeds in zip(batches, seeds):
            for rows in _rows_of_one_size(batch.pictures):
                canvas = Canvas(self.backbone, batch.pictures[rows[0]].shape, extend)
                groups.append((batch, rows, canvas, batch_seeds[rows]))
                total += canvas.count_steps(samplers)
        report = Reporter(total, callback, verbose).if_wanted()
        made = {}
        for batch, rows, canvas, row_seeds in groups:
            pictures = np.stack([batch.pictures[row] for row in rows])
            prompts = [batch.prompts[row] for row in rows]
            negative = batch.negative_prompts
            negative = negative and [negative[row] for row in rows]
            text = self._encode_prompts(prompts, negative, is_guided(*samplers))
            images = self._continue(canvas, pictures, text, row_seeds, samplers, report)
            if composite:
                height, width = pictures.shape[1:3]
                top, left = extend[0], extend[3]
                images[:, top : top + height, left : left + width] = pictures
            made.update({(id(batch), row): x for row, x in zip(rows, images)})
        images = [made[id(b), row] for b in batches for row in range(len(b.pictures))]
        return as_output(images, is_single)

    def _continue(self, canvas, pictures, text, seeds, samplers, report):
        """(B, H, W, 3) uint8 pictures to (B, H', W', 3) uint8 ones."""
        shown = ops.convert_to_tensor(np.stack([canvas.shown(p) for p in pictures]))
        before = None
        for index, sampler in enumerate(samplers):
            grid = canvas.known_cells(index)
            ids = self._encode_stage(index, shown, grid)
            tokens = canvas.start(index, ids.reshape(-1, *grid))
            for number, window in enumerate(canvas.windows, 1):
                low_res_ids = None
                if index:
                    low_res_ids = canvas.look(index - 1, before, window)
                ids = self._decode_stage(
                    index,
                    sampler,
                    text,
                    ops.convert_to_numpy(seeds_of(seeds, number)),
                    canvas.look(index, tokens, window),
                    low_res_ids,
                    report,
                )
                canvas.put(index, tokens, window, ids)
            before = tokens
        grid = tokens.shape[1:]
        images = self.decode_images(tokens.reshape(len(tokens), -1), grid=grid)
        return np.stack([canvas.cut(image) for image in images])


def _as_extend(extend):
    if isinstance(extend, (int, np.integer)):
        extend = (extend,) * 4
    if not isinstance(extend, (list, tuple)) or len(extend) != 4:
        raise ValueError(
            "`extend` must be (top, right, bottom, left) in pixels, or one int for all "
            f"sides: received {extend!r}."
        )
    return tuple(as_count("extend", pixels) for pixels in extend)


def _rows_of_one_size(pictures):
    """Lists of the indices of pictures that have the same shape."""
    rows = {}
    for row, picture in enumerate(pictures):
        rows.setdefault(picture.shape, []).append(row)
    return list(rows.values())
