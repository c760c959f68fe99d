"""Counts of floating-point operations, written out by hand."""

import pytest

from selfie_tf.benchmarks.speed import gflop_per_image
from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.models.flops import decoder_flop, patch_network_flop


def test_patch_network_flop_written_out():
    """Width 1, small stem, a 4x4 patch: maps of 4x4, 2x2, 1x1."""
    stem = 9 * 3 * 1 * 16
    # 1x1 in, 3x3, 1x1 out, per unit; the first with the projection.
    group1 = (1 * 1 + 9 * 1 + 1 * 4 + 1 * 4) * 16 + 2 * (4 * 1 + 9 * 1 + 1 * 4) * 16
    group2 = 4 * 2 * 16 + (9 * 4 + 2 * 8 + 4 * 8) * 4 + 3 * (8 * 2 + 9 * 4 + 2 * 8) * 4
    group3 = 8 * 4 * 4 + (9 * 16 + 4 * 16 + 8 * 16) * 1 + 5 * (16 * 4 + 9 * 16 + 4 * 16) * 1
    assert patch_network_flop(1, "small", 4) == 2 * (stem + group1 + group2 + group3)


def test_imagenet_stem_divides_the_side_by_four_first():
    stem = 2 * 49 * 3 * 16 * 16**2
    rest = patch_network_flop(16, "small", 8) - 2 * 9 * 3 * 16 * 8**2
    assert patch_network_flop(16, "imagenet", 32) == stem + rest


def test_gflop_of_the_papers_runs():
    config = SelfieConfig()
    assert gflop_per_image(config) == pytest.approx(7.5, abs=0.1)
    config.model.pooling = "mean"
    mean = gflop_per_image(config)
    config.model.pooling = "attention"
    per_block = 2 * 13 * (4 * 1024**2 + 2 * 13 * 1024 + 2 * 1024 * 640)
    assert gflop_per_image(config) - mean == pytest.approx(3 * 3 * per_block / 1e9)
    config.model.query = "per_location"  # 4 queries instead of one
    per_block = 2 * 16 * (4 * 1024**2 + 2 * 16 * 1024 + 2 * 1024 * 640)
    assert gflop_per_image(config) - mean == pytest.approx(3 * 3 * per_block / 1e9)
    config.model.query = "position"
    assert gflop_per_image(config) == mean


def test_patchformer_flop_written_out():
    """One visible patch of 4x4, three hidden, width 1 (D = 16), 2x2 pixels decoded."""
    config = PatchFormerConfig()
    config.data.image_size, config.patches.size, config.patches.target_size = 8, 4, 2
    config.patches.mask_block, config.patches.mask_ratio = 1, 0.75
    config.model.width, config.model.mlp_dim, config.model.attention_layers = 1, 5, 3
    block = 2 * (4 * 16**2 + 2 * 16 + 2 * 16 * 5)  # one vector over itself
    pooling = 2 * (2 * 3 * 16**2 + 2 * 1 * 16**2 + 2 * 3 * 1 * 16 + 2 * 3 * 16 * 5)
    unit = 2 * (16 * 2 + 9 * 2 * 2 + 2 * 8 + 16 * 8) * 4  # on 2x2, 2 filters, 8 channels out
    decoder = 3 * (unit + 2 * 8 * 4 * 4)
    expected = patch_network_flop(1, "small", 4) + 3 * block + pooling + decoder
    assert gflop_per_image(config) == pytest.approx(3 * expected / 1e9)
    config.model.query = "pooled"
    expected -= pooling - block
    assert gflop_per_image(config) == pytest.approx(3 * expected / 1e9)


def test_decoder_flop_of_the_paper():
    two = 2 * (1024 * 128 + 9 * 128**2 + 128 * 512 + 1024 * 512) * 4
    four = 2 * (512 * 64 + 9 * 64**2 + 64 * 256 + 512 * 256) * 16
    eight = 2 * (256 * 32 + 9 * 32**2 + 32 * 128 + 256 * 128) * 64
    assert decoder_flop(1024, 8, 4) == two + four + eight + 2 * 128 * 4 * 64
    assert gflop_per_image(PatchFormerConfig()) == pytest.approx(200.9, abs=0.1)
