"""Classifiers, and what they take from pretraining."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError
from selfie_tf.losses import classification_loss, l2_penalty
from selfie_tf.models import classifier as classifier_module
from selfie_tf.models.base import normalize
from selfie_tf.models.classifier import ResNetClassifier
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.models.transfer import load_pretrained_weights
from selfie_tf.patches import patchify

from helpers import make_batch

# 16-pixel images, 4x4 patches of 4 pixels; P's feature map is 4x4.
TINY = {"width": 2, "attention_layers": 1, "num_heads": 2, "mlp_dim": 16}
HEADS = ("resnet50", "resnet36_attention")


def make(head="resnet50", **arguments):
    values = {**TINY, "image_size": 16, "grid": 4, **arguments}
    classifier = ResNetClassifier(values.pop("num_classes", 5), head=head, **values)
    classifier.build()
    return classifier


def make_pretrainer(rng, batch=2, **arguments):
    """With positions and statistics that are not near their initial values."""
    model = SelfiePretrainer(**{"grid": 4, **TINY, **arguments})
    model.build({"context_patches": [None, 12, 4, 4, 3]})
    for variable in model.weights:
        if variable.dtype == tf.float32 and "/" in variable.name:
            noise = rng.normal(0, 0.1, variable.shape)
            variable.assign(noise + 1 if "moving_variance" in variable.name else variable + noise)
    return model


def make_images(rng, count=3, size=16):
    return rng.integers(0, 256, [count, size, size, 3], dtype=np.uint8)


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.full_depth
def test_resnet50_of_the_paper_at_224():
    """23.5 M in the backbone; maps of 56, 28, 14 and 7."""
    classifier = ResNetClassifier(1000, image_size=224, stem="imagenet", grid=7)
    classifier.build()
    expected = 7 * 7 * 3 * 64
    channels = 64
    for filters, units in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for unit in range(units):
            norms = 2 * (channels + filters + filters)
            kernels = channels * filters + 9 * filters**2 + filters * 4 * filters
            expected += norms + kernels + (channels * 4 * filters if unit == 0 else 0)
            channels = 4 * filters
    expected += 2 * channels
    assert count(classifier.backbone.trainable_variables) == expected
    assert round(expected / 1e6, 1) == 23.5
    assert count(classifier.trainable_variables) == expected + 2048 * 1000 + 1000
    x = tf.zeros([1, 224, 224, 3])
    x = classifier.backbone.stem(x)
    sides = []
    for group in classifier.backbone.groups:
        x = group(x)
        sides.append(tuple(x.shape[1:]))
    assert sides == [(56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)]


@pytest.mark.full_depth
def test_resnet36_with_attention_pooling_of_the_paper():
    """About 25 M, as ResNet-50."""
    for position, extra in (("learned", 16 * 1024), ("factorized", 8 * 1024)):
        classifier = ResNetClassifier(10, head="resnet36_attention", position=position)
        classifier.build()
        block = 4 * (1024**2 + 1024) + 1024 * 640 + 640 + 640 * 1024 + 1024 + 4 * 1024
        expected = 8_532_032 + 3 * block + 1024 + extra + 1024 * 10 + 10
        assert count(classifier.trainable_variables) == expected
        assert round(expected / 1e6, 1) == 25.1


@pytest.mark.parametrize("patch_by_patch", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_float32_and_take_bytes_and_floats(head, patch_by_patch, rng):
    classifier = make(head, patch_by_patch=patch_by_patch)
    images = make_images(rng)
    logits = classifier(images, training=False)
    assert logits.shape == (3, 5) and logits.dtype == tf.float32
    again = classifier(images.astype(np.float32), training=False)
    np.testing.assert_array_equal(again, logits)


@pytest.mark.parametrize("head", HEADS)
def test_the_backbone_sees_pixels_from_minus_1_to_1(head, rng):
    classifier, images, seen = make(head), make_images(rng), []
    stem = classifier.backbone.stem
    stem.call, call = (lambda x: seen.append(x) or call(x)), stem.call
    classifier(images, training=False)
    np.testing.assert_allclose(seen[0], images * (2 / 255) - 1.0, atol=1e-6)


def test_resnet50_is_pooled_over_the_whole_map(rng):
    classifier = make()
    images = make_images(rng)
    feature_map = classifier.backbone(normalize(images, "float32"), training=False).numpy()
    features = feature_map.mean((1, 2))
    expected = features @ classifier.head.kernel.numpy() + classifier.head.bias.numpy()
    np.testing.assert_allclose(classifier(images, training=False), expected, rtol=1e-4, atol=1e-5)


def test_the_feature_map_is_averaged_onto_the_grid_cell_by_cell(rng):
    """A 32-pixel image: an 8x8 map on a 4x4 grid."""
    classifier = make("resnet36_attention", image_size=32)
    for variable in classifier.positions.weights:
        variable.assign(rng.normal(size=variable.shape))
    seen = []
    pool = classifier.attention_pooling.call
    classifier.attention_pooling.call = lambda x, training=None: seen.append(x) or pool(x, training)
    images = make_images(rng, size=32)
    classifier.features(images, training=False)
    feature_map = classifier.backbone(normalize(images, "float32"), training=False).numpy()
    assert feature_map.shape == (3, 8, 8, 32)
    for row in range(4):
        for column in range(4):
            cell = feature_map[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
            expected = cell + classifier.positions.embedding.numpy()[4 * row + column]
            np.testing.assert_allclose(seen[0][:, 4 * row + column], expected, atol=1e-5)


def test_patch_by_patch_sees_what_pretraining_saw(rng):
    """u of all patches, as SelfiePretrainer pools them."""
    pretrainer = make_pretrainer(rng)
    classifier = make("resnet36_attention", patch_by_patch=True)
    load_pretrained_weights(classifier, pretrainer, "x")
    images = make_images(rng)
    h = pretrainer.patch_features(patchify(tf.constant(images), 4), training=False)
    expected = pretrainer.pool(h + pretrainer.positions(tf.range(16)[None]), training=False)
    features = classifier.features(images, training=False)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_a_map_that_does_not_fit_the_grid():
    with pytest.raises(ValueError, match="3x3 feature map of 12-pixel images .* grid=4"):
        make("resnet36_attention", image_size=12)
    make("resnet36_attention", image_size=12, patch_by_patch=True)


@pytest.mark.parametrize("argument", ["head", "position"])
def test_unknown_choices_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument}='median'"):
        ResNetClassifier(3, **{argument: "median"})


def test_train_step_is_nesterov_sgd_on_loss_plus_l2(rng):
    """Two steps against the update written out, weight by weight."""
    images, labels = make_images(rng, 4), np.array([0, 3, 1, 3])
    model, twin = (make("resnet36_attention", dropout_rate=0.0, weight_decay=0.1) for _ in "ab")
    twin.set_weights(model.get_weights())
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True), run_eagerly=True)
    velocity = [np.zeros(v.shape) for v in twin.trainable_variables]
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(classification_loss(twin(images, training=True), labels))
        gradients = tape.gradient(loss, twin.trainable_variables)
        for i, (variable, gradient) in enumerate(zip(twin.trainable_variables, gradients)):
            gradient = gradient.numpy()
            if variable.name.endswith("kernel:0"):
                gradient = gradient + 0.1 * variable.numpy()
            velocity[i] = 0.9 * velocity[i] - 0.05 * gradient
            variable.assign_add(0.9 * velocity[i] - 0.05 * gradient)
        logs = model.train_step((images, labels))
        np.testing.assert_allclose(logs["loss"], loss, rtol=1e-4)
        model.reset_metrics()
    for mine, expected in zip(model.trainable_variables, twin.trainable_variables):
        np.testing.assert_allclose(mine, expected, atol=2e-5, err_msg=mine.name)


def test_labels_are_smoothed_in_training_only(rng):
    classifier = make(label_smoothing=0.3)
    images, labels = make_images(rng, 4), np.array([0, 3, -1, 3])
    for training, smoothing in ((True, 0.3), (False, 0.0)):
        logits = classifier(images, training=training)
        found, _ = classifier.loss_and_accuracy((images, labels), training=training)
        expected = classification_loss(logits, tf.constant(labels), smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_mixed_bfloat16_gives_float32_logits(rng):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        classifier = make("resnet36_attention")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    logits = classifier(make_images(rng), training=True)
    assert logits.dtype == tf.float32 and np.isfinite(logits).all()
    assert (logits.numpy() != tf.cast(tf.cast(logits, tf.bfloat16), tf.float32).numpy()).any()


# Layers that pretraining provides

# SGD without momentum, and L2 in the loss.
PLAIN = {"weight_decay": 0.1, "dropout_rate": 0.0}
IMAGES, LABELS = make_images(np.random.default_rng(5), 4), np.array([0, 3, 1, 3])


def of_pretraining(model):
    """Names of the trainable variables that pretraining provides."""
    return {v.name for layer in model.pretrained_layers for v in layer.trainable_variables}


def train(model):
    """Takes a step of SGD; the trainable variables after it, and what the step returns."""
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    logs = model.train_step((IMAGES, LABELS))
    return {v.name: v.numpy() for v in model.trainable_variables}, logs


def twins(head, *arguments):
    """Classifiers of the same weights."""
    models = [make(head, **PLAIN, **values) for values in arguments]
    for model in models:
        model.set_weights(models[0].get_weights())
    return models


@pytest.mark.parametrize("head", HEADS)
def test_the_layers_of_pretraining_are_those_that_load_its_weights(head, rng):
    classifier = make(head)
    loaded = load_pretrained_weights(classifier, make_pretrainer(rng), "x")["loaded"]
    trainable = {v.name for v in classifier.trainable_variables}
    assert of_pretraining(classifier) == {f"{name}:0" for name in loaded} & trainable
    assert len(trainable) > len(of_pretraining(classifier)) > 10


@pytest.mark.parametrize("head", HEADS)
def test_the_backbone_moves_by_its_factor(head):
    plain, half = twins(head, {}, {"backbone_factor": 0.5})
    before = {v.name: v.numpy() for v in plain.trainable_variables}
    (expected, _), (found, _) = train(plain), train(half)
    slowed = of_pretraining(half)
    for name, old in before.items():
        factor = 0.5 if name in slowed else 1.0
        update = factor * (expected[name] - old)
        np.testing.assert_allclose(found[name] - old, update, atol=1e-6, err_msg=name)
    moved = [np.abs(expected[name] - before[name]).max() for name in slowed]
    assert np.mean(np.array(moved) > 1e-5) > 0.8  # all but what has no gradient, such as key biases


@pytest.mark.parametrize("head", HEADS)
def test_frozen_layers_only_adapt_their_statistics(head):
    (model,) = twins(head, {"frozen_steps": 2})
    before = {v.name: v.numpy() for v in model.weights}
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), run_eagerly=True)
    frozen = of_pretraining(model)
    for _ in range(2):
        model.train_step((IMAGES, LABELS))
    for variable in model.trainable_variables:
        same = np.array_equal(variable, before[variable.name])
        assert same == (variable.name in frozen), variable.name
    moving = [v for v in model.backbone.non_trainable_variables if "moving" in v.name]
    assert moving and all(np.any(v.numpy() != before[v.name]) for v in moving)
    for variable, momentum in zip(model.trainable_variables, model.optimizer.momentums):
        assert np.any(momentum.numpy()) == (variable.name not in frozen), variable.name
    model.train_step((IMAGES, LABELS))
    values = {v.name: v.numpy() for v in model.trainable_variables}
    assert all(np.any(values[name] != before[name]) for name in frozen if "kernel" in name)


def test_the_norm_is_that_of_the_gradient_that_is_applied():
    free, frozen = twins("resnet50", {}, {"frozen_steps": 1})
    variables = free.trainable_variables
    with tf.GradientTape() as tape:
        losses, _ = free.loss_and_accuracy((IMAGES, LABELS), training=True)
        loss = tf.reduce_mean(losses) + 0.1 * l2_penalty(variables)
    slowed = of_pretraining(frozen)
    gradients = zip(tape.gradient(loss, variables), variables)
    rest = [g.numpy() for g, v in gradients if v.name not in slowed]
    frozen.set_weights(free.get_weights())
    norm = train(frozen)[1]["gradient_norm"]
    np.testing.assert_allclose(norm, np.sqrt(sum(np.sum(g**2) for g in rest)), rtol=1e-3)


def test_by_default_the_step_is_the_plain_one(monkeypatch):
    def fails(*_):
        raise AssertionError

    monkeypatch.setattr(classifier_module, "apply_gradients_slowed", fails)
    train(make())
    with pytest.raises(AssertionError):
        train(make(frozen_steps=1))


# From pretraining


def by_name(layer):
    return {v.name.split(":")[0].partition("/")[2]: v.numpy() for v in layer.weights}


def test_resnet50_takes_the_stem_and_three_groups(rng):
    pretrainer, classifier = make_pretrainer(rng), make()
    before = by_name(classifier.backbone)
    used = load_pretrained_weights(classifier, pretrainer, "x")
    theirs, mine = by_name(pretrainer.patch_network), by_name(classifier.backbone)
    for name, value in mine.items():
        taken = name.startswith(("stem/", "group1/", "group2/", "group3/"))
        np.testing.assert_array_equal(value, theirs[name] if taken else before[name], err_msg=name)
        assert (f"backbone/{name}" in used["loaded"]) == taken
        assert (f"backbone/{name}" in used["fresh"]) != taken
    assert {"head/kernel", "head/bias"} <= set(used["fresh"])
    assert len(used["unused"]) == 4  # P's last normalisation
    assert all("/final_norm/" in name for name in used["unused"])


def test_resnet36_takes_all_but_the_last_layer(rng):
    pretrainer, classifier = make_pretrainer(rng), make("resnet36_attention")
    used = load_pretrained_weights(classifier, pretrainer, "x")
    for theirs, mine in (
        (pretrainer.patch_network, classifier.backbone),
        (pretrainer.positions, classifier.positions),
        (pretrainer.attention_pooling, classifier.attention_pooling),
    ):
        expected, found = by_name(theirs), by_name(mine)
        assert list(found) == list(expected)
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert used["fresh"] == ["head/kernel", "head/bias"] and not used["unused"]


def test_loading_leaves_no_trace_of_pretraining_in_other_images_grid(rng):
    """Weights of 4-pixel patches serve 32-pixel images."""
    pretrainer = make_pretrainer(rng)
    classifier = make("resnet36_attention", image_size=32)
    load_pretrained_weights(classifier, pretrainer, "x")
    assert np.isfinite(classifier(make_images(rng, size=32), training=False)).all()


@pytest.mark.parametrize(
    "head, theirs, mine, expected",
    [
        (
            "resnet50",
            {"width": 4},
            {},
            r"stem/conv/kernel is \(3, 3, 3, 4\) there and \(3, 3, 3, 2",
        ),
        ("resnet50", {}, {"stem": "imagenet"}, r"stem/conv/kernel is \(3, .* and \(7, 7, 3, 2\)"),
        ("resnet36_attention", {"grid": 2}, {}, r"positions/embedding is \(4, 32\) there and \(16"),
        (
            "resnet36_attention",
            {"position": "factorized"},
            {},
            "positions/embedding is missing there",
        ),
        ("resnet36_attention", {"mlp_dim": 8}, {}, r"block1/intermediate/kernel is \(32, 8\)"),
        (
            "resnet36_attention",
            {"attention_layers": 2},
            {},
            r"block2/.*there and missing here",
        ),
        ("resnet36_attention", {}, {"attention_layers": 2}, "block2/.* is missing there"),
        (
            "resnet36_attention",
            {"pooling": "mean"},
            {},
            "no attention pooling of Selfie's, .*head='resnet36_attention' needs.*head='resnet50'",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(head, theirs, mine, expected, rng):
    pretrainer = make_pretrainer(rng, **theirs)
    classifier = make(head, **mine)
    before = classifier.get_weights()
    with pytest.raises(UserError, match=expected) as error:
        load_pretrained_weights(classifier, pretrainer, "init_from=runs/x")
    assert "init_from=runs/x" in str(error.value) and "\n" not in str(error.value)
    for value, old in zip(classifier.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_features_of_the_pretrainer_do_not_change(rng):
    """What finetuning does to the copies is not seen by the original."""
    pretrainer, classifier = make_pretrainer(rng), make()
    load_pretrained_weights(classifier, pretrainer, "x")
    batch = make_batch(rng)
    expected = pretrainer(batch, training=False).numpy()
    classifier.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    classifier.train_step((make_images(rng, 4), np.array([0, 1, 2, 3])))
    np.testing.assert_array_equal(pretrainer(batch, training=False), expected)
