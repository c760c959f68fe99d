"""Floating-point operations of the networks, counted by hand."""

from selfie_tf.layers.resnet import EXPANSION, STRIDES_PER_GROUP, UNITS_PER_GROUP


def attention_block_flop(queries: int, keys: int, dim: int, mlp_dim: int) -> int:
    """Counts the forward operations of an attention block from `queries` vectors over `keys`."""
    projections = 2 * queries * dim**2 + 2 * keys * dim**2  # query and output; key and value
    products = 2 * queries * keys * dim  # scores, and weighted values
    return 2 * (projections + products + 2 * queries * dim * mlp_dim)


def patch_network_flop(width: int, stem: str, side: int) -> int:
    """Counts the forward operations of P for one patch of `side` pixels."""
    if stem == "imagenet":
        side = _halve(side)
        flop = 2 * 7**2 * 3 * width * side**2
        side = _halve(side)
    else:
        flop = 2 * 3**2 * 3 * width * side**2
    channels = width
    for group in range(3):
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


def _unit_flop(channels, filters, side, out, project):
    flop = 2 * channels * filters * side**2  # 1x1
    flop += 2 * 3**2 * filters**2 * out**2  # 3x3, strided
    flop += 2 * filters * EXPANSION * filters * out**2  # 1x1
    return flop + project * 2 * channels * EXPANSION * filters * out**2


def _halve(side):
    return -(-side // 2)
