"""Image files to RGB arrays.

TensorFlow decodes ordinary JPEGs: without Python, and to the same pixels as Pillow. Pillow decodes
everything else. TensorFlow's decoders ignore EXIF rotation, drop transparency without blending, and
take 8 GB for a PNG of 20000x20000 pixels.
"""

import functools
import io
import os
import stat

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

NOT_ORDINARY = -1
_HEADER_BYTES = (
    131_072  # an EXIF segment of 64 kB and more; a JPEG with a longer header is Pillow's
)
_ORIENTATION = 0x0112

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
    return to_rgb(read_bytes(path), max_pixels, min_side)


def to_rgb(content: bytes, max_pixels: int = 100_000_000, min_side: int = 0) -> np.ndarray:
    """Decodes the content of an image file, see `read_image`."""
    try:
        image = Image.open(io.BytesIO(content))
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


def jpeg_halvings(path: str, max_pixels: int = 100_000_000, min_side: int = 0) -> int:
    """Tells from a file's header whether `decode_jpeg` shows it as `read_image` does.

    Args:
      path, max_pixels, min_side: See `read_image`.

    Returns:
      How often its sides may be halved while it is decoded, 0 to 3; or `NOT_ORDINARY`: only
      `read_image` reads it, or says why it cannot be read.
    """
    try:
        return content_halvings(read_bytes(path, _HEADER_BYTES), max_pixels, min_side)
    except (OSError, ValueError, tf.errors.OpError):
        return NOT_ORDINARY


def content_halvings(content: bytes, max_pixels: int = 100_000_000, min_side: int = 0) -> int:
    """The `jpeg_halvings` of a file's content."""
    try:
        with Image.open(io.BytesIO(content[:_HEADER_BYTES]), formats=("JPEG",)) as image:
            if image.mode not in ("L", "RGB") or image.width * image.height > max_pixels:
                return NOT_ORDINARY
            if image.getexif().get(_ORIENTATION, 1) != 1:
                return NOT_ORDINARY
            # As Image.draft: the largest factor that leaves both sides long enough.
            factor = min(image.size) // min_side if min_side else 1
            return min(max(factor, 1).bit_length() - 1, 3)
    except Exception:  # decoders raise errors of all kinds
        return NOT_ORDINARY


def decode_jpeg(content: tf.Tensor, halvings: tf.Tensor) -> tf.Tensor:
    """Decodes an ordinary JPEG in TensorFlow.

    Args:
      content: string `[]`, the file.
      halvings: int `[]`, see `jpeg_halvings`.

    Returns:
      uint8 `[h, w, 3]`.
    """
    # TensorFlow's default DCT is faster, but up to 9 of 255 levels off Pillow's.
    decode = functools.partial(
        tf.io.decode_jpeg, content, channels=3, dct_method="INTEGER_ACCURATE"
    )
    branches = [functools.partial(decode, ratio=2**k) for k in range(4)]
    return tf.switch_case(tf.cast(halvings, tf.int32), branches)


def read_bytes(path: str, size: int = -1) -> bytes:
    """Reads a file, and never waits for a FIFO or a device.

    Args:
      path: A local file, or anything else that tf.io.gfile reads.
      size: How many bytes to read at most; -1 for all.

    Raises:
      ValueError: If it is a FIFO, a socket, a device, a folder, or a link that leads nowhere.
      OSError: If it cannot be read.
    """
    if "://" in path:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read(size)
    try:
        _check_regular(os.stat(path))  # before it is opened: that may make a device act
    except OSError as error:
        if os.path.islink(path):
            raise ValueError(f"a link that leads nowhere: {error.strerror}") from None
        raise
    # Another file may have taken its name since.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        _check_regular(os.fstat(file.fileno()))
        return file.read(size)


def _check_regular(status):
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        raise ValueError(f"a {kind}, not a regular file")
