"""Positions, dropout, attention and attention pooling, each alone."""

import inspect
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.attention import (
    AttentionBlock,
    LayerNorm,
    MultiHeadAttention,
    PatchDropout,
    StatelessDropout,
    Transformer,
)
from selfie_tf.layers.attention_pooling import AttentionPooling, QueryPooling
from selfie_tf.layers.decoder import UpsamplingDecoder
from selfie_tf.layers.positions import FactorizedPositions, LearnedPositions
from selfie_tf.layers.projection import Projection


def set_weights(layer, rng, scale=0.3):
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(0, scale, variable.shape))


def named(layer):
    """{'attention/query/kernel': array, ...}"""
    return {v.name.split(":")[0]: v.numpy().astype(np.float64) for v in layer.variables}


# Independent NumPy references, one vector at a time.


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def layer_norm(x, gamma, beta):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * gamma + beta


def gelu(x):
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def attention_reference(x, w, heads, prefix="", context=None):
    """x `[N, D]`, context `[M, D]` or x itself -> `[N, D]`."""
    context = x if context is None else context

    def dense(name, v):
        return v @ w[f"{prefix}{name}/kernel"] + w[f"{prefix}{name}/bias"]

    count, dim = x.shape
    size = dim // heads
    query = np.stack([dense("query", v) for v in x])
    key, value = (np.stack([dense(n, v) for v in context]) for n in ("key", "value"))
    out = np.zeros_like(x)
    for i in range(count):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = np.array([query[i, part] @ key[j, part] for j in range(len(key))])
            out[i, part] = softmax(scores / math.sqrt(size)) @ value[:, part]
    return np.stack([dense("output", v) for v in out])


def block_reference(x, w, heads, prefix="", context=None):
    attended = attention_reference(x, w, heads, f"{prefix}attention/", context)
    norm = [w[f"{prefix}attention_norm/{n}"] for n in ("gamma", "beta")]
    middle = np.stack([layer_norm(v, *norm) for v in x + attended])
    wide = [
        gelu(v @ w[f"{prefix}intermediate/kernel"] + w[f"{prefix}intermediate/bias"])
        for v in middle
    ]
    dense = np.stack([v @ w[f"{prefix}output/kernel"] + w[f"{prefix}output/bias"] for v in wide])
    norm = [w[f"{prefix}output_norm/{n}"] for n in ("gamma", "beta")]
    return np.stack([layer_norm(v, *norm) for v in middle + dense])


@pytest.fixture
def built():
    def build(layer, shape):
        layer.build(shape)  # not through call: names without the layer's own
        return layer

    return build


def test_factorized_positions_are_row_plus_column(rng, built):
    layer = built(FactorizedPositions(7, 7, 5), [None])
    set_weights(layer, rng)
    weights = named(layer)
    rows, columns = weights["row_embedding"], weights["column_embedding"]
    result = layer(np.arange(49)).numpy()
    assert sum(v.size for v in weights.values()) == 14 * 5
    for row in range(7):
        for column in range(7):
            expected = rows[row] + columns[column]
            np.testing.assert_allclose(result[7 * row + column], expected, atol=1e-6)


def test_rows_and_columns_of_a_grid_that_is_not_square(rng, built):
    layer = built(FactorizedPositions(2, 3, 4), [None])
    set_weights(layer, rng)
    weights = named(layer)
    result = layer(np.arange(6)[None]).numpy()[0]
    for position, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        expected = weights["row_embedding"][row] + weights["column_embedding"][column]
        np.testing.assert_allclose(result[position], expected, atol=1e-6)


def test_learned_positions_look_up_and_have_dense_gradients(rng, built):
    layer = built(LearnedPositions(4, 4, 3), [None, None])
    set_weights(layer, rng)
    positions = np.array([[3, 15], [0, 3]])
    with tf.GradientTape() as tape:
        result = layer(positions)
    np.testing.assert_allclose(result, named(layer)["embedding"][positions], atol=1e-6)
    gradient = tape.gradient(result, layer.embedding)
    assert isinstance(gradient, tf.Tensor)  # IndexedSlices would leave momentum behind
    np.testing.assert_array_equal(gradient[:, 0], np.bincount(positions.ravel(), minlength=16))


def test_dropout_draws_by_count_and_keeps_it_in_a_checkpoint(tmp_path):
    x = tf.ones([64, 32])
    layer = StatelessDropout(0.25, seed=7)
    first, second = layer(x, training=True).numpy(), layer(x, training=True).numpy()
    assert set(np.unique(first)) == {0.0, np.float32(1 / 0.75)}
    assert abs((first == 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / x.shape.num_elements())
    assert (first != second).any()
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "c"))
    third = layer(x, training=True).numpy()
    again = StatelessDropout(0.25, seed=7)
    again.build(None)
    tf.train.Checkpoint(layer=again).read(path).assert_consumed()
    np.testing.assert_array_equal(again(x, training=True), third)
    assert (StatelessDropout(0.25, seed=8)(x, training=True).numpy() != first).any()


@pytest.mark.parametrize("training", [False, None, tf.constant(False)])
def test_dropout_is_off_at_inference(training):
    x = tf.random.stateless_normal([8, 8], [1, 2])
    layer = StatelessDropout(0.5)
    np.testing.assert_array_equal(layer(x, training=training), x)


def test_dropout_follows_a_training_tensor():
    layer = StatelessDropout(0.5)
    assert (layer(tf.ones([8, 8]), training=tf.constant(True)).numpy() == 0).any()


def test_attention_weights_of_bfloat16_scores_are_rounded_once(rng, built, monkeypatch):
    """And their softmax is one of float32: on CPUs that of bfloat16 happens to round once, too."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = built(MultiHeadAttention(2), [None, 64, 8])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    set_weights(layer, rng)
    seen = []
    layer.dropout.call = lambda weights, training=None: seen.append(weights) or weights
    x = tf.constant(rng.normal(size=[4, 64, 8]), tf.bfloat16)
    softmax, dtypes = tf.nn.softmax, []
    monkeypatch.setattr(tf.nn, "softmax", lambda x: dtypes.append(x.dtype) or softmax(x))
    layer(x)
    assert dtypes == [tf.float32]

    def split(x):  # [4, 64, 8] -> [4, 2, 64, 4]
        return tf.transpose(tf.reshape(x, [4, 64, 2, 4]), [0, 2, 1, 3])

    query = split(layer.query_projection(x)) * 4**-0.5
    scores = tf.matmul(query, split(layer.key_projection(x)), transpose_b=True)
    assert scores.dtype == seen[0].dtype == tf.bfloat16
    weights = np.exp(tf.cast(scores, tf.float64).numpy())
    weights /= weights.sum(-1, keepdims=True)
    # 8 significant bits, so rounding errs by at most 2**-8 of the value.
    error = np.abs(tf.cast(seen[0], tf.float64).numpy() / weights - 1)
    assert error.max() < 2**-8 * 1.001


def test_self_attention_matches_a_loop(rng, built):
    layer = built(MultiHeadAttention(2, 0.1), [None, 5, 6])
    set_weights(layer, rng)
    x = rng.normal(size=[3, 5, 6]).astype(np.float32)
    expected = [attention_reference(v.astype(np.float64), named(layer), 2) for v in x]
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)


def test_attention_block_matches_a_loop(rng, built):
    layer = built(AttentionBlock(3, 10, 0.1), [None, 4, 6])
    set_weights(layer, rng)
    x = rng.normal(size=[2, 4, 6]).astype(np.float32)
    expected = [block_reference(v.astype(np.float64), named(layer), 3) for v in x]
    np.testing.assert_allclose(layer(x, training=False), expected, atol=2e-5)


def test_attention_over_another_sequence_matches_a_loop(rng, built):
    layer = built(AttentionBlock(3, 10, 0.1), [None, 4, 6])
    set_weights(layer, rng)
    x = rng.normal(size=[2, 4, 6]).astype(np.float32)
    context = rng.normal(size=[2, 7, 6]).astype(np.float32)
    expected = [
        block_reference(v.astype(np.float64), named(layer), 3, context=c.astype(np.float64))
        for v, c in zip(x, context)
    ]
    np.testing.assert_allclose(layer(x, context, training=False), expected, atol=2e-5)


def test_a_transformer_is_one_block_after_the_other(rng, built):
    layer = built(Transformer(3, 2, 8), [None, 5, 4])
    set_weights(layer, rng)
    x = rng.normal(size=[2, 5, 4]).astype(np.float32)
    for b in range(2):
        expected = x[b].astype(np.float64)
        for block in ("block1/", "block2/", "block3/"):
            expected = block_reference(expected, named(layer), 2, block)
        np.testing.assert_allclose(layer(x, training=False)[b], expected, atol=2e-5)


def test_query_pooling_matches_a_loop_over_locations(rng, built):
    layer = built(QueryPooling(2, 8), [None, 5, 4])
    set_weights(layer, rng)
    w = named(layer)
    x = rng.normal(size=[2, 5, 4]).astype(np.float32)
    locations = rng.normal(size=[2, 3, 4]).astype(np.float32)
    found = layer(x, locations, training=False)
    assert found.shape == (2, 3, 4)
    for b, t in np.ndindex(2, 3):
        query = w["query"] + locations[b, t].astype(np.float64)
        query = layer_norm(query, w["query_norm/gamma"], w["query_norm/beta"])
        expected = block_reference(query[None], w, 2, "block/", x[b].astype(np.float64))
        np.testing.assert_allclose(found[b, t], expected[0], atol=2e-5)


def test_patch_dropout_draws_by_count_and_keeps_it_in_a_checkpoint(tmp_path):
    layer = PatchDropout(0.25, seed=3)
    layer.build(None)
    draws = [layer.kept(4, 12, training=True).numpy() for _ in range(2)]
    path = tf.train.Checkpoint(layer=layer).save(str(tmp_path / "c"))
    draws.append(layer.kept(4, 12, training=True).numpy())
    assert len({row.tobytes() for draw in draws for row in draw}) == 12
    for row in np.concatenate(draws):
        assert row.dtype == np.int32 and len(set(row)) == 9 and sorted(row) == list(row)
    again = PatchDropout(0.25, seed=3)
    again.build(None)
    np.testing.assert_array_equal(again.kept(4, 12, training=False), [range(12)] * 4)
    tf.train.Checkpoint(layer=again).restore(path).assert_consumed()
    np.testing.assert_array_equal(again.kept(4, 12, training=True), draws[2])


@pytest.mark.parametrize("size", [2, 8])
def test_the_decoder_doubles_and_refines(size, rng, built):
    layer = built(UpsamplingDecoder(size, 3), [None, 64])
    set_weights(layer, rng)
    x = rng.normal(size=[5, 64]).astype(np.float32)
    expected, channels = x[:, None, None], 64
    for unit in layer.units:
        expected = expected.repeat(2, axis=1).repeat(2, axis=2)  # nearest neighbour
        expected = unit(expected, training=False).numpy()
        channels = channels // 2
        assert expected.shape[3] == channels
    expected = layer.final_norm(expected, training=False).numpy()
    w = named(layer)
    expected = expected @ w["output/kernel"] + w["output/bias"]
    found = layer(x, training=False)
    assert found.shape == (5, size, size, 3) and found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_pixels_of_a_fresh_decoder_differ(rng, built):
    """Though the vector that they come from has no place for them."""
    layer = built(UpsamplingDecoder(8, 3), [None, 64])
    found = layer(rng.normal(size=[5, 64]).astype(np.float32), training=True)
    assert np.std(found, axis=(1, 2)).min() > 0.1


@pytest.mark.parametrize("size", [1, 6, 0])
def test_the_decoder_makes_powers_of_two(size):
    with pytest.raises(ValueError, match=f"size={size}: expected a power of two"):
        UpsamplingDecoder(size, 4)


@pytest.mark.parametrize("where", ["attention/dropout", "attention_dropout", "output_dropout"])
def test_block_drops_at_each_of_its_three_places(rng, built, where):
    layer = built(AttentionBlock(2, 8, 0.5), [None, 4, 6])
    set_weights(layer, rng)
    for sub in layer.submodules:
        if isinstance(sub, StatelessDropout) and sub.calls.name.split(":")[0] != f"{where}/calls":
            sub.rate = 0.0
    x = tf.constant(rng.normal(size=[2, 4, 6]), tf.float32)
    still = layer(x, training=False).numpy()
    assert np.abs(layer(x, training=True).numpy() - still).max() > 1e-3


def test_dropout_spares_the_residual_connections(rng, built):
    """Where the attention and the dense layers give 0, dropout has nothing to drop."""
    layer = built(AttentionBlock(2, 8, 0.5), [None, 4, 6])
    set_weights(layer, rng)
    for dense in (layer.attention.output_projection, layer.output_dense):
        for variable in dense.weights:
            variable.assign(tf.zeros_like(variable))
    x = tf.constant(rng.normal(size=[2, 4, 6]), tf.float32)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))


def test_attention_pooling_returns_the_output_at_u0(rng, built):
    layer = built(AttentionPooling(2, 2, 8), [None, 3, 4])
    set_weights(layer, rng)
    weights = named(layer)
    h = rng.normal(size=[2, 3, 4]).astype(np.float32)
    for b in range(2):
        x = np.concatenate([weights["u0"][None], h[b].astype(np.float64)])
        for block in ("block1/", "block2/"):
            x = block_reference(x, weights, 2, block)
        np.testing.assert_allclose(layer(h, training=False)[b], x[0], atol=2e-5)


def test_pooling_at_locations_matches_a_loop(rng, built):
    """Each location's u0 attends to itself and the context, which does not see it."""
    layer = built(AttentionPooling(2, 2, 5, 0.0), [None, None, 4])
    set_weights(layer, rng)
    x, locations = rng.normal(size=[2, 3, 4]), rng.normal(size=[2, 2, 4])
    result = layer.pool_at(tf.constant(x, tf.float32), tf.constant(locations, tf.float32))
    weights = named(layer)
    for b in range(2):
        for t in range(2):
            query, context = (weights["u0"] + locations[b, t])[None], x[b]
            for prefix in ("block1/", "block2/"):
                seen = np.concatenate([query, context])
                query = block_reference(query, weights, 2, prefix, seen)
                context = block_reference(context, weights, 2, prefix)
            np.testing.assert_allclose(result[b, t], query[0], rtol=1e-4, atol=1e-5)


def test_attention_pooling_with_hand_set_weights(built):
    """u0 attends to the one patch whose key matches its query, and takes its value."""
    layer = built(AttentionPooling(1, 1, 4, 0.0), [None, 3, 4])
    for variable in layer.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    weights = {v.name.split(":")[0]: v for v in layer.trainable_variables}
    weights["u0"].assign([0.0, 0.0, 0.0, 100.0])
    eye = np.eye(4, dtype=np.float32)
    weights["block1/attention/query/kernel"].assign(100 * eye[[3, 1, 2, 0]])  # channel 3 asks for 0
    weights["block1/attention/key/kernel"].assign(eye)
    weights["block1/attention/value/kernel"].assign(eye * [0, 1, 1, 0])
    weights["block1/attention/output/kernel"].assign(eye)
    for norm in ("attention_norm", "output_norm"):
        weights[f"block1/{norm}/gamma"].assign(tf.ones([4]))
    h = np.array([[[0, 9, 9, 0], [1, 2, -3, 0], [0, 7, 7, 0]]], np.float32)
    once = layer_norm(np.array([0, 2, -3, 100.0]), 1, 0)  # u0 + the second patch's value
    np.testing.assert_allclose(layer(h)[0], layer_norm(once, 1, 0), atol=1e-5)


def test_pooling_does_not_depend_on_the_order(rng, built):
    layer = built(AttentionPooling(2, 2, 8), [None, 5, 4])
    set_weights(layer, rng)
    h = rng.normal(size=[2, 5, 4]).astype(np.float32)
    np.testing.assert_allclose(layer(h), layer(h[:, ::-1]), atol=1e-5)


def test_layer_norm_and_its_gradient_match_numpy(built, rng):
    layer = built(LayerNorm(), [None, 3, 5])
    set_weights(layer, rng)
    inputs, weight = (rng.normal(size=[2, 3, 5]).astype(np.float32) for _ in range(2))
    x = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        total = tf.reduce_sum(weight * y)
    gamma, beta = layer.gamma.numpy().astype(np.float64), layer.beta.numpy()
    d_x, d_gamma, d_beta = tape.gradient(total, [x, layer.gamma, layer.beta])

    def value(values):
        return sum(
            np.sum(weight[b, n] * layer_norm(values[b, n], gamma, beta))
            for b in range(2)
            for n in range(3)
        )

    for b, n in np.ndindex(2, 3):
        expected = layer_norm(inputs[b, n].astype(np.float64), gamma, beta)
        np.testing.assert_allclose(y[b, n], expected, atol=1e-5)
    for place in np.ndindex(2, 3, 5):
        step = np.zeros_like(inputs, np.float64)
        step[place] = 1e-5
        expected = (value(inputs + step) - value(inputs - step)) / 2e-5
        np.testing.assert_allclose(d_x[place], expected, atol=1e-3)
    unit = [layer_norm(v.astype(np.float64), 1, 0) for v in inputs.reshape(-1, 5)]
    np.testing.assert_allclose(d_gamma, np.sum(unit * weight.reshape(-1, 5), 0), atol=1e-4)
    np.testing.assert_allclose(d_beta, weight.sum((0, 1)), atol=1e-5)


def test_layer_norm_is_computed_in_float32(built, rng):
    """Also its scale, which mixed precision would round."""
    layer = built(LayerNorm(dtype="mixed_bfloat16"), [None, 64])
    layer.gamma.assign(tf.fill([64], 1.001))  # in bfloat16 1.0
    x = tf.constant(rng.normal(size=[8, 64]), tf.bfloat16)
    assert layer(x).dtype == tf.bfloat16 and layer.gamma.dtype == tf.float32
    layer.gamma.assign_add(tf.fill([64], 100.0))
    exact = layer_norm(tf.cast(x[0], tf.float64).numpy(), 101.001, 0)
    np.testing.assert_allclose(tf.cast(layer(x)[0], tf.float64), exact, rtol=4.1e-3, atol=1e-6)


def test_no_fused_normalisation_in_attention(built, rng):
    """Its gradient on CPU differs from run to run (see `LayerNorm`)."""
    layer = built(AttentionPooling(1, 2, 8), [None, 5, 4])

    @tf.function
    def gradient(x):
        return tf.gradients(tf.reduce_sum(layer(x) ** 2), layer.trainable_variables)

    graph = gradient.get_concrete_function(tf.TensorSpec([2, 5, 4])).graph
    assert not [op.type for op in graph.get_operations() if "FusedBatchNorm" in op.type]


def test_the_projection_matches_a_loop(rng, built):
    layer = built(Projection(6, 3), [None, 4])
    set_weights(layer, rng)
    x, w = rng.normal(size=[2, 5, 4]).astype(np.float32), named(layer)
    found = layer(x)
    for i, j in np.ndindex(2, 5):
        hidden = x[i, j] @ w["hidden/kernel"] + w["hidden/bias"]
        assert (hidden < 0).any()
        expected = np.maximum(hidden, 0) @ w["output/kernel"] + w["output/bias"]
        np.testing.assert_allclose(found[i, j], expected, rtol=1e-4, atol=1e-5)


def test_heads_must_divide_the_width(built):
    with pytest.raises(ValueError, match="num_heads=4 does not divide the width 6"):
        built(MultiHeadAttention(4), [None, 5, 6])


_BLOCKS = {"num_heads": 2, "mlp_dim": 7, "dropout_rate": 0.3, "seed": 5}
LAYERS = [
    (LearnedPositions, {"rows": 2, "columns": 3, "dim": 4}),
    (FactorizedPositions, {"rows": 2, "columns": 3, "dim": 4}),
    (StatelessDropout, {"rate": 0.3, "seed": 5}),
    (LayerNorm, {"epsilon": 0.1}),
    (MultiHeadAttention, {"num_heads": 2, "dropout_rate": 0.3, "seed": 5}),
    (AttentionBlock, _BLOCKS),
    (Transformer, {"num_layers": 2, **_BLOCKS}),
    (AttentionPooling, {"num_layers": 2, **_BLOCKS}),
    (QueryPooling, _BLOCKS),
    (
        UpsamplingDecoder,
        {"size": 4, "num_outputs": 3, "norm_momentum": 0.8, "synchronized": True},
    ),
    (Projection, {"hidden_dim": 6, "output_dim": 2}),
]


@pytest.mark.parametrize("layer_class, arguments", LAYERS)
def test_get_config_holds_every_argument_of_the_constructor(layer_class, arguments):
    parameters = set(inspect.signature(layer_class.__init__).parameters) - {"self", "kwargs"}
    assert set(arguments) == parameters
    config = layer_class(**arguments).get_config()
    assert {name: config[name] for name in parameters} == arguments


@pytest.mark.parametrize("layer_class, arguments", LAYERS)
def test_layers_work_in_a_keras_model_and_are_saved_and_loaded(
    layer_class, arguments, rng, tmp_path
):
    is_position = issubclass(layer_class, LearnedPositions)
    is_decoder = layer_class is UpsamplingDecoder
    inputs = keras.Input([3], dtype="int32" if is_position else None)
    if not (is_position or is_decoder):
        inputs = keras.Input([3, 4])
    more = [inputs[:, :2]] if layer_class is QueryPooling else []
    model = keras.Model(inputs, layer_class(**arguments)(inputs, *more))
    x = rng.normal(size=[2, *inputs.shape[1:]]).astype(np.float32)
    if is_position:
        x = np.array([[0, 5, 2]])
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path, custom_objects={layer_class.__name__: layer_class})
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
