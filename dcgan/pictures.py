"""Images side by side in one PNG."""

import io

import numpy as np
from PIL import Image


def png_grid(images: np.ndarray, columns: int, gap: int = 0) -> bytes:
    """uint8 images (N, H, W, 3) in rows of `columns`, `gap` white pixels apart -> one PNG.

    What the last row lacks is white.
    """
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[: len(images), : height - gap, : width - gap] = images
    grid = cells.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, 3)
    buffer = io.BytesIO()
    Image.fromarray(grid[: rows * height - gap, : columns * width - gap]).save(buffer, "PNG")
    return buffer.getvalue()
