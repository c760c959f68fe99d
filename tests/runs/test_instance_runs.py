"""Runs of Selfie with an instance loss alone, and the loss over several replicas."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.training.load import load_pretrained

from helpers import (
    ROOT,
    TINY,
    TINY_FINETUNE,
    assert_identical,
    assert_same_logs,
    cut_short,
    log_points,
    make_projections,
    nt_xent_reference,
    read_json,
    result_of,
    succeeds,
    weights,
)

ALONE = [*TINY, "--config.model.instance_weight=1.0", "--config.model.jigsaw_weight=0"]


def test_a_run_of_the_instance_loss_alone_logs_it_and_resumes(shared, tmp_path, monkeypatch):
    whole = shared(ALONE)
    assert "instance accuracy" in (whole / "stdout.txt").read_text()
    for point in log_points(whole):
        assert point["loss"] == point["instance_loss"] and 0 <= point["instance_accuracy"] <= 1
        assert "patch_accuracy" not in point
    result = result_of(whole)
    assert result["instance_loss"] > 0 and result["evaluated_images"] == 0
    assert "held_out_patch_accuracy" not in result
    pictures = {path.name for path in (whole / "figures").glob("*.png")}
    assert {"curves.png", "neighbours.png", "neighbours_00000000.png"} <= pictures
    assert not any("jigsaw" in name for name in pictures)
    assert "features are nearest" in (whole / "report.html").read_text()
    flags = [*ALONE, f"--workdir={tmp_path}"]
    cut_short(monkeypatch, 24, "pretrain", *flags)
    assert "resuming at step 18" in succeeds("pretrain", *flags)
    assert_identical(tmp_path, weights(whole))
    assert_same_logs(tmp_path, whole)
    name = "figures/neighbours.json"
    assert (tmp_path / name).read_text() == (whole / name).read_text()


def test_it_is_evaluated_exported_finetuned_and_continued(shared, tmp_path, rng):
    run = shared(ALONE)
    flags = [f"--workdir={run}", f"--output={tmp_path}/evaluation", "--train_images=100"]
    assert "no jigsaws were solved" in succeeds("evaluate", *flags)
    found = read_json(tmp_path / "evaluation" / "evaluation.json")
    assert found["evaluated_images"] == 0 and "chance" not in found
    assert 0 <= found["probes"]["pretrained"]["knn_top1"] <= 1
    succeeds("export", f"--workdir={run}", f"--output={tmp_path}/export")
    images = rng.integers(0, 256, [2, 16, 16, 3], np.uint8)
    served = tf.saved_model.load(str(tmp_path / "export"))
    features = served.signatures["serving_default"](images=tf.constant(images))["features"]
    expected = load_pretrained(str(run)).image_features(images, training=False)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    two = ["--config.train.steps=2", "--config.optimizer.warmup_steps=1"]
    head, workdir = "--config.model.head=resnet36_attention", tmp_path / "classifier"
    flags = [*TINY_FINETUNE, *two, head, f"--workdir={workdir}"]
    succeeds("finetune", *flags, f"--config.init_from={tmp_path}/export")
    loaded = read_json(workdir / "initialisation.json")["loaded"]
    assert "attention_pooling/u0" in loaded
    assert not any(name.startswith("projection") for name in loaded)
    flags = [*TINY, *two, f"--config.init_from={run}", f"--workdir={tmp_path}/jigsaw"]
    assert "  not used: projection (4)" in succeeds("pretrain", *flags)


REPLICAS = """
import sys; sys.path.insert(0, {root!r})
import selfie_tf, numpy as np, tensorflow as tf
from selfie_tf.distribution.strategy import make_strategy
from selfie_tf.losses import nt_xent

strategy = make_strategy(virtual_devices=2)
views = np.load("views.npz")

def of_replica(context, name):
    return tf.constant(np.split(views[name], 2)[context.replica_id_in_sync_group])

z1, z2 = (
    strategy.experimental_distribute_values_from_function(lambda c, n=n: of_replica(c, n))
    for n in ("z1", "z2")
)

def step(a, b, all_replicas):
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        loss, accuracy = nt_xent(a, b, 0.3, all_replicas)
        mean = tf.reduce_mean(loss) / 2  # as in training, where gradients are summed
    return loss, accuracy, *tape.gradient(mean, [a, b])

found = {{}}
for all_replicas in (False, True):
    function = tf.function(lambda: strategy.run(step, args=(z1, z2, all_replicas)))
    for i, value in enumerate(function()):
        parts = strategy.experimental_local_results(value)
        found[f"{{all_replicas}}{{i}}"] = np.concatenate([part.numpy() for part in parts])
np.savez("found.npz", **found)
"""


@pytest.fixture(scope="module")
def on_two_replicas(tmp_path_factory):
    """What two replicas of four images each compute: the views, and {name: values}."""
    folder = tmp_path_factory.mktemp("replicas")
    z1, z2 = make_projections(np.random.default_rng(5), 8)
    np.savez(folder / "views.npz", z1=z1, z2=z2)
    code = REPLICAS.format(root=ROOT)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return z1, z2, dict(np.load(folder / "found.npz"))


def test_negatives_of_all_replicas_are_those_of_one_large_batch(on_two_replicas):
    """The gradients too, of the mean over all images."""
    z1, z2, found = on_two_replicas
    for i, expected in enumerate(nt_xent_reference(z1, z2, 0.3)):
        np.testing.assert_allclose(found[f"True{i}"], expected, rtol=1e-4, atol=1e-6)


def test_negatives_of_a_replica_are_its_own(on_two_replicas):
    z1, z2, found = on_two_replicas
    halves = [nt_xent_reference(z1[h], z2[h], 0.3) for h in (slice(0, 4), slice(4, 8))]
    for i, scale in enumerate((1, 1, 0.5, 0.5)):  # a replica's mean counts half
        expected = scale * np.concatenate([half[i] for half in halves])
        np.testing.assert_allclose(found[f"False{i}"], expected, rtol=1e-4, atol=1e-6)
