"""Many pictures as one, to look at."""

import numpy as np

__all__ = ["contact_sheet", "pair_sheet"]


def contact_sheet(pictures, columns=None):
    """Pictures (B, H, W, 3) as one, about as wide as high or of so many columns."""
    count, height, width, channels = pictures.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, channels), 255, "uint8")
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, channels)
    return sheet.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)


def pair_sheet(left, right, columns=None):
    """Pairs of pictures side by side, a white line around each pair.

    Args:
        left: (B, H, W, 3) uint8.
        right: (B, H, W, 3) uint8.
        columns: optional int. Pairs in a row. Defaults to about as many as make the
            sheet as wide as high.

    Returns:
        uint8 array.
    """
    pairs = np.concatenate([left, right], axis=2)
    line = max(left.shape[1] // 32, 2)
    around = ((0, 0), (line, line), (line, line), (0, 0))
    pairs = np.pad(pairs, around, constant_values=255)
    columns = columns or max(int(np.ceil(np.sqrt(len(pairs) / 2))), 1)
    return contact_sheet(pairs, columns)
