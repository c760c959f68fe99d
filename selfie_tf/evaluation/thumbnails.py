"""Thumbnails of many images, and sheets of them as one picture."""

import io

import numpy as np
from PIL import Image


def thumbnail_side(count: int, image_size: int) -> int:
    """Returns the side of thumbnails in pixels: smaller for many images, so that files stay small.

    It is a multiple of 16, the size of a JPEG's blocks, so that thumbnails of one sheet do not
    colour each other's margins.
    """
    return 48 if image_size >= 48 and count <= 10_000 else 32


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Scales square images, uint8 `[N, S, S, 3]`, to uint8 `[N, side, side, 3]`."""
    size = images.shape[1]
    if size == side:
        return images
    method = Image.Resampling.LANCZOS if size > side else Image.Resampling.NEAREST
    scaled = [np.asarray(Image.fromarray(image).resize((side, side), method)) for image in images]
    return np.stack(scaled)


def draw_sprites(thumbnails: np.ndarray, columns: int, kind: str) -> bytes:
    """Puts thumbnails side by side, row by row.

    Args:
      thumbnails: uint8 `[N, s, s, 3]`.
      columns: Thumbnails per row. The last row is filled up with white.
      kind: "png" or "jpeg".

    Returns:
      The picture's file.
    """
    count, side = thumbnails.shape[:2]
    rows = -(-count // columns)
    sheet = np.full([rows * columns, side, side, 3], 255, np.uint8)
    sheet[:count] = thumbnails
    sheet = sheet.reshape([rows, columns, side, side, 3]).swapaxes(1, 2)  # [rows, s, columns, s, 3]
    content = io.BytesIO()
    picture = Image.fromarray(sheet.reshape([rows * side, columns * side, 3]))
    picture.save(content, kind.upper(), **({"quality": 75} if kind == "jpeg" else {}))
    return content.getvalue()
