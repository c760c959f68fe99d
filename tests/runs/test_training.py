"""Runs of pretraining: what they leave, resuming, kills, signals, distribution."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config.files import get
from selfie_tf.errors import Interrupted, UserError
from selfie_tf.training import report
from selfie_tf.training.load import load_pretrained
from selfie_tf.training.loop import Trainer
from selfie_tf.training.pictures import Pictures
from selfie_tf.training.progress import ProgressLog
from selfie_tf.training.run import Run

from helpers import (
    ROOT,
    SELFIE_PARITY,
    STEPS,
    TINY,
    assert_close,
    assert_identical,
    assert_same_logs,
    call,
    copy_unfinished,
    cut_short,
    fails,
    log_points,
    result_of,
    run,
    save_noise,
    start,
    succeeds,
    wait_for_log,
    weights,
)


def finish(workdir, *flags):
    return succeeds("pretrain", *TINY, *flags, f"--workdir={workdir}")


def finish_process(workdir, *flags):
    code, out, err = run(*TINY, *flags, f"--workdir={workdir}")
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def uninterrupted(shared):
    return shared(TINY)


def test_a_run_leaves_what_the_readme_says(uninterrupted):
    result = result_of(uninterrupted)
    assert result["chance"] == 0.25 and result["steps"] == STEPS
    assert 0 <= result["patch_accuracy"] <= 1 and 0 <= result["held_out_patch_accuracy"] <= 1
    assert result["evaluated_images"] == 32
    assert 0 <= result["held_out_patch_accuracy_uncropped"] <= 1
    assert result["averaged_steps"] == STEPS  # all there are, being fewer than 50
    points = log_points(uninterrupted)
    assert [p["step"] for p in points] == [4, 8, 12, 16, 20, 24]
    for key in ("loss", "patch_accuracy", "learning_rate", "images_per_second", "memory_mb"):
        assert all(np.isfinite(p[key]) for p in points)
    assert np.mean([p["loss"] for p in points]) == pytest.approx(result["loss"])
    steps = sorted(p.name for p in (uninterrupted / "checkpoints").iterdir())
    assert steps == ["step-00000012", "step-00000018", "step-00000024"]
    pictures = {p.name for p in (uninterrupted / "figures").glob("*.png")}
    assert pictures == {
        "jigsaw.png",
        "curves.png",
        "jigsaw_00000000.png",
        "jigsaw_00000012.png",
        "jigsaw_00000024.png",
    }
    assert json.loads((uninterrupted / "config.json").read_text())["train"]["steps"] == STEPS


def test_tensorboard_holds_scalars_and_pictures(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard"), {"tensors": 0})
    events.Reload()
    assert {"loss", "patch_accuracy", "learning_rate", "jigsaw"} <= set(events.Tags()["tensors"])
    assert [e.step for e in events.Tensors("jigsaw")] == [0, 12, 24]
    assert [e.step for e in events.Tensors("loss")] == [4, 8, 12, 16, 20, 24]


def test_the_same_command_again_says_that_it_is_finished(finished):
    workdir = finished(TINY)
    before = (workdir / "result.json").read_text()
    assert "already finished" in finish(workdir)
    assert (workdir / "result.json").read_text() == before


def test_a_page_of_an_unfinished_run_is_not_left_by_a_kill_after_the_result(
    uninterrupted, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    copy_unfinished(uninterrupted, workdir)
    (workdir / "report.html").write_text("made while the run went on")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "make_report", killed)
        assert call("pretrain", *TINY, f"--workdir={workdir}")[0] == 130
    result = (workdir / "result.json").read_text()
    assert not (workdir / "report.html").exists()
    *_, before, last = finish(workdir).splitlines()
    assert before == f"already finished: {workdir}/result.json"
    assert last == f"report: {workdir}/report.html"
    assert 'src="data:image/png' in (workdir / "report.html").read_text()
    assert (workdir / "result.json").read_text() == result


def test_a_run_ends_with_the_path_of_its_page(uninterrupted):
    last = (uninterrupted / "stdout.txt").read_text().splitlines()[-1]
    assert last == f"report: {uninterrupted}/report.html"
    assert (uninterrupted / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_killed_within_a_checkpoint_the_rerun_has_the_same_bits(uninterrupted, tmp_path):
    """After TensorFlow's files, before the manifest. Kills between steps: see test_contract."""
    code = (
        f"import os, signal, sys; sys.path[:0] = [{ROOT!r}, {ROOT + '/tests'!r}]\n"
        "import shallow; shallow.set_depth(shallow.SHALLOW)\n"
        "from selfie_tf import cli\n"
        "import selfie_tf.storage.checkpoints as c\n"
        f"digests, step = c._digests, {random.Random(time.time_ns()).choice([12, 18, 24])}\n"
        "c._digests = lambda folder: (os.kill(os.getpid(), signal.SIGKILL)\n"
        "                             if folder.endswith(str(step)) else digests(folder))\n"
        "sys.exit(cli.main(['pretrain', *sys.argv[1:]]))"
    )
    flags = [*TINY, f"--workdir={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    folders = sorted((tmp_path / "checkpoints").iterdir())
    incomplete = [f for f in folders if not (f / "manifest.json").exists()]
    assert len(incomplete) == 1 and any(incomplete[0].iterdir())
    assert "resuming at step" in finish_process(tmp_path)
    assert_identical(tmp_path, weights(uninterrupted))
    assert log_points(tmp_path)[-1]["loss"] == log_points(uninterrupted)[-1]["loss"]


def test_log_points_that_span_kills_have_the_same_bits(uninterrupted, tmp_path, monkeypatch):
    """Resumed at steps 6, 15 and 18, between the log points of every 4 steps."""
    flags = [*TINY, f"--workdir={tmp_path}"]
    advance = ProgressLog.advance

    def terminated(self, step):
        advance(self, step)
        if step == 14:  # the step after it is the last
            signal.raise_signal(signal.SIGTERM)

    cut_short(monkeypatch, 12, "pretrain", *flags)
    with monkeypatch.context() as patch:
        patch.setattr(ProgressLog, "advance", terminated)
        assert "stopped at step 15" in fails("pretrain", *flags, code=143)
    cut_short(monkeypatch, 24, "pretrain", *flags)
    assert "resuming at step 18 " in finish(tmp_path)
    assert_same_logs(tmp_path, uninterrupted)


def test_a_signal_in_the_last_evaluation_stops_the_run(uninterrupted, tmp_path, monkeypatch):
    """In an experiment, the next run would begin otherwise."""
    flags, draw = [*TINY, f"--workdir={tmp_path}"], Pictures.draw

    def terminated(self, step, writer):
        draw(self, step, writer)
        if step == STEPS:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "draw", terminated)
        line = fails("pretrain", *flags, code=143)
    assert f"stopped at step {STEPS}; the checkpoint of step {STEPS} is kept" in line
    assert not (tmp_path / "result.json").exists()
    finish(tmp_path)
    assert_identical(tmp_path, weights(uninterrupted))


def test_after_signals_and_a_damaged_checkpoint_the_bits_are_the_same(uninterrupted, tmp_path):
    flags = [*TINY, "--config.train.log_every=1", f"--workdir={tmp_path}"]
    step = 0
    for signum, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(*flags)
        wait_for_log(tmp_path, step + 7, process)
        process.send_signal(signum)
        out, err = process.communicate()
        assert process.returncode == code
        assert (f"resuming at step {step}" in out) == (step > 0)
        assert "stopped at step" in err and "Traceback" not in err
        step = int(err.split("stopped at step ")[1].split(";")[0])
        newest = tmp_path / "checkpoints" / f"step-{step:08d}"
        assert (newest / "manifest.json").exists()
    before = max(p.name for p in newest.parent.iterdir() if p != newest)
    data = next(newest.glob("state.data*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    out = succeeds("pretrain", *flags)
    assert "is damaged" in out and f"fell back to the checkpoint of step {int(before[5:])}" in out
    assert_identical(tmp_path, weights(uninterrupted))


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    flags = [*TINY, "--config.optimizer.learning_rate=1e6", "--config.train.checkpoint_every=1"]
    line = fails("pretrain", *flags, f"--workdir={tmp_path}")
    assert line.startswith("error: the loss or its gradient became NaN") and "learning_rate" in line
    newest = max((tmp_path / "checkpoints").iterdir())
    assert f"the checkpoint of step {int(newest.name[5:])} is kept" in line
    for name, value in weights(tmp_path, int(newest.name[5:])).items():
        assert np.isfinite(value).all(), name


@pytest.fixture(scope="module")
def one_replica(shared):
    return shared([*TINY, *SELFIE_PARITY])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_addons") is None,
    reason="no TensorFlow Addons: `make test-addons-lane` runs this",
)
def test_lamb_resumes_and_two_replicas_train_as_one(tmp_path):
    flags = [*SELFIE_PARITY, "--config.optimizer.name=lamb"]
    one, again, two = (tmp_path / name for name in ("one", "again", "two"))
    finish(one, *flags)
    copy_unfinished(one, again, 16)
    assert "resuming at step 12" in finish(again, *flags)
    assert_identical(again, weights(one, 16), 16)
    finish_process(two, *flags, "--virtual_devices=2")
    assert_close(two, one)


def test_replicas_draw_different_dropout_masks():
    code = f"""
import sys; sys.path.insert(0, {ROOT!r})
import selfie_tf, tensorflow as tf
from selfie_tf.distribution.strategy import make_strategy
from selfie_tf.layers.attention import StatelessDropout
strategy = make_strategy(virtual_devices=2)
with strategy.scope():
    layer = StatelessDropout(0.5, seed=1)
    layer.build(None)
step = tf.function(lambda: strategy.run(lambda: layer(tf.ones([100]), training=True)))
seen = [tuple(x.numpy()) for _ in range(2) for x in strategy.experimental_local_results(step())]
assert len(set(seen)) == 4, seen
assert layer.calls.numpy() == 2
print("different")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "different", done.stderr


def test_replicas_with_statistics_of_their_own_report_what_they_save(tmp_path):
    """A checkpoint holds their mean. Resumed between two log points, they log the same bits."""
    two, again, resumed = tmp_path / "two", tmp_path / "again", tmp_path / "resumed"
    finish_process(two, "--virtual_devices=2")
    copy_unfinished(two, resumed, 24)
    assert "resuming at step 18 " in finish_process(resumed, "--virtual_devices=2")
    assert_same_logs(resumed, two)
    copy_unfinished(two, again)
    finish(again)
    found, expected = result_of(again), result_of(two)
    assert found["resumed_at"] == STEPS
    assert found["held_out_loss"] == pytest.approx(expected["held_out_loss"], rel=1e-5)


def test_several_steps_an_execution_train_as_one_by_one(one_replica, tmp_path):
    finish(tmp_path, *SELFIE_PARITY, "--config.train.steps_per_execution=2")
    assert_close(tmp_path, one_replica)


def test_the_parts_of_the_224_run_work_together(tmp_path):
    """ImageNet stem, row + column positions, random resized crops, class folders, bfloat16."""
    names = [f"class{i % 3}/{i}.jpg" for i in range(24)]
    save_noise(tmp_path / "images", names, shape=(250, 300))
    succeeds(
        "pretrain",
        "--config=configs/selfie_imagenet224.py",
        f"--config.data.name=folder:{tmp_path}/images",
        "--config.model.width=2",
        "--config.model.num_heads=2",
        "--config.model.mlp_dim=8",
        "--config.train.batch_size=4",
        "--config.train.steps=2",
        "--config.train.precision=mixed_bfloat16",
        "--config.optimizer.warmup_steps=1",
        "--config.optimizer.learning_rate=0.001",
        f"--workdir={tmp_path}/run",
    )
    result = result_of(tmp_path / "run")
    assert result["chance"] == 1 / 12 and result["evaluated_images"] == 2
    shapes = {v.shape for n, v in weights(tmp_path / "run", 2).items() if "embedding" in n}
    assert shapes == {(7, 32)}  # 7 rows and 7 columns, and their momenta


def test_a_folder_without_a_run_is_not_loaded(uninterrupted, tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        load_pretrained(str(tmp_path))
    shutil.copy(uninterrupted / "config.json", tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        load_pretrained(str(tmp_path))


def test_lost_and_damaged_logs_and_pictures_do_not_stop_a_run(uninterrupted, tmp_path):
    workdir = tmp_path / "copy"
    copy_unfinished(uninterrupted, workdir)
    (workdir / "metrics.jsonl").unlink()
    (workdir / "figures" / "jigsaw.json").write_text('{"0": [[0]], "a": 3}')
    assert "finished: patch accuracy unknown" in finish(workdir)
    assert result_of(workdir)["patch_accuracy"] is None


def test_other_images_in_the_folder_are_noticed(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    save_noise(folder, [f"{i}.png" for i in range(24)])
    flags = [*TINY, f"--config.data.name=folder:{folder}", f"--workdir={tmp_path}/run"]

    def stop(*_):
        raise Interrupted(signal.SIGTERM, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stop)
        fails("pretrain", *flags, code=143)
    (folder / "23.png").rename(folder / "new.png")
    assert "other images" in fails("pretrain", *flags)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    line = fails("pretrain", *TINY, f"--workdir={tmp_path}")
    assert "no space left" in line and str(tmp_path) in line


@pytest.mark.parametrize("name", ["tfds:mine", "folder:photos"])
def test_a_lost_file_is_one_line_and_nobody_is_told_to_remove_photographs(name):
    config = get("quickstart")
    config.data.name = name
    run = types.SimpleNamespace(config=config, strategy=tf.distribute.get_strategy())
    line = Run._explain(run, tf.errors.DataLossError(None, None, "truncated record"))
    assert f"probably of data.name={name} (truncated record); bring it back" in line
    assert ("remove that dataset and prepare it again" in line) == name.startswith("tfds:")
