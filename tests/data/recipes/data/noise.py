"""Images of coloured noise, as the recipe of CONTRIBUTING.md adds a source."""

import numpy as np
import tensorflow as tf

from selfie_tf.data.source import IndexedSource


def open_source(location, data, data_dir, download, remote):
    """Opens `noise:COUNT`."""
    count, side = int(location), data.image_size
    images = np.random.default_rng(0).integers(0, 256, [count, side, side, 3], np.uint8)
    held_out = max(1, count // 10)
    return IndexedSource(tf.constant(images[held_out:]), tf.constant(images[:held_out]))
