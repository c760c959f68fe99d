"""Built-in images, drawn by code: one large shape standing in a lit landscape.

The quickstart needs no download: ten balanced classes of scenes in which every patch's position can
be inferred from the others. Sky-to-ground gradient, light from one side, the shape's outline and
its shadow are global; position, palette, contrast and clutter vary from image to image.

Every random number is a hash of (seed, index, counter), so any subset of indices in any order
gives the same images, and every length is a fraction of the image's side, so any size shows the
same scene.
"""

import numpy as np
import tensorflow as tf

from selfie_tf.data.source import IndexedSource
from selfie_tf.errors import UserError

CLASS_NAMES = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart",
               "half-disc", "arrow")  # fmt: skip
NUM_TRAIN = 5000  # Indices 0 to 4999.
NUM_TEST = 1000  # Indices 5000 to 5999.

# Sky at the top, sky at the horizon, ground at the horizon, ground at the bottom.
_PALETTES = np.array([
    [(74, 134, 196), (198, 222, 234), (146, 168, 112), (84, 116, 66)],  # Meadow.
    [(66, 60, 116), (246, 172, 128), (150, 98, 100), (82, 56, 76)],  # Dusk.
    [(112, 182, 206), (246, 236, 208), (228, 196, 146), (190, 142, 94)],  # Desert.
    [(126, 146, 170), (224, 230, 236), (226, 232, 240), (168, 184, 206)],  # Snow.
    [(24, 36, 74), (84, 118, 158), (58, 84, 110), (30, 46, 70)],  # Night.
    [(226, 158, 168), (250, 226, 206), (134, 174, 168), (70, 118, 124)],  # Dawn at the sea.
    [(92, 128, 128), (214, 216, 188), (160, 130, 96), (98, 76, 60)],  # Moor.
], np.float32) / 255  # fmt: skip

_TURNS = np.arange(10) * 0.2 * np.pi
# Closed outlines, [V, 2], x to the right and y up, within about the unit disc.
_POLYGONS = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(-0.98, -0.78), (0.98, -0.78), (0, 0.95)],
    "star": np.stack([np.sin(_TURNS), np.cos(_TURNS)], 1) * np.tile([[1.1], [0.5]], (5, 1)),
    "cross": [(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
              (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)],
    "arrow": [(-0.98, -0.3), (0.05, -0.3), (0.05, -0.82), (1, 0), (0.05, 0.82), (0.05, 0.3),
              (-0.98, 0.3)],
}  # fmt: skip


def _polygon_distance(points, x, y):
    squared, inside = np.float32(np.inf), False
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        ax, ay, ex, ey = (float(v) for v in (ax, ay, bx - ax, by - ay))
        wx, wy = x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) * (1 / (ex * ex + ey * ey)), 0, 1)
        squared = np.minimum(squared, (wx - t * ex) ** 2 + (wy - t * ey) ** 2)
        # Even-odd rule: each edge that a ray to the right crosses toggles `inside`.
        inside = inside ^ (((wy >= 0) != (wy >= ey)) & ((wx * ey < ex * wy) == (ey > 0)))
    distance = np.sqrt(squared)
    return np.where(inside, -distance, distance)


def _heart_distance(x, y):
    x, y = np.abs(x) * 0.6, y * 0.6 + 0.57
    fold = 0.5 * np.maximum(x + y, 0)
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.125**0.5
    notch = np.minimum(x**2 + (y - 1) ** 2, (x - fold) ** 2 + (y - fold) ** 2)
    return np.where(x + y > 1, lobe, np.sign(x - y) * np.sqrt(notch)) / 0.6


def signed_distance(label, x, y):
    """Distance of points (x, y) to a class's outline, negative inside; a lower bound at tips.

    Args:
        label: int, index into `CLASS_NAMES`.
        x: float array, to the right, in units of the shape's radius (about half its width).
        y: float array that broadcasts with `x`, up, in the same units.

    Returns:
        Float array of the broadcast shape, in the same units.
    """
    name = CLASS_NAMES[label]
    if name in _POLYGONS:
        return _polygon_distance(_POLYGONS[name], x, y)
    if name == "heart":
        return _heart_distance(x, y)
    if name == "half-disc":
        return np.maximum(np.hypot(x, y + 0.45) - 1, -0.45 - y)
    disc = np.hypot(x, y) - 0.92
    if name == "ring":
        return np.abs(disc + 0.17) - 0.19
    if name == "crescent":
        return np.maximum(disc, 0.74 - np.hypot(x - 0.46, y))
    return disc


def _mix(z):
    """Finaliser of splitmix64 (Steele et al., 2014), uint64 arrays of any shape."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(keys, stream, count):
    """Uniform floats in [0, 1), [N, count], from keys [N]."""
    counters = _mix(np.arange(count, dtype=np.uint64) + np.uint64(stream << 32))
    # 24 bits are what a float32 holds, so the conversion is exact on every platform.
    return (_mix(keys[:, None] ^ counters) >> np.uint64(40)).astype(np.float32) / 2**24


def _labels(indices, seed_key):
    # Each block of ten indices is a permutation of the classes, ordered by hash.
    blocks = _mix((indices // 10).astype(np.uint64) ^ _mix(seed_key))
    order = np.argsort(_mix(blocks[:, None] ^ _mix(np.arange(10, dtype=np.uint64))), axis=1)
    return order[np.arange(len(indices)), indices % 10].astype(np.int64)


def _texture(keys, stream, rows, columns, size):
    """Smooth noise in [-1, 1], [N, S, S], from a lattice that does not depend on the size."""

    def weights(knots):
        position = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size * (knots - 1)
        near = np.clip(1 - np.abs(position - np.arange(knots, dtype=np.float32)), 0, 1)
        return near * near * (3 - 2 * near)

    lattice = 2 * _uniform(keys, stream, rows * columns).reshape(-1, rows, columns) - 1
    return weights(rows) @ lattice @ weights(columns).T


def _draw(keys, labels, size):
    """Images [N, S, S, 3], uint8, for keys [N] and labels [N]."""
    count = len(keys)
    columns = iter(_uniform(keys, 0, 64).T[:, :, None, None])

    def draw(low, high):  # [N, 1, 1]
        return low + (high - low) * next(columns)

    def color(hue, saturation, value):  # [3, N, 1, 1]
        phases = np.array([0, 1 / 3, 2 / 3], np.float32).reshape(3, 1, 1, 1)
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - phases))
        return value * (1 - saturation + saturation * wave)

    def paint(rgb, alpha):
        nonlocal image
        image += alpha * (rgb - image)

    pixels = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = pixels[None, None, :], pixels[None, :, None]

    # The landscape: sky, hills and ground, in a palette blended from two.
    first, second = (draw(0, len(_PALETTES)).astype(int).ravel() for _ in range(2))
    palette = _PALETTES[first] + draw(0, 0.4) * (_PALETTES[second] - _PALETTES[first])
    top, low, far, near = (palette * draw(0.85, 1.1)).transpose(1, 2, 0)[..., None, None]
    side = np.copysign(np.float32(1), draw(-1, 1))  # Where the light is.
    horizon = draw(0.48, 0.7)
    wave = np.sin(draw(4, 9) * x + draw(0, 6.3)) + 0.6 * np.sin(draw(9, 15) * x + draw(0, 6.3))
    ridge = horizon - draw(0.02, 0.09) - draw(0.01, 0.05) * wave  # [N, 1, S]
    image = np.empty((3, count, size, size), np.float32)
    image[:] = top + (low - top) * np.clip(y / horizon, 0, 1) ** 1.3
    glow = (x - 0.5 - side * draw(0.35, 0.6)) ** 2 + (y - horizon + draw(0.05, 0.4)) ** 2
    paint(0.35 * low + 0.65, draw(0.3, 0.75) * np.exp(-9 * glow))
    image *= 1 + draw(0.05, 0.14) * _texture(keys, 1, 7, 4, size)
    paint(0.5 * low + 0.42 * far, np.clip(0.5 + (y - ridge) * size, 0, 1))
    ground = np.clip(0.5 + (y - horizon) * size, 0, 1)  # [N, S, 1]
    grain = 1 + draw(0.08, 0.2) * _texture(keys, 2, 24, 16, size)
    paint((far + (near - far) * (y - horizon) / (1 - horizon)) * grain, ground)

    # The shape stands on the ground: its lowest point, once rotated, is at `base`.
    radius, angle = draw(0.27, 0.4), draw(-0.35, 0.35)
    cos, sin, flip = np.cos(angle), np.sin(angle), np.copysign(np.float32(1), draw(-1, 1))
    stretch, center, base = draw(0.85, 1.15), draw(0.36, 0.64), draw(0.8, 0.95)
    mesh = np.linspace(-1.15, 1.15, 33, dtype=np.float32)
    middle = np.empty_like(base)
    for label in np.unique(labels):
        i = labels == label
        row, column = np.nonzero(signed_distance(label, mesh[None, :], mesh[:, None]) < 0)
        across = flip[i] * stretch[i] * mesh[column]
        lowest = np.min(sin[i] * across + cos[i] * mesh[row], axis=-1, keepdims=True)
        middle[i] = base[i] + radius[i] * lowest

    def distance(x, y):  # [N, S, S], in units of the image's side.
        dx, dy = (x - center) / radius, (middle - y) / radius
        u, v = (cos * dx + sin * dy) * flip / stretch, cos * dy - sin * dx
        result = np.empty((count, size, size), np.float32)
        for label in np.unique(labels):
            i = labels == label
            result[i] = signed_distance(label, u[i], v[i])
        return result * radius

    # Its shadow, cast on the ground away from the light, softer the farther it falls.
    height = (base - y) / draw(0.3, 0.5)
    shadow = distance(x + side * draw(0.5, 1.0) * height, base - height)
    shadow = np.clip(0.5 - shadow / (0.05 + 0.25 * np.abs(height)), 0, 1)
    paint(0.25 * near, draw(0.5, 0.8) * ground * shadow)

    # Some shapes stand out, others nearly have the landscape's colour.
    rgb = far + draw(0.4, 1) * (color(draw(0, 1), draw(0.4, 0.9), draw(0.6, 1)) - far)
    outline = distance(x, y)
    round_off = np.clip(-outline / 0.09, 0, 1) - 1
    shade = 1 + draw(0.2, 0.4) * (side * (x - center) - 0.6 * (y - middle)) / radius
    paint(rgb * (shade + 0.12 * round_off), np.clip(0.5 - outline * size, 0, 1))

    # Clutter, also before the shape: small balls that belong to no class.
    for _ in range(4):
        dx, dy, r = x - draw(0, 1), y - draw(0, 1), draw(0.02, 0.06)
        rgb = color(draw(0, 1), draw(0.2, 0.8), draw(0.5, 1)) * (0.9 + (side * dx - dy) * 0.3 / r)
        paint(rgb, np.clip(0.5 - (np.hypot(dx, dy) - r) * size, 0, 1))

    image *= 1 + side * draw(0.25, 0.6) * (x - 0.5)
    image = 0.5 + draw(0.75, 1.05) * (image - 0.5)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).transpose(1, 2, 3, 0)


def draw_shapes(indices, image_size, seed=0):
    """Draws the images of the given indices.

    Args:
        indices: int array, [N], not negative. Indices 10k to 10k + 9 hold each class once.
        image_size: int, side S of the images in pixels, from 16 to 256.
        seed: int, from 0 on. Another seed gives other images and labels.

    Returns:
        images: uint8 array, [N, S, S, 3].
        labels: int64 array, [N], indices into `CLASS_NAMES`.

    Raises:
        ValueError: if `indices`, `image_size` or `seed` is not as above.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or np.any(indices < 0):
        raise ValueError(
            "indices must be a vector of integers >= 0, such as np.arange(10), got "
            f"shape {indices.shape}, dtype {indices.dtype}, minimum {indices.min(initial=0)}"
        )
    if not 16 <= image_size <= 256:
        raise ValueError(f"image_size must be from 16 to 256, got {image_size}")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    seed_key = _mix(np.array([seed], np.uint64))
    labels = _labels(indices, seed_key)
    keys = _mix(indices.astype(np.uint64) ^ seed_key)
    images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    # About 1 MB for a chunk's float array, whatever the size: it stays in the cache.
    step = max(1, 2**18 // image_size**2)
    for start in range(0, len(indices), step):
        chunk = slice(start, start + step)
        images[chunk] = _draw(keys[chunk], labels[chunk], image_size)
    return images, labels


class ShapesSource(IndexedSource):
    """The built-in scenes, drawn once into memory.

    Args:
      image_size: Pixels a side; above 64 they are drawn at 64, and the pipeline enlarges them.
    """

    def __init__(self, image_size: int):
        size = min(image_size, 64)
        train = np.arange(NUM_TRAIN)
        test = np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST)
        images, labels = zip(*(draw_shapes(x, size) for x in (train, test)), strict=True)
        super().__init__(*map(tf.constant, images), labels)
        self.class_names, self.location = CLASS_NAMES, "builtin:shapes"


def open_source(location: str, data, data_dir: str, download: bool, remote: bool) -> ShapesSource:
    """Opens `builtin:LOCATION`, see `data.make_source`."""
    if location != "shapes":
        raise UserError(f"data.name={data.name}: the only built-in images are builtin:shapes")
    if data.test_split not in ("", "test"):
        raise UserError(f"data.test_split={data.test_split}: builtin:shapes has train and test")
    if data.image_size < 16:
        raise UserError(f"data.image_size={data.image_size}: the built-in images need at least 16")
    return ShapesSource(data.image_size)
