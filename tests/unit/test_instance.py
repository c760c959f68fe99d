"""Selfie with an instance loss: the two views of each image, the model, and what is left alone."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import SelfieConfig
from selfie_tf.data.source import IndexedSource
from selfie_tf.errors import UserError
from selfie_tf.methods import METHODS
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.models.transfer import copy_weights
from selfie_tf.training.build import build_pretrainer

from helpers import (
    held_out_batches,
    make_batch,
    make_tiny_config,
    nt_xent_reference,
    training_batches,
)

TINY = {"grid": 4, "width": 2, "attention_layers": 1, "num_heads": 2, "mlp_dim": 16}
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grayscale_rate": 0.0}


def make_config(**views):
    config = make_tiny_config()
    config.model.instance_weight = 1.0
    for name, value in views.items():
        assert hasattr(config.views, name)
        setattr(config.views, name, value)
    config.validate()
    return config


def random_source(rng, side=16):
    images = tf.constant(rng.integers(0, 256, [40, side, side, 3], np.uint8))
    return IndexedSource(images, images)


def as_numpy(dataset, count):
    return [{name: x.numpy() for name, x in batch.items()} for batch in dataset.take(count)]


# The input


def test_without_the_loss_there_are_no_views_and_with_it_the_rest_is_the_same(rng):
    source, paper = random_source(rng), make_tiny_config()
    plain, more = (as_numpy(training_batches(source, c), 3) for c in (paper, make_config()))
    for one, other in zip(plain, more, strict=True):
        assert set(other) - set(one) == {"views"}
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_held_out_images_have_no_views(rng):
    (batch,) = as_numpy(held_out_batches(random_source(rng), make_config(), 4, 4), 1)
    assert "views" not in batch


@pytest.mark.parametrize("off", [{**OFF, "flip_rate": 0.0}, {"min_crop_area": 1.0}])
def test_crops_and_noise_differ_within_an_image_between_images_and_epochs(off, rng):
    image = rng.integers(0, 256, [1, 64, 64, 3], np.uint8)
    images = tf.constant(np.repeat(image, 16, axis=0))
    batches = as_numpy(training_batches(IndexedSource(images, images), make_config(**off)), 3)
    views = np.concatenate([batch["views"].reshape(-1, 16 * 16 * 3) for batch in batches])
    assert len(np.unique(views, axis=0)) == 3 * 16 * 2
    assert views.std(axis=1).min() > 5  # none is blank


def test_views_have_no_black_margin(rng):
    """Unlike the jigsaw's patches, they are cut out before the image is padded."""
    white = tf.fill([40, 20, 28, 3], tf.constant(255, tf.uint8))
    config = make_config(**OFF)
    config.data.crop, config.patches.pad = "pad", 4
    (batch,) = as_numpy(training_batches(IndexedSource(white, white), config), 1)
    assert (batch["context_patches"] == 0).any()
    assert batch["views"].shape == (16, 2, 16, 16, 3) and (batch["views"] == 255).all()


def test_smaller_views_show_the_same_and_cost_less(rng):
    source = random_source(rng)
    config = make_config(**OFF, size=8)
    (large,) = as_numpy(training_batches(source, make_config(**OFF)), 1)
    (small,) = as_numpy(training_batches(source, config), 1)
    np.testing.assert_array_equal(large["context_patches"], small["context_patches"])
    assert large["views"].shape == (16, 2, 16, 16, 3) and small["views"].shape == (16, 2, 8, 8, 3)
    halved = large["views"].reshape(16, 2, 8, 2, 8, 2, 3).mean((3, 5))
    assert np.corrcoef(halved.ravel(), small["views"].ravel())[0, 1] > 0.9
    method = METHODS["selfie"]
    config.model.jigsaw_weight = 0.0
    before = method.forward_flop(dataclasses.replace(config, views=make_config().views))
    assert 3.5 < before / method.forward_flop(config) < 4


@pytest.mark.parametrize("smallest", [0.05, 0.6])
def test_views_keep_the_area_that_the_config_says(smallest):
    """Of images whose pixels are their coordinates; the rest of the noise is off."""
    y, x = np.mgrid[:200, :200].astype(np.uint8)
    image = np.stack([x, y, np.zeros_like(x)], axis=-1)
    source = IndexedSource(tf.constant(np.stack([image] * 4)), tf.constant(image[None]))
    config = make_config(**OFF, min_crop_area=smallest, flip_rate=0.5)
    config.train.batch_size = 128
    (batch,) = as_numpy(training_batches(source, config), 1)
    corners = batch["views"].astype(float).reshape(256, -1, 3)
    found = (np.ptp(corners[..., :2], axis=1) * 16 / 15).prod(-1) / 200**2
    # Resampling blurs the corners, so an area is known to a few per cent.
    assert 0.9 * smallest < found.min() < smallest + 0.15 and found.max() > 0.85
    mirrored = batch["views"][..., 0, 0, 0] > batch["views"][..., 0, -1, 0]  # [B, 2]
    assert 0.3 < mirrored.mean() < 0.7 and (mirrored[:, 0] != mirrored[:, 1]).any()


def test_each_switch_turns_its_noise_on(rng):
    source = random_source(rng)
    off = {**OFF, "flip_rate": 0.0}
    (plain,) = as_numpy(training_batches(source, make_config(**off)), 1)
    on = SelfieConfig().views
    for name in off:
        config = make_config(**{**off, name: getattr(on, name)})
        (batch,) = as_numpy(training_batches(source, config), 1)
        assert (batch["views"] != plain["views"]).any(), name


# The model


def make_views(rng, batch=3, size=16):
    return rng.integers(0, 256, [batch, 2, size, size, 3], dtype=np.uint8)


def built(**arguments):
    model = SelfiePretrainer(**{**TINY, **arguments})
    model.build({"context_patches": [None, 12, 4, 4, 3]})
    return model


PROJECTION = [f"projection/{name}/{w}" for name in ("hidden", "output") for w in ("kernel", "bias")]


def states(model):
    """{name: value} without metrics, whose names have no path."""
    return {v.name.split(":")[0]: v.numpy() for v in model.weights if "/" in v.name}


def test_without_the_loss_nothing_is_there_and_with_it_the_rest_is_the_same():
    keras.utils.set_random_seed(3)
    paper = built()
    keras.utils.set_random_seed(3)
    more = built(instance_weight=1.0)
    values = states(more)
    assert set(values) - set(states(paper)) == set(PROJECTION)
    for name, value in states(paper).items():  # the initial values
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    metrics = [{m.name for m in model.metrics} for model in (paper, more)]
    assert metrics[1] - metrics[0] == {"instance_loss", "instance_accuracy"}
    assert paper.projection is None and not paper.more_metrics


def test_the_instance_loss_matches_a_loop(rng):
    model = built(instance_weight=1.0, temperature=0.4)
    views = make_views(rng)
    z1, z2 = (
        model.projection(model.image_features(views[:, i], training=False)).numpy()
        for i in range(2)
    )
    found = model.instance_loss_and_accuracy(tf.constant(views), training=False)
    for value, expected in zip(found, nt_xent_reference(z1, z2, 0.4), strict=False):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)


def test_both_views_share_their_batch_statistics(rng):
    """P runs once over all of them."""
    model, views = built(instance_weight=1.0), make_views(rng)
    norm = model.patch_network.groups[0].units[0].norm1.norm
    before = norm.moving_mean.numpy()
    model.instance_loss_and_accuracy(tf.constant(views), training=True)
    channels = model.patch_network.stem(views.reshape(-1, 16, 16, 3) / np.float32(127.5) - 1)
    expected = 0.9 * before + 0.1 * channels.numpy().mean((0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_weighted_sum(rng):
    model = built(jigsaw_weight=0.5, instance_weight=3.0)
    batch = {**make_batch(rng), "views": make_views(rng, 2)}
    jigsaw, accuracy = model.loss_and_accuracy(batch, training=False)
    instance, _ = model.instance_loss_and_accuracy(batch["views"], training=False)
    found = model.measure(batch, training=False)
    np.testing.assert_allclose(found["loss"], 0.5 * jigsaw + 3 * instance, rtol=1e-6)
    np.testing.assert_array_equal(found["patch_accuracy"], accuracy)
    np.testing.assert_array_equal(found["instance_loss"], instance)


def test_without_views_evaluation_measures_the_jigsaw_and_training_is_refused(rng):
    batch = make_batch(rng)
    model = built(instance_weight=3.0)
    found = model.measure(batch, training=False)
    assert set(found) == {"loss", "patch_accuracy"}
    np.testing.assert_array_equal(found["loss"], model.loss_and_accuracy(batch, False)[0])
    with pytest.raises(ValueError, match="instance_weight needs `views`"):
        model.measure(batch, training=True)
    alone = built(jigsaw_weight=0.0, instance_weight=1.0)
    with pytest.raises(ValueError, match="instance_weight needs `views`"):
        alone.measure(batch, training=False)


def test_a_model_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="both 0"):
        SelfiePretrainer(jigsaw_weight=0.0)


def test_the_instance_loss_alone_trains_p_and_the_projection_only(rng):
    """Patches do not go through P, and weight decay leaves A and the positions as they were."""
    config = make_config()
    config.model.jigsaw_weight, config.optimizer.weight_decay = 0.0, 0.1
    model = build_pretrainer(config)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), run_eagerly=True)
    assert model.accuracy_metric.name == "instance_accuracy"
    seen, stem = [], model.patch_network.stem
    stem.call, call = (lambda x: seen.append(x.shape) or call(x)), stem.call
    before = states(model)
    batch = {**make_batch(rng, 3), "views": make_views(rng)}
    logs = model.train_step(batch)
    assert seen == [(6, 16, 16, 3)]
    assert logs["loss"] == logs["instance_loss"] > 0 and "patch_accuracy" not in logs
    assert logs["nonfinite_steps"] == 0
    trained = {v.name.split(":")[0] for v in model.trainable_variables}
    assert {name.split("/")[0] for name in trained} == {"patch_network", "projection"}
    changed = {name for name, value in states(model).items() if (value != before[name]).any()}
    assert {name for name in trained if "kernel" in name} <= changed
    assert not any(name.startswith(("attention_pooling", "positions")) for name in changed)


# Another network's weights


def test_a_projection_is_copied_where_both_networks_have_one():
    source, target = built(instance_weight=1.0), built(instance_weight=0.5)
    used = copy_weights(source, target, "x")
    assert not used["fresh"] and not used["unused"]
    kernel = target.projection.hidden.kernel
    np.testing.assert_array_equal(kernel, source.projection.hidden.kernel)


def test_a_projection_that_one_network_lacks_is_named():
    with_it, without = built(instance_weight=1.0), built()
    before = with_it.projection.hidden.kernel.numpy()
    used = copy_weights(without, with_it, "x")
    assert sorted(used["fresh"]) == sorted(PROJECTION) and not used["unused"]
    np.testing.assert_array_equal(with_it.projection.hidden.kernel, before)
    np.testing.assert_array_equal(with_it.positions.embedding, without.positions.embedding)
    used = copy_weights(with_it, without, "x")
    assert sorted(used["unused"]) == sorted(PROJECTION) and not used["fresh"]


def test_a_projection_of_another_width_does_not_fit():
    source, target = (built(instance_weight=1.0, projection_dim=dim) for dim in (8, 9))
    before = target.positions.embedding.numpy()
    with pytest.raises(
        UserError, match=r"projection/output/kernel is \(32, 8\) there and \(32, 9\)"
    ):
        copy_weights(source, target, "x")
    np.testing.assert_array_equal(target.positions.embedding, before)
