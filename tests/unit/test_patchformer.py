"""PatchFormer: its pretraining model and its classifier."""

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import FinetuneConfig, PatchFormerConfig
from selfie_tf.errors import UserError
from selfie_tf.models.classifier import ResNetClassifier
from selfie_tf.models.patchformer import PatchFormerClassifier, PatchFormerPretrainer
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.models.transfer import load_pretrained_weights
from selfie_tf.optimizers import make_optimizer
from selfie_tf.patches import patchify
from selfie_tf.training.build import build_classifier, build_pretrainer

# 16-pixel images, a 4x4 grid of 4-pixel patches, 10 seen and 6 hidden, maps of 2x2.
TINY = {"grid": 4, "width": 2, "attention_layers": 1, "num_heads": 2, "mlp_dim": 16}


def make_batch(rng, batch=3):
    order = np.stack([rng.permutation(16) for _ in range(batch)]).astype(np.int32)
    return {
        "context_patches": rng.integers(0, 256, [batch, 10, 4, 4, 3], dtype=np.uint8),
        "context_positions": order[:, :10],
        "target_positions": order[:, 10:],
        "target_levels": rng.integers(0, 4, [batch, 6, 2, 2], dtype=np.int32),
    }


def disturb(model, rng):
    """Gives positions, queries and statistics values that are not near their initial ones."""
    for variable in model.weights:
        if variable.dtype == tf.float32 and "/" in variable.name:
            scale = 1.0 if "embedding" in variable.name or "query:" in variable.name else 0.1
            noise = rng.normal(0, scale, variable.shape)
            variable.assign(
                1 + noise**2 if "moving_variance" in variable.name else variable + noise
            )


def make_pretrainer(rng, **arguments):
    model = PatchFormerPretrainer(**{**TINY, "target_size": 2, **arguments})
    model.build({"context_patches": [None, 10, 4, 4, 3]})
    disturb(model, rng)
    return model


def make_classifier(**arguments):
    classifier = PatchFormerClassifier(**{"num_classes": 5, "image_size": 16, **TINY, **arguments})
    classifier.build()
    return classifier


def make_images(rng, count=3):
    return rng.integers(0, 256, [count, 16, 16, 3], dtype=np.uint8)


def count(layer):
    return sum(int(np.prod(v.shape)) for v in layer.trainable_variables)


BLOCK = 4 * (1024**2 + 1024) + 1024 * 4096 + 4096 + 4096 * 1024 + 1024 + 4 * 1024


def decoder_parameters():
    total, channels = 0, 1024
    for _ in range(3):  # 2x2, 4x4, 8x8
        out = channels // 2
        filters = out // 4
        total += 2 * (channels + filters + filters)  # normalisations
        total += channels * filters + 9 * filters**2 + filters * out + channels * out
        channels = out
    return total + 2 * channels + channels * 4 + 4


@pytest.mark.full_depth
def test_parameter_count_of_the_paper():
    """8.53 M in P, 126 M in the Transformer, 148.3 M in all."""
    config = PatchFormerConfig()
    config.validate()
    model = build_pretrainer(config)
    assert (config.num_context, config.num_targets) == (80, 116)
    assert count(model.patch_network) == 8_532_032
    assert count(model.positions) == (14 + 14) * 1024
    assert count(model.encoder.transformer) == 10 * BLOCK
    assert count(model.attention_pooling) == BLOCK + 1024 + 2 * 1024
    assert count(model.decoder) == decoder_parameters()
    assert count(model) == 148_267_204
    assert round(10 * BLOCK / 1e6) == 126


@pytest.mark.full_depth
def test_parameter_count_of_the_papers_classifier():
    config = FinetuneConfig()
    config.data.image_size, config.patches.size, config.model.head = 224, 16, "patchformer"
    config.model.attention_layers, config.model.num_heads = 10, 16
    config.model.mlp_dim, config.model.position = 4096, "factorized"
    config.validate()
    classifier = build_classifier(config, 1000)
    unit = 2 * (1024 + 256 + 256) + 1024 * 256 + 9 * 256**2 + 256 * 1024
    encoder = 8_532_032 + 28 * 1024 + 11 * BLOCK + 3 * 1024
    assert count(classifier) == encoder + unit + 1024 * 1000 + 1000


# Pretraining


def test_logits_are_decoded_from_the_query_of_each_location(rng):
    model = make_pretrainer(rng)
    batch = make_batch(rng)
    logits = model(batch, training=False).numpy()
    assert logits.shape == (3, 6, 2, 2, 4) and logits.dtype == np.float32
    rows = model.positions.row_embedding.numpy()
    columns = model.positions.column_embedding.numpy()
    pooling = model.attention_pooling
    for b in range(3):
        one = {k: v[b : b + 1] for k, v in batch.items()}
        context = model.encoder(one["context_patches"], one["context_positions"], training=False)
        for t in range(6):
            row, column = divmod(batch["target_positions"][b, t], 4)
            query = pooling.query.numpy() + rows[row] + columns[column]
            query = (query - query.mean()) / np.sqrt(query.var() + 1e-6)
            query = query * pooling.query_norm.gamma.numpy() + pooling.query_norm.beta.numpy()
            v = pooling.block(query[None, None], context, training=False)[:, 0]
            expected = model.decoder(v, training=False)[0]
            np.testing.assert_allclose(logits[b, t], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("query", ["per_location", "pooled"])
def test_a_location_moves_its_own_answer_only(query, rng):
    model = make_pretrainer(rng, query=query)
    batch = make_batch(rng)
    moved = {**batch, "target_positions": batch["target_positions"].copy()}
    moved["target_positions"][:, 1] = batch["context_positions"][:, 0]
    logits, again = (model(x, training=False).numpy() for x in (batch, moved))
    np.testing.assert_allclose(again[:, [0, 2, 3, 4, 5]], logits[:, [0, 2, 3, 4, 5]], atol=1e-5)
    assert np.abs(again[:, 1] - logits[:, 1]).max() > 1e-3


def test_pooled_queries_share_one_vector(rng):
    model = make_pretrainer(rng, query="pooled")
    batch = make_batch(rng)
    context = model.encoder(batch["context_patches"], batch["context_positions"], training=False)
    u = model.encoder.pool_all(context, training=False).numpy()
    v = u[:, None] + model.positions(batch["target_positions"]).numpy()
    expected = model.decoder(v.reshape(18, 32), training=False).numpy()
    logits = model(batch, training=False)
    np.testing.assert_allclose(logits, expected.reshape(3, 6, 2, 2, 4), rtol=1e-4, atol=1e-4)


def test_the_query_of_the_whole_image_has_the_mean_position(rng):
    model = make_pretrainer(rng)
    context = rng.normal(size=[2, 7, 32]).astype(np.float32)
    rows, columns = (
        np.mean(w.numpy(), axis=0)
        for w in (model.positions.row_embedding, model.positions.column_embedding)
    )
    where = np.broadcast_to(rows + columns, [2, 1, 32]).astype(np.float32)
    expected = model.attention_pooling(context, where, training=False)[:, 0]
    found = model.encoder.pool_all(context, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_answer_does_not_depend_on_the_order_of_the_context(rng):
    model = make_pretrainer(rng)
    batch = make_batch(rng)
    order = rng.permutation(10)
    shuffled = {**batch}
    for name in ("context_patches", "context_positions"):
        shuffled[name] = batch[name][:, order]
    logits, again = (model(x, training=False) for x in (batch, shuffled))
    np.testing.assert_allclose(again, logits, rtol=1e-3, atol=1e-3)


def test_patches_and_their_positions_matter_and_targets_are_not_seen(rng):
    model = make_pretrainer(rng)
    batch = make_batch(rng)
    logits = model(batch, training=False).numpy()
    other = {**batch, "target_levels": 3 - batch["target_levels"]}
    np.testing.assert_array_equal(model(other, training=False), logits)
    for name, value in (
        ("context_patches", 255 - batch["context_patches"]),
        ("context_positions", batch["context_positions"][:, ::-1]),
    ):
        moved = model({**batch, name: value}, training=False).numpy()
        assert np.abs(moved - logits).max() > 1e-3, name


def test_the_loss_is_smoothed_in_training_only(rng):
    model = make_pretrainer(rng, dropout_rate=0.0, label_smoothing=0.2)
    batch = make_batch(rng)
    for training, smoothing in ((True, 0.2), (False, 0.0)):
        logits = model(batch, training=training).numpy().astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = np.zeros(3)
        right = np.zeros(3)
        for b, t, y, x in np.ndindex(3, 6, 2, 2):
            level = batch["target_levels"][b, t, y, x]
            truth = np.full(4, smoothing / 4)
            truth[level] += 1 - smoothing
            expected[b] -= (truth * np.log(probabilities[b, t, y, x])).sum() / 24
            right[b] += (logits[b, t, y, x].argmax() == level) / 24
        found, accuracies = model.loss_and_accuracy(batch, training=training)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        np.testing.assert_allclose(accuracies, right, atol=1e-6)


def test_train_step_is_adamw_that_decays_kernels_only(rng):
    """Two steps against the update written out, weight by weight."""
    batch = make_batch(rng, 4)
    model, twin = (make_pretrainer(rng, dropout_rate=0.0) for _ in "ab")
    twin.set_weights(model.get_weights())
    before = [v.numpy() for v in model.trainable_variables]
    model.compile(make_optimizer("adamw", 0.01, weight_decay=0.5, epsilon=1e-3), run_eagerly=True)
    first = [np.zeros(v.shape) for v in twin.trainable_variables]
    second = [np.zeros(v.shape) for v in twin.trainable_variables]
    decayed = 0
    for step in (1, 2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(twin.loss_and_accuracy(batch, training=True)[0])
        gradients = tape.gradient(loss, twin.trainable_variables)
        for i, (variable, gradient) in enumerate(zip(twin.trainable_variables, gradients)):
            g = gradient.numpy().astype(np.float64)
            value = variable.numpy().astype(np.float64)
            if variable.name.endswith("/kernel:0"):
                value -= 0.01 * 0.5 * value
                decayed += 1
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            variable.assign(value - rate * first[i] / (np.sqrt(second[i]) + 1e-3))
        logs = model.train_step(batch)
        np.testing.assert_allclose(logs["loss"], loss, rtol=1e-3)
        assert logs["l2"] == 0.0
        model.reset_metrics()
    kernels = [v for v in model.trainable_variables if v.name.endswith("/kernel:0")]
    assert decayed == 2 * len(kernels) and 0 < len(kernels) < len(model.trainable_variables)
    for mine, expected, old in zip(model.trainable_variables, twin.trainable_variables, before):
        np.testing.assert_allclose(mine, expected, atol=1e-3, err_msg=mine.name)
        assert (mine.numpy() != old).any(), mine.name


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="query='median'"):
        PatchFormerPretrainer(query="median")
    with pytest.raises(ValueError, match="position='median'"):
        PatchFormerPretrainer(position="median")
    with pytest.raises(ValueError, match="size=6: expected a power of two"):
        PatchFormerPretrainer(target_size=6)
    with pytest.raises(ValueError, match="grid=3 does not divide image_size=32"):
        PatchFormerClassifier(5, image_size=32, grid=3)


# The classifier


def test_features_at_test_are_those_of_all_patches(rng):
    pretrainer, classifier = make_pretrainer(rng), make_classifier()
    load_pretrained_weights(classifier, pretrainer, "x")
    images = make_images(rng)
    cut = patchify(tf.constant(images), 4)
    positions = np.tile(np.arange(16, dtype=np.int32), [3, 1])
    context = pretrainer.encoder(cut, positions, training=False)
    u = pretrainer.encoder.pool_all(context, training=False)
    np.testing.assert_allclose(
        pretrainer.image_features(images, training=False), u, rtol=1e-4, atol=1e-4
    )
    residual = classifier.residual(u[:, None, None], training=False)[:, 0, 0]
    features = classifier.features(images, training=False)
    np.testing.assert_allclose(features, residual, rtol=1e-3, atol=1e-3)
    logits = features.numpy() @ classifier.head.kernel.numpy() + classifier.head.bias.numpy()
    np.testing.assert_allclose(classifier(images, training=False), logits, rtol=1e-4, atol=1e-4)


def test_training_leaves_out_a_static_part_of_the_patches(rng):
    """Others for each image and step; none at test."""
    classifier = make_classifier(mask_ratio=0.3, num_heads=1)
    seen = []
    encode = classifier.encoder.call

    def spy(patches, positions, training=None):
        seen.append((patches.numpy(), positions.numpy()))
        return encode(patches, positions, training=training)

    classifier.encoder.call = spy
    images = make_images(rng, 4)
    cut = patchify(tf.constant(images), 4).numpy()
    for training in (True, True, False):
        classifier(images, training=training)
    for patches, positions in seen[:2]:
        assert positions.shape == (4, 11)  # 16 - round(4.8)
        for b in range(4):
            assert len(set(positions[b])) == 11 and list(positions[b]) == sorted(positions[b])
            np.testing.assert_array_equal(patches[b], cut[b, positions[b]])
    assert len({tuple(row) for _, positions in seen[:2] for row in positions}) == 8
    np.testing.assert_array_equal(seen[2][1], np.tile(np.arange(16), [4, 1]))


def test_every_patch_is_left_out_equally_often(rng):
    classifier = make_classifier(mask_ratio=0.25)
    draws, batch = 100, 40
    counts = np.zeros(16)
    for _ in range(draws):
        kept = classifier.patch_dropout.kept(tf.constant(batch), 16, training=True)
        counts += np.bincount(kept.numpy().ravel(), minlength=16)
    # Binomial(4000, 3/4): standard deviation 27.4.
    assert np.abs(counts - 3000).max() < 5 * 27.4


def test_without_a_mask_ratio_training_sees_all_patches():
    classifier = make_classifier(mask_ratio=0.0)
    kept = classifier.patch_dropout.kept(tf.constant(2), 16, training=True)
    np.testing.assert_array_equal(kept, np.tile(np.arange(16), [2, 1]))


def test_the_last_dropout_drops(rng):
    classifier = make_classifier(mask_ratio=0.0, dropout_rate=0.9)
    features = classifier.features(make_images(rng), training=True).numpy()
    assert 0.7 < (features == 0).mean() < 1
    assert (classifier.features(make_images(rng), training=False).numpy() != 0).all()


def test_no_two_dropouts_draw_the_same(rng):
    """Each has a seed of its own."""
    classifier = make_classifier(attention_layers=3, seed=2)
    classifier(make_images(rng), training=True)
    seeds = [
        layer.seed
        for layer in classifier._flatten_layers()
        if type(layer).__name__ in ("StatelessDropout", "PatchDropout")
    ]
    assert len(seeds) == 3 * 4 + 2 and len(set(seeds)) == len(seeds)


def test_all_of_the_encoder_is_taken_and_the_rest_is_fresh(rng):
    pretrainer, classifier = make_pretrainer(rng), make_classifier()
    used = load_pretrained_weights(classifier, pretrainer, "x")

    def by_name(model):
        return {v.name: v.numpy() for v in model.encoder.weights if "/calls" not in v.name}

    theirs, mine = by_name(pretrainer), by_name(classifier)
    assert list(theirs) == list(mine) and len(mine) > 50
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert {name.split(":")[0] for name in mine} == set(used["loaded"])
    layers = classifier.pretrained_layers
    assert {v.name for layer in layers for v in layer.weights} >= set(mine)
    assert not any("residual" in v.name for layer in layers for v in layer.weights)
    assert {name.split("/")[0] for name in used["fresh"]} == {"residual", "head"}
    assert not used["unused"]


@pytest.mark.parametrize(
    "theirs, expected",
    [
        ({"width": 4}, r"patch_network/stem/conv/kernel is \(3, 3, 3, 4\) there and \(3, 3, 3, 2"),
        ({"grid": 2}, r"positions/row_embedding is \(2, 32\) there and \(4, 32\) here"),
        ({"attention_layers": 2}, r"transformer/block2/.* is \(.*\) there and missing here"),
        ({"mlp_dim": 8}, r"block1/intermediate/kernel is \(32, 8\) there"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(theirs, expected, rng):
    classifier = make_classifier()
    before = classifier.get_weights()
    with pytest.raises(UserError, match=expected):
        load_pretrained_weights(classifier, make_pretrainer(rng, **theirs), "init_from=x")
    for value, old in zip(classifier.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_each_model_says_where_the_others_weights_do_not_fit(rng):
    selfie = SelfiePretrainer(**TINY)
    selfie.build({"context_patches": [None, 12, 4, 4, 3]})
    with pytest.raises(
        UserError,
        match="x has no encoder of PatchFormer's, .*ResNetClassifier with head='resnet50'",
    ):
        load_pretrained_weights(make_classifier(), selfie, "x")
    attention = ResNetClassifier(5, image_size=16, head="resnet36_attention", **TINY)
    attention.build()
    with pytest.raises(UserError, match="no attention pooling of Selfie's, .*head='resnet50'"):
        load_pretrained_weights(attention, make_pretrainer(rng), "x")
