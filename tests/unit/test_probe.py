"""What a probe says, writes and leaves alone."""

import logging
import random
import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tensorflow.python.eager import context

from selfie_tf.data import make_source
from selfie_tf.data.probing import read_probe
from selfie_tf.storage.workdir import WorkDir
from selfie_tf.training.build import build_pretrainer
from selfie_tf.training.features import effective_rank, spread
from selfie_tf.training.loop import make_predict_fn
from selfie_tf.training.probe import Probe


@pytest.fixture
def run(tiny_config, tmp_path):
    """What a probe needs of a run."""
    tiny_config.train.probe_every, tiny_config.data.probe_images = 8, 80
    directory = WorkDir(str(tmp_path / "run"), tiny_config)
    yield types.SimpleNamespace(
        config=tiny_config,
        directory=directory,
        source=make_source(tiny_config.data),
        is_chief=True,
        workdir=directory.path,
    )
    directory.close()


@pytest.fixture
def writer(tmp_path):
    return tf.summary.create_file_writer(str(tmp_path / "tensorboard"))


def started(run, features):
    probe = Probe(run)
    probe.begin(features)
    return probe


def scaled_pixels(images):
    return tf.reshape(tf.cast(images, tf.float32)[:, ::5, ::5], [len(images), -1]) / 255


def nearest(train, labels, test, votes):
    """The vote of the nearest by cosine; of classes with as many votes, the first."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    order = np.argsort(-unit[1] @ unit[0].T, axis=1)[:, :votes]
    return np.array([np.bincount(labels[row]).argmax() for row in order])


def test_a_point_has_what_a_loop_finds(run, writer):
    probe = started(run, scaled_pixels)
    probe(8, writer)
    (point,) = run.directory.points("probes.jsonl")
    images = read_probe(run.config, run.source)
    train, test = (scaled_pixels(x).numpy() for x in (images.train, images.test))
    y, wanted = images.train_labels, images.test_labels
    assert len(train) == len(test) == 40 and train.shape[1] == 48
    scaler = StandardScaler().fit(train)
    linear = LogisticRegression(max_iter=1000).fit(scaler.transform(train), y)
    assert point == {
        "step": 8,
        "knn_top1": pytest.approx((nearest(train, y, test, 4) == wanted).mean()),
        "linear_probe_top1": pytest.approx(linear.score(scaler.transform(test), wanted)),
        "effective_rank": pytest.approx(effective_rank(np.concatenate([train, test]))),
        "spread": pytest.approx(spread(np.concatenate([train, test]))),
    }


def test_a_sentence_compares_with_step_0(run, writer, caplog):
    caplog.set_level(logging.INFO)
    scale = tf.Variable(np.eye(48, dtype=np.float32))
    probe = started(run, lambda x: scaled_pixels(x) @ scale)
    probe(0, writer)
    scale.assign(np.diag(np.arange(1, 49)))
    probe(8, writer)
    points = run.directory.points("probes.jsonl")
    assert points[0]["knn_top1"] != points[1]["knn_top1"]
    first, last = (
        tuple(100 * point[key] for key in ("knn_top1", "linear_probe_top1")) for point in points
    )
    ranks = [point["effective_rank"] for point in points]
    assert caplog.messages[-2:] == [
        f"probe at step 0: {first[0]:.1f} % of 40 images by their nearest neighbours, "
        f"{first[1]:.1f} % by a linear probe, effective rank {ranks[0]:.0f} of 48",
        f"probe at step 8: {last[0]:.1f} % (untrained {first[0]:.1f} %) of 40 images by their "
        f"nearest neighbours, {last[1]:.1f} % (untrained {first[1]:.1f} %) by a linear probe, "
        f"effective rank {ranks[1]:.0f} of 48",
    ]
    assert probe.result()["last"] == points[1] and probe.result()["at_step_0"] == points[0]
    run.config.init_from = "runs/another"  # whose network step 0 begins with
    started(run, scaled_pixels)(8, writer)
    assert f"(at step 0 {first[0]:.1f} %)" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("collapsed", "words"),
    [
        (
            lambda x: tf.ones([len(x), 1]) * tf.range(1.0, 9.0),
            "effective rank 0.0 of 8, spread 0.0",
        ),
        (lambda x: scaled_pixels(x)[:, :1] * tf.range(1.0, 9.0) - 2, "effective rank 1.0 of 8"),
        (lambda x: 1 + scaled_pixels(x) / 1e4, "spread 0.0000 of 1"),
        (lambda x: tf.zeros([len(x), 8]), "effective rank 0.0 of 8, spread 0.0000 of 1"),
    ],
    ids=["constant", "rank one", "alike", "zero"],
)
def test_a_collapse_is_named(collapsed, words, run, writer, caplog):
    probe = started(run, scaled_pixels)
    probe(0, writer)
    probe(8, writer)
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    probe._features = collapsed
    probe(16, writer)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
    assert "probe at step 16: the features have collapsed" in warning and words in warning
    assert "--config.optimizer.learning_rate" in warning


def test_features_that_are_not_numbers_are_said_so(run, writer, caplog):
    started(run, lambda x: scaled_pixels(x) * np.nan)(8, writer)
    assert "probe at step 8: features are NaN or infinite" in caplog.text
    assert run.directory.points("probes.jsonl") == []


def test_a_worker_that_is_not_the_chief_reads_nothing(run):
    run.is_chief = False
    run.source.each_image = None
    probe = started(run, None)
    probe(8, None)
    assert run.directory.points("probes.jsonl") == []


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_neither_weights_nor_random_streams_are_touched(precision, run, writer):
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        model = build_pretrainer(run.config)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    features = make_predict_fn(tf.distribute.get_strategy(), model.image_features)
    probe = started(run, features)

    def state():
        streams = random.getstate(), np.random.get_state(), context.context()._rng.getstate()
        return repr(streams), [v.numpy().tobytes() for v in model.variables]

    before = state()
    probe(0, writer)
    probe(8, writer)
    assert state() == before
    assert features.experimental_get_tracing_count() == 1  # whatever the size of the last batch
    first, second = run.directory.points("probes.jsonl")
    assert {**first, "step": 8} == second  # its own numbers are the same, too


def test_tensorboard_has_the_scalars(run, writer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    probe = started(run, scaled_pixels)
    probe(0, writer)
    probe(8, writer)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0})
    events.Reload()
    names = {"knn_top1", "linear_probe_top1", "effective_rank", "spread"}
    assert set(events.Tags()["tensors"]) == {f"probe/{name}" for name in names}
    assert [e.step for e in events.Tensors("probe/spread")] == [0, 8]


def test_a_resumed_run_keeps_step_0_and_one_that_starts_over_does_not(run):
    for step in (0, 4, 8):
        run.directory.append("probes.jsonl", {"step": step})
    run.directory.rewind(4)
    assert run.directory.points("probes.jsonl") == [{"step": 0}, {"step": 4}]
    run.directory.rewind(0)
    assert run.directory.points("probes.jsonl") == []
