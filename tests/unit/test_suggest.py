"""Which images to label first: the choice, the list, the contact sheet, mistakes."""

import copy
import csv

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf import figures
from selfie_tf.cli import common
from selfie_tf.cli.suggest_labels import COMMAND
from selfie_tf.config import FinetuneConfig
from selfie_tf.data.labels import read_list
from selfie_tf.errors import UserError
from selfie_tf.evaluation import embed, suggest
from selfie_tf.evaluation.suggest import choose
from selfie_tf.training.load import LoadedRun

from helpers import fails, succeeds

SIZES = (40, 25, 12, 6)


@pytest.fixture
def groups(rng):
    """Features near four directions, of many lengths, mixed; and the direction of each."""
    of = np.repeat(np.arange(4), SIZES)
    features = 5 * np.eye(4, 8)[of] + 0.2 * rng.normal(size=[len(of), 8])
    order = rng.permutation(len(of))
    return (features * rng.uniform(0.1, 9, [len(of), 1]))[order].astype(np.float32), of[order]


@pytest.mark.parametrize("method", ["kmeans", "farthest"])
def test_each_group_is_met_once_and_the_seed_decides(groups, method):
    features, of = groups
    chosen = choose(features, 4, method)
    assert sorted(of[chosen]) == [0, 1, 2, 3]
    if method == "kmeans":
        assert of[chosen].tolist() == [0, 1, 2, 3]  # the largest first
    np.testing.assert_array_equal(chosen, choose(features, 4, method, seed=0))
    others = [tuple(choose(features, 20, method, seed=seed)) for seed in range(4)]
    assert len(set(others)) > 1 and all(len(set(found)) == 20 for found in others)


@pytest.mark.parametrize("method", ["kmeans", "farthest"])
def test_groups_with_a_label_come_last(groups, method):
    features, of = groups
    labelled = [int(np.flatnonzero(of == k)[0]) for k in (0, 2)]
    assert sorted(of[choose(features, 2, method, labelled=labelled)]) == [1, 3]
    rest = choose(features, len(of) - 2, method, labelled=labelled)
    assert sorted([*rest, *labelled]) == list(range(len(of)))


def test_kmeans_takes_the_images_in_the_middle(groups):
    features, of = groups
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i in choose(features, 4):
        members = np.flatnonzero(of == of[i])
        distance = np.linalg.norm(unit[members] - unit[members].mean(0), axis=1)
        assert members[distance.argmin()] == i


def test_farthest_is_that_of_a_loop(groups):
    features, _ = groups
    unit = [x / np.linalg.norm(x) for x in features]
    centres, expected = [3, 17], []
    for _ in range(15):
        gaps = [min(np.linalg.norm(x - unit[c]) for c in centres) for x in unit]
        expected.append(int(np.argmax(gaps)))
        centres.append(expected[-1])
    assert choose(features, 15, "farthest", labelled=[17, 3]).tolist() == expected


def test_uncertain_takes_different_ones_of_the_least_certain(groups):
    features, of = groups
    certainty = np.where(of == 0, 0.9, 0.99)
    least = np.flatnonzero(of != 3)[:20]
    certainty[least] = 0.3
    chosen = choose(features, 2, "uncertain", certainty=certainty)
    assert set(chosen) <= set(least) and len(set(of[chosen])) == 2
    again = choose(features, 2, "uncertain", labelled=[chosen[0]], certainty=certainty)
    next_ = np.flatnonzero(of == 0)
    assert set(again) <= {*least, *next_[~np.isin(next_, least)][:1]} - {chosen[0]}


@pytest.mark.parametrize("method", ["kmeans", "farthest"])
def test_equal_images_are_different_choices(method):
    features = np.ones([6, 3], np.float32)
    assert sorted(choose(features, 5, method, labelled=[2])) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"count": 84}, "count=84: there are 83 images without a label"),
        ({"count": 83, "labelled": [1]}, "there are 82"),
        ({"count": 0}, "choose 1 to 83"),
        ({"count": 1, "method": "best"}, "method=best: expected one of kmeans, farthest"),
        ({"count": 1, "method": "uncertain"}, "needs a classifier's certainty"),
    ],
)
def test_choices_that_cannot_be(groups, arguments, expected):
    with pytest.raises(UserError, match=expected):
        choose(groups[0], **arguments)


# The command

COLOURS = {
    "red/1.png": (250, 10, 10),
    "red/2, still.png": (240, 12, 10),
    "green.png": (10, 250, 10),
    'b/"blue"\n.png': (10, 10, 250),
    "b/ä.png": (12, 10, 240),
}


@pytest.fixture
def folder(means, tmp_path, monkeypatch):
    """Images of three colours, and a stand-in for a network, whose features are their colours."""
    for name, colour in COLOURS.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), colour).save(path)
    config = embed.load_pretraining_run("").config
    monkeypatch.setattr(suggest, "read_run_config", lambda path: copy.deepcopy(config))
    monkeypatch.chdir(tmp_path)
    return ["--workdir=run", f"--images={tmp_path}/images"]


def chosen_by(*flags):
    succeeds("suggest-labels", *flags, "--output=new/label_me.csv")
    with open("new/label_me.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label"] and all(label == "" for _, label in rows)
    return [path for path, _ in rows]


def colours_of(names):
    return sorted(max(range(3), key=lambda c: COLOURS[name][c]) for name in names)


@pytest.mark.parametrize("method", ["kmeans", "farthest"])
def test_the_list_has_one_image_of_each_colour(folder, method):
    found = chosen_by(*folder, "--count=3", f"--method={method}")
    assert colours_of(found) == [0, 1, 2]
    assert [row[1] for row in read_list("", "new/label_me.csv")] == found
    assert chosen_by(*folder, "--count=3", f"--method={method}") == found


def test_what_is_labelled_is_left_out_whatever_its_path(folder, tmp_path):
    with open("old.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["path", "label"],
                [f"{tmp_path}/images/red/1.png", "r"],
                ['images/b/"blue"\n.png', "b"],
                ["green.png", ""],
                ["lost.png", "x"],
            ]
        )
    assert chosen_by(*folder, "--count=1", "--labelled=old.csv") == ["green.png"]
    found = chosen_by(*folder, "--count=3", "--labelled=old.csv")
    assert set(found) == {"green.png", "red/2, still.png", "b/ä.png"}
    out = succeeds("suggest-labels", *folder, "--count=1", "--labelled=old.csv", "--output=x.csv")
    assert "--labelled=old.csv: no such image: 'lost.png'" in out
    assert "kmeans chose 1 of 3 images without a label" in out
    assert "x.csv: fill in its column label" in out


def test_the_sheet_shows_the_choice_in_its_order(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures, "draw_sheet", lambda _, images, words: drawn.append((images, words))
    )
    found = chosen_by(*folder, "--count=4", "--sheet=sheet.png")
    ((images, captions),) = drawn
    assert images.shape == (4, 160, 160, 3)  # larger than what the network sees
    for k, (name, image, caption) in enumerate(zip(found, images, captions), 1):
        np.testing.assert_array_equal(image[80, 80], COLOURS[name])
        assert caption == f"{k}\n{' '.join(name.split())}"
    monkeypatch.undo()
    assert suggest._tail("a" * 30 + "/b.png") == "…" + "a" * 13 + "/b.png"


def test_embeddings_save_the_network_and_are_checked(folder, monkeypatch):
    succeeds("embed", *folder, "--output=e.npz")
    found = chosen_by(*folder, "--count=3")
    monkeypatch.setattr(embed, "load_pretraining_run", None)
    assert chosen_by("--embeddings=e.npz", "--count=3") == found

    def load(sha256):
        run = LoadedRun(None, None, (), 1, "runs/other (made up)", "", sha256)
        monkeypatch.setattr(embed, "load_pretraining_run", lambda path: run)

    load("abc")
    assert chosen_by(*folder, "--embeddings=e.npz", "--count=3") == found
    load("abd")
    line = fails("suggest-labels", *folder, "--embeddings=e.npz", "--output=x.csv")
    assert "features of another network, made up, not of runs/other (made up)" in line


@pytest.fixture
def classifier(monkeypatch, tiny_config):
    """Stands in for a classifier whose certainty grows with the red of an image."""

    class Model:
        @staticmethod
        def features(images, training):
            return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])

        @staticmethod
        def head(features):
            return tf.stack([features[:, 0] / 99, tf.zeros_like(features[:, 0])], 1)

    run = LoadedRun(Model, FinetuneConfig(), ("a", "b"), 7, "made up too", "", "def")
    run.config.data.image_size = 16
    for module in (embed, suggest):
        monkeypatch.setattr(module, "is_finetuning", lambda path: path == "classifier")
    monkeypatch.setattr(embed, "load_finetuning_run", lambda path: run)


@pytest.mark.parametrize("own", [True, False])
def test_a_classifier_says_what_is_uncertain(folder, classifier, monkeypatch, own):
    monkeypatch.setattr(suggest, "_CANDIDATES", 1)  # so that certainty alone decides
    flags = ["--workdir=classifier", folder[1]] if own else [*folder, "--classifier=classifier"]
    assert set(chosen_by(*flags, "--count=2")) == {"green.png", 'b/"blue"\n.png'}
    if own:
        succeeds("embed", *flags, "--output=e.npz")
        assert len(chosen_by("--embeddings=e.npz", "--count=2", "--method=uncertain")) == 2
        with np.load("e.npz") as file:
            red = np.array([COLOURS[i][0] for i in file["ids"]])
            expected = 1 / (1 + np.exp(-red / 99))
            np.testing.assert_allclose(file["certainty"], expected, rtol=1e-5)
    else:
        line = fails("suggest-labels", *flags, "--method=kmeans", "--output=x.csv")
        assert "--classifier is not used by --method=kmeans" in line


def test_of_data_by_name_only_training_images_are_chosen(folder):
    found = chosen_by("--workdir=run", "--data_name=builtin:shapes", "--count=30", "--sheet=x.png")
    assert len(found) == 30 and max(map(int, found)) < 5000
    with Image.open("x.png") as picture:
        assert picture.format == "PNG"


def test_labels_that_someone_has_filled_in_are_not_overwritten(folder, tmp_path):
    assert len(chosen_by(*folder, "--count=2")) == 2
    assert len(chosen_by(*folder, "--count=3")) == 3  # still empty
    list_ = tmp_path / "new" / "label_me.csv"
    before = list_.read_text().replace("green.png,", "green.png,g")
    list_.write_text(before)
    line = fails("suggest-labels", *folder, "--count=2", "--output=new/label_me.csv")
    assert "--output=new/label_me.csv has labels in it already" in line
    assert list_.read_text() == before


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], "--output is missing"),
        (["--output=x.csv", "--count=6"], "count=6: there are 5 images"),
        (["--output=x.csv", "--count=0"], "--count=0"),
        (["--output=x.csv", "--method=best"], "kmeans|farthest|uncertain"),
        (["--output=x.csv", "--method=uncertain"], "needs a classifier's certainty"),
        (["--output=x.csv", "--labelled=none.csv"], "--labelled=none.csv: cannot be read"),
        (["--output=x.csv", "--labelled=other.csv"], "not even 'nowhere.png'"),
        (["--output=x.csv", "--embeddings=none.npz"], "--embeddings=none.npz cannot be read"),
        (["--output=x.csv", "--embeddings=other.csv"], "--embeddings=other.csv cannot be read"),
        (["--output=x.csv", "--embeddings=small.npz"], "--embeddings=small.npz lacks"),
        (["--output=x.csv", "--classifier=run"], "--classifier=run is a pretraining run"),
        (["--output=x.csv", "--images=empty"], "--images=empty: no images in it"),
        (["--output=x.csv", "--embeddings=words.npz"], "not have one row of features per image"),
        (["--output=x.csv", "--embeddings=few.npz"], "not have one row of features per image"),
        (["--output=x.csv", "--labelled=zero.csv"], "zero.csv, line 2: a zero byte;"),
        (["--output=y.csv", "--sheet=y.csv"], "--sheet=y.csv is what --output names, too"),
        (["--output=x.csv", "--workdir="], "--workdir is missing"),
        (["--output=x.csv", "--images="], "--images or --data_name"),
    ],
)
def test_mistakes(folder, classifier, tmp_path, flags, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("path,label\nnowhere.png,x\n")
    (tmp_path / "zero.csv").write_text("path,label\ngreen\0.png,x\n")
    np.savez(tmp_path / "small.npz", features=np.ones([2, 2]))
    about = dict(ids=["a", "b"], split=["", ""], model="x", fingerprint="y")
    np.savez(tmp_path / "words.npz", features=[["a"], ["b"]], **about)
    np.savez(tmp_path / "few.npz", features=np.ones([3, 2]), **about)
    assert expected in fails("suggest-labels", *folder, "--count=2", *flags)
    assert not (tmp_path / "x.csv").exists()


def test_the_command_knows_the_methods():
    flags = common.parse(COMMAND, ["--help"]).flags
    assert tuple(flags["method"].parser.enum_values) == suggest.METHODS
