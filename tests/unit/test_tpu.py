"""The train steps as a TPU's cores get them; with its compiler where requirements/aot.txt is."""

import importlib.util
import json
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.benchmarks.tpu import check, lowering, report
from selfie_tf.benchmarks.tpu.lowering import Lowered, ReplicaStrategy, TrainStep, find_problems
from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig
from selfie_tf.data.source import BatchShard
from selfie_tf.data.synthetic import ShapesSource
from selfie_tf.errors import UserError
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


REASON = "RESOURCE_EXHAUSTED: Ran out of memory on HBM"
ABOUT = {"topology": "v3:2x2", "chip": "TPU v3", "cores": 8, "hbm_bytes": 2**34}


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


@pytest.mark.parametrize(
    "changed, problem",
    [
        ({}, None),
        ({"updated_in_place": 1}, "of 376 variables 1 are updated in place"),
    ],
)
def test_what_the_compiler_made_of_the_step(changed, problem, monkeypatch):
    compiled = {"argument_bytes": 2**30, "new_output_bytes": 2**31, "temporary_bytes": 2**32}
    compiled |= {"program_bytes": 2**33 - 5, "all_reduces": 1, "updated_in_place": 376}
    monkeypatch.setattr(check, "_in_child", lambda *_: {**compiled, **changed})
    lowered = Lowered(lambda: b"", 171, 376, 4096, {"targets": "uint8"}, [])
    result = check.check(types.SimpleNamespace(lower=lambda batch: lowered), ABOUT, 4)
    assert result["headroom_bytes"] == 2**34 - 2**30 - 2**31 - 2**32 - 2**33 + 5
    if problem is None:
        assert result["status"] == check.OK
    else:
        assert result["status"] == check.PROBLEMS and problem in result["problems"][0]


def test_float64_is_found():
    config = make_config(SelfieConfig)
    config.train.precision = "float64"
    result = check.check(TrainStep(config, 8), ABOUT, 4)
    assert result["status"] == check.PROBLEMS and "float64" in result["problems"][0]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("  %a = f32[<=8,3]{1,0} slice(f32[8,3]{1,0} %b)", "dynamic shapes f32[<=8,3]"),
        ("  %a = f64[8]{0} add(f64[8]{0} %b, f64[8]{0} %c)", "float64"),
        ("  %a = (f32[8]{0}, token[]) infeed(token[] %b)", "host: infeed"),
        ("  %a = token[] outfeed(f32[8]{0} %c, token[] %b)", "host: outfeed"),
        ('  %a = f32[8]{0} custom-call(%b), custom_call_target="Mine"', "custom calls"),
        ("  %a = u64[] rng-get-and-update-state(), delta=1", "random numbers"),
        ("  %a = f32[8]{0} add(f32[8]{0} %b, f32[8]{0} %c)", None),
    ],
)
def test_problems_in_hlo(line, expected):
    problems = find_problems(f"HloModule x\n\nENTRY main {{\n{line}\n}}\n")
    assert len(problems) == (expected is not None)
    assert expected is None or expected in problems[0]


@pytest.mark.parametrize(
    "limit, fixed, begin, fits, refused",
    [
        (200, 0, 64, 200, 208),
        (207, 40, 64, 200, 208),
        (63, 0, 64, 56, 64),
        (8, 0, 23, 8, 16),
        (33, 0, 45, 32, 40),
        (8, 0, 64, 8, 16),
        (5, 0, 64, None, 8),
        (4000, 300, 64, 3768, 4248),  # at most a sixteenth below and above the limit
    ],
)
def test_the_largest_batch(limit, fixed, begin, fits, refused, monkeypatch):
    """Of images that take a byte each, and so many that something else takes."""
    tried = []

    def fake(step, about, batch):
        tried.append(batch)
        if batch > limit:
            return {**about, "batch_per_core": batch, "status": check.REJECTED, "reason": REASON}
        sizes = {"temporary_bytes": batch + fixed, "headroom_bytes": limit - batch}
        return {**about, "batch_per_core": batch, "status": check.OK, **sizes}

    monkeypatch.setattr(check, "check", fake)
    result = check.largest(None, ABOUT, begin)
    assert len(tried) == len(set(tried)) <= 12 and all(batch % 8 == 0 for batch in tried)
    if fits is None:
        assert result["status"] == check.REJECTED and result["batch_per_core"] == refused
    else:
        found = result["batch_per_core"], result["refused_batch_per_core"]
        assert fits <= found[0] <= limit < found[1] <= refused


def test_the_search_makes_headway_where_the_compiler_saves_memory(monkeypatch):
    """It uses more than it has to, as long as there is enough."""
    tried = []

    def fake(step, about, batch):
        tried.append(batch)
        if batch > 2000:
            return {"batch_per_core": batch, "status": check.REJECTED, "reason": REASON}
        sizes = {"temporary_bytes": 1000, "headroom_bytes": 10}
        return {"batch_per_core": batch, "status": check.OK, **sizes}

    monkeypatch.setattr(check, "check", fake)
    result = check.largest(None, ABOUT, 512)
    assert 2000 / (1 + 1 / 16) <= result["batch_per_core"] <= 2000 and len(tried) < 12


def test_the_search_ends_at_what_no_batch_can_mend(monkeypatch):
    def fake(step, about, batch):
        return {**about, "batch_per_core": batch, "status": check.REJECTED, "reason": "PyFunc"}

    monkeypatch.setattr(check, "check", fake)
    assert check.largest(None, ABOUT, 64)["batch_per_core"] == 64


def test_the_search_keeps_the_best_when_the_compiler_dies(monkeypatch):
    def fake(step, about, batch):
        if batch > 64:
            reason = "the compiler ended with code -9"
            return {"batch_per_core": batch, "status": check.REJECTED, "reason": reason}
        sizes = {"temporary_bytes": 100, "headroom_bytes": 1000}
        return {"batch_per_core": batch, "status": check.OK, **sizes}

    monkeypatch.setattr(check, "check", fake)
    result = check.largest(None, ABOUT, 64)
    assert (result["batch_per_core"], result["refused_batch_per_core"]) == (64, 72)


def test_without_the_compiler_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make check-tpu"):
        check.describe("v3:2x2")


def test_the_table_has_a_row_for_each_check():
    sizes = ("hbm", "argument", "temporary", "program", "headroom")
    fits = {**ABOUT, "status": check.OK, "batch_per_core": 64, "gflop": 61.5 * 300}
    fits |= {f"{size}_bytes": (i + 1) * 2**30 for i, size in enumerate(sizes)}
    fits |= {"all_reduces": 1, "all_reduces_lowered": 99}
    fits |= {"updated_in_place": 300, "variables_updated": 301}
    refused = {**ABOUT, "status": check.REJECTED, "batch_per_core": 65, "reason": "too large"}
    run_ = {"config": "configs/x.py", "batch_size": 512, "steps": 7200, "checks": [fits, refused]}
    head, rule, first, second = report.table([run_]).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    # 18 450 GFLOP at 0.3 of 61.5 TFLOP/s take a second.
    assert first == (
        "| x, 512 | v3:2x2 | 64 | 1.00 | 2.00 | 3.00 | 4.00 | 5.00 | 99 / 1 | 300 of 301 | 18450 | "
        "1000 ms | 2.0 h | 8.0 |"
    )
    assert "rejected: too large" in second


COMMAND = "bin/check_tpu.py"
PRECISION = "--config.train.precision=mixed_bfloat16"


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


@needs_compiler
def test_a_batch_that_does_not_fit_is_refused_for_memory():
    flags = ["--config=configs/selfie_cifar10.py", "--config.model.attention_layers=1"]
    code, _, err = run(*flags, PRECISION, "--batch_per_core=65536", command=COMMAND)
    assert code == 1
    assert "RESOURCE_EXHAUSTED" in err and "15.48G" in err


@needs_compiler
def test_float64_exits_with_3():
    code, _, err = run(*TINY, "--config.train.precision=float64", command=COMMAND)
    assert code == 3 and "float64" in err


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
