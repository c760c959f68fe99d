"""The pretraining model, whole."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import SelfieConfig
from selfie_tf.losses import patch_classification_loss
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.training.build import build_pretrainer

from helpers import make_batch

TINY = {"grid": 4, "width": 2, "attention_layers": 1, "num_heads": 2, "mlp_dim": 16}


@pytest.fixture
def model(rng):
    return make_model(rng)


def make_model(rng, query="pooled"):
    model = SelfiePretrainer(**TINY, query=query)
    model(make_batch(rng))
    for variable in model.positions.trainable_variables:  # near 0 after initialisation
        variable.assign(rng.normal(size=variable.shape))
    for variable in model.patch_network.non_trainable_variables:
        if "moving_mean" in variable.name:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


@pytest.mark.full_depth
@pytest.mark.parametrize("position, extra", [("learned", 16 * 1024), ("factorized", 8 * 1024)])
def test_parameter_count_of_the_paper(position, extra):
    config = SelfieConfig()
    config.model.position = position
    model = build_pretrainer(config)

    def count(layer):
        return sum(np.prod(v.shape) for v in layer.trainable_variables)

    dim, mlp = 1024, 640
    attention = 4 * (dim * dim + dim)
    dense = dim * mlp + mlp + mlp * dim + dim
    block = attention + dense + 2 * 2 * dim
    assert count(model.attention_pooling) == 3 * block + dim  # and u0
    assert count(model.patch_network) == 8_532_032  # 8.53 M, summed up in test_resnet.py
    assert count(model) == 8_532_032 + 3 * block + dim + extra
    if position == "learned":
        assert round(count(model) / 1e6, 2) == 25.09


@pytest.mark.parametrize("query", ["pooled", "per_location"])
def test_logits_match_a_loop_over_places_and_patches(rng, query):
    model, batch = make_model(rng, query), make_batch(rng)
    logits = model(batch, training=False).numpy()
    embedding = model.positions.embedding.numpy()
    for b in range(2):
        h = model.patch_features(batch["target_patches"][b : b + 1], training=False)[0].numpy()
        seen = model.patch_features(batch["context_patches"][b : b + 1], training=False)[0].numpy()
        seen = seen + embedding[batch["context_positions"][b]]
        for t in range(4):
            e = embedding[batch["target_positions"][b, t]]
            if query == "pooled":
                u = model.attention_pooling(seen[None], training=False)
            else:
                u = model.attention_pooling.pool_at(seen[None], e[None, None], training=False)[0]
            v = u[0].numpy() + e
            for j in range(4):
                np.testing.assert_allclose(logits[b, t, j], v @ h[j], rtol=2e-4, atol=2e-4)


def test_permuting_targets_permutes_logits_and_nothing_else(model, rng):
    batch = make_batch(rng)
    order = np.array([2, 0, 3, 1])
    permuted = {**batch}
    for name in ("target_patches", "target_positions"):
        permuted[name] = batch[name][:, order]
    logits, again = (model(x, training=False).numpy() for x in (batch, permuted))
    np.testing.assert_allclose(again, logits[:, order][:, :, order], rtol=1e-5, atol=1e-5)


def test_a_targets_position_moves_its_own_row_only(model, rng):
    """No leak: the scores of patch j at other places don't know where j belongs."""
    batch = make_batch(rng)
    moved = {**batch, "target_positions": batch["target_positions"].copy()}
    moved["target_positions"][:, 1] = batch["context_positions"][:, 0]
    logits, again = (model(x, training=False).numpy() for x in (batch, moved))
    rows = [0, 2, 3]
    np.testing.assert_array_equal(again[:, rows], logits[:, rows])
    assert np.abs(again[:, 1] - logits[:, 1]).max() > 1e-3


def test_logits_see_the_images_own_targets_only(model, rng):
    batch = make_batch(rng)
    other = {**batch, "target_patches": batch["target_patches"].copy()}
    other["target_patches"][1] = 255 - other["target_patches"][1]
    logits, again = (model(x, training=False).numpy() for x in (batch, other))
    np.testing.assert_allclose(again[0], logits[0], rtol=1e-5, atol=1e-5)
    assert np.abs(again[1] - logits[1]).max() > 1e-3


def test_u_does_not_see_target_patches(model, rng):
    batch = make_batch(rng)
    pooled = []
    pool = model.pool
    model.pool = lambda *a, **k: pooled.append(pool(*a, **k)) or pooled[-1]
    model(batch, training=False)
    model({**batch, "target_patches": 255 - batch["target_patches"]}, training=False)
    model({**batch, "context_patches": 255 - batch["context_patches"]}, training=False)
    np.testing.assert_array_equal(pooled[0], pooled[1])
    assert np.abs(pooled[0] - pooled[2]).max() > 1e-3


def test_sqrt_dim_divides_the_logits(rng):
    batch = make_batch(rng)
    plain, scaled = (SelfiePretrainer(**TINY, logit_scale=s) for s in ("none", "sqrt_dim"))
    plain(batch), scaled(batch)
    scaled.set_weights(plain.get_weights())
    expected = plain(batch, training=False) / np.sqrt(32)
    np.testing.assert_allclose(scaled(batch, training=False), expected, rtol=1e-5)


def test_visible_and_hidden_patches_share_their_batch_statistics(model, rng):
    """P runs once over all of them, not once over each kind."""
    batch = make_batch(rng)
    norm = model.patch_network.groups[0].units[0].norm1.norm
    before = norm.moving_mean.numpy()
    model(batch, training=True)
    patches = np.concatenate([batch["context_patches"], batch["target_patches"]], axis=1)
    channels = model.patch_network.stem(patches.reshape(-1, 4, 4, 3) / np.float32(127.5) - 1)
    expected = 0.9 * before + 0.1 * channels.numpy().mean((0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4, atol=1e-6)


def test_the_patch_network_sees_pixels_from_minus_1_to_1(model, rng):
    batch = make_batch(rng)
    seen = []
    stem = model.patch_network.stem
    stem.call, call = (lambda x: seen.append(x) or call(x)), stem.call
    model(batch, training=False)
    patches = np.concatenate([batch["context_patches"], batch["target_patches"]], axis=1)
    expected = patches.reshape(-1, 4, 4, 3) * (2 / 255) - 1.0
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


@pytest.mark.parametrize("pooling, reference", [("mean", np.mean), ("max", np.max)])
def test_mean_and_max_pooling(pooling, reference, rng):
    model = SelfiePretrainer(**TINY, pooling=pooling)
    model(make_batch(rng))
    h = rng.normal(size=[3, 5, 32]).astype(np.float32)
    np.testing.assert_allclose(model.pool(h), reference(h, axis=1), rtol=1e-5, atol=1e-6)
    assert model.attention_pooling is None
    assert not any("attention" in v.name for v in model.variables)


def logits_with(model, batch, **changes):
    return model({**batch, **changes}, training=False).numpy().astype(np.float64)


def test_the_pooled_context_cannot_say_where_a_patch_belongs(rng):
    """Another context changes a patch's score by the same amount at every position.

    With a query per location it does not.
    """
    batch = make_batch(rng)
    for query in ("pooled", "per_location"):
        model = SelfiePretrainer(**TINY, query=query)
        model(batch)
        model.positions.embedding.assign(rng.normal(size=[16, 32]))
        other = logits_with(model, batch, context_patches=255 - batch["context_patches"])
        change = other - logits_with(model, batch)  # [B, T, T]
        between_positions = np.abs(change - change[:, :1]).max()
        assert np.abs(change).max() > 0.1
        assert (between_positions < 1e-4) == (query == "pooled")


def test_a_query_without_context(rng):
    batch = make_batch(rng)
    model = SelfiePretrainer(**TINY, query="position")
    logits = logits_with(model, batch)
    other = logits_with(model, batch, context_patches=255 - batch["context_patches"])
    np.testing.assert_array_equal(logits, other)
    assert model.attention_pooling is None
    h = model.patch_features(batch["target_patches"], training=False).numpy()
    v = model.positions.embedding.numpy()[batch["target_positions"]]
    np.testing.assert_allclose(logits, np.einsum("btd,bjd->btj", v, h), rtol=1e-4, atol=1e-5)


def test_a_location_asks_by_itself(rng):
    """Other hidden positions and patches change neither its query nor its scores of the others."""
    batch = make_batch(rng)
    model = SelfiePretrainer(**TINY, query="per_location")
    model(batch)
    model.positions.embedding.assign(rng.normal(size=[16, 32]))
    positions, patches = batch["target_positions"].copy(), batch["target_patches"].copy()
    positions[:, 1] = batch["context_positions"][:, 0]
    patches[:, 1] = 255 - patches[:, 1]
    logits = logits_with(model, batch)
    moved = logits_with(model, batch, target_positions=positions)
    np.testing.assert_allclose(moved[:, [0, 2, 3]], logits[:, [0, 2, 3]], rtol=1e-5, atol=1e-5)
    assert np.abs(moved[:, 1] - logits[:, 1]).max() > 1e-3
    changed = logits_with(model, batch, target_patches=patches)
    rest = np.ix_([0, 1], [0, 1, 2, 3], [0, 2, 3])
    np.testing.assert_allclose(changed[rest], logits[rest], rtol=1e-5, atol=1e-5)


def test_embeddings_are_added_to_the_query_in_float32(rng):
    """Beside a u of 1 and more, bfloat16 would round an embedding of 0.02 by a tenth."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        batch = make_batch(rng)
        for query in ("pooled", "per_location"):
            model = SelfiePretrainer(**TINY, query=query)
            model(batch)
            h = model.patch_features(batch["context_patches"], training=False)
            places = batch["context_positions"], batch["target_positions"]
            v = model.queries(h, *places, training=False)
            embedding = tf.gather(model.positions.embedding, places[1])
            context = h + model.positions(places[0])
            if query == "pooled":
                u = model.pool(context, training=False)[:, None]
            else:
                u = model.attention_pooling.pool_at(context, model.positions(places[1]))
            np.testing.assert_allclose(v - tf.cast(u, tf.float32), embedding, atol=2e-4)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_a_query_per_location_needs_attention():
    with pytest.raises(ValueError, match="pooling='attention', got 'mean'"):
        SelfiePretrainer(**TINY, query="per_location", pooling="mean")


@pytest.mark.parametrize("argument", ["query", "pooling", "position", "logit_scale", "negatives"])
def test_unknown_choices_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument}='median'"):
        SelfiePretrainer(**{argument: "median"})


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="widht"):
        SelfiePretrainer(widht=2)


@pytest.mark.parametrize("query", ["pooled", "per_location"])
def test_train_step_is_nesterov_sgd_on_loss_plus_l2(rng, query):
    """Two steps against the update written out, weight by weight."""
    batch, arguments = make_batch(rng, batch=4), {"dropout_rate": 0.0, "weight_decay": 0.1}
    model = SelfiePretrainer(**TINY, **arguments, query=query)
    model(batch)
    twin = SelfiePretrainer(**TINY, **arguments, query=query)
    twin(batch)
    twin.set_weights(model.get_weights())
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True), run_eagerly=True)
    velocity = [np.zeros(v.shape) for v in twin.trainable_variables]
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(patch_classification_loss(twin(batch, training=True)))
        gradients = tape.gradient(loss, twin.trainable_variables)
        for i, (variable, gradient) in enumerate(zip(twin.trainable_variables, gradients)):
            gradient = gradient.numpy()
            if variable.name.endswith("kernel:0"):
                gradient = gradient + 0.1 * variable.numpy()
            velocity[i] = 0.9 * velocity[i] - 0.05 * gradient
            variable.assign_add(0.9 * velocity[i] - 0.05 * gradient)
        logs = model.train_step(batch)
        np.testing.assert_allclose(logs["loss"], loss, rtol=1e-4)
        model.reset_metrics()
    for mine, expected in zip(model.trainable_variables, twin.trainable_variables):
        np.testing.assert_allclose(mine, expected, atol=2e-5, err_msg=mine.name)
