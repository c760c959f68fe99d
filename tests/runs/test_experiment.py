"""Experiments: every cell once, whatever happens, and the table of what they found."""

import json
import os
import shutil

import numpy as np
import pytest

from selfie_tf.cli import config_files
from selfie_tf.errors import DivergedError
from selfie_tf.experiments import rows
from selfie_tf.experiments import run as experiment_run
from selfie_tf.storage.checkpoints import Checkpointer

from helpers import MINIATURE, Killed, fails, result_of, succeeds

HEADER = "cell,kind,recipe,pretraining,task,seed,network,status,top1\n"
SETTINGS = ["optimizer.learning_rate=0.01", "optimizer.learning_rate=0.05"]


def table(workdir):
    """{cell: row} without the time that it took."""
    found = rows.read_table(os.path.join(workdir, "results.csv"))
    assert len({row["cell"] for row in found}) == len(found)
    return {row["cell"]: {k: v for k, v in row.items() if k != "seconds"} for row in found}


def run(workdir, *flags):
    return succeeds("experiment", f"--config={MINIATURE}", f"--workdir={workdir}", *flags)


def run_until_it_is_done(workdir, *flags):
    """Runs it again after each kill; returns how many there were."""
    for deaths in range(100):
        try:
            run(workdir, *flags)
            return deaths
        except Killed:
            pass
    raise AssertionError("it never ends")


def dying(function, when):
    """`function`, which ends the process at the calls whose numbers `when` accepts."""
    calls = []

    def call(*args, **kwargs):
        calls.append(0)
        if when(len(calls)):
            raise Killed
        return function(*args, **kwargs)

    return call


# The whole of it, with real runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of the miniature, run in one go."""
    workdir = tmp_path_factory.mktemp("experiment") / "whole"
    run(workdir)
    return workdir


def test_every_cell_has_a_row(finished):
    found = table(finished)
    assert list(found) == [cell.name for cell in config_files.load_experiment(MINIATURE).cells()]
    assert {row["status"] for row in found.values()} == {"finished"}
    one = found["selfie/1/2%/1"]
    assert (one["recipe"], one["pretraining"], one["task"], one["seed"]) == ("selfie", 1, "2%", 1)
    assert (one["split"], one["labelled_images"], one["trained_on"]) == ("test", 100, 100)
    result = result_of(finished / "cells" / "selfie" / "1" / "2%" / "1")
    assert (one["top1"], one["loss"]) == (result["test_top1"], result["test_loss"])
    assert result["initialisation"]["from"] == str(finished / "cells" / "selfie" / "1" / "pretrain")
    tuned = found[f"selfie/0/tune/2%/{SETTINGS[0]}/0"]
    assert (tuned["split"], tuned["trained_on"]) == ("validation", 50)
    pretrained = result_of(finished / "cells" / "selfie" / "0" / "pretrain")
    accuracy = found["selfie/0/pretrain"]["held_out_patch_accuracy"]
    assert accuracy == pretrained["held_out_patch_accuracy"]
    assert {"pretrained_linear_probe_top1_100", "untrained_knn_top1_100"} <= set(
        found["selfie/0/probe"]
    )


def test_predictions_of_final_cells_are_kept(finished):
    final = {name: row for name, row in table(finished).items() if row["kind"] == "final"}
    folder = finished / "predictions"
    files = {name: folder / (name.replace("/", "-") + ".npz") for name in final}
    assert set(folder.iterdir()) == set(files.values())
    for name, row in final.items():
        with np.load(files[name]) as kept:
            assert set(kept) == {"labels", "predictions"}
            assert np.mean(kept["labels"] == kept["predictions"]) == pytest.approx(row["top1"])


def test_the_summary_has_curves_and_pictures_of_the_runs(finished, tmp_path):
    flags = [f"--config={MINIATURE}", f"--workdir={finished}", f"--output={tmp_path}"]
    text = succeeds("summarize", *flags)
    top1 = table(finished)["scratch/0/few/0"]["top1"]
    assert f"| few | scratch | {100 * top1:.1f} | none | 1 |" in text
    tuned = table(finished)[f"selfie/0/tune/2%/{SETTINGS[1]}/0"]["top1"]
    assert f"| 2% | selfie | {SETTINGS[1]} | {100 * tuned:.1f} | 1 |" in text
    probed = [row for row in table(finished).values() if row["kind"] == "probe"]
    knn = [100 * row["untrained_knn_top1_100"] for row in probed]
    untrained = next(line for line in text.splitlines() if line.startswith("| untrained |"))
    assert f"| {np.mean(knn):.1f}" in untrained and f"| {len(probed)} | kept |" in untrained
    names = {path.name for path in tmp_path.iterdir()}
    assert {"summary.md", "curves-2%.png", "curves-few.svg", "pretext-selfie.png"} <= names
    picture = finished / "cells" / "selfie" / "0" / "pretrain" / "figures" / "jigsaw.png"
    assert (tmp_path / "pretext-selfie.png").read_bytes() == picture.read_bytes()


def test_killed_and_sharded_it_makes_the_same_table(finished, tmp_path, monkeypatch):
    save = dying(Checkpointer.save, lambda call: call % 8 == 3)
    monkeypatch.setattr(Checkpointer, "save", save)
    deaths = run_until_it_is_done(tmp_path, "--shard=1/2")
    deaths += run_until_it_is_done(tmp_path, "--shard=2/2")
    assert deaths >= 3
    assert table(tmp_path) == table(finished)


# Its order and its memory, with runs that only say what they were asked for


@pytest.fixture
def asked(monkeypatch):
    """The work directories of the runs that were begun; no network is trained."""
    folders = []

    def result(config, folder):
        folders.append(os.sep.join(folder.split(os.sep + "cells" + os.sep)[1:]))
        about = {"tensorflow": "0", "git_commit": None}
        return {"steps": config.train.steps, "seconds": 1.0, "hardware": "", "versions": about}

    def pretrain(config, folder, **_):
        checkpoint = os.path.join(folder, "checkpoints", "step-00000004")
        os.makedirs(checkpoint, exist_ok=True)
        for path, text in ((checkpoint, "manifest.json"), (folder, "result.json")):
            with open(os.path.join(path, text), "w") as file:
                file.write(json.dumps({"seed": config.train.seed}))
        return {**result(config, folder), "loss": 1.0 + config.train.seed}

    def finetune(config, folder, **_):
        assert not config.init_from or os.path.exists(os.path.join(config.init_from, "checkpoints"))
        split = "validation" if config.data.validation_fraction else "test"
        return {
            **result(config, folder),
            f"{split}_top1": 0.5 - config.optimizer.learning_rate,
            f"{split}_loss": 2.0,
            f"{split}_images": 10,
            "train_loss": 1.0,
            "subset": {"labelled_images": 4, "trained_on": 4},
        }

    def evaluate(network, folder, data_dir, train_images):
        assert os.path.exists(os.path.join(network, "checkpoints"))
        folders.append(folder)
        return {"probes": {"pretrained": {"knn_top1": 0.2}}}

    monkeypatch.setattr(experiment_run, "pretrain", pretrain)
    monkeypatch.setattr(experiment_run, "finetune", finetune)
    monkeypatch.setattr(experiment_run, "evaluate_pretrained", evaluate)
    return folders


def test_final_cells_take_the_setting_that_was_best_on_validation(asked, tmp_path):
    run(tmp_path)
    found = table(tmp_path)
    assert len(found) == len(asked) == 15
    assert {r["setting"] for r in found.values() if r["kind"] == "final"} == {SETTINGS[0]}
    assert {r["top1"] for r in found.values() if r["kind"] == "final"} == {0.49}


def test_rows_name_the_pretrained_network(asked, tmp_path):
    run(tmp_path)
    networks = {}
    for row in table(tmp_path).values():
        networks.setdefault((row["recipe"], row["pretraining"]), set()).add(row["network"])
    assert networks["scratch", 0] == networks["scratch", 1] == {""}
    first, second = networks["selfie", 0], networks["selfie", 1]
    assert len(first) == len(second) == 1 and first != second and "" not in first | second


def test_a_finished_experiment_does_nothing(asked, tmp_path):
    run(tmp_path)
    before = list(asked)
    assert "0 to do" in run(tmp_path)
    assert asked == before


def test_no_cell_is_run_again_after_it_has_a_row(asked, tmp_path, monkeypatch):
    write = dying(experiment_run.ExperimentRunner._write, lambda call: call % 3 == 0)
    monkeypatch.setattr(experiment_run.ExperimentRunner, "_write", write)
    deaths = run_until_it_is_done(tmp_path)
    assert deaths > 4 and len(asked) == 15 + deaths
    assert len(table(tmp_path)) == 15


def test_shards_do_each_cell_once(asked, tmp_path):
    line = fails("experiment", f"--config={MINIATURE}", f"--workdir={tmp_path}", "--shard=4/4")
    assert "1 cells wait for the tuning of another shard, e.g. selfie/1/2%/1" in line
    assert "give the same command again" in line
    for shard in (1, 2, 3, 4):
        run(tmp_path, f"--shard={shard}/4")
    assert len(asked) == len(set(asked)) == len(table(tmp_path)) == 15


def test_another_machine_continues_from_the_table_alone(asked, tmp_path):
    """It pretrains anew only where a cell is left that needs the network."""
    run(tmp_path / "old")
    whole = rows.read_table(tmp_path / "old" / "results.csv")
    lost = ("selfie/1/2%/1", "scratch/1/2%/1")
    (tmp_path / "new").mkdir()
    rows.write_table(
        tmp_path / "new" / "results.csv", [row for row in whole if row["cell"] not in lost]
    )
    asked.clear()
    run(tmp_path / "new")
    assert sorted(asked) == sorted([*lost, "selfie/1/pretrain"])
    assert table(tmp_path / "new") == table(tmp_path / "old")


def test_a_lost_network_is_made_anew_right_before_it_is_needed():
    cells = {cell.name: cell for cell in config_files.load_experiment(MINIATURE).cells()}
    left = ("selfie/0/pretrain", "selfie/1/pretrain")
    left += ("scratch/1/2%/1", "selfie/1/2%/1", "selfie/0/2%/0")
    found = experiment_run._in_order([cells[name] for name in left])
    order = (2, 1, 3, 0, 4)
    assert [cell.name for cell in found] == [left[i] for i in order]


def test_a_run_that_diverges_is_a_row_and_not_the_end(asked, tmp_path, monkeypatch):
    finetune = experiment_run.finetune

    def diverging(config, folder, **kwargs):
        if config.optimizer.learning_rate == 0.01:
            raise DivergedError("the loss became NaN")
        return finetune(config, folder, **kwargs)

    monkeypatch.setattr(experiment_run, "finetune", diverging)
    out = run(tmp_path)
    assert f"scratch/0/tune/2%/{SETTINGS[0]}/0 diverged: the loss became NaN" in out
    found = table(tmp_path)
    diverged = found[f"scratch/0/tune/2%/{SETTINGS[0]}/0"]
    assert diverged["status"] == "diverged" and "top1" not in diverged
    assert found["scratch/0/2%/0"]["setting"] == SETTINGS[1]


def test_what_needs_a_network_that_diverged_diverges_with_it(asked, tmp_path, monkeypatch):
    pretrain = experiment_run.pretrain

    def diverging(config, folder, **kwargs):
        if config.train.seed == 1:
            raise DivergedError("the loss became NaN")
        return pretrain(config, folder, **kwargs)

    monkeypatch.setattr(experiment_run, "pretrain", diverging)
    run(tmp_path)
    diverged = {name for name, row in table(tmp_path).items() if row["status"] == "diverged"}
    assert diverged == {"selfie/1/pretrain", "selfie/1/probe", "selfie/1/2%/1"}
    assert "0 to do" in run(tmp_path)


def test_a_plan_that_was_changed_does_not_keep_its_rows(asked, tmp_path):
    run(tmp_path / "run")
    before = table(tmp_path / "run")
    with open(MINIATURE) as file:
        text = file.read()
    changed = tmp_path / "changed.py"
    changed.write_text(text.replace('"data.pad_mode": "reflect"', '"data.pad_mode": "mean"'))
    flags = (f"--config={changed}", f"--workdir={tmp_path / 'run'}")
    out = fails("experiment", *flags)
    assert "scratch/0/tune/2%/optimizer.learning_rate=0.01/0: the plan's config is not the" in out
    assert table(tmp_path / "run") == before
    assert "0 to do" in run(tmp_path / "run")
    # Rows of earlier versions do not say.
    found = [{**row, "config": ""} for row in rows.read_table(tmp_path / "run" / "results.csv")]
    (tmp_path / "old").mkdir()
    rows.write_table(tmp_path / "old" / "results.csv", found)
    assert "0 to do" in succeeds("experiment", flags[0], f"--workdir={tmp_path / 'old'}")


def test_a_plan_with_its_cost():
    lines = succeeds("experiment", f"--config={MINIATURE}", "--dry_run").splitlines()
    words = [line.split() for line in lines]
    assert ["final", "scratch", "2%", "2", "4", "128"] in [w[:6] for w in words]
    assert ["pretrain", "selfie", "2", "4", "128"] in [w[:5] for w in words]
    assert ["probe", "selfie", "2", "0", "0", "0.0"] in words
    assert words[-1][:3] == ["total", "15", "832"]


def test_a_plan_of_what_is_left_of_a_shard(asked, tmp_path):
    run(tmp_path, "--shard=1/2")
    flags = (f"--config={MINIATURE}", f"--workdir={tmp_path}", "--dry_run")
    totals = [
        succeeds("experiment", *flags, f"--shard={shard}").splitlines()[-1].split()[:3]
        for shard in ("1/1", "1/2", "2/2")
    ]
    done, left = ["total", "0", "0"], totals[2]
    assert totals == [left, done, left] and 0 < int(left[1]) < 15


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], "--workdir is missing"),
        (["--workdir=x", "--shard=0/2"], "--shard=0/2: expected I/N"),
        (["--workdir=x", "--shard=3/2"], "--shard=3/2: expected I/N"),
        (["--workdir=x", "--shard=half"], "--shard=half: expected I/N"),
        (["--workdir=x", "--config=experiments/none"], "there are experiments/"),
    ],
)
def test_mistakes(flags, expected):
    assert expected in fails("experiment", *flags)


@pytest.mark.parametrize(
    "text, expected",
    [
        (HEADER + ",final,a,0,1%,0,,finished,0.5\n", "no cell"),
        (HEADER.replace("kind", "sort") + "a,final,a,0,1%,0,,finished,0.5\n", "no kind"),
        (HEADER.replace("network", "net") + "a,final,a,0,1%,0,,finished,0.5\n", "or no network"),
        (HEADER + "a,final,a,0,1%,one,,finished,0.5\n", "invalid literal for int"),
        (HEADER + "a,final,a,0,,0,,finished,0.5\n", "no task"),
        (HEADER + "a,final,a,0,1%,0,,finnished,0.5\n", "status=finnished"),
        (HEADER + "a,final,a,0,1%,0,,finished,nan\n", "top1=nan"),
        (HEADER + "a,final,a,0,1%,0,,finished,10.8\n", "top1=10.8"),
        (HEADER + "a,final,a,0,1%,0,,finished,half\n", "top1=half"),
        (HEADER + "a,final,a,0,1%,0,,finished,0.5,0.5\n", "another number of fields"),
        (HEADER + "a,final,a,0,1%\n", "another number of fields"),  # cut off
    ],
)
@pytest.mark.parametrize("command", ["experiment", "summarize"])
def test_a_file_that_is_no_table(command, text, expected, tmp_path):
    (tmp_path / "results.csv").write_text(text)
    line = fails(command, f"--config={MINIATURE}", f"--workdir={tmp_path}")
    assert "results.csv, line 2: not a row of results (" in line and expected in line
    assert line.rstrip().endswith("; remove it")
    assert (tmp_path / "results.csv").read_text() == text


def test_a_network_whose_checkpoints_are_gone(asked, tmp_path):
    run(tmp_path)
    folder, cells = tmp_path / "cells" / "selfie" / "1", tmp_path / "results.csv"
    shutil.rmtree(folder / "pretrain" / "checkpoints")
    (folder / "2%" / "1" / "row.json").unlink()
    lines = cells.read_text().splitlines(keepends=True)
    cells.write_text("".join(line for line in lines if not line.startswith("selfie/1/2%/1,")))
    line = fails("experiment", f"--config={MINIATURE}", f"--workdir={tmp_path}")
    assert f"{folder / 'pretrain'}: its checkpoints are gone; remove this folder" in line
    shutil.rmtree(folder / "pretrain")
    assert "2 to do" in run(tmp_path)
    assert set(table(tmp_path)) == {c.name for c in config_files.load_experiment(MINIATURE).cells()}


def test_a_damaged_row_does_not_replace_a_good_one(asked, tmp_path):
    run(tmp_path)
    before = table(tmp_path)
    path = tmp_path / "cells" / "scratch" / "0" / "2%" / "0" / "row.json"
    path.write_text('{"cell": "scratch/0/2%/0", "network": ""}')
    line = fails("experiment", f"--config={MINIATURE}", f"--workdir={tmp_path}")
    assert f"{path}: not a row of results (no kind); remove it" in line
    assert table(tmp_path) == before
