"""Image files to RGB arrays.

Pillow decodes them. TensorFlow's decoders ignore EXIF rotation, drop transparency without blending,
and take 8 GB for a PNG of 20000x20000 pixels.
"""

import io
import os
import stat

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "folder",
}

Image.MAX_IMAGE_PIXELS = None  # the limit here is the config's


def read_image(path: str, max_pixels: int = 100_000_000, min_side: int = 0) -> np.ndarray:
    """Reads one image as a viewer would show it.

    Grey, CMYK, palette, 16-bit and RGBA images become RGB (transparency over white), EXIF rotation
    is applied, and of an animation the first frame is taken.

    Args:
      path: The file; anything that tf.io.gfile reads.
      max_pixels: Larger images are refused before they are decoded.
      min_side: If positive, a JPEG may be shrunk while it is decoded, which is much faster. Its
        shorter side keeps at least this many pixels.

    Returns:
      uint8 `[h, w, 3]`.

    Raises:
      ValueError: If it is not a regular file, not an image, too large, or its pixels have no known
        range.
      OSError: If the file is truncated.
    """
    try:
        image = Image.open(io.BytesIO(read_bytes(path)))
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width}x{image.height} is over {max_pixels} pixels")
        if min_side:
            image.draft(None, (min_side, min_side))
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
            grey = np.clip(np.asarray(image, np.int64), 0, 65_535) / 257
            return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)
        if image.mode == "F":
            raise ValueError("float pixels have no known range")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))


def read_bytes(path: str) -> bytes:
    """Reads a whole file, and never waits for a FIFO or a device.

    Args:
      path: A local file, or anything else that tf.io.gfile reads.

    Raises:
      ValueError: If it is a FIFO, a socket, a device, a folder, or a link that leads nowhere.
      OSError: If it cannot be read.
    """
    if "://" in path:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    try:
        _check_regular(os.stat(path))  # before it is opened: that may make a device act
    except OSError as error:
        if os.path.islink(path):
            raise ValueError(f"a link that leads nowhere: {error.strerror}") from None
        raise
    # Another file may have taken its name since.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        _check_regular(os.fstat(file.fileno()))
        return file.read()


def _check_regular(status):
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        raise ValueError(f"a {kind}, not a regular file")
