"""What tasks share that start from a picture: its tokens, some of them masked."""

import numpy as np
from keras import ops

from keras_muse.decoding import (
    cells_of,
    num_steps_for,
    random_part,
    refine_cells,
    uniform,
)
from keras_muse.models.frames import Frame
from keras_muse.models.generation import MuseGeneration, Reporter, to_int32

__all__ = ["MuseEditing"]

# The noise that tells which part of a hole `strength` means: a stream and a step that
# decoding does not have.
_PART, _BEFORE = 6, -1


class MuseEditing(MuseGeneration):
    """Mixin of the tasks that fill a part of the tokens of given pictures."""

    def _frame(self, picture, fit):
        return Frame.of(picture.shape[:2], self.backbone.image_shape[:2], fit)

    def _fill(self, batches, masks, seeds, samplers, strength, fit, callback, verbose):
        """Fills the masked part of pictures.

        Args:
            batches: list of `EditBatch`.
            masks: list, a list of (H, W) bool arrays for each batch.
            seeds: list, (B,) int32 for each batch.
            samplers: list of `Sampler`, one a stage.
            strength: float. Share of the masked tokens that are filled.
            fit: see `Frame`.
            callback: the caller's.
            verbose: the caller's.

        Returns:
            list of (H, W, 3) uint8 arrays of the size of the pictures.
        """
        jobs, total = [], 0
        for batch, holes, rows in zip(batches, masks, seeds):
            frames, tokens = self._encode_batch(batch, fit)
            holes = np.stack([f.fit_mask(hole) for f, hole in zip(frames, holes)])
            holes = self._holes(ops.convert_to_tensor(holes), rows, strength)
            starts = self._masked(tokens, holes)
            total += self._count_steps(holes, samplers)
            jobs.append((batch, frames, rows, starts))
        report = Reporter(total, callback, verbose).if_wanted()
        images = []
        for batch, frames, rows, starts in jobs:
            tokens = self.generate_tokens(
                batch.prompts, batch.negative_prompts, rows, samplers, report, starts
            )
            images += self._restored(batch, frames, tokens)
        return images

    def _encode_batch(self, batch, fit):
        """The frames of the pictures of a batch, and their tokens of every stage."""
        frames = [self._frame(picture, fit) for picture in batch.pictures]
        shown = [f.fit(picture) for f, picture in zip(frames, batch.pictures)]
        return frames, self.encode_images(np.stack(shown))

    def _restored(self, batch, frames, tokens):
        """Tokens of every stage as pictures of the size of those of the batch."""
        made = zip(frames, self.decode_images(tokens[-1]), batch.pictures)
        return [frame.restore(image, picture) for frame, image, picture in made]

    def _holes(self, masks, seeds, strength=1.0):
        """The tokens of every stage that start masked: list of (B, N) bool arrays.

        Args:
            masks: (B, H, W) bool, of the size of the pictures of the last stage.
            seeds: (B,) int32.
            strength: float. Share of the masked tokens of the first stage that is
                meant; of the others, those that lie on them.
        """
        grids = [transformer.grid_size for transformer in self.backbone.transformers]
        if strength < 1.0:
            hole = cells_of(masks, grids[0])
            noise = uniform(to_int32(seeds), 0, _BEFORE, _PART, hole.shape[1])
            hole = random_part(hole, strength, noise)
            size = tuple(masks.shape[1:])
            hole = ops.reshape(refine_cells(hole, grids[0], size), (-1, *size))
            masks = ops.logical_and(masks, hole)
        holes = [cells_of(masks, grid) for grid in grids]
        return [np.asarray(ops.convert_to_numpy(hole)) for hole in holes]

    def _masked(self, tokens, holes):
        """Tokens of every stage, `mask_id` in the holes."""
        mask_ids = [transformer.mask_id for transformer in self.backbone.transformers]
        return [
            np.where(hole, mask_id, ids).astype("int32")
            for ids, hole, mask_id in zip(tokens, holes, mask_ids)
        ]

    def _count_steps(self, holes, samplers):
        """How many steps it takes to fill the holes of every stage, an int."""
        return sum(
            int(num_steps_for(hole.sum(1), hole.shape[1], sampler.num_steps).max())
            for hole, sampler in zip(holes, samplers)
        )
