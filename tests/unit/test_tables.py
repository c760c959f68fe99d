"""The tables and figures of an experiment, from rows that are written out here."""

import csv
import io

import numpy as np
import pytest

from selfie_tf import figures
from selfie_tf.config import FinetuneConfig, SelfieConfig
from selfie_tf.errors import UserError
from selfie_tf.experiments import probes, rows, tables
from selfie_tf.experiments.plan import Experiment, Recipe, Task
from selfie_tf.experiments.report import write_summary

from helpers import fails, succeeds

TOP1 = {
    ("scratch", "1%"): [[0.30, 0.32], [0.31, 0.29], [0.33, 0.31]],
    ("selfie", "1%"): [[0.36, 0.34], [0.35, 0.39], [0.38, 0.30]],
    ("plus", "1%"): [[0.40, 0.40], [0.41, 0.41]],
    ("scratch", "5%"): [[0.5]],
    ("selfie", "5%"): [[0.56]],
}


@pytest.fixture
def experiment():
    selfie, finetune = SelfieConfig(), FinetuneConfig()
    plan = Experiment(
        {"scratch": Recipe(), "selfie": Recipe(selfie), "plus": Recipe(selfie)},
        {"1%": Task(finetune, 3, 2), "5%": Task(finetune, 1, 1)},
        primary=(("selfie", "scratch", "1%"), ("plus", "selfie", "1%")),
        published={("scratch", "5%"): (75.9, 0.7), ("selfie", "5%"): (76.4, 0.4)},
    )
    plan.validate()
    return plan


@pytest.fixture
def found():
    """Rows as the runner writes them, with a run that diverged and a pretraining per network."""
    result = []
    for (recipe, task), values in TOP1.items():
        for p, group in enumerate(values):
            network = "" if recipe == "scratch" else f"{recipe}{p}"
            for f, top1 in enumerate(group):
                seed = 2 * p + f
                row = {"cell": f"{recipe}/{p}/{task}/{seed}", "kind": "final", "recipe": recipe}
                row |= {"pretraining": p, "task": task, "seed": seed, "network": network}
                row |= {"status": "finished", "top1": top1}
                result.append({**row, "trained_on": 500 if task == "1%" else 2500})
            if network and task == "1%":
                row = {"cell": f"{recipe}/{p}/pretrain", "kind": "pretrain", "recipe": recipe}
                row |= {"pretraining": p, "network": network, "status": "finished"}
                result.append({**row, "held_out_patch_accuracy_uncropped": 0.5 + 0.1 * p})
    row = {"cell": "plus/2/1%/4", "kind": "final", "recipe": "plus", "pretraining": 2}
    row |= {"task": "1%", "seed": 4, "network": "plus2", "status": "diverged"}
    return [*result, row]


def by_names(lines):
    return {(line.recipe, line.baseline, line.task): line for line in lines}


def test_every_recipe_beside_the_first_and_the_primary_comparisons(experiment, found):
    lines = by_names(tables.summarize(experiment, found))
    assert list(lines) == [
        ("scratch", "", "1%"),
        ("selfie", "scratch", "1%"),
        ("plus", "scratch", "1%"),
        ("scratch", "", "5%"),
        ("selfie", "scratch", "5%"),
        ("plus", "selfie", "1%"),
    ]
    selfie = lines["selfie", "scratch", "1%"]
    means = np.mean(TOP1["selfie", "1%"], axis=1)
    assert (selfie.mean, selfie.deviation) == pytest.approx((means.mean(), means.std(ddof=1)))
    assert (selfie.pretrainings, selfie.finetunings, selfie.diverged) == (3, 6, 0)
    gains = means - np.mean(TOP1["scratch", "1%"], axis=1)
    assert selfie.difference.mean == pytest.approx(gains.mean())
    assert selfie.primary and selfie.p == selfie.difference.p == 2 / 8
    assert selfie.labelled_images == 500
    plus = lines["plus", "selfie", "1%"]
    assert plus.difference.mean == pytest.approx(np.mean([0.05, 0.04]))
    assert (plus.diverged, plus.pretrainings, plus.primary) == (1, 2, True)
    assert lines["scratch", "", "1%"].pretrainings == 0


def test_secondary_p_values_are_adjusted_for_their_number(experiment, found):
    experiment.primary = ()
    lines = by_names(tables.summarize(experiment, found))
    plus, selfie = lines["plus", "scratch", "1%"], lines["selfie", "scratch", "1%"]
    assert (plus.difference.p, selfie.difference.p) == (0.5, 0.25)
    assert (plus.p, selfie.p) == (0.5, 0.5)  # 2 * 0.25, and not below it
    assert not plus.primary and not selfie.primary
    alone = lines["selfie", "scratch", "5%"]  # of one pretraining, and not counted
    assert alone.difference.p is alone.p is None


def test_published_numbers_stand_beside(experiment, found):
    lines = by_names(tables.summarize(experiment, found))
    selfie = lines["selfie", "scratch", "5%"]
    assert selfie.published == (76.4, 0.4)
    assert selfie.published_difference == pytest.approx(0.5)
    assert lines["scratch", "", "5%"].published_difference is None
    text = tables.to_markdown(list(lines.values()))
    assert "| p | published (not comparable) | published difference |" in text
    assert "| 5% | selfie | 56.0 | 1 | 1 | scratch | +6.0 |  | 76.4 ± 0.4 | +0.5 |" in text
    assert "| 1% | plus | 40.5 ± 0.7 | 2 | 4 (1 diverged) | selfie | +4.5 ± 6.4 | 0.500 |" in text


def test_csv_has_all_digits(experiment, found):
    lines = tables.summarize(experiment, found)
    table = list(csv.DictReader(io.StringIO(tables.to_csv(lines))))
    assert len(table) == len(lines)
    assert float(table[1]["mean"]) == lines[1].mean
    assert float(table[1]["half_width"]) == lines[1].difference.half_width
    assert table[0]["difference"] == table[0]["p"] == ""


def test_test_images_widen_the_interval(experiment, found, tmp_path):
    narrow = by_names(tables.summarize(experiment, found))["selfie", "scratch", "1%"]
    rng = np.random.default_rng(0)
    for row in found:
        if row["kind"] == "final" and row["status"] == "finished":
            right = np.arange(100) < round(100 * row["top1"])
            predictions = np.where(rng.permutation(right), 0, 1)
            path = tmp_path / f"{row['cell'].replace('/', '-')}.npz"
            np.savez(path, labels=np.zeros(100, int), predictions=predictions)

    def difference(split, folder=str(tmp_path)):
        of_split = [{**row, "split": split} for row in found]
        lines = by_names(tables.summarize(experiment, of_split, folder))
        lost = tables.lost_predictions(experiment, of_split, folder)
        return lines["selfie", "scratch", "1%"].difference, lost

    wide, lost = difference("test")
    assert wide.mean == narrow.difference.mean and not lost
    assert wide.half_width > 1.2 * narrow.difference.half_width
    # There they are other images for each seed.
    assert difference("validation") == (narrow.difference, [])
    # An interval that leaves the images out would be too narrow.
    unknown, lost = difference("test", "")
    assert (unknown.mean, unknown.half_width, unknown.p) == (wide.mean, None, wide.p)
    assert len(lost) == sum(row["kind"] == "final" and "top1" in row for row in found)
    np.savez(tmp_path / "scratch-0-1%-0", labels=np.zeros(100, int), predictions=np.ones(100, int))
    another_run, lost = difference("test")
    assert another_run.half_width is None and lost == ["scratch/0/1%/0"]
    (tmp_path / "scratch-0-1%-0.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"scratch-0-1%-0.npz cannot be read \(.*\); remove it"):
        difference("test")


def test_recipes_can_be_compared_by_balanced_accuracy(experiment, found, tmp_path):
    """Three of four images are of class 0. One recipe knows only these, the other some of all."""
    labels = np.repeat([0, 1], [300, 100])
    right = {"scratch": labels == 0, "selfie": np.arange(400) % 4 < 3}
    kept = [row for row in found if row["recipe"] in right and row["kind"] == "final"]
    kept = [{**row, "split": "test"} for row in kept]
    for row in kept:
        correct = right[row["recipe"]]
        row["top1"] = np.mean(correct)
        row["balanced_accuracy"] = np.mean([np.mean(correct[labels == c]) for c in (0, 1)])
        predictions = np.where(correct, labels, 1 - labels)
        np.savez(tmp_path / row["cell"].replace("/", "-"), labels=labels, predictions=predictions)
    for score in tables.scores_of(kept, "scratch", "1%", str(tmp_path), "balanced_accuracy"):
        assert score.accuracy == pytest.approx(0.5) == score.correct.mean()
    line = by_names(tables.summarize(experiment, kept))["selfie", "scratch", "1%"]
    assert line.difference.mean == pytest.approx(0)  # by plain accuracy
    for task in experiment.tasks.values():
        task.metric = "balanced_accuracy"
    lines = tables.summarize(experiment, kept, str(tmp_path))
    line = by_names(lines)["selfie", "scratch", "1%"]
    assert line.difference.mean == pytest.approx(0.25)
    per_image = right["selfie"] * 1.0 - right["scratch"]
    variance = sum(per_image[labels == c].var() / (labels == c).sum() for c in (0, 1)) / 4
    # t for two degrees of freedom; all pretrainings are equal.
    assert line.difference.half_width == pytest.approx(4.30265 * np.sqrt(variance), rel=0.01)
    del kept[0]["balanced_accuracy"]
    with pytest.raises(UserError, match="scratch/0/1%/0: its row has no balanced_accuracy"):
        tables.summarize(experiment, kept)
    assert "| balanced accuracy |" in tables.to_markdown(lines)


def test_pretext_accuracy_beside_accuracy_after_finetuning(experiment, found):
    points = tables.pretext_and_downstream(experiment, found, "held_out_patch_accuracy_uncropped")
    assert set(points) == {"1%", "5%"} and set(points["1%"]) == {"selfie", "plus"}
    expected = [[0.5, 0.35], [0.6, 0.37], [0.7, 0.34]]
    np.testing.assert_allclose(points["1%"]["selfie"], expected)
    assert not tables.pretext_and_downstream(experiment, found, "pixel_accuracy")
    # Where the jigsaw is not trained, its accuracy, that of chance, says nothing.
    other = SelfieConfig()
    other.model.jigsaw_weight, other.model.instance_weight = 0.0, 1.0
    experiment.recipes["plus"].pretrain = other
    points = tables.pretext_and_downstream(experiment, found, "held_out_patch_accuracy_uncropped")
    assert set(points["1%"]) == {"selfie"}
    # It has learnt the instance loss.
    for row in found:
        if row["kind"] == "pretrain" and row["recipe"] == "plus":
            row["instance_accuracy"] = 0.25 + 0.125 * row["pretraining"]
    points = tables.pretext_and_downstream(experiment, found, "instance_accuracy")
    assert set(points["1%"]) == {"plus"}
    np.testing.assert_allclose(points["1%"]["plus"][:, 0], [0.25, 0.375])


def test_frozen_features_of_every_network(experiment, found):
    assert probes.to_markdown(experiment, found) == ""
    for recipe, number, kept, again in (
        ("selfie", 0, 0.30, 0.28),
        ("selfie", 1, 0.32, 0.29),
        ("plus", 1, 0.40, None),
    ):
        row = {"cell": f"{recipe}/{number}/probe", "kind": "probe", "recipe": recipe}
        row |= {"pretraining": number, "network": f"{recipe}{number}", "status": "finished"}
        # Two networks of one number start from equal weights, and are one untrained network.
        row |= {"untrained_linear_probe_top1_500": 0.2 + 0.1 * number}
        row |= {"pretrained_knn_top1_50": 0.1, "pretrained_linear_probe_top1_500": kept}
        row |= {"pretrained_linear_probe_top1_2500": kept + 0.1, "pretrained_probe_top1": 1.0}
        if again is not None:
            row["pretrained_reestimated_linear_probe_top1_500"] = again
        found.append(row)
    head, _, *lines = probes.to_markdown(experiment, found).splitlines()
    assert head == (
        "| recipe | networks | statistics | linear probe, 500 | linear probe, 2,500 "
        "| nearest neighbours, 50 | patch accuracy, uncropped |"
    )
    assert lines == [
        "| untrained | 2 | kept | 25.0 ± 7.1 |  |  |  |",
        "| selfie | 2 | kept | 31.0 ± 1.4 | 41.0 ± 1.4 | 10.0 ± 0.0 | 55.0 ± 7.1 |",
        "| selfie | 2 | re-estimated | 28.5 ± 0.7 |  |  |  |",
        "| plus | 1 | kept | 40.0 | 50.0 | 10.0 | 60.0 |",
    ]


def test_two_networks_are_not_drawn_as_a_relation(experiment, found, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures, "draw_pretext_and_downstream", lambda *arguments: drawn.append(arguments[1:])
    )
    rows.write_table(tmp_path / "a.csv", found)
    write_summary(experiment, [str(tmp_path / "a.csv")], "", str(tmp_path / "out"))
    assert drawn and all(set(points) == {"1%"} for points, *_ in drawn)
    assert all(recipes == ["scratch", "selfie", "plus"] for _, _, recipes, *_ in drawn)


def test_curves_are_in_the_order_of_the_plan_and_their_baseline_is_its_first(
    experiment, found, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(figures, "draw_finetuning", lambda file, *rest: drawn.append(rest))
    found = [{**row, "split": "test"} for row in found if row["kind"] == "final"]
    other = {**found[0], "cell": "other/0/1%/0", "recipe": "other"}  # of another experiment
    for row in (*found, other):
        folder = tmp_path / "cells" / row["cell"]
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    rows.write_table(tmp_path / "a.csv", [other, *found[::-1]])
    paths, output = [str(tmp_path / "a.csv")], str(tmp_path / "out")
    write_summary(experiment, paths, "", output, str(tmp_path / "cells"))
    labels = {tuple(dict.fromkeys(label for label, *_ in runs)) for runs, *_ in drawn}
    assert labels == {("scratch", "selfie", "plus"), ("scratch", "selfie")}
    assert all(rest[-1] == ["scratch", "selfie", "plus"] for rest in drawn)


def test_rows_survive_the_table(found, tmp_path):
    path = tmp_path / "results.csv"
    rows.write_table(path, found)
    assert rows.read_table(path) == found
    assert rows.merge(found[:3], found) == found


def test_tables_that_contradict_each_other(found, tmp_path):
    rows.write_table(tmp_path / "a.csv", found[:3])
    rows.write_table(tmp_path / "b.csv", [found[2], {**found[0], "top1": 0.9}])
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    message = r"b.csv: scratch/0/1%/0 has top1=0.9, and before it had top1=0.3; leave one"
    with pytest.raises(UserError, match=message):
        rows.read_tables(paths)
    rows.write_table(tmp_path / "b.csv", found[2:5])
    assert rows.read_tables(paths) == found[:5]
    rows.write_table(tmp_path / "b.csv", [*found[2:5], {**found[2], "status": "diverged"}])
    with pytest.raises(UserError, match="has status=diverged, and before it had status=finished"):
        rows.read_tables(paths)


@pytest.mark.parametrize("metric", ["top1", "balanced_accuracy"])
def test_a_summary_is_tables_and_figures(experiment, found, tmp_path, metric):
    for task in experiment.tasks.values():
        task.metric = metric
    found = [{**row, "balanced_accuracy": row.get("top1", "")} for row in found]
    half = len(found) // 2
    rows.write_table(tmp_path / "a.csv", found[: half + 2])
    rows.write_table(tmp_path / "b.csv", found[half:])
    paths = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    text = write_summary(experiment, paths, "", str(tmp_path / "out"))
    assert (tmp_path / "out" / "summary.md").read_text() == text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    drawings = ("labels", "held_out_patch_accuracy_uncropped")
    assert names == {"summary.md", "summary.csv"} | {
        f"{f}.{k}" for f in drawings for k in ("png", "svg")
    }
    for figure in drawings:
        assert (tmp_path / "out" / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
        text = (tmp_path / "out" / f"{figure}.svg").read_text()
        assert "<svg" in text and "accuracy" in text
        assert ("<!-- balanced accuracy" in text) == (metric == "balanced_accuracy")


def test_a_summary_says_which_predictions_are_missing(experiment, found, tmp_path):
    rows.write_table(tmp_path / "a.csv", [{**row, "split": "test"} for row in found])
    text = write_summary(experiment, [str(tmp_path / "a.csv")], "", str(tmp_path / "out"))
    others = sum(row["kind"] == "final" and "top1" in row for row in found) - 1
    assert f"that scratch/0/1%/0 and {others} others are in have no interval" in text
    assert "| 1% | plus | 40.5 ± 0.7 | 2 | 4 (1 diverged) | selfie | +4.5 | 0.500 |" in text


def test_a_task_of_some_recipes_is_not_among_the_fractions_of_labels(
    experiment, found, tmp_path, monkeypatch
):
    """Such as random weights that are trained for longer, on as many labels."""
    drawn = []
    monkeypatch.setattr(figures, "draw_label_fractions", lambda _, gains, *__: drawn.append(gains))
    experiment.tasks["1%-long"] = Task(FinetuneConfig(), 3, 2, ("scratch",))
    longer = [
        {**row, "task": "1%-long", "cell": f"{row['cell']}-long"}
        for row in found
        if (row["recipe"], row.get("task")) == ("scratch", "1%")
    ]
    rows.write_table(tmp_path / "a.csv", [*found, *longer])
    text = write_summary(experiment, [str(tmp_path / "a.csv")], "", str(tmp_path / "out"))
    assert "| 1%-long | scratch |" in text
    assert drawn and {line.task for line in drawn[0]["scratch"]} == {"1%", "5%"}


def test_the_command(tmp_path):
    header = "cell,kind,recipe,pretraining,task,seed,network,status,top1\n"
    line = "scratch/0/5%/0,final,scratch,0,5%,0,,finished,0.25\n"
    (tmp_path / "results.csv").write_text(header + line)
    out = succeeds("summarize", f"--workdir={tmp_path}")
    assert "| 5% | scratch | 25.0 | none | 1 |" in out
    (tmp_path / "results.csv").write_text(header)
    assert "no finished cell in it yet" in fails("summarize", f"--workdir={tmp_path}")
    (tmp_path / "results.csv").write_text(header + line.replace("scratch", "other"))
    assert "no finetuning of this experiment" in fails("summarize", f"--workdir={tmp_path}")
    assert "no such file" in fails("summarize", f"--workdir={tmp_path / 'none'}")
    assert "give the experiment's --workdir" in fails("summarize")
    table = f"--results={tmp_path / 'results.csv'}"
    nowhere = f"--predictions={tmp_path / 'none'}"
    assert "none: no such folder" in fails("summarize", table, nowhere, f"--output={tmp_path}")
    assert "--output is missing" in fails("summarize", table)
