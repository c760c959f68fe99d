"""Labels from lists: data.labels and data.test_labels."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf.config import FinetuneConfig, from_dict, to_dict
from selfie_tf.data import make_source
from selfie_tf.data.labels import read_list
from selfie_tf.data.source import BatchShard
from selfie_tf.data.subsets import labelled_source
from selfie_tf.errors import UserError

HELD_OUT = {"a/b/p27.png", "a/b/p28.png", "a/b/p36.png", "a/b/p37.png"}


@pytest.fixture
def folder(tmp_path):
    """40 images at three depths, each of one grey that tells its number; 4 are held out."""
    for i in range(40):
        place = tmp_path / "images" / ["", "a", "a/b"][min(i // 10, 2)]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 6 * i).save(place / f"p{i:02d}.png")
    config = data_of(tmp_path / "images")
    held_out = set(make_source(config).held_out_ids())
    assert held_out == HELD_OUT  # a choice by name, which tests rely on
    return tmp_path / "images"


def data_of(folder, **values):
    config = FinetuneConfig()
    config.data.name = f"folder:{folder}"
    for key, value in values.items():
        setattr(config.data, key, value if isinstance(value, float | int) else str(value))
    config.validate()
    return config.data


def name_of(i):
    return f"{['', 'a/', 'a/b/'][min(i // 10, 2)]}p{i:02d}.png"


def write(path, lines, encoding="utf-8", end="\n"):
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode(encoding))
    return path


def listed(numbers, classes=("cat", "dog")):
    return [f"{name_of(i)},{classes[i % len(classes)]}" for i in numbers]


def seen(source):
    """({image's number: class} to train on, the same to test on), as read from the files."""
    names = source.class_names
    train = source.train_images(0, 0, BatchShard(1)).take(source.num_train)
    parts = [train, source.held_out_images()]
    return tuple(
        {round(int(x[0, 0, 0]) / 6): names[int(label)] for _, x, label in part} for part in parts
    )


def error(data):
    """The line of a list that cannot be used."""
    with pytest.raises(UserError) as raised:
        labelled_source(make_source(data), data)
    line = str(raised.value)
    assert "\n" not in line
    return line


# What is selected


def test_listed_images_are_trained_on_and_listed_held_out_ones_are_tested_on(folder, tmp_path):
    """Whatever the folders that they lie in, and whatever the order of the list."""
    numbers = [31, 0, 37, 28, 11, 25, 27, 7]
    path = write(tmp_path / "x.csv", listed(numbers, ("dog", "cat", "cow")))
    source = make_source(data_of(folder, labels=path))
    assert source.class_names == ("cat", "cow", "dog") and source.no_labels == ""
    train, test = seen(source)
    classes = {i: ("dog", "cat", "cow")[i % 3] for i in numbers}
    assert train == {i: classes[i] for i in (31, 0, 11, 25, 7)}
    assert test == {i: classes[i] for i in (37, 28, 27)}
    assert (source.num_train, source.num_held_out) == (5, 3)
    assert source.train_ids() == [name_of(i) for i in (25, 31, 11, 0, 7)]
    assert source.held_out_ids() == [name_of(i) for i in (27, 28, 37)]


def test_a_list_of_test_images_may_hold_any(folder, tmp_path):
    """Also held-out ones may be trained on then, but no image of both lists."""
    train = write(tmp_path / "train.csv", listed([0, 1, 27, 10, 11]))
    test = write(tmp_path / "test.csv", listed([5, 1, 28]))
    source = make_source(data_of(folder, labels=train, test_labels=test))
    assert seen(source) == (
        {0: "cat", 27: "dog", 10: "cat", 11: "dog"},
        {1: "dog", 5: "dog", 28: "cat"},
    )


def test_subsets_choose_among_the_listed(folder, tmp_path):
    numbers = [i for i in range(40) if i not in (2, 4, 6)]
    labels = write(tmp_path / "x.csv", listed(numbers))
    data = data_of(folder, labels=labels, labels_per_class=5)
    part, subset = labelled_source(make_source(data), data)
    train, test = seen(part)
    assert sorted(train.values()) == ["cat"] * 5 + ["dog"] * 5 and set(train) < set(numbers)
    assert {name_of(i) for i in test} == HELD_OUT
    assert set(subset["ids"]) == {name_of(i) for i in train}
    assert subset["class_names"] == ["cat", "dog"]

    data = data_of(folder, labels=labels, validation_fraction=0.2)
    part, subset = labelled_source(make_source(data), data)
    train, tuned = seen(part)
    assert sorted(tuned.values()) == ["cat"] * 3 + ["dog"] * 4  # of 15 and 18
    assert {name_of(i) for i in (*train, *tuned)} == {name_of(i) for i in numbers} - HELD_OUT
    assert all(label == ("cat", "dog")[i % 2] for i, label in {**train, **tuned}.items())


def test_class_folders_do_not_matter(folder, tmp_path):
    """Without a list their names are the labels."""
    path = write(tmp_path / "x.csv", listed([10, 11, 12, 28]))
    assert make_source(data_of(folder, labels=path)).class_names == ("cat", "dog")


# Forms of a list

ROWS = [("a/p11.png", "cat"), ("p01.png", "großer Hund"), ("a/b/p20.png", "cat, black")]


@pytest.mark.parametrize(
    "content",
    [
        'a/p11.png,cat\np01.png,großer Hund\na/b/p20.png,"cat, black"\n',
        'path,label\na/p11.png,cat\np01.png,großer Hund\na/b/p20.png,"cat, black"',
        '"Path","LABEL"\r\na/p11.png,cat\r\n\r\n"p01.png", großer Hund \r\n'
        'a/b/p20.png,"cat, black"',
        'label,path,p\ncat,a/p11.png,0.5\ngroßer Hund,p01.png,\n"cat, black",a/b/p20.png,x\n',
        'path,class,probability\na/p11.png,cat,1\np01.png,großer Hund\na/b/p20.png,"cat, black",\n',
        'path,class,label\na/p11.png,x,cat\np01.png,y,großer Hund\na/b/p20.png,z,"cat, black"\n',
        "path;label\na/p11.png;cat\np01.png;großer Hund\na/b/p20.png;cat, black\n",
        "a/p11.png\tcat\np01.png\tgroßer Hund\na/b/p20.png\tcat, black\n",
    ],
    ids="plain header windows order class label_over_class semicolons tabs".split(),
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_forms_of_a_list(content, encoding, tmp_path):
    (tmp_path / "x.csv").write_bytes(content.encode(encoding))
    rows = read_list("data.labels=x.csv", str(tmp_path / "x.csv"))
    assert [row[1:] for row in rows] == ROWS


def test_lines_are_counted_as_an_editor_does(tmp_path):
    (tmp_path / "x.csv").write_text('path,label\n"two\nlines.png",a\n\nx.png,b\n')
    assert read_list("data.labels=x.csv", str(tmp_path / "x.csv")) == [
        (2, "two\nlines.png", "a"),
        (5, "x.png", "b"),
    ]


def test_forms_of_a_path(folder, tmp_path, monkeypatch):
    """Below the folder, absolute, from where the command runs, through a link, from Windows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    lines = [
        "p00.png,0",
        f"{folder}/p01.png,1",
        "images/a/p12.png,2",
        "./a/../p04.png,4",
        "a\\b\\p25.png,5",
        "link/a/b/p26.png,6",
        f"{tmp_path}/link/a/b/p24.png,7",
        "a/b/p28.png,0",
    ]
    path = write(tmp_path / "x.csv", lines)
    data = data_of("link", labels=path, corrupt_budget=0)
    assert seen(make_source(data))[0] == {
        0: "0", 1: "1", 12: "2", 4: "4", 25: "5", 26: "6", 24: "7",
    }  # fmt: skip


def test_rows_without_a_label_are_skipped_and_counted(folder, tmp_path, caplog):
    lines = ["path,label", *listed([0, 1, 27]), "p05.png,", "p07.png, ", "p09.png", "no.png,"]
    path = write(tmp_path / "x.csv", lines)
    caplog.set_level("INFO")
    source = make_source(data_of(folder, labels=path, corrupt_budget=0))
    assert [set(part) for part in seen(source)] == [{0, 1}, {27}]
    assert f"data.labels={path}: 4 images have no label yet" in caplog.text
    assert f"data.labels={path}: 2 classes, 2 images to train on, 1 held out" in caplog.text


def test_a_path_that_comes_twice_with_one_label(folder, tmp_path):
    path = write(tmp_path / "x.csv", [*listed([0, 1, 27]), "./p00.png,cat", "p01.png,"])
    assert [set(part) for part in seen(make_source(data_of(folder, labels=path)))] == [{0, 1}, {27}]


def test_the_list_is_part_of_the_fingerprint_and_its_form_is_not(folder, tmp_path):
    def fingerprint(lines, test=(), **form):
        values = {"labels": write(tmp_path / "x.csv", lines, **form)}
        if test:
            values["test_labels"] = write(tmp_path / "y.csv", test)
        return make_source(data_of(folder, **values)).fingerprint

    first = fingerprint(listed([0, 1, 27, 5]))
    again = ["path,label", *reversed(listed([0, 1, 27, 5])), "p07.png,"]
    assert fingerprint(again, encoding="utf-8-sig", end="\r\n") == first
    others = [
        fingerprint(listed([0, 1, 27, 7])),
        fingerprint(listed([0, 1, 27, 5], ("cat", "cow"))),
        fingerprint(["p00.png,cat", "p01.png,cat", "a/b/p27.png,dog", "p05.png,dog"]),
        fingerprint(listed([0, 1, 27]), listed([5])),
        fingerprint(listed([0, 1, 5]), listed([27, 5])),
    ]
    assert len({first, *others}) == 6 and not any("#" in x for x in [first, *others])


# Missing files


def test_a_missing_file_is_named_and_left_out(folder, tmp_path, caplog):
    lines = [*listed([0, 1, 27]), "gone.png,cat"]
    path = write(tmp_path / "x.csv", lines)
    source = make_source(data_of(folder, labels=path))
    assert [set(part) for part in seen(source)] == [{0, 1}, {27}]
    assert f"data.labels={path}, line 4: no such image in the folder: 'gone.png'" in caplog.text


def test_more_missing_files_than_may_be(folder, tmp_path):
    lines = [*listed([0, 1, 27]), "gone.png,cat", "C:\\photos\\p05.png,cat"]
    path = write(tmp_path / "x.csv", lines)
    line = error(data_of(folder, labels=path, corrupt_budget=0.3))
    for part in (f"data.labels={path}, line 4", "'gone.png'", "2 of 5 are missing", "budget=0.3"):
        assert part in line
    assert make_source(data_of(folder, labels=path, corrupt_budget=0.4)).num_train == 2
    one = write(tmp_path / "y.csv", lines[:4])
    assert "line 4" in error(data_of(folder, labels=one, corrupt_budget=0))


# Mistakes


@pytest.mark.parametrize(
    "lines, expected",
    [
        (
            [*listed([0, 1, 27]), "./p01.png,cow"],
            ["line 4: './p01.png' is labelled 'cow', but 'dog'"],
        ),
        (["p00.png", "p01.png"], ["line 1: expected path,label, got 'p00.png'"]),
        (["id,label", *listed([0, 1])], ["line 1: no column is called path, only 'id', 'label'"]),
        (["label,filename", "cat,p00.png"], ["line 1: no column is called path", "rename the"]),
        ([",filename,label"], ["line 1: no column is called path, only '', 'filename', 'label'"]),
        (["p00.png,cat,1", "p01.png,dog,1"], ["line 1: expected 2 columns, got 3", "first line"]),
        ([*listed([0, 1]), "a, b.png,cat"], ["line 3: expected 2 columns, got 3", "double quotes"]),
        ([*listed([0, 1]), ",cat"], ["line 3: the path is missing"]),
        ([*listed([0, 1]), '"p02.png,cat'], ["line 3: not CSV"]),
        ([*listed([0, 1]), '"p02.png"x,cat'], ["line 3: not CSV"]),
        (["path,label"], ["no labelled image in it"]),
        ([], ["no labelled image in it"]),
        (["p00.png,", "p01.png,"], ["no labelled image in it"]),
        (["p00.png,cat", "a/b/p27.png,cat"], ["all of one class, 'cat'; at least two"]),
        (["a/b/p27.png,cat", "a/b/p28.png,dog"], ["test image of class", "list some"]),
        (
            [*listed([0, 1]), "a/b/p27.png,owl"],
            ["line 3: a/b/p27.png is a test image of class 'owl'"],
        ),
        (listed([0, 1, 2]), ["none of its 3 images", "test_labels=PATH", "validation_fraction"]),
    ],
)
def test_lists_that_cannot_be_used(lines, expected, folder, tmp_path):
    path = write(tmp_path / "x.csv", lines)
    line = error(data_of(folder, labels=path))
    for part in (f"data.labels={path}", *expected):
        assert part in line


@pytest.mark.parametrize(
    "content, expected",
    [
        ("p00.png,cat\np01.png,größer\n".encode("latin-1"), ", line 2: not UTF-8"),
        ("p00.png,cat\n".encode("utf-16"), ", line 1: not UTF-8"),
        ("p00.png,cat\n".encode("utf-16-le"), ", line 1: a zero byte; save the file as CSV UTF-8"),
        (b"PK\x03\x04\xff\xfe", ", line 1: not UTF-8"),
        (None, ": cannot be read"),
    ],
)
def test_files_that_are_no_lists(content, expected, folder, tmp_path):
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    assert f"data.labels={path}{expected}" in error(data_of(folder, labels=path))


def test_the_log_says_what_a_validation_part_leaves_unused(folder, tmp_path, caplog):
    path = write(tmp_path / "x.csv", listed([0, 1, 2, 3, 27]))
    data = data_of(folder, labels=path, validation_fraction=0.5)
    with caplog.at_level("INFO"):
        labelled_source(make_source(data), data)
    assert "2 of the 4 labelled images are evaluated on, and not trained on" in caplog.text
    assert "test images that are not used: 1" in caplog.text


def test_a_class_with_one_image_cannot_be_divided(folder, tmp_path):
    path = write(tmp_path / "x.csv", [*listed([0, 1, 2, 27, 5]), "p07.png,owl"])
    assert make_source(data_of(folder, labels=path)).num_train == 5
    line = error(data_of(folder, labels=path, validation_fraction=0.2))
    assert f"data.labels={path}, line 6: the only image of class 'owl'" in line
    assert "validation_fraction=0.2 needs at least two: label more" in line
    assert "held out" not in line
    write(path, [*listed([0, 1, 2, 27, 5]), "p07.png,owl", "a/b/p28.png,owl"])
    line = error(data_of(folder, labels=path, validation_fraction=0.2))
    assert "the only image of class 'owl' to train on (1 more is held out)" in line


def test_a_validation_part_needs_no_test_images(folder, tmp_path):
    path = write(tmp_path / "x.csv", listed([0, 1, 2, 5]))
    data = data_of(folder, labels=path, validation_fraction=0.5)
    part, _ = labelled_source(make_source(data), data)
    assert (part.num_train, part.num_held_out) == (2, 2)


@pytest.mark.parametrize(
    "lines, expected",
    [
        (
            ["p05.png,dog", "p07.png,owl"],
            "line 2: p07.png is a test image of class 'owl'",
        ),
        (
            ["p05.png,dog", "p00.png,dog"],
            "line 2: p00.png is labelled 'dog', but 'cat'",
        ),
        (["p00.png,cat", "p02.png,cat"], "class 'cat', of which data.labels="),  # none is left
        (["p05.png,"], "no labelled image in it"),
    ],
)
def test_test_lists_that_do_not_fit(lines, expected, folder, tmp_path):
    labels = write(tmp_path / "x.csv", listed([0, 1, 2]))
    test = write(tmp_path / "y.csv", lines)
    line = error(data_of(folder, labels=labels, test_labels=test))
    assert f"data.test_labels={test}" in line and expected in line


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"name": "builtin:shapes", "labels": "x.csv"}, "data.labels=x.csv labels the images of a"),
        ({"name": "folder:x", "test_labels": "y.csv"}, "data.test_labels=y.csv needs data.labels"),
    ],
)
def test_configs_that_cannot_work(values, expected):
    config = FinetuneConfig()
    for key, value in values.items():
        setattr(config.data, key, value)
    with pytest.raises(UserError, match=expected):
        config.validate()


def test_configs_of_before_have_no_lists():
    values = to_dict(FinetuneConfig())
    del values["data"]["labels"], values["data"]["test_labels"]
    config = from_dict(FinetuneConfig, values)
    assert config.data.labels == config.data.test_labels == ""


def test_unreadable_listed_images_count_against_the_listed(folder, tmp_path):
    path = write(tmp_path / "x.csv", listed([0, 1, 2, 27, 5, 6]))
    for i in (0, 1):
        (folder / name_of(i)).write_bytes(b"nothing")
    source = make_source(data_of(folder, labels=path))
    with pytest.raises(tf.errors.OpError):
        list(source.train_images(0, 0, BatchShard(1)).take(5))
    assert "2 of 6 images are unreadable" in str(source.failure)
    assert np.array_equal(source.train_labels(), [0, 1, 0, 1, 0])
