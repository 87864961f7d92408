"""A picture and what is added to it, as grids of image tokens."""

import math

import numpy as np
from PIL import Image

from keras_muse.decoding import grown_windows, num_steps_for

__all__ = ["MAX_SIZE", "Canvas"]

MAX_SIZE = 4  # of a canvas, in sides of the trained picture


class Canvas:
    """The token grids of a picture and what is added to it; cells of the first stage.

    Args:
        backbone: `MuseBackbone`.
        shape: (H, W, 3) of the picture.
        extend: (top, right, bottom, left), in pixels of the picture.

    Raises:
        ValueError: if the canvas would be too large, or the grids of the stages do not
            lie on each other.
    """

    def __init__(self, backbone, shape, extend):
        self.stages = backbone.stages
        self.window = tuple(backbone.transformers[0].grid_size)
        self.cell = [
            side // cells for side, cells in zip(backbone.image_shape, self.window)
        ]
        self.size, self.extend = shape[:2], extend
        # Cells of the picture: the side that needs the larger scale is the window's.
        scale = max(
            cells * cell / side
            for cells, cell, side in zip(self.window, self.cell, self.size)
        )
        self.known = [
            max(round(side * scale / cell), cells)
            for side, cell, cells in zip(self.size, self.cell, self.window)
        ]
        # Cells of what is added, whole ones.
        top, right, bottom, left = extend
        before, after = (
            [
                math.ceil(pixels * cells / side - 1e-6)
                for pixels, cells, side in zip(sides, self.known, self.size)
            ]
            for sides in ((top, left), (bottom, right))
        )
        self.before = before
        self.cells = [a + b + c for a, b, c in zip(before, self.known, after)]
        for name, cells, window, pixels, side in zip(
            ("high", "wide"),
            self.cells,
            self.window,
            ((top, bottom), (left, right)),
            self.size,
        ):
            if cells > MAX_SIZE * window:
                raise ValueError(
                    f"`extend` must leave the picture at most {MAX_SIZE} times as "
                    f"{name} as the model sees, {MAX_SIZE * window} cells: received "
                    f"extend={tuple(extend)}, {cells} cells for {side} + {sum(pixels)} "
                    "pixels."
                )
        self.windows = grown_windows(
            self.cells, self.window, (*self.before, *self.known)
        )

    def count_steps(self, samplers):
        """How many steps it takes to fill the canvas, an int."""
        known = np.zeros(self.cells, "bool")
        rows, columns = (slice(a, a + b) for a, b in zip(self.before, self.known))
        known[rows, columns] = True
        total = 0
        for top, left in self.windows:
            part = known[top : top + self.window[0], left : left + self.window[1]]
            share = part.size - int(part.sum())
            part[...] = True
            for (_, transformer), sampler in zip(self.stages, samplers):
                ratio = transformer.num_tokens // part.size
                steps = num_steps_for(
                    [share * ratio], transformer.num_tokens, sampler.num_steps
                )
                total += int(steps[0])
        return total

    def ratio(self, index):
        """Rows and columns of tokens of a stage in a cell."""
        grid = self.stages[index].transformer.grid_size
        if grid[0] % self.window[0] or grid[1] % self.window[1]:
            raise ValueError(
                f"The grid of stage {index} must be a multiple of the first stage's "
                f"{self.window} for a picture to be continued: received {grid}."
            )
        return grid[0] // self.window[0], grid[1] // self.window[1]

    def known_cells(self, index):
        """Rows and columns of tokens of the picture at a stage."""
        return [a * b for a, b in zip(self.known, self.ratio(index))]

    def shown(self, picture):
        """A picture as large as its cells: (H, W, 3) uint8."""
        return _resized(picture, [a * b for a, b in zip(self.known, self.cell)])

    def start(self, index, tokens):
        """All tokens of a stage, masked but for those of the picture."""
        rows, columns = (a * b for a, b in zip(self.cells, self.ratio(index)))
        mask_id = self.stages[index].transformer.mask_id
        canvas = np.full((len(tokens), rows, columns), mask_id, "int32")
        top, left = (a * b for a, b in zip(self.before, self.ratio(index)))
        height, width = tokens.shape[1:]
        canvas[:, top : top + height, left : left + width] = tokens
        return canvas

    def look(self, index, canvas, window):
        """The tokens of a window: (B, N)."""
        part = canvas[(slice(None), *self._slices(index, window))]
        return part.reshape(len(canvas), -1)

    def put(self, index, canvas, window, tokens):
        """Writes the tokens (B, N) of a window."""
        part = canvas[(slice(None), *self._slices(index, window))]
        part[...] = tokens.reshape(part.shape)

    def _slices(self, index, window):
        return [
            slice(place * ratio, (place + cells) * ratio)
            for place, cells, ratio in zip(window, self.window, self.ratio(index))
        ]

    def cut(self, image):
        """What the canvas shows, in the scale and to the edges that were asked for."""
        top, right, bottom, left = self.extend
        # Pixels of the canvas for one of the picture, and where the picture begins.
        scale = [a * b / c for a, b, c in zip(self.known, self.cell, self.size)]
        start = [
            max(cells * cell - pixels * ratio, 0.0)
            for cells, cell, pixels, ratio in zip(
                self.before, self.cell, (top, left), scale
            )
        ]
        size = (top + self.size[0] + bottom, left + self.size[1] + right)
        stop = [
            min(a + pixels * ratio, limit)
            for a, pixels, ratio, limit in zip(start, size, scale, image.shape)
        ]
        return _resized(image, size, (start[1], start[0], stop[1], stop[0]))


def _resized(picture, size, box=None):
    """The pixels in a box (left, top, right, bottom), all by default, as `size`."""
    box = box or (0.0, 0.0, picture.shape[1], picture.shape[0])
    left, top, right, bottom = (round(edge) for edge in box)
    if (left, top, right, bottom) == box and (bottom - top, right - left) == tuple(
        size
    ):
        return picture[top:bottom, left:right]
    image = Image.fromarray(picture)
    return np.asarray(image.resize(size[::-1], Image.Resampling.LANCZOS, box=box))
