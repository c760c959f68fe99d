"""Looks at every image of a source once: its size, its kind, and hashes to find copies by."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import time

import imagehash
import numpy as np
from PIL import Image

from selfie_tf.data.decode import read_bytes, read_image, to_rgb
from selfie_tf.data.folder import FolderSource
from selfie_tf.data.source import reading
from selfie_tf.errors import first_line

_SIDE = 128  # pixels that a JPEG's shorter side keeps; a hash needs 32
_SMALL = 16
_AHEAD = 256  # images in memory at a time, at most
_ORIENTATION = 0x0112
_LOG_SECONDS = 30
_MODES = {
    "1": "black and white",
    "CMYK": "CMYK",
    "I": "grey, 16 bits",
    "L": "grey",
    "LA": "grey",
    "P": "palette",
    "PA": "palette",
    "RGBA": "RGB",
    "RGBX": "RGB",
}


@dataclasses.dataclass(slots=True)
class Seen:
    """What is known of one image.

    Attributes:
      id: Its name, see `IndexedSource.train_ids`.
      held_out: Whether the source holds it out.
      label: The number of its class; -1 is none.
      error: Why it cannot be read; empty if it can. Then all that follows is known.
      width, height: In pixels, after EXIF rotation.
      num_bytes: Size of its file; 0 if it is not in a file of its own.
      format: Such as "JPEG"; empty if it is not in a file of its own.
      mode: Such as "RGB" or "CMYK"; empty if that is not known.
      notes: Of "EXIF rotation", "transparency" and "several frames", what it has.
      digest: Hash of the file's bytes, or of the pixels if it is not in a file of its own.
      bits: The perceptual hash, bool `[64]`.
      small: Its grey levels, uint8 `[16, 16]`.
    """

    id: str
    held_out: bool
    label: int = -1
    error: str = ""
    width: int = 0
    height: int = 0
    num_bytes: int = 0
    format: str = ""
    mode: str = ""
    notes: tuple = ()
    digest: bytes = b""
    bits: np.ndarray | None = None
    small: np.ndarray | None = None


class Arrays:
    """The images of any source, as it yields them.

    Args:
      source: See `data.make_source`.
      data: The `data` section of a config.
      limit: How many images to look at, at most; they are spread evenly.

    Attributes:
      total: How many images there are.
    """

    def __init__(self, source, data, limit: int):
        self._source, self._data = source, data
        ids = [*source.train_ids(), *source.held_out_ids()]
        self.total = len(ids)
        self._chosen = _spread(len(ids), limit)
        self._ids = [ids[i] for i in self._chosen]
        self._position = {number: k for k, number in enumerate(self._chosen)}

    def __len__(self):
        return len(self._chosen)

    def look(self, pool) -> collections.abc.Iterator[Seen]:
        """Yields a `Seen` per image, the training images first."""
        return _parallel(pool, lambda item: self._describe(*item), self._each(self._chosen))

    def read(self, positions) -> dict:
        """Reads some images again: {position among those looked at: uint8 `[h, w, 3]`}."""
        wanted = [self._chosen[position] for position in positions]
        return {self._position[i]: image for i, image, _ in self._each(wanted)}

    def _each(self, wanted):
        """Yields (number, image, label) of some images."""
        wanted = set(wanted)
        for held_out in (False, True):
            first = self._source.num_train if held_out else 0
            last = first + (self._source.num_held_out if held_out else self._source.num_train)
            left = sum(first <= i < last for i in wanted)
            if not left:
                continue
            with reading(self._source, self._data):
                for k, image, label in self._source.each_image(held_out).as_numpy_iterator():
                    if first + k in wanted:
                        yield int(first + k), image, int(label)
                        left -= 1
                        if not left:
                            break

    def _describe(self, number, image, label):
        seen = Seen(self._ids[self._position[number]], number >= self._source.num_train, label)
        seen.height, seen.width = image.shape[:2]
        seen.digest = _digest(repr(image.shape).encode() + image.tobytes())
        seen.bits, seen.small = _hash(image)
        return seen


class Files(Arrays):
    """The image files of a folder; see `Arrays`."""

    def __init__(self, source: FolderSource, data, limit: int):
        super().__init__(source, data, limit)
        self._folder = os.path.expanduser(data.name.partition(":")[2])
        self._labels = np.concatenate([source.train_labels(), source.held_out_labels()])

    def look(self, pool) -> collections.abc.Iterator[Seen]:
        """See `Arrays.look`."""
        return _parallel(pool, self._look_at, range(len(self)))

    def read(self, positions) -> dict:
        """See `Arrays.read`; JPEGs are shrunk."""
        return {i: read_image(self._path(i), self._data.max_pixels, 256) for i in positions}

    def pixels(self, position: int) -> bytes:
        """Hash of an image's pixels."""
        image = read_image(self._path(position), self._data.max_pixels)
        return _digest(repr(image.shape).encode() + image.tobytes())

    def _path(self, position):
        return os.path.join(self._folder, self._ids[position])

    def _look_at(self, position):
        number = self._chosen[position]
        held_out = number >= self._source.num_train
        seen = Seen(self._ids[position], held_out, int(self._labels[number]))
        try:
            content = read_bytes(self._path(position))
            pixels = to_rgb(content, self._data.max_pixels, _SIDE)
            _read_header(seen, content)
        except Exception as error:  # decoders raise errors of all kinds
            seen.error = first_line(error)
            return seen
        seen.num_bytes, seen.digest = len(content), _digest(content)
        seen.bits, seen.small = _hash(pixels)
        return seen


def look(source, data, limit: int) -> tuple:
    """Looks at the images of a source.

    Args:
      source, data, limit: See `Arrays`.

    Returns:
      A list of `Seen`, the training images first, and the `Arrays` or `Files`.
    """
    kind = Files if isinstance(source, FolderSource) else Arrays
    images = kind(source, data, limit)
    start, seen = time.perf_counter(), []
    with threads() as pool:
        seen.extend(_with_progress(images.look(pool), len(images)))
    seconds = time.perf_counter() - start
    logging.info("looked at %d images in %.0f s", len(seen), seconds)
    return seen, images


@contextlib.contextmanager
def threads() -> collections.abc.Iterator[concurrent.futures.Executor]:
    """A pool of one thread per core that does not wait for its work when an error ends it."""
    pool = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _spread(count, limit):
    """At most `limit` of the numbers below `count`, evenly spread."""
    if count <= limit:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _parallel(pool, function, items):
    """Yields function(item) in order, with few of them waiting."""
    waiting = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _with_progress(items, total):
    """Shows a bar on a terminal, and a line now and then elsewhere."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    shown = time.monotonic()
    with logging_redirect_tqdm(), tqdm(total=total, unit="image", disable=None) as bar:
        for count, item in enumerate(items, 1):
            yield item
            bar.update()
            if bar.disable and time.monotonic() - shown > _LOG_SECONDS:
                shown = time.monotonic()
                logging.info("looked at %d of %d images", count, total)


def _read_header(seen, content):
    with Image.open(io.BytesIO(content)) as image:
        mode = image.mode.partition(";")[0]
        seen.mode, seen.format = _MODES.get(mode, mode), image.format
        # Pillow makes 8 bits of a 16-bit RGB image; its decoder's argument tells.
        if mode == "RGB" and any("16" in str(tile[-1]) for tile in image.tile):
            seen.mode = "RGB, 16 bits"
        turn = image.getexif().get(_ORIENTATION, 1)
        seen.width, seen.height = image.size if turn not in (5, 6, 7, 8) else image.size[::-1]
        notes = {
            "EXIF rotation": turn in range(2, 9),
            "transparency": image.has_transparency_data,
            "several frames": getattr(image, "is_animated", False),
        }
        seen.notes = tuple(note for note, has in notes.items() if has)


def _hash(pixels):
    image = Image.fromarray(pixels)
    small = image.convert("L").resize((_SMALL, _SMALL), Image.Resampling.BOX)
    return imagehash.phash(image).hash.ravel(), np.asarray(small)


def _digest(content):
    return hashlib.blake2b(content, digest_size=16).digest()
