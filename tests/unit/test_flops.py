"""Counts of floating-point operations, written out by hand."""

import math

import pytest
import tensorflow as tf

from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig
from selfie_tf.layers.attention import MultiHeadAttention
from selfie_tf.models.flops import classifier_flop, decoder_flop, patch_network_flop
from selfie_tf.training.build import build_classifier
from selfie_tf.training.cost import gflop_per_image


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


def test_the_instance_loss_costs_two_images_and_their_projection():
    config = SelfieConfig()
    jigsaw = gflop_per_image(config)
    config.model.instance_weight = 0.5
    views = 2 * (patch_network_flop(64, "small", 32) + 2 * 1024 * 1024 + 2 * 1024 * 128)
    assert gflop_per_image(config) - jigsaw == pytest.approx(3 * views / 1e9)
    config.model.jigsaw_weight = 0.0
    assert gflop_per_image(config) == pytest.approx(3 * views / 1e9)


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


def count_as_it_runs(model, training):
    """The operations of one image, from the kernels and shapes of every layer that is called."""
    counts = []

    def count(layer):
        call = layer.call

        def counted(inputs, *args, **kwargs):
            output = call(inputs, *args, **kwargs)
            if isinstance(layer, MultiHeadAttention):  # scores, and weighted values
                context = args[0] if args and args[0] is not None else inputs
                queries, keys = inputs.shape[1], context.shape[1]
                counts.append(2 * 2 * queries * keys * inputs.shape[2])
            else:  # [k, k, c, d] at h x w positions, or [c, d] for each vector
                positions = math.prod(output.shape[:-1])
                counts.append(2 * math.prod(layer.kernel.shape) * positions)
            return output

        layer.call = counted

    for layer in model.submodules:
        if isinstance(layer, MultiHeadAttention) or hasattr(layer, "kernel"):
            count(layer)
    model(tf.zeros([1, model.image_size, model.image_size, 3]), training=training)
    return sum(counts)


@pytest.mark.full_depth
@pytest.mark.parametrize(
    "head, values",
    [
        ("resnet50", {}),
        ("resnet50", {"data.image_size": 37, "patches.size": 37}),
        ("resnet50", {"model.stem": "imagenet", "data.image_size": 72}),
        ("resnet36_attention", {}),
        ("resnet36_attention", {"model.attention_layers": 3, "patches.size": 4}),
        ("resnet36_attention", {"model.patch_by_patch": True}),
        ("patchformer", {}),
        ("patchformer", {"patches.mask_ratio": 0.3, "patches.size": 4}),
    ],
)
def test_classifier_flop_is_that_of_the_model(head, values):
    config = FinetuneConfig()
    config.model.head, config.model.width, config.model.num_heads = head, 2, 2
    config.model.attention_layers, config.model.mlp_dim = 2, 5
    for key, value in values.items():
        section, name = key.split(".")
        setattr(getattr(config, section), name, value)
    config.validate()
    model = build_classifier(config, 7)
    expected = count_as_it_runs(model, training=True)
    assert gflop_per_image(config, 7) == pytest.approx(3 * expected / 1e9, rel=1e-12)


def test_resnet50_at_224_has_the_operations_that_are_known_of_it():
    """4.1e9 multiplications."""
    shape = {"grid": 7, "width": 64, "stem": "imagenet", "attention_layers": 3, "mlp_dim": 640}
    assert classifier_flop(1000, 224, "resnet50", **shape) == pytest.approx(8.2e9, rel=0.01)
    with pytest.raises(ValueError, match="head='vit'"):
        classifier_flop(1000, 224, "vit", **shape)
