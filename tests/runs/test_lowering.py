"""The train steps as a TPU's cores get them; with its compiler where requirements/aot.txt is."""

import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.benchmarks.tpu import check, lowering, report
from selfie_tf.benchmarks.tpu.lowering import ReplicaStrategy, TrainStep
from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig
from selfie_tf.data.source import BatchShard
from selfie_tf.data.synthetic import ShapesSource
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.training.build import build_pretrainer, compile_model

from helpers import TINY, TINY_FINETUNE_PATCHFORMER, TINY_PATCHFORMER, run, training_batches

pytestmark = pytest.mark.skipif(
    tf.__version__.startswith("2.15"),
    reason="TensorFlow 2.15 lowers no all-reduce; TPUs are trained on with newer ones",
)
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: `make check-tpu` runs this",
)
COMMAND = "bin/check_tpu.py"
PRECISION = "--config.train.precision=mixed_bfloat16"
ABOUT = {"topology": "v3:2x2", "chip": "TPU v3", "cores": 8, "hbm_bytes": 2**34}


def make_config(kind):
    """The smallest of its kind, in mixed_bfloat16."""
    config = kind()
    config.data.image_size, config.patches.size = 16, 4
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    config.model.attention_layers = 1
    if kind is PatchFormerConfig:
        config.patches.target_size = 2
    if kind is FinetuneConfig:
        config.data.crop = "pad"
    config.train.precision = "mixed_bfloat16"
    config.validate()
    return config


@pytest.fixture(autouse=True)
def policy():
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    "kind, images", [(SelfieConfig, 2), (PatchFormerConfig, 1), (FinetuneConfig, 1)]
)
def test_the_steps_lower_with_static_shapes_and_uint8_images(kind, images):
    step = TrainStep(make_config(kind), cores=8, num_classes=10)
    lowered = step.lower(4)
    assert lowered.problems == []
    assert lowered.all_reduces == len(step.model.trainable_variables)  # the gradients alone
    dtypes = tf.nest.flatten(lowered.batch_dtypes)
    assert dtypes.count("uint8") == images and set(dtypes) <= {"uint8", "int32", "int64"}
    # All of them (metrics are among the model's), and the optimizer's learning rate of the moment.
    written = len(step.model.variables) + len(step.model.optimizer.variables) + 1
    assert lowered.variables_updated == written


def test_a_query_per_location_lowers_with_the_same_weights():
    config = make_config(SelfieConfig)
    paper = TrainStep(config, cores=8).lower(4)
    config.model.query = "per_location"
    lowered = TrainStep(config, cores=8).lower(4)
    assert lowered.problems == []
    assert lowered.all_reduces == paper.all_reduces
    assert lowered.variables_updated == paper.variables_updated


def test_the_instance_loss_lowers_with_the_views_of_all_cores():
    config = make_config(SelfieConfig)
    config.model.instance_weight, config.model.negatives = 1.0, "all"
    step = TrainStep(config, cores=8)
    lowered = step.lower(4)
    assert lowered.problems == []
    # The gradients, the views, and the views' gradients.
    assert lowered.all_reduces == len(step.model.trainable_variables) + 2
    assert lowered.batch_dtypes["views"] == "uint8"


def test_synchronized_batch_statistics_are_summed_over_cores_too():
    config = make_config(SelfieConfig)
    config.model.norm_synchronized = True
    step = TrainStep(config, 8)
    norms = sum("moving_mean" in v.name for v in step.model.variables)
    # Forward the sum, the sum of squares and the count; backward at least the gradients of two.
    gradients = len(step.model.trainable_variables)
    assert step.lower(4).all_reduces >= gradients + 4 * norms


def test_gradients_that_are_not_summed_over_cores_are_found(monkeypatch):
    """Also where synchronised batch statistics are."""
    reduce_to = lowering._Extended._reduce_to

    def forgetful(self, reduce_op, value, *rest):
        return value if len(value.shape) == 4 else reduce_to(self, reduce_op, value, *rest)

    monkeypatch.setattr(lowering._Extended, "_reduce_to", forgetful)
    config = make_config(SelfieConfig)
    config.model.norm_synchronized = True
    step = TrainStep(config, 8)
    weights = step.model.trainable_variables
    kernels = sum(len(weight.shape) == 4 for weight in weights)
    expected = f"{kernels} of {len(weights)} gradients are not summed over the cores"
    assert step.lower(4).problems == [expected]


def test_the_traced_step_computes_what_training_computes():
    """One replica's step through `ReplicaStrategy`, and Keras's own."""
    config = make_config(SelfieConfig)
    config.train.precision = "float64"
    config.train.batch_size = 8
    keras.mixed_precision.set_global_policy("float64")
    batch = next(iter(training_batches(ShapesSource(16), config, shard=BatchShard(8))))

    def trained(strategy, step):
        keras.utils.set_random_seed(3)
        with strategy.scope():
            model = build_pretrainer(config)
            compile_model(config, model, 1)
        losses = [float(tf.function(step(model))(batch)["loss"]) for _ in range(2)]
        return losses, model.get_weights()

    replica = ReplicaStrategy(1)

    def through_replica(model):
        return lambda x: replica.run(model.train_step, args=(tf.constant(0), x))

    losses, weights = trained(replica, through_replica)
    expected_losses, expected = trained(tf.distribute.get_strategy(), lambda m: m.train_step)
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    for found, weight in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, weight, atol=1e-9)


def test_each_core_drops_other_units():
    """The replica's id is an input of the step, not a constant of it."""

    config = make_config(SelfieConfig)
    (batch,) = training_batches(ShapesSource(16), config, shard=BatchShard(4)).take(1)
    step = TrainStep(config, cores=1)
    leaves = tf.nest.flatten(batch)
    function = step.function(step.batch_spec(4))
    variables = function.get_concrete_function(tf.constant(0), *leaves).variables
    before = [variable.numpy() for variable in variables]

    def loss(replica_id):
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return float(function(tf.constant(replica_id), *leaves)["loss"])

    assert loss(0) == loss(0) != loss(1)


def slip_in(monkeypatch, extra):
    """Adds `extra(losses)` to every training loss."""
    loss_and_accuracy = SelfiePretrainer.loss_and_accuracy

    def changed(self, data, training):
        losses, accuracies = loss_and_accuracy(self, data, training)
        return losses + 0 * extra(losses), accuracies

    monkeypatch.setattr(SelfiePretrainer, "loss_and_accuracy", changed)


def test_a_boolean_mask_in_the_step_is_found(monkeypatch):
    slip_in(monkeypatch, lambda losses: tf.reduce_sum(tf.boolean_mask(losses, losses > 1)))
    result = check.check(TrainStep(make_config(SelfieConfig), 8), ABOUT, 4)
    assert result["status"] == check.PROBLEMS
    assert "dynamic shapes" in result["problems"][0]


def test_a_py_function_in_the_step_is_rejected(monkeypatch):
    def on_host(losses):
        return tf.ensure_shape(tf.py_function(lambda x: x, [losses], losses.dtype), losses.shape)

    slip_in(monkeypatch, on_host)
    result = check.check(TrainStep(make_config(SelfieConfig), 8), ABOUT, 4)
    assert result["status"] == check.REJECTED
    assert "PyFunc" in result["reason"]


@pytest.mark.parametrize(
    "draw", [lambda x: tf.random.uniform(x.shape), lambda x: tf.nn.dropout(x, 0.5)]
)
def test_random_numbers_that_no_checkpoint_holds_are_found(draw, monkeypatch):
    slip_in(monkeypatch, draw)
    result = check.check(TrainStep(make_config(SelfieConfig), 8), ABOUT, 4)
    assert result["status"] == check.PROBLEMS and "random numbers" in result["problems"][0]


def test_float64_is_found():
    config = make_config(SelfieConfig)
    config.train.precision = "float64"
    result = check.check(TrainStep(config, 8), ABOUT, 4)
    assert result["status"] == check.PROBLEMS and "float64" in result["problems"][0]


# With the compiler


@pytest.mark.full_depth
@needs_compiler
@pytest.mark.parametrize(
    "flags", [TINY, TINY_PATCHFORMER, TINY_FINETUNE_PATCHFORMER], ids=lambda f: f[0][17:-3]
)
def test_the_steps_compile_for_a_tpu(flags, tmp_path):
    path = tmp_path / "figures.json"
    code, out, err = run(*flags, PRECISION, f"--json={path}", command=COMMAND)
    assert code == 0, err
    figures = json.loads(path.read_text())
    (found,) = figures["checks"]
    assert "| v3:2x2 | 2 | 15.48 |" in report.table([figures])
    assert found["chip"] == "TPU v3" and found["cores"] == 8 and found["batch_per_core"] == 2
    assert found["all_reduces_lowered"] > 50 and found["all_reduces"] == 1
    assert found["updated_in_place"] == found["variables_updated"]
    assert found["headroom_bytes"] > 15 * 2**30
    assert "not run" in out and "all-reduces, combined" in out


@pytest.mark.full_depth
@needs_compiler
def test_a_batch_that_does_not_fit_is_refused_for_memory():
    flags = ["--config=configs/selfie_cifar10.py", "--config.model.attention_layers=1"]
    code, _, err = run(*flags, PRECISION, "--batch_per_core=65536", command=COMMAND)
    assert code == 1
    assert "RESOURCE_EXHAUSTED" in err and "15.48G" in err


@pytest.mark.full_depth
@needs_compiler
def test_float64_exits_with_3():
    code, _, err = run(*TINY, "--config.train.precision=float64", command=COMMAND)
    assert code == 3 and "float64" in err


@pytest.mark.full_depth
@needs_compiler
@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--topology=v9:1"], ["--topology=v9:1", "v3:2x2"]),
        (["--config.train.batch_size=12"], ["batch_size=12", "8 cores", "--batch_per_core"]),
        (["--batch_per_core=-1"], ["--batch_per_core"]),
        (["--json=/no/such/folder/x.json"], ["--json=/no/such/folder/x.json"]),
        (["--json=/tmp"], ["--json=/tmp", "expected a file"]),
        (["--topology="], ["--topology is empty"]),
    ],
)
def test_mistakes(flags, expected):
    code, _, err = run(*TINY, *flags, command=COMMAND)
    assert code == 1 and "Traceback" not in err
    assert all(part in err.splitlines()[-1] for part in expected), err
