"""Image files to the shards of a TensorFlow Datasets dataset, one shard per call.

A shard is whole or not there: it is written under another name, renamed, and only then noted.
"""

import dataclasses
import io
import json
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from selfie_tf.data.decode import (
    NOT_ORDINARY,
    content_halvings,
    decode_jpeg,
    read_bytes,
    to_rgb,
)
from selfie_tf.data.prepared import RECORD_BYTES
from selfie_tf.errors import UserError, first_line
from selfie_tf.storage.files import write_atomically

_LOSSY = ("JPEG", "MPO", "WEBP")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
      shorter_side: Images with a longer shorter side are shrunk to it; 0 shrinks none.
      quality: JPEG quality of images that are encoded anew.
      max_pixels: Larger images count as unreadable.
    """

    shorter_side: int
    quality: int
    max_pixels: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to write.

    Attributes:
      path: The TFRecord file.
      note: The JSON file that says, in the end, what is in the shard.
      folder: The folder of the images.
      images: [(path below the folder, label or None)].
      class_names: Names of the labels; empty without labels.
      encoding: How images are stored.
    """

    path: str
    note: str
    folder: str
    images: list
    class_names: tuple
    encoding: Encoding


def features(class_names):
    """The features of a prepared dataset, for TFDS."""
    import tensorflow_datasets as tfds  # slow to import

    found = {"image": tfds.features.Image(), "path": tfds.features.Text()}
    if class_names:
        found["label"] = tfds.features.ClassLabel(names=list(class_names))
    return tfds.features.FeaturesDict(found)


def write_shard(shard: Shard, stopped=lambda: False) -> dict:
    """Writes a shard and its note.

    Args:
      shard: What to write.
      stopped: Tells whether to give up, which raises KeyboardInterrupt.

    Returns:
      The note: `bytes`, the size of the file; `num_bytes`, that of its examples; `offsets`, where
      the record of each image begins, -1 if there is none; `rejected`, {path: reason}.

    Raises:
      UserError: If the shard cannot be written.
    """
    from tensorflow_datasets.core import example_serializer, file_adapters

    described = features(shard.class_names)
    serializer = example_serializer.ExampleSerializer(described.get_serialized_info())
    note = {"bytes": 0, "num_bytes": 0, "offsets": [], "rejected": {}}

    def records():
        for name, label in shard.images:
            if stopped():
                raise KeyboardInterrupt
            try:
                content = read_bytes(os.path.join(shard.folder, name))
                image = encode(content, shard.encoding)
            except Exception as error:  # decoders raise errors of all kinds
                note["rejected"][name] = first_line(error)
                note["offsets"].append(-1)
                continue
            example = {"image": image, "path": name}
            if label is not None:
                example["label"] = label
            example = serializer.get_tf_example(described.encode_example(example))
            # TFDS's own call leaves the order of the features to chance.
            record = example.SerializeToString(deterministic=True)
            note["offsets"].append(note["bytes"])
            note["bytes"] += len(record) + RECORD_BYTES
            note["num_bytes"] += len(record)
            yield len(note["offsets"]), record

    temporary = f"{shard.path}.{os.getpid()}.tmp"
    try:
        file_adapters.TfRecordFileAdapter.write_examples(temporary, records())
        size = tf.io.gfile.stat(temporary).length
        if size != note["bytes"]:
            raise OSError(f"it has {size} bytes instead of {note['bytes']}")
        tf.io.gfile.rename(temporary, shard.path, overwrite=True)
        write_atomically(shard.note, json.dumps(note))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"{shard.path} cannot be written ({first_line(error)}); make room or mend the cause, "
            "and give the same command again: what is finished is kept"
        ) from error
    return note


def finished_note(shard: Shard) -> dict | None:
    """The note of a shard that is there as it was written, without a rejected file; else None."""
    try:
        with tf.io.gfile.GFile(shard.note) as file:
            note = json.load(file)
        if tf.io.gfile.stat(shard.path).length != note["bytes"]:
            return None
    except (tf.errors.OpError, ValueError):
        return None
    # A file that could not be read may have been repaired.
    return note if len(note["offsets"]) == len(shard.images) and not note["rejected"] else None


def encode(content: bytes, encoding: Encoding) -> bytes:
    """Encodes the content of an image file so that TensorFlow shows it as `read_image` does.

    Args:
      content: The file.
      encoding: How images are stored.

    Returns:
      An ordinary JPEG as it is. Anything else anew, and whatever is to be shrunk: as JPEG if it was
      lossy or is shrunk, otherwise as PNG.

    Raises:
      ValueError, OSError: See `decode.read_image`.
    """
    image = None
    if content_halvings(content, encoding.max_pixels) != NOT_ORDINARY:
        try:
            with tf.device("CPU:0"):
                image = decode_jpeg(content, tf.constant(0)).numpy()
        except tf.errors.OpError:
            pass  # Pillow may still read it
    ordinary = image is not None
    if not ordinary:
        image = to_rgb(content, encoding.max_pixels)
    least = min(image.shape[:2])
    shrinks = 0 < encoding.shorter_side < least
    if ordinary and not shrinks:
        return content
    picture = Image.fromarray(np.ascontiguousarray(image))
    lossy = True
    if shrinks:
        scale = encoding.shorter_side / least
        sides = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(tuple(sides), Image.Resampling.LANCZOS)
    else:
        with Image.open(io.BytesIO(content)) as original:
            lossy = original.format in _LOSSY
    buffer = io.BytesIO()
    if lossy:
        picture.save(buffer, "JPEG", quality=encoding.quality)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()
