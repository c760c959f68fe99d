"""Floating-point operations of the networks, counted by hand."""

from selfie_tf.layers.resnet import EXPANSION, STRIDES_PER_GROUP, UNITS_PER_GROUP


def attention_block_flop(queries: int, keys: int, dim: int, mlp_dim: int) -> int:
    """Counts the forward operations of an attention block from `queries` vectors over `keys`."""
    projections = 2 * queries * dim**2 + 2 * keys * dim**2  # query and output; key and value
    products = 2 * queries * keys * dim  # scores, and weighted values
    return 2 * (projections + products + 2 * queries * dim * mlp_dim)


def patch_network_flop(width: int, stem: str, side: int, num_groups: int = 3) -> int:
    """Counts the forward operations of P for one patch or image of `side` pixels.

    With four groups they are those of the body of ResNet-50.
    """
    if stem == "imagenet":
        side = _halve(side)
        flop = 2 * 7**2 * 3 * width * side**2
        side = _halve(side)
    else:
        flop = 2 * 3**2 * 3 * width * side**2
    channels = width
    for group in range(num_groups):
        filters = width * 2**group
        for unit in range(UNITS_PER_GROUP[group]):
            strided = unit == 0 and STRIDES_PER_GROUP[group] == 2
            out = _halve(side) if strided else side
            flop += _unit_flop(channels, filters, side, out, project=unit == 0)
            channels, side = EXPANSION * filters, out
    return flop


def decoder_flop(dim: int, size: int, outputs: int) -> int:
    """Counts the forward operations of `UpsamplingDecoder` for one vector."""
    flop, channels, side = 0, dim, 1
    while side < size:
        side *= 2
        filters = max(1, channels // 2 // EXPANSION)
        flop += _unit_flop(channels, filters, side, side, project=True)
        channels = EXPANSION * filters
    return flop + 2 * channels * outputs * size**2


def classifier_flop(
    num_classes: int,
    image_size: int,
    head: str,
    grid: int,
    width: int,
    stem: str,
    attention_layers: int,
    mlp_dim: int,
    patch_by_patch: bool = False,
    mask_ratio: float = 0.0,
) -> int:
    """Counts the forward operations of a classifier for one image.

    Args:
      num_classes: Number of classes.
      image_size: Side of the image in pixels.
      head: "resnet50" or "resnet36_attention", see `ResNetClassifier`; or "patchformer", see
        `PatchFormerClassifier`.
      grid, width, stem, attention_layers, mlp_dim: See `models.network.Network`.
      patch_by_patch: See `ResNetClassifier`.
      mask_ratio: Fraction of the patches that is left out ("patchformer"): 0 at inference.
    """
    if head == "resnet50":
        body = patch_network_flop(width, stem, image_size, num_groups=4)
        return body + 2 * 32 * width * num_classes
    dim, patches = 16 * width, grid**2
    patch = patch_network_flop(width, stem, image_size // grid)
    last = 2 * dim * num_classes
    if head == "resnet36_attention":
        body = patches * patch if patch_by_patch else patch_network_flop(width, stem, image_size)
        block = attention_block_flop(patches + 1, patches + 1, dim, mlp_dim)
        return body + attention_layers * block + last
    if head == "patchformer":
        seen = patches - round(mask_ratio * patches)
        block = attention_block_flop(seen, seen, dim, mlp_dim)
        pooling = attention_block_flop(1, seen, dim, mlp_dim)
        residual = _unit_flop(dim, dim // EXPANSION, 1, 1, project=False)
        return seen * patch + attention_layers * block + pooling + residual + last
    raise ValueError(f"head={head!r}: expected 'resnet50', 'resnet36_attention' or 'patchformer'")


def _unit_flop(channels, filters, side, out, project):
    flop = 2 * channels * filters * side**2  # 1x1
    flop += 2 * 3**2 * filters**2 * out**2  # 3x3, strided
    flop += 2 * filters * EXPANSION * filters * out**2  # 1x1
    return flop + project * 2 * channels * EXPANSION * filters * out**2


def _halve(side):
    return -(-side // 2)
