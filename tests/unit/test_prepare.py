"""The command prepare: a folder as a TensorFlow Datasets dataset."""

import errno
import io
import logging
import os
import re
import resource

import filelock
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from selfie_tf.config import FinetuneConfig
from selfie_tf.data import make_source, prepare, shard_writers, shards
from selfie_tf.data.decode import decode_jpeg
from selfie_tf.data.prepared import PreparedSource
from selfie_tf.data.source import BatchShard
from selfie_tf.data.subsets import labelled_source
from selfie_tf.data.tfds import TFDSSource
from selfie_tf.errors import UserError

from helpers import fails, save_noise, succeeds


def noise(rng, height, width, channels=3):
    return rng.integers(0, 256, [height, width, channels], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, rng):
    """60 images of two classes, most of them ordinary JPEGs."""
    for i in range(60):
        path = tmp_path / "images" / ("dog" if i % 3 else "cat") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(rng, 20 + i, 70 - i)).save(path)
    return tmp_path / "images"


def run(folder, output, *flags, command=succeeds):
    return command(
        "prepare",
        f"--images={folder}",
        "--name=mine",
        f"--output={output}",
        "--processes=1",
        "--images_per_shard=10",
        *flags,
    )


def config_of(name, **values):
    config = FinetuneConfig()
    config.data.name, config.data.image_size = name, 16
    for key, value in values.items():
        setattr(config.data, key, value)
    return config


def open_both(folder, output, image_size=16, **values):
    """The sources of a folder, and of what was prepared from it."""
    by_folder = make_source(config_of(f"folder:{folder}", image_size=image_size, **values).data)
    by_name = make_source(config_of("tfds:mine", image_size=image_size).data, str(output))
    return by_folder, by_name


def content_of(output):
    """{name: bytes} of all files of the dataset."""
    path = output / "mine" / "1.0.0"
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def seen(images):
    return [(int(i), image.numpy(), int(label)) for i, image, label in images]


def assert_same(images, expected):
    images, expected = seen(images), seen(expected)
    assert len(images) == len(expected) > 0
    for (i, image, label), (j, other, other_label) in zip(images, expected):
        assert (i, label) == (j, other_label)
        np.testing.assert_array_equal(image, other)


# Folder and dataset agree


def test_a_run_from_the_dataset_sees_what_one_from_the_folder_sees(folder, tmp_path, rng):
    grey = noise(rng, 30, 40, 1)[..., 0]
    Image.fromarray(grey).save(folder / "cat" / "grey.jpg")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "cat" / "deep.png")
    Image.fromarray(grey).convert("P").save(folder / "dog" / "palette.gif")
    Image.fromarray(noise(rng, 30, 40, 4)).save(folder / "dog" / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(rng, 30, 40)).save(folder / "cat" / "turned.png", exif=exif)
    run(folder, tmp_path / "out")
    by_folder, by_name = open_both(folder, tmp_path / "out")
    assert isinstance(by_name, PreparedSource)
    assert by_name.class_names == by_folder.class_names == ("cat", "dog")
    assert by_name.train_ids() == by_folder.train_ids() and by_folder.num_train == 59
    assert by_name.held_out_ids() == by_folder.held_out_ids() and by_folder.num_held_out == 6
    assert by_name.fingerprint == by_folder.fingerprint
    assert by_name.location == by_folder.location
    np.testing.assert_array_equal(by_name.train_labels(), by_folder.train_labels())
    assert_same(by_name.held_out_images(), by_folder.held_out_images())
    assert_same(by_name.each_image(held_out=False), by_folder.each_image(held_out=False))
    batches = [s.train_images(3, 7, BatchShard(8, 2, 3)).take(30) for s in (by_name, by_folder)]
    assert_same(*batches)


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 6), (0.5, 27)])
def test_a_labelled_subset_is_the_same_images(fraction, count, folder, tmp_path):
    run(folder, tmp_path / "out")
    sources = open_both(folder, tmp_path / "out")
    streamed = TFDSSource("mine", str(tmp_path / "out"), 1000, 1000, min_side=16)
    config = config_of("", label_fraction=fraction, validation_fraction=0.3)
    (_, expected), (chosen, subset), (other, third) = (
        labelled_source(source, config.data) for source in (*sources, streamed)
    )
    ids = sorted(expected["ids"])
    assert sorted(subset["ids"]) == sorted(third["ids"]) == ids and len(ids) == count
    assert sorted(subset["validation_ids"]) == sorted(third["validation_ids"])
    assert sorted(subset["validation_ids"]) == sorted(expected["validation_ids"])
    images = {image.tobytes(): label for _, image, label in seen(chosen.each_image(False))}
    assert images == {i.tobytes(): label for _, i, label in seen(other.each_image(False))}


def test_anyone_reads_it_with_tfds(folder, tmp_path):
    run(folder, tmp_path / "out")
    train, test = tfds.load("mine", split=["train", "test"], data_dir=str(tmp_path / "out"))
    examples = [*train.as_numpy_iterator(), *test.as_numpy_iterator()]
    assert len(examples) == 60 and len(test) == 6
    info = tfds.builder("mine", data_dir=str(tmp_path / "out")).info
    assert info.features["label"].names == ["cat", "dog"]
    for example in examples:
        name = example["path"].decode()
        assert info.features["label"].int2str(example["label"]) == name.split("/")[0]
        with Image.open(folder / name) as image:
            assert image.size == example["image"].shape[1::-1]


@pytest.fixture
def bucket(monkeypatch):
    """A remote file system: TensorFlow's own in memory, which TFDS then takes for one of its."""
    monkeypatch.setitem(epath.register._URI_PREFIXES_TO_CLS, "ram://", epath.gpath.PosixGPath)
    monkeypatch.setattr(epath.gpath, "_URI_PREFIXES", ("ram://",))
    monkeypatch.setattr(epath.gpath, "_URI_SCHEMES", {"ram"})
    monkeypatch.setitem(epath.gpath._URI_MAP_ROOT, "ram://", "/ram/")
    monkeypatch.setitem(epath.gpath._PREFIX_TO_BACKEND, "ram", epath.backend.tf_backend)
    yield "ram://bucket"
    tf.io.gfile.rmtree("ram://bucket")


def test_a_stream_has_every_image_once_with_its_label(folder, bucket):
    """As from a bucket, where single records are not read."""
    run(folder, f"{bucket}/out")
    source = make_source(config_of("tfds:mine").data, f"{bucket}/out")
    assert isinstance(source, TFDSSource)
    by_folder = make_source(config_of(f"folder:{folder}").data)
    ids = source.train_ids()
    assert sorted(ids) == by_folder.train_ids() != ids
    assert source.held_out_ids() == by_folder.held_out_ids()
    assert source.fingerprint != by_folder.fingerprint  # another order of images
    assert_same(source.held_out_images(), by_folder.held_out_images())
    stored = dict(zip(by_folder.train_ids(), seen(by_folder.each_image(False)), strict=True))
    for index, image, label in seen(source.each_image(False)):
        np.testing.assert_array_equal(image, stored[ids[index]][1])
        assert label == stored[ids[index]][2] == source.train_labels()[index]
    epoch = {
        image.tobytes() for _, image, _ in seen(source.train_images(0, 0, BatchShard(6)).take(54))
    }
    assert epoch == {image.tobytes() for _, image, _ in stored.values()}


@pytest.mark.parametrize("name", ["test", "validation", "val"])
def test_split_folders_keep_their_name(name, folder, tmp_path):
    split = tmp_path / "split"
    os.makedirs(split)
    os.rename(folder, split / "train")
    for kind in ("cat", "dog"):
        os.makedirs(split / name / kind)
        for i, path in enumerate(sorted((split / "train" / kind).iterdir())[:3]):
            os.rename(path, split / name / kind / f"{i}.jpg")
    run(split, tmp_path / "out")
    by_folder, by_name = open_both(split, tmp_path / "out")
    assert by_name.held_out_ids() == by_folder.held_out_ids() and len(by_name.held_out_ids()) == 6
    assert set(tfds.builder("mine", data_dir=str(tmp_path / "out")).info.splits) == {"train", name}


def test_images_without_labels(folder, tmp_path):
    for path in folder.glob("*/*"):
        os.rename(path, folder / path.name)
    run(folder, tmp_path / "out")
    by_folder, by_name = open_both(folder, tmp_path / "out")
    assert by_name.no_labels and by_name.class_names == ()
    assert_same(by_name.held_out_images(), by_folder.held_out_images())


# How images are stored


def test_an_ordinary_jpeg_is_stored_as_it_is(rng):
    buffer = io.BytesIO()
    Image.fromarray(noise(rng, 30, 40)).save(buffer, "JPEG", quality=80)
    assert shards.encode(buffer.getvalue(), shards.Encoding(0, 50, 10_000)) == buffer.getvalue()
    assert shards.encode(buffer.getvalue(), shards.Encoding(30, 50, 10_000)) == buffer.getvalue()
    with pytest.raises(ValueError, match="40x30 is over 1000 pixels"):
        shards.encode(buffer.getvalue(), shards.Encoding(0, 50, 1000))


@pytest.mark.parametrize("kind", ["turned", "cmyk"])
def test_what_tensorflow_shows_otherwise_is_encoded_anew(kind):
    """A JPEG stays a JPEG: as a PNG, a photograph from a telephone would be many times as large."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise
    pixels = np.zeros([32, 64, 3], np.uint8)
    pixels[:, :32] = [255, 0, 0]
    picture = Image.fromarray(pixels)
    if kind == "turned":
        picture.save(buffer, "JPEG", exif=exif)
    else:
        picture.rotate(-90, expand=True).convert("CMYK").save(buffer, "JPEG")
    content = shards.encode(buffer.getvalue(), shards.Encoding(0, 95, 10_000))
    assert tf.io.is_jpeg(content)
    image = decode_jpeg(content, 0).numpy().astype(int)
    assert image.shape == (64, 32, 3)
    assert abs(image[4:28, 4:28] - [255, 0, 0]).max() < 12 and image[36:60, 4:28].max() < 12


def test_images_are_shrunk_to_a_shorter_side(folder, tmp_path):
    run(folder, tmp_path / "out", "--shorter_side=24", "--quality=90")
    by_folder, by_name = open_both(folder, tmp_path / "out", image_size=100)
    assert by_name.fingerprint != by_folder.fingerprint
    assert by_name.train_ids() == by_folder.train_ids()
    sides = [image.shape[:2] for _, image, _ in seen(by_folder.each_image(False))]
    shrunk = [image.shape[:2] for _, image, _ in seen(by_name.each_image(False))]
    assert len(sides) == 54
    for before, after in zip(sides, shrunk, strict=True):
        scale = min(1, 24 / min(before))
        assert after == tuple(round(side * scale) for side in before)


# Files that cannot be read


def break_files(folder, *names):
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:300])


def test_unreadable_files_are_named_and_left_out(folder, tmp_path):
    break_files(folder, "cat/30.jpg", "dog/31.jpg")
    out = run(folder, tmp_path / "out", "--corrupt_budget=0.04")
    assert "2 unreadable images left out" in out and "left out unreadable image cat/30.jpg" in out
    rows = (tmp_path / "out/mine/1.0.0/rejected.csv").read_text().splitlines()
    assert rows[0] == "path,reason" and [r.split(",")[0] for r in rows[1:]] == [
        "cat/30.jpg",
        "dog/31.jpg",
    ]
    by_folder, by_name = open_both(folder, tmp_path / "out")
    ids = [*by_folder.train_ids(), *by_folder.held_out_ids()]
    kept = [name for name in ids if name not in ("cat/30.jpg", "dog/31.jpg")]
    assert [*by_name.train_ids(), *by_name.held_out_ids()] == kept
    assert by_name.fingerprint != by_folder.fingerprint
    assert len(seen(by_name.each_image(False))) == by_name.num_train


def test_images_of_too_many_pixels_are_unreadable(folder, tmp_path):
    save_noise(folder, ["cat/30.jpg"], (90, 100))
    run(folder, tmp_path / "out", "--max_pixels=8000")
    (row,) = (tmp_path / "out/mine/1.0.0/rejected.csv").read_text().splitlines()[1:]
    assert row.startswith("cat/30.jpg,") and "over 8000 pixels" in row


def test_too_many_unreadable_files_and_their_repair(folder, tmp_path):
    whole = {name: (folder / name).read_bytes() for name in ("cat/30.jpg", "dog/31.jpg")}
    break_files(folder, *whole)
    line = run(folder, tmp_path / "out", command=fails)
    assert "2 of 60 images are unreadable, more than --corrupt_budget=0.001 allows" in line
    assert f"{folder}/" in line and "data." not in line
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    run(folder, tmp_path / "out")
    run(folder, tmp_path / "whole")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_a_split_without_a_readable_image(folder, tmp_path):
    held_out = make_source(config_of(f"folder:{folder}").data).held_out_ids()
    break_files(folder, *held_out)
    line = run(folder, tmp_path / "out", "--corrupt_budget=1", command=fails)
    assert "none of the test images is readable" in line


# Resuming


class Killed(BaseException):
    """Ends a command where a kill would."""


def test_a_prepare_cut_short_anywhere_ends_with_the_same_files(folder, tmp_path, monkeypatch):
    run(folder, tmp_path / "whole")
    expected = content_of(tmp_path / "whole")
    rename, count = tf.io.gfile.rename, 0
    total = 0

    def renaming(*args, **kwargs):
        nonlocal count, total
        count, total = count + 1, total + 1
        if count > 3:
            raise Killed
        rename(*args, **kwargs)

    monkeypatch.setattr(tf.io.gfile, "rename", renaming)
    kills = 0
    while True:
        count = 0
        try:
            run(folder, tmp_path / "out")
            break
        except Killed:
            kills += 1
            with pytest.raises(UserError, match="not finished in .*; give the command selfie-tf"):
                make_source(config_of("tfds:mine").data, str(tmp_path / "out"))
            with pytest.raises(Exception, match="dataset_info.json|not found"):
                tfds.load("mine", split="train", data_dir=str(tmp_path / "out"))
    assert kills >= 3
    assert content_of(tmp_path / "out") == expected


def test_the_same_command_again_says_so_and_changes_nothing(folder, tmp_path):
    run(folder, tmp_path / "out")
    before = content_of(tmp_path / "out")
    out = run(folder, tmp_path / "out")
    assert "is prepared already" in out and "54 train, 6 test images, 2 classes" in out
    assert content_of(tmp_path / "out") == before


DAMAGES = {  # what is put into a file, None for no file at all; and what the errors say
    "mine-train.tfrecord-00002-of-00006": (b"", "-00002-of-00006 is damaged: "),
    "mine-test.tfrecord-00000-of-00001": (None, "-00000-of-00001 is lost; bring it back"),
    "train.index.csv": (b"path,label,file,offset\n", "train.index.csv cannot be read"),
    "test.index.csv": (None, "test.index.csv cannot be read"),
    "label.labels.txt": (b"cat\n", "its classes are not those of prepare.json"),
    "prepare.json": (b"{}", "prepare.json is damaged"),
    "features.json": (b"{", "1.0.0: its metadata cannot be read"),
    "dataset_info.json": (b"{}", "1.0.0: its metadata cannot be read|has no"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_finished_dataset_that_is_damaged_is_not_called_prepared(name, folder, tmp_path):
    run(folder, tmp_path / "out")
    content, expected = DAMAGES[name]
    path = tmp_path / "out" / "mine" / "1.0.0" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content or path.read_bytes()[: path.stat().st_size // 2])
    line = run(folder, tmp_path / "out", command=fails)
    assert re.search(expected, line) and "remove" in line
    with pytest.raises(UserError, match=f"({expected}).*remove"):
        make_source(config_of("tfds:mine").data, str(tmp_path / "out"))


def test_a_file_cut_in_its_last_record(folder, tmp_path):
    run(folder, tmp_path / "out")
    path = tmp_path / "out" / "mine" / "1.0.0" / "mine-train.tfrecord-00002-of-00006"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="one of .*-of-00006 and the 5 other files of its split is"):
        make_source(config_of("tfds:mine").data, str(tmp_path / "out"))


def test_a_lost_plan(folder, tmp_path):
    run(folder, tmp_path / "out")
    (tmp_path / "out" / "mine" / "1.0.0" / "prepare.json").unlink()
    assert "prepare.json is lost; bring it" in run(folder, tmp_path / "out", command=fails)
    with pytest.raises(UserError, match="prepare.json is lost; bring it back, or remove"):
        make_source(config_of("tfds:mine").data, str(tmp_path / "out"))


def test_metadata_that_a_full_disk_has_cut_short(folder, tmp_path, monkeypatch):
    def write(data_dir, **_):
        (epath.Path(data_dir) / "dataset_info.json").write_text("")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tfds.folder_dataset, "write_metadata", write)
        line = run(folder, tmp_path / "out", command=fails)
    assert "No space left on device" in line and "give the same command again" in line
    with pytest.raises(UserError, match="not finished in .*; give the command selfie-tf"):
        make_source(config_of("tfds:mine").data, str(tmp_path / "out"))
    run(folder, tmp_path / "out")
    run(folder, tmp_path / "whole")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_a_damaged_file_is_written_anew_and_a_half_written_one_removed(
    folder, tmp_path, monkeypatch
):
    run(folder, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prepare, "_finish", lambda *_: (_ for _ in ()).throw(Killed))
        run(folder, tmp_path / "out")
    path = next((tmp_path / "out/mine/1.0.0").glob("*train*"))
    path.write_bytes(path.read_bytes()[:100])
    path.with_name(f"{path.name}.99.tmp").write_bytes(b"another process was killed")
    run(folder, tmp_path / "out")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


# Mistakes


def test_a_full_disk(folder, tmp_path):
    Image.fromarray(noise(np.random.default_rng(0), 300, 300)).save(folder / "cat" / "large.jpg")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        line = run(folder, tmp_path / "out", command=fails)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "mine-train.tfrecord-0000" in line and "cannot be written" in line
    assert "give the same command again" in line
    with pytest.raises(UserError, match="not finished"):
        make_source(config_of("tfds:mine").data, str(tmp_path / "out"))
    run(folder, tmp_path / "out")
    run(folder, tmp_path / "whole")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_two_writers(folder, tmp_path):
    os.makedirs(tmp_path / "out" / "mine")
    with filelock.FileLock(tmp_path / "out" / "mine" / ".lock"):
        line = run(folder, tmp_path / "out", command=fails)
    assert f"--output={tmp_path}/out/mine is in use by another prepare" in line
    run(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--quality=50", "quality (95, now 50)"),
        ("--shorter_side=8", "shorter_side (0, now 8)"),
        ("--held_out=3", "splits ({'train': 54"),
        ("--images_per_shard=5", "images_per_shard (10, now 5)"),
    ],
)
def test_an_output_of_other_settings(flag, expected, folder, tmp_path):
    run(folder, tmp_path / "out")
    before = content_of(tmp_path / "out")
    line = run(folder, tmp_path / "out", flag, command=fails)
    assert "other images or settings" in line and expected in line
    assert content_of(tmp_path / "out") == before


def test_an_output_of_other_images(folder, tmp_path):
    run(folder, tmp_path / "out")
    os.remove(folder / "cat" / "30.jpg")
    assert "differs in images (" in run(folder, tmp_path / "out", command=fails)


def test_an_output_of_something_else(folder, tmp_path):
    for place in ("3.0.0/x", "1.0.0/features.json"):
        output = tmp_path / place[0]
        path = output / "mine" / place
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        line = run(folder, output, command=fails)
        assert place.split("/")[place[0] == "1"] in line and "give another --name" in line
        assert path.read_text() == "{}"


@pytest.mark.parametrize("change", ["new", "gone"])
def test_a_folder_that_changes_while_it_is_prepared(change, folder, tmp_path, monkeypatch):
    write = shard_writers.write_shard

    def writing(shard, *args):
        if change == "new" and not (folder / "cat" / "new.jpg").exists():
            Image.new("RGB", (8, 8)).save(folder / "cat" / "new.jpg")
        if change == "gone":
            (folder / "cat" / "30.jpg").unlink(missing_ok=True)
        return write(shard, *args)

    monkeypatch.setattr(shard_writers, "write_shard", writing)
    line = run(folder, tmp_path / "out", command=fails)
    name, counts = {
        "new": ("cat/new.jpg", "1 new images, 0 gone"),
        "gone": ("cat/30.jpg", "0 new images, 1 gone"),
    }[change]
    assert f"{folder} changed while it was prepared: {counts}, such as {name}" in line
    with pytest.raises(UserError, match="not finished"):
        make_source(config_of("tfds:mine").data, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--images="], "--images is missing"),
        (["--name="], "--name is missing"),
        (["--output="], "--output is missing"),
        (["--name=cifar10"], "--name=cifar10 is a dataset of TFDS itself"),
        (["--name=My-Set"], "--name=My-Set: expected"),
        (["--images=nowhere"], "--images=nowhere: no such folder"),
        (["--test_split=holdout"], "--test_split=holdout:"),
        (["--test_labels=x.csv"], "--test_labels needs --labels"),
        (["--quality=0"], "quality"),
        (["--output=/proc/nowhere"], "--output=/proc/nowhere"),
        (["--output=file:///tmp/x"], "--output=file:///tmp/x: give a path without file://"),
        (["--output=\udcff"], "b'--output=\\xff' is not UTF-8"),
        (["--corrupt_budget=nan"], "--corrupt_budget=nan: expected a number"),
    ],
)
def test_flags_that_cannot_work(flags, expected, folder, tmp_path):
    line = run(folder, tmp_path / "out", *flags, command=fails)
    assert expected in line and "data." not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cat ", "\u2028cat", "big\ncat", "big\x85cat", " "])
def test_class_names_that_tfds_cannot_keep(name, folder, tmp_path):
    os.rename(folder / "cat", folder / name)
    line = run(folder, tmp_path / "out", command=fails)
    assert f"the class {name!r}: a name must not" in line and "rename its folder" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "datasets", "train/deep"])
def test_an_output_beside_train_and_test(place, folder):
    os.rename(folder / "cat", folder / "train")
    line = run(folder, folder / place, command=fails)
    assert f"--output={folder / place} lies in {folder}, which holds the folder train" in line
    assert not (folder / place / "mine").exists()


def test_a_name_and_output_that_are_the_folder_of_the_images(folder):
    before = sorted(os.listdir(folder))
    line = run(folder, folder.parent, f"--name={folder.name}", command=fails)
    assert f"{folder} holds something else: {before[0]}" in line and "another --name" in line
    assert sorted(os.listdir(folder)) == before


def test_an_output_in_a_folder_of_classes(folder):
    for _ in range(2):
        assert "54 train, 6 test images, 2 classes" in run(folder, folder / "datasets")


# Labels from lists


def write_list(folder, lines, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes("\n".join(["path,label", *lines]).encode(encoding))
    return path


@pytest.fixture
def lines(folder):
    """Lines for all images but the last; of two classes that are not those of the folders."""
    names = sorted(str(p.relative_to(folder)) for p in folder.glob("*/*.jpg"))
    return [f"{name},{'even' if i % 2 else 'odd'}" for i, name in enumerate(names[:-1])]


def test_a_list_is_enough(folder, lines, tmp_path):
    path = write_list(folder, [*lines[:-1], lines[-1].split(",")[0] + ","])
    out = run("", tmp_path / "out", f"--labels={path}")
    assert "1 images have no label yet" in out
    by_folder, by_name = open_both(folder, tmp_path / "out", labels=str(path))
    assert by_name.class_names == ("even", "odd")
    assert by_name.train_ids() == by_folder.train_ids()
    assert by_name.num_train + by_name.num_held_out == 58
    assert_same(by_name.held_out_images(), by_folder.held_out_images())
    np.testing.assert_array_equal(by_name.train_labels(), by_folder.train_labels())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: ["a.jpg,odd", "b.jpg,odd", *x], "line 2: no such image in the folder: 'a.jpg'"),
        (lambda x: [*x, x[0].replace("odd", "even")], "line 61: 'cat/00.jpg' is labelled 'even'"),
        (lambda x: [line.split(",")[0] for line in x], "no labelled image in it"),
        (lambda x: [line for line in x if "odd" in line], "at least two classes are needed"),
    ],
)
def test_lists_that_cannot_be_used(change, expected, folder, lines, tmp_path):
    path = write_list(folder, change(lines))
    line = run("", tmp_path / "out", f"--labels={path}", command=fails)
    assert f"--labels={path}" in line and expected in line
    assert "data." not in line and "validation_fraction" not in line
    assert not (tmp_path / "out").exists()


def test_a_list_in_another_encoding(folder, lines, tmp_path):
    path = write_list(folder, [*lines, "cat/00.jpg,Hündin"], "latin-1")
    line = run("", tmp_path / "out", f"--labels={path}", command=fails)
    assert f"--labels={path}, line 61: not UTF-8" in line


def test_the_same_row_twice_is_one_image(folder, lines, tmp_path, caplog):
    path = write_list(folder, [*lines, lines[0]])
    with caplog.at_level(logging.INFO):
        run("", tmp_path / "out", f"--labels={path}")
    _, by_name = open_both(folder, tmp_path / "out")
    assert by_name.num_train + by_name.num_held_out == 59


def test_a_list_that_changes_while_it_is_prepared(folder, lines, tmp_path, monkeypatch):
    path, write = write_list(folder, lines), shard_writers.write_shard

    def writing(*args):
        write_list(folder, [lines[0].replace("odd", "even"), *lines[1:]])
        return write(*args)

    monkeypatch.setattr(shard_writers, "write_shard", writing)
    line = run("", tmp_path / "out", f"--labels={path}", command=fails)
    assert (
        f"or --labels={path} changed while it was prepared: other labels; remove {tmp_path}" in line
    )
