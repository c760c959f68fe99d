"""Augmentation of the visible patches of one image, each patch by itself (PatchFormer, Figure 1).

PatchFormer is the submission of that name to ICLR 2020; where it gives no number or leaves a
choice open, the comment here says so. The two views of an image for Selfie's instance loss are
augmented as patches, too. All functions take the C patches of one image at once, draw
one set of random numbers per patch, are functions of their seed, and run eagerly and inside tf.data
with static shapes. Between steps pixels are float32 in [0, 255].
"""

import tensorflow as tf


def jitter(patches: tf.Tensor, pixels: int, seed: tf.Tensor) -> tf.Tensor:
    """Cuts a random square out of each patch and scales it back, bilinearly ("spatial jittering").

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      pixels: The square's side is p - `pixels`, its corner 0 to `pixels` down and to the right;
        0 leaves the patches as they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]` in [0, 255].

    Raises:
      ValueError: If no pixel would be left of a patch.
    """
    count, size = patches.shape[0], patches.shape[1]
    if not 0 <= pixels < size:
        raise ValueError(f"pixels is {pixels}; patches of {size}x{size} need 0 to {size - 1}")
    side = size - pixels
    corners = tf.random.stateless_uniform([2, count, 1], seed, 0, pixels + 1, tf.int32)
    rows, columns = tf.unstack(corners + tf.range(side))  # [C, side] each
    x = tf.gather(patches, rows, axis=1, batch_dims=1)  # [C, side, p, 3]
    x = tf.gather(x, columns, axis=2, batch_dims=1)  # [C, side, side, 3]
    return tf.image.resize(x, [size, size])


def adjust_brightness(patches: tf.Tensor, max_delta: float, seed: tf.Tensor) -> tf.Tensor:
    """Makes each patch brighter or darker by a number of its own.

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      max_delta: What is added is drawn from U(-max_delta, max_delta) * 255; 0 leaves the patches
        as they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]`, clipped to [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    return _clip(x + _uniform(x, -255.0 * max_delta, 255.0 * max_delta, seed))


def adjust_hue(patches: tf.Tensor, max_delta: float, seed: tf.Tensor) -> tf.Tensor:
    """Turns the hue of each patch by an angle of its own.

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      max_delta: Fraction of a full turn; the angle is drawn from U(-max_delta, max_delta). 0 leaves
        the patches as they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]` in [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    if not max_delta:
        return x  # the way to HSV and back rounds
    delta = _uniform(x, -max_delta, max_delta, seed)
    hue, saturation, value = _to_hsv(x)
    return _from_hsv(tf.math.floormod(hue + delta, 1.0), saturation, value)


def adjust_saturation(patches: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Makes the colours of each patch stronger or weaker by a factor of its own.

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      strength: The factor of the saturation is drawn from U(1 - strength, 1 + strength), and the
        saturation clipped to [0, 1]; 0 leaves the patches as they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]` in [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    if not strength:
        return x
    factor = _uniform(x, 1.0 - strength, 1.0 + strength, seed)
    hue, saturation, value = _to_hsv(x)
    return _from_hsv(hue, tf.clip_by_value(saturation * factor, 0.0, 1.0), value)


def adjust_contrast(patches: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Stretches each patch about its mean colour by a factor of its own.

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      strength: The factor is drawn from U(1 - strength, 1 + strength); 0 leaves the patches as
        they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]`, clipped to [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    if not strength:
        return x
    factor = _uniform(x, 1.0 - strength, 1.0 + strength, seed)
    mean = tf.reduce_mean(x, [1, 2], keepdims=True)  # [C, 1, 1, 3]
    return _clip((x - mean) * factor + mean)


def flip(patches: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors some of the patches left to right.

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      rate: Probability of each patch; 0 leaves all as they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]` in [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    chosen = tf.random.stateless_uniform([x.shape[0], 1], seed) < rate
    # Gathering the columns is several times faster than mirroring all patches and choosing.
    columns = tf.range(x.shape[2])
    return tf.gather(x, tf.where(chosen, columns[::-1], columns), axis=2, batch_dims=1)


def reduce_bit_depth(patches: tf.Tensor, min_bits: int, seed: tf.Tensor) -> tf.Tensor:
    """Shows each patch in fewer levels, spread over the full range again.

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255]; rounded first, for a level is
        the upper bits of a whole number.
      min_bits: 1 to 8; the depth of a patch is drawn evenly from `min_bits`..8, and depth 8 keeps
        every whole number; 8 leaves the patches as they are, unrounded.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]` in [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    if min_bits == 8:
        return x
    bits = tf.random.stateless_uniform([x.shape[0], 1, 1, 1], seed, min_bits, 9, tf.int32)
    levels = tf.cast(tf.bitwise.left_shift(1, bits), tf.float32)
    level = tf.floor(tf.round(x) * (levels / 256.0))
    # Multiplied first: times a rounded 255 / (levels - 1) the top level would miss 255.
    return level * 255.0 / (levels - 1.0)


def blend_grayscale(patches: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Blends some of the patches with their grey version, by a fraction of their own.

    The paper does not say how the fraction is drawn; here it is from U(0, 1).

    Args:
      patches: uint8 or float `[C, p, p, 3]`, values in [0, 255].
      rate: Probability of each patch; 0 leaves all as they are.
      seed: int `[2]`.

    Returns:
      float32 `[C, p, p, 3]` in [0, 255].
    """
    x = tf.cast(patches, tf.float32)
    chosen, fraction = tf.unstack(tf.random.stateless_uniform([2, x.shape[0], 1, 1, 1], seed))
    fraction = tf.where(chosen < rate, fraction, 0.0)
    return x + fraction * (tf.image.rgb_to_grayscale(x) - x)


def augment_patches(patches: tf.Tensor, config, seed: tf.Tensor) -> tf.Tensor:
    """Applies all steps that are on, in the order of Figure 1.

    Args:
      patches: uint8 `[C, p, p, 3]`.
      config: A `config.AugmentConfig`.
      seed: int `[2]`.

    Returns:
      uint8 `[C, p, p, 3]`, rounded; equal to `patches` if all steps are off.
    """
    steps = (
        (jitter, config.jitter, 0),
        (adjust_brightness, config.brightness, 0),
        (adjust_hue, config.hue, 0),
        (adjust_saturation, config.saturation, 0),
        (adjust_contrast, config.contrast, 0),
        (flip, config.flip_rate, 0),
        (reduce_bit_depth, config.min_bits, 8),
        (blend_grayscale, config.grayscale_rate, 0),
    )
    x = patches
    for number, (step, setting, off) in enumerate(steps):
        if setting != off:
            # Numbered whether on or off, so that switching one off changes nothing for the others.
            number = tf.constant(number, tf.int64)
            x = step(x, setting, tf.random.experimental.stateless_fold_in(seed, number))
    return tf.saturate_cast(tf.round(x), tf.uint8)


def _uniform(patches, low, high, seed):
    """One number for each patch: float32 `[C, 1, 1, 1]`."""
    return tf.random.stateless_uniform([patches.shape[0], 1, 1, 1], seed, low, high)


def _clip(x):
    # After each step, so that the next one starts from colours a pixel can have: the means of
    # contrast are those of what is shown, and rgb_to_hsv is defined on [0, 1] only.
    return tf.clip_by_value(x, 0.0, 255.0)


def _to_hsv(x):
    """Hue, saturation and value in [0, 1], `[C, p, p, 1]` each."""
    return tf.split(tf.image.rgb_to_hsv(x / 255.0), 3, axis=-1)


def _from_hsv(hue, saturation, value):
    # Nothing to clip: no channel is below 0 or above the value.
    return tf.image.hsv_to_rgb(tf.concat([hue, saturation, value], -1)) * 255.0
