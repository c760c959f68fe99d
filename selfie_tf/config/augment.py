"""The config of augmentation, see `data.augment`."""

import dataclasses

from selfie_tf.config.fields import Section, bounded


@dataclasses.dataclass
class AugmentConfig(Section):
    """Noise, drawn for each patch or view on its own; the defaults are PatchFormer's on patches.

    Its paper (section 2.1, Figure 1) gives the rates and the bit depths; the strengths are those of
    Inception's training.
    """

    jitter: int = bounded(
        2, 0, help="A random square this many pixels smaller, scaled back; 0: off."
    )
    brightness: float = bounded(
        32 / 255, 0, 1, "Largest change of brightness, as a fraction of the full range; 0: off."
    )
    contrast: float = bounded(
        0.5, 0, 1, "Contrast is scaled by a factor from 1 - this to 1 + this; 0: off."
    )
    saturation: float = bounded(
        0.5, 0, 1, "Saturation is scaled by a factor from 1 - this to 1 + this; 0: off."
    )
    hue: float = bounded(
        0.2, 0, 0.5, "Largest shift of hue, as a fraction of the colour circle; 0: off."
    )
    flip_rate: float = bounded(0.2, 0, 1, "Fraction that is mirrored; 0: off.")
    min_bits: int = bounded(2, 1, 8, "Lowest bit depth, drawn from this to 8; 8: off.")
    grayscale_rate: float = bounded(0.2, 0, 1, "Fraction that is blended with its grey; 0: off.")
