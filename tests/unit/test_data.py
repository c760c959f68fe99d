"""Sources, decoding and the input pipeline."""

import contextlib
import io
import os
import socket
import stat

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import op_def_registry

from selfie_tf.config import FinetuneConfig, SelfieConfig
from selfie_tf.data import check_batch_size, crops, make_source, pipeline
from selfie_tf.data import folder as folder_module
from selfie_tf.data.decode import NOT_ORDINARY, decode_jpeg, jpeg_halvings, read_image
from selfie_tf.data.folder import FolderSource, list_images
from selfie_tf.data.source import BatchShard, IndexedSource
from selfie_tf.errors import UserError
from selfie_tf.patches import unpatchify
from selfie_tf.training.run import distribute

from helpers import SHARED, held_out_batches, training_batches

CIFAR = os.path.join(SHARED, "data", "tfds")
PHOTOS = os.path.join(SHARED, "data", "imagenet_sample")
needs_cifar = pytest.mark.skipif(not os.path.isdir(CIFAR), reason=f"no CIFAR-10 in {CIFAR}")
needs_photos = pytest.mark.skipif(not os.path.isdir(PHOTOS), reason=f"no photographs in {PHOTOS}")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def save_colours(path, rng, suffix):
    """40 images of several sizes, flat and nested, each of one colour that tells its number."""
    for i in range(40):
        height, width = rng.integers(20, 60, 2)
        pixels = np.full([height, width, 3], [6 * i, 255 - 6 * i, 50], np.uint8)
        place = [path, path / "a", path / "b" / "c"][i % 3]
        save(place / f"{i:02d}.{suffix}", pixels)
    (path / "notes.txt").write_text("no image")
    return path


@pytest.fixture
def folder(tmp_path, rng):
    return save_colours(tmp_path, rng, "png")


@pytest.fixture(params=["png", "jpg"])
def any_folder(request, tmp_path, rng):
    """Read by Pillow, and by TensorFlow."""
    return save_colours(tmp_path, rng, request.param)


def folder_config(path, image_size=16):
    config = SelfieConfig()
    config.data.name = f"folder:{path}"
    config.data.image_size, config.patches.size, config.data.crop = image_size, 4, "center"
    config.train.batch_size = 12
    config.validate()
    return config


def numbers(batch):
    """The image numbers of a batch from `folder`."""
    return np.round(batch["context_patches"][:, 0, 0, 0, 0] / 6).astype(int)


def as_numpy(dataset, count):
    return [{k: v.numpy() for k, v in x.items()} for x in dataset.take(count)]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected):
        for name, value in other.items():
            np.testing.assert_array_equal(batch[name], value, err_msg=name)


# Decoding


def test_modes_become_rgb(tmp_path, rng):
    grey = rng.integers(0, 256, [6, 5], dtype=np.uint8)
    rgb = rng.integers(0, 256, [6, 5, 3], dtype=np.uint8)
    repeated = np.repeat(grey[..., None], 3, -1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    for kind in ("png", "bmp", "webp", "tiff"):
        Image.fromarray(rgb).save(tmp_path / f"rgb.{kind}", lossless=True)
    Image.fromarray(rgb).save(tmp_path / "lossy.webp")
    assert read_image(str(tmp_path / "lossy.webp")).shape == (6, 5, 3)
    alpha = np.concatenate([rgb, np.zeros([6, 5, 1], np.uint8)], -1)
    alpha[0, 0, 3] = 255
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for name, expected in [
        ("grey.png", repeated),
        ("grey16.png", repeated),
        ("palette.gif", repeated),
        ("rgb.png", rgb),
        ("rgb.bmp", rgb),
        ("rgb.webp", rgb),
        ("rgb.tiff", rgb),
    ]:
        image = read_image(str(tmp_path / name))
        assert image.dtype == np.uint8, name
        np.testing.assert_array_equal(image, expected, err_msg=name)
    blended = read_image(str(tmp_path / "alpha.png"))
    np.testing.assert_array_equal(blended[0, 0], rgb[0, 0])
    assert (blended.reshape(-1, 3)[1:] == 255).all()  # transparency shows white


def test_16_bit_scales_and_does_not_clip(tmp_path):
    Image.fromarray(np.array([[0, 1000, 30_000, 65_535]], np.uint16)).save(tmp_path / "x.png")
    assert read_image(str(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 4, 117, 255]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    red = read_image(str(tmp_path / "x.jpg"))[4, 4]
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_exif_rotation_is_applied(tmp_path, rng):
    pixels = np.zeros([8, 16, 3], np.uint8)
    pixels[:, :8] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    image = read_image(str(tmp_path / "x.png"))
    assert image.shape == (16, 8, 3)
    assert image[:8].min() == 255 and image[8:].max() == 0


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (6, 6), shade) for shade in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(str(tmp_path / "x.gif"))[0, 0].tolist() == [10, 10, 10]


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (3000, 3000)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="3000x3000 is over 1000000 pixels"):
        read_image(str(tmp_path / "x.png"), max_pixels=1_000_000)


def test_a_shrunken_jpeg_keeps_its_least_side(tmp_path, rng):
    Image.new("RGB", (1600, 800), (200, 30, 30)).save(tmp_path / "x.jpg")
    image = read_image(str(tmp_path / "x.jpg"), min_side=100)
    assert 100 <= image.shape[0] < 800
    np.testing.assert_allclose(image.mean((0, 1)), [200, 30, 30], atol=3)


def encode(image, **options):
    content = io.BytesIO()
    image.save(content, "JPEG", **options)
    return content.getvalue()


def photograph(rng, width, height):
    """Not flat, not symmetric, with edges and noise."""
    small = Image.fromarray(rng.integers(0, 256, [height // 9, width // 7, 3], dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int64)
    return Image.fromarray(
        np.clip(pixels + rng.integers(-9, 9, pixels.shape), 0, 255).astype(np.uint8)
    )


@pytest.mark.parametrize("min_side", [0, 20, 24, 90, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 50},
        {"quality": 92, "subsampling": 0},
        {"subsampling": 1, "restart_marker_blocks": 3},
        {"subsampling": 2, "progressive": True},
        {"keep_rgb": True},
        {"mode": "L"},
        {"mode": "L", "progressive": True},
    ],
)
def test_tensorflow_shows_a_jpeg_as_pillow_does(options, min_side, tmp_path, rng):
    options = dict(options)
    image = photograph(rng, 251, 187).convert(options.pop("mode", "RGB"))
    content = encode(image, **options)
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    expected = read_image(str(path), min_side=min_side)
    halvings = jpeg_halvings(str(path), min_side=min_side)
    assert halvings == {0: 0, 20: 3, 24: 2, 90: 1, 1000: 0}[min_side]
    shown = tf.function(decode_jpeg)(tf.constant(content), tf.constant(halvings))
    np.testing.assert_array_equal(shown, expected)  # the same libjpeg-turbo: no tolerance


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def unordinary(rng):
    """Files called .jpg that only Pillow reads right, by name."""
    image = photograph(rng, 48, 36)
    png = io.BytesIO()
    image.save(png, "PNG")
    return {
        "rotated": encode(image, exif=exif(6)),
        "mirrored": encode(image, exif=exif(2)),
        "cmyk": encode(image.convert("CMYK")),
        "png": png.getvalue(),
        "padded": encode(image)[:-2] + bytes(4096),  # TensorFlow wants the end of image
    }


def test_what_is_not_an_ordinary_jpeg(tmp_path, rng):
    path = tmp_path / "x.jpg"
    for name, content in unordinary(rng).items():
        path.write_bytes(content)
        assert jpeg_halvings(str(path)) == (0 if name == "padded" else NOT_ORDINARY), name
    image = photograph(rng, 48, 36)
    path.write_bytes(encode(image, exif=exif(1)))
    assert jpeg_halvings(str(path)) == 0
    assert jpeg_halvings(str(path), max_pixels=48 * 36 - 1) == NOT_ORDINARY
    path.write_bytes(encode(image)[:200])
    assert jpeg_halvings(str(path)) == NOT_ORDINARY
    replace(path, "FIFO")
    assert jpeg_halvings(str(path)) == NOT_ORDINARY


def replace(path, kind):
    """Puts something that is no regular file where an image was."""
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's whole path has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "dangling link":
        path.symlink_to(path.parent / "nothing.png")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "device":
        if os.getuid():
            pytest.skip("making a device takes root")
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: it never ends
        except PermissionError:
            pytest.skip("no devices may be made here")


SPECIAL = {
    "FIFO": "a FIFO, not a regular file",
    "socket": "a socket, not a regular file",
    "device": "a device, not a regular file",
    "link to a device": "a device, not a regular file",
    "link to itself": "a link that leads nowhere: Too many levels of symbolic links",
    "dangling link": "a link that leads nowhere: No such file or directory",
    "folder": "a folder, not a regular file",
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read(kind, tmp_path):
    save(tmp_path / "x.png", np.zeros([8, 8, 3], np.uint8))
    replace(tmp_path / "x.png", kind)
    with pytest.raises(ValueError, match=SPECIAL[kind]):
        read_image(str(tmp_path / "x.png"))


def test_a_fifo_that_takes_a_files_name_before_it_is_opened_is_not_waited_for(
    tmp_path, monkeypatch
):
    save(tmp_path / "x.png", np.zeros([8, 8, 3], np.uint8))
    status = os.stat

    def stat_and_replace(path):
        found = status(path)
        replace(tmp_path / "x.png", "FIFO")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat_and_replace)
        with pytest.raises(ValueError, match="a FIFO, not a regular file"):
            read_image(str(tmp_path / "x.png"))


# Sources


def test_every_image_once_an_epoch_in_another_order_each_time(folder):
    config = folder_config(folder)
    source = make_source(config.data)
    assert (source.num_train, source.num_held_out) == (36, 4)
    seen = [numbers(b) for b in as_numpy(training_batches(source, config), 9)]
    epochs = np.concatenate(seen).reshape(3, 36).tolist()
    held_out = [
        n for b in as_numpy(held_out_batches(source, config, 4, 4), 1) for n in numbers(b).tolist()
    ]
    for epoch in epochs:
        assert sorted([*epoch, *held_out]) == list(range(40))
    assert epochs[0] != epochs[1] != epochs[2]
    config.train.seed = 1
    other = [numbers(b) for b in as_numpy(training_batches(source, config), 3)]
    assert np.concatenate(other).tolist() != epochs[0]


def test_train_and_test_folders_are_used_as_such(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    os.rename(folder / "a", root / "train")
    os.rename(folder / "b", root / "val")
    source = make_source(folder_config(root).data)
    assert (source.num_train, source.num_held_out) == (13, 13)


def test_a_hidden_folder_beside_train_and_test_changes_nothing(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    os.rename(folder / "a", root / "train")
    os.rename(folder / "b", root / "test")
    for name in (".git", "__MACOSX"):
        (root / name).mkdir()
    assert make_source(folder_config(root).data).num_train == 13


@pytest.mark.parametrize("count, expected", [(3, (2, 1)), (25, (23, 2)), (800, (736, 64))])
def test_held_out_images_are_never_training_images(count, expected, tmp_path):
    for i in range(count):
        (tmp_path / f"{i}.png").write_bytes(b"")  # not read yet
    source = FolderSource(str(tmp_path), 64, 0, 0.001, 10**8)
    assert (source.num_train, source.num_held_out) == expected
    assert not set(source.train_ids()) & set(source.held_out_ids())


def test_one_image_is_too_few(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match="one image in it"):
        FolderSource(str(tmp_path), 64, 0, 0.001, 10**8)


def test_the_fingerprint_changes_with_the_files(folder):
    before = make_source(folder_config(folder).data).fingerprint
    assert make_source(folder_config(folder).data).fingerprint == before
    os.rename(folder / "a" / "01.png", folder / "a" / "x.png")
    assert make_source(folder_config(folder).data).fingerprint != before


@pytest.mark.parametrize(
    "budget, expected", [(0.0, "of 40 images are unreadable"), (1.0, "none of 36 images")]
)
def test_when_no_image_is_readable(budget, expected, any_folder):
    config = folder_config(any_folder)
    config.data.corrupt_budget = budget
    source = make_source(config.data)
    for path in list_images(str(any_folder)):
        with open(path, "wb") as file:
            file.write(b"not an image")
    with pytest.raises(tf.errors.OpError):
        as_numpy(training_batches(source, config), 1)
    assert expected in str(source.failure)


def test_a_class_named_train_is_a_class(tmp_path):
    for name in ("bus", "train"):
        for i in range(10):
            save(tmp_path / name / f"{i}.png", np.zeros([8, 8, 3], np.uint8))
    assert make_source(folder_config(tmp_path).data).num_train == 18


def test_other_files_hidden_files_and_loops_are_passed_over(folder, caplog):
    (folder / ".hidden.png").write_bytes(b"")
    os.symlink(folder, folder / "a" / "loop")
    caplog.set_level("INFO")
    assert len(list_images(str(folder))) == 40
    assert "1 .txt" in caplog.text


def test_corrupt_images_are_skipped_within_the_budget_and_named_once(any_folder, caplog):
    config = folder_config(any_folder)
    whole = as_numpy(training_batches(make_source(config.data), config), 6)
    (victim,) = any_folder.glob("a/01.*")
    assert any(1 in numbers(b) for b in whole)  # it is a training image
    victim.write_bytes(victim.read_bytes()[:60])
    config.data.corrupt_budget = 0.03
    batches = as_numpy(training_batches(make_source(config.data), config), 6)
    assert not any(1 in numbers(b) for b in batches)
    assert caplog.text.count(str(victim)) >= 1
    assert sum(str(victim) in record.getMessage() for record in caplog.records) == 1
    same = np.concatenate([numbers(b) for b in whole]) == np.concatenate(
        [numbers(b) for b in batches]
    )
    assert same.sum() == same.size - 2  # nothing else moved


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "folder"])
def test_files_that_are_not_regular_are_corrupt_images(kind, any_folder, caplog):
    config = folder_config(any_folder)
    whole = as_numpy(training_batches(make_source(config.data), config), 3)
    (victim,) = any_folder.glob("a/01.*")
    replace(victim, kind)
    config.data.corrupt_budget = 0.03
    source = make_source(config.data)
    batches = as_numpy(training_batches(source, config), 3)
    seen = [np.concatenate([numbers(b) for b in x]) for x in (whole, batches)]
    assert (seen[0] != seen[1]).sum() == 1 and seen[0][seen[0] != seen[1]] == 1
    assert [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()] == [
        f"skipped unreadable image {victim} ({SPECIAL[kind]})"
    ]
    config.data.corrupt_budget = 0
    source = make_source(config.data)
    with pytest.raises(tf.errors.OpError):
        as_numpy(training_batches(source, config), 3)
    assert f"{victim} ({SPECIAL[kind]})" in str(source.failure)


@pytest.fixture
def jpegs(tmp_path, rng):
    """A folder of 30 ordinary JPEGs and five that only Pillow reads right."""
    for i in range(30):
        image = photograph(rng, *rng.integers(30, 60, 2))
        (tmp_path / f"{i:02d}.jpg").write_bytes(encode(image, quality=int(rng.integers(60, 99))))
    for name, content in unordinary(rng).items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    return tmp_path


def epochs_of(source, count=1):
    """The training images as lists, one per epoch."""
    images = source.train_images(0, 0, BatchShard(1)).take(count * source.num_train)
    images = [image.numpy() for _, image, _ in images]
    return [images[i : i + source.num_train] for i in range(0, len(images), source.num_train)]


def assert_same_images(images, expected):
    """Whatever their order."""
    assert sorted(x.tobytes() for x in images) == sorted(x.tobytes() for x in expected)


def recorded(monkeypatch, name):
    """The files that a function of `data.folder` is called with from now on."""
    called, function = [], getattr(folder_module, name)

    def record(path, *options):
        called.append(os.path.basename(path))
        return function(path, *options)

    monkeypatch.setattr(folder_module, name, record)
    return called


def test_python_reads_only_what_is_no_ordinary_jpeg_and_keeps_what_headers_say(jpegs, monkeypatch):
    looked, read = recorded(monkeypatch, "jpeg_halvings"), recorded(monkeypatch, "read_image")
    source = FolderSource(str(jpegs), 1, 0, 0, 10**8)
    expected = [read_image(str(jpegs / name)) for name in source.train_ids()]
    for images in epochs_of(source, 3):
        assert_same_images(images, expected)
    assert set(looked) == set(source.train_ids())
    # In the first epochs two threads may look at a file at once. Later none does.
    looked.clear()
    epochs_of(source)
    assert not looked
    others = {name for name in source.train_ids() if not name[0].isdigit()}
    assert len(others) >= 4 and set(read) == others
    list(source.each_image(held_out=False))  # by Pillow: says nothing of TensorFlow
    # TensorFlow does not try again what it has refused, as "padded".
    ordinary = source._halvings[: source.num_train] >= 0
    assert {name for name, is_one in zip(source.train_ids(), ordinary) if not is_one} == others


def test_no_function_of_a_folder_keeps_state(jpegs):
    """With op determinism such a function would make the whole input run without parallelism."""
    images = FolderSource(str(jpegs), 1, 0, 0, 10**8).train_images(0, 0, BatchShard(1))
    library = graph_pb2.GraphDef.FromString(images._as_serialized_graph().numpy()).library
    ops = {node.op for function in library.function for node in function.node_def}
    keeping = {op for op in ops if op_def_registry.get(op).is_stateful}
    assert "PyFuncStateless" in ops and keeping <= {"RangeDataset"}  # which is let through


def test_a_jpeg_that_breaks_off_is_a_corrupt_image(jpegs, caplog):
    source = FolderSource(str(jpegs), 1, 0, 0.1, 10**8)
    (whole,) = epochs_of(source)
    name = next(name for name in source.train_ids() if name[0].isdigit())
    image = read_image(str(jpegs / name)).tobytes()
    content = (jpegs / name).read_bytes()
    (jpegs / name).write_bytes(content[: len(content) // 2 + 300])
    assert jpeg_halvings(str(jpegs / name)) == 0  # its header is whole
    for known in (source, FolderSource(str(jpegs), 1, 0, 0.1, 10**8)):
        (images,) = epochs_of(known)
        same = [x.tobytes() == y.tobytes() for x, y in zip(images, whole, strict=True)]
        assert same.count(False) == 1 and whole[same.index(False)].tobytes() == image
        assert list(known._corrupt) == [str(jpegs / name)]
    assert "image file is truncated" in caplog.text
    source = FolderSource(str(jpegs), 1, 0, 0, 10**8)
    with pytest.raises(tf.errors.OpError):
        epochs_of(source)
    assert str(jpegs / name) in str(source.failure)


def test_a_jpeg_that_becomes_a_fifo_before_it_is_read_is_not_waited_for(jpegs):
    source = FolderSource(str(jpegs), 1, 0, 0.1, 10**8)
    name = next(name for name in source.train_ids() if name[0].isdigit())
    replace(jpegs / name, "FIFO")
    (images,) = epochs_of(source)
    assert len(images) == source.num_train
    assert source._corrupt == {str(jpegs / name): "a FIFO, not a regular file"}


def test_a_folder_named_like_an_image_is_a_folder(folder):
    os.rename(folder / "a", folder / "a.png")
    assert len(list_images(str(folder))) == 40


def test_links_back_up_are_followed_once(folder):
    for name in ("x", "y"):  # 2^40 paths, if each were followed until the system refuses
        os.symlink(folder, folder / "a" / name)
    assert len(list_images(str(folder))) == 40


def test_a_file_name_that_is_not_utf8(folder):
    with open(os.fsencode(folder) + b"/a/\xff.png", "wb"):
        pass
    with pytest.raises(UserError, match=r"/a': a name in it is not UTF-8 \(b'\\xff.png'\); rename"):
        list_images(str(folder))


def test_too_many_corrupt_images_are_an_error_naming_the_last(any_folder):
    config = folder_config(any_folder)
    source = make_source(config.data)
    for path in list_images(str(any_folder))[:20]:
        with open(path, "wb") as file:
            file.write(b"not an image")
    with pytest.raises(tf.errors.OpError):
        as_numpy(training_batches(source, config), 6)
    assert isinstance(source.failure, UserError)
    message = str(source.failure)
    assert any_folder.name in message and "data.corrupt_budget" in message and "\n" not in message


def test_images_that_another_thread_found_unreadable_count_as_well(any_folder):
    source = make_source(folder_config(any_folder).data)
    for path in list_images(str(any_folder)):
        source._corrupt[path] = "truncated"
        os.truncate(path, 60)
    with pytest.raises(tf.errors.OpError):
        list(source.held_out_images())
    assert "data.corrupt_budget" in str(source.failure)


def test_after_too_many_no_more_unreadable_images_are_named(any_folder, caplog):
    """Other threads may still read some when the command prints its error."""
    source = make_source(folder_config(any_folder).data)
    for name in ("one", "one", "two"):
        with contextlib.suppress(UserError):
            source._count(name, ValueError("truncated"))
    assert caplog.text.count("image one") == 1 and source.failure is not None
    with pytest.raises(UserError):
        source._count("three", ValueError("truncated"))
    assert "three" not in caplog.text


@pytest.mark.parametrize("make_folder, expected", [(False, "no such folder"), (True, "no images")])
def test_folders_without_images(tmp_path, make_folder, expected):
    path = tmp_path / "x"
    if make_folder:
        path.mkdir()
        (path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=expected):
        FolderSource(str(path), 64, 0, 0.001, 10**8)


def test_fewer_images_than_a_batch(folder):
    config = folder_config(folder)
    config.train.batch_size = 37
    with pytest.raises(UserError, match="36 images to train on.*batch_size=32$"):
        check_batch_size(config, make_source(config.data))


def test_remote_tpu_hosts_read_from_gcs_only():
    config = SelfieConfig()
    for name in ("tfds:cifar10", "folder:/tmp"):
        config.data.name = name
        with pytest.raises(UserError, match="gs://"):
            make_source(config.data, data_dir="/data", remote=True)


# Pipeline


@pytest.fixture(params=["shapes", pytest.param("tfds", marks=needs_cifar), "png", "jpg"])
def any_source(request, tmp_path, rng):
    """A source of each kind, and a config that names it."""
    config = SelfieConfig()
    config.data.name, data_dir = {
        "shapes": ("builtin:shapes", ""),
        "tfds": ("tfds:cifar10", CIFAR),
    }.get(request.param, (f"folder:{tmp_path}", ""))
    if "folder" in config.data.name:
        save_colours(tmp_path, rng, request.param)
    config.data.shuffle_buffer = 1000
    return make_source(config.data, data_dir), config


def test_a_step_has_the_same_batch_whatever_step_the_input_starts_at(any_source):
    source, config = any_source
    # An epoch ends within these 16 steps, except TFDS's.
    config.train.batch_size = {"builtin:shapes": 384}.get(config.data.name, 36)
    whole = as_numpy(training_batches(source, config), 16)
    for start in (0, 13, 15):
        tf.random.set_seed(start)  # of no consequence; 0 once made shuffling fail
        part = as_numpy(training_batches(source, config, start), 16 - start)
        assert_same(part, whole[start:])
    config.train.seed = 1
    other = as_numpy(training_batches(source, config), 1)[0]
    assert (other["target_positions"] != whole[0]["target_positions"]).any()
    assert (other["target_patches"] != whole[0]["target_patches"]).any()


def test_some_held_out_images_are_read_as_in_the_order_of_all(any_source):
    source, _ = any_source
    part = source.select(np.arange(3))  # what finetuning on few labels evaluates on
    wanted = np.array([1, source.num_held_out - 1])
    everything = {int(i): (image, label) for i, image, label in source.held_out_images()}
    for images in (source.held_out_at(wanted), part.held_out_at(wanted)):
        found = list(images)
        assert [int(index) for index, *_ in found] == wanted.tolist()
        for index, image, label in found:
            np.testing.assert_array_equal(image, everything[int(index)][0])
            assert label == everything[int(index)][1]


def test_pipelines_of_two_workers_yield_the_halves_of_each_batch(any_source):
    source, config = any_source
    config.train.batch_size = 24
    whole = as_numpy(training_batches(source, config, 3), 2)
    for first in (0, 12):
        rows = BatchShard(24, first, 12)
        halves = as_numpy(training_batches(source, config, 3, rows, batch_size=6), 4)
        for i, part in enumerate(halves):
            begin = first + 6 * (i % 2)
            expected = {k: v[begin : begin + 6] for k, v in whole[i // 2].items()}
            assert_same([part], [expected])


class Recorder(IndexedSource):
    """Whose images are read by Python, which notes which."""

    def __init__(self, train, held_out):
        super().__init__(np.arange(train), np.arange(held_out))
        self.read = []

    def _load(self, items, index):
        def load(i):
            self.read.append(int(i))
            return np.full([16, 16, 3], i, np.uint8)

        return tf.ensure_shape(tf.numpy_function(load, [index], tf.uint8), [16, 16, 3]), index


def parts_of(workers, make_dataset, config):
    """What each of several workers gets from `training.distributed`, in one process."""

    class Strategy:
        num_replicas_in_sync = workers

        def distribute_datasets_from_function(self, function):
            context = tf.distribute.InputContext
            return [function(context(workers, i, workers)) for i in range(workers)]

    return distribute(config, Strategy(), make_dataset)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_together_workers_see_each_image_once_an_epoch(workers, tiny_config):
    source = Recorder(48, 1)  # three batches of 16
    datasets = parts_of(
        workers,
        lambda rows, size: training_batches(source, tiny_config, 3, rows, size),
        tiny_config,
    )
    seen = []
    for dataset in datasets:
        batches = as_numpy(dataset, 3)
        assert all(len(batch["context_patches"]) == 16 // workers for batch in batches)
        seen += [int(i) for batch in batches for i in batch["context_patches"].max((1, 2, 3, 4))]
    assert sorted(seen) == list(range(48))


@pytest.mark.parametrize("workers, held_out", [(1, 20), (2, 20), (4, 20), (4, 17), (4, 32), (2, 3)])
def test_workers_evaluate_each_image_once_and_decode_no_other_workers(
    workers, held_out, tiny_config
):
    config = FinetuneConfig()
    config.data.image_size, config.train.batch_size = 16, 16
    source = Recorder(1, held_out)
    datasets = parts_of(
        workers, lambda rows, size: pipeline.evaluation_batches(source, config, rows, size), config
    )
    read, lengths, fillers = [], set(), 0
    for dataset in datasets:
        source.read = []
        batches = list(dataset)
        lengths.add(len(batches))
        assert all(images.shape == [16 // workers, 16, 16, 3] for images, _ in batches)
        shown = [int(i) for images, _ in batches for i in images.numpy().max((1, 2, 3))]
        fillers += sum(not i for i in shown) - (0 in source.read)
        assert sorted(source.read) == sorted(set(source.read))
        assert set(shown) - {0} == set(source.read) - {0}
        read += source.read
    assert sorted(read) == list(range(held_out))
    assert lengths == {-(-held_out // 16)} and fillers == -held_out % 16


def test_batches_are_static_and_uint8(tiny_config):
    tiny_config.train.batch_size = 5
    source = make_source(tiny_config.data)
    spec = training_batches(source, tiny_config).element_spec
    assert {k: (tuple(s.shape), s.dtype) for k, s in spec.items()} == {
        "context_patches": ((5, 12, 4, 4, 3), tf.uint8),
        "context_positions": ((5, 12), tf.int32),
        "target_patches": ((5, 4, 4, 4, 3), tf.uint8),
        "target_positions": ((5, 4), tf.int32),
    }


def test_every_image_of_a_batch_has_a_split_of_its_own(tiny_config):
    source = make_source(tiny_config.data)
    batch = as_numpy(training_batches(source, tiny_config), 1)[0]
    both = np.concatenate([batch["context_positions"], batch["target_positions"]], 1)
    assert (np.sort(both, 1) == np.arange(16)).all()
    assert len({tuple(sorted(row)) for row in batch["target_positions"]}) > 8


def test_an_images_crop_and_split_differ_from_epoch_to_epoch(tiny_config):
    source = IndexedSource(tf.ones([16, 16, 16, 3], tf.uint8), tf.ones([1, 16, 16, 3], tf.uint8))
    first, second = as_numpy(training_batches(source, tiny_config), 2)
    assert (first["target_positions"] != second["target_positions"]).any()
    assert first["context_patches"].sum() != second["context_patches"].sum()


def test_held_out_images_are_cropped_or_not(tiny_config):
    source = make_source(tiny_config.data)
    for crop in (True, False):
        batches = held_out_batches(source, tiny_config, 64, 64, crop)
        batch = as_numpy(batches, 1)[0]
        black = (batch["context_patches"] == 0).all(-1).any((1, 2, 3))
        assert black.mean() > 0.9 if crop else black.mean() < 0.1


def test_held_out_batches_do_not_depend_on_the_seed(tiny_config):
    source = make_source(tiny_config.data)
    before = as_numpy(held_out_batches(source, tiny_config, 8, 20), 9)
    tiny_config.train.seed = 5
    after = as_numpy(held_out_batches(source, tiny_config, 8, 20), 9)
    assert [len(b["target_positions"]) for b in before] == [8, 8, 4]
    assert_same(after, before)


@pytest.mark.parametrize(
    "mode, options",
    [
        ("zeros", {"constant_values": 0}),
        ("mean", {"constant_values": 128}),
        ("reflect", {"mode": "reflect"}),
    ],
)
def test_pad_and_crop_shifts_and_fills(mode, options, rng):
    image = rng.integers(1, 256, [8, 8, 3], dtype=np.uint8)
    padded = np.pad(image, [[2, 2], [2, 2], [0, 0]], **options)
    windows = {padded[y : y + 8, x : x + 8].tobytes(): (y, x) for y in range(5) for x in range(5)}
    found = set()
    for seed in range(200):
        result = crops.pad_and_crop(tf.constant(image), 2, [0, seed], mode).numpy()
        found.add(windows[result.tobytes()])
    assert len(found) == 25


def test_enlarged_images_have_no_margin_and_the_same_offsets():
    """A ramp from 40 to 215 from left to right, enlarged from 8 to 12 pixels."""
    image = np.full([8, 8, 3], 40 + 25 * np.arange(8)[None, :, None], np.uint8)
    centers = (np.arange(12) + 0.5) * 8 / 12 - 0.5  # of the enlarged pixels, in pixels of the image
    enlarged = np.interp(centers, np.arange(8), image[0, :, 0])
    for seed in range(20):
        result = crops.pad_and_crop(tf.constant(image), 2, [0, seed], "enlarge").numpy()
        zeros = crops.pad_and_crop(tf.constant(image), 2, [0, seed]).numpy()[4, :, 0]
        left = 2 - (zeros[:4] == 0).sum() + (zeros[4:] == 0).sum()  # offset of the crop
        expected = np.broadcast_to(enlarged[left : left + 8, None], [8, 8, 3])
        np.testing.assert_allclose(result, expected, atol=0.51)


def test_the_pad_mode_of_the_config_is_taken(rng):
    image = tf.constant(rng.integers(1, 256, [32, 32, 3], dtype=np.uint8))
    config = SelfieConfig()
    for mode in ("zeros", "mean", "reflect", "enlarge"):
        config.data.pad_mode = mode
        expected = crops.pad_and_crop(image, config.patches.pad, [3, 7], mode)
        np.testing.assert_array_equal(crops.training_image(image, config, [3, 7]), expected)


def test_resize_and_center_takes_the_middle():
    image = np.zeros([10, 30, 3], np.uint8)
    image[:, 10:20] = 200
    square = crops.resize_and_center(tf.constant(image), 5)
    assert square.shape == (5, 5, 3) and (square.numpy() == 200).all()


def test_resize_and_center_keeps_the_pixels_of_a_square_that_has_the_size(rng):
    """In tf.data, where only the run knows the size of an image."""
    images = [rng.integers(0, 256, [8, width, 3], np.uint8) for width in (8, 12)]
    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: images, output_signature=spec)
    squares = list(dataset.map(lambda image: crops.resize_and_center(image, 8)))
    np.testing.assert_array_equal(squares[0], images[0])
    np.testing.assert_array_equal(squares[1], images[1][:, 2:10])


def test_random_resized_crop_keeps_area_and_aspect_in_bounds(rng):
    """Each pixel holds its own row and column, so the crop can be read off the result."""
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    areas = []
    for seed in range(60):
        crop = crops.random_resized_crop(tf.constant(image), 50, 0.3, [1, seed]).numpy()
        assert crop.shape == (50, 50, 3)
        height = int(crop[-1, 0, 0]) - int(crop[0, 0, 0]) + 4
        width = int(crop[0, -1, 1]) - int(crop[0, 0, 1]) + 4
        areas.append(height * width / 200**2)
        assert 0.70 < width / height < 1.42
    assert 0.25 < min(areas) < 0.5 and max(areas) > 0.7


def test_crops_are_chosen_by_the_config(folder):
    config = folder_config(folder)
    source = make_source(config.data)
    for crop in ("pad", "random_resized", "center"):
        config.data.crop = crop
        batch = as_numpy(training_batches(source, config), 1)[0]
        whole = np.concatenate([batch["context_patches"], batch["target_patches"]], 1)
        black = (unpatchify(tf.constant(whole), 4).numpy() == 0).all(-1).any()
        assert black == (crop == "pad")


# Labels


@pytest.fixture
def classes(tmp_path):
    """Train and test folders of two classes; an image's colour tells its class and number."""
    for split, count in (("train", 30), ("test", 8)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                pixels = np.full([20, 20, 3], [100 * label + i, 0, 7], np.uint8)
                save(tmp_path / split / name / "deep" / f"{i:02d}.png", pixels)
    return tmp_path


def labels_seen(dataset):
    """[(red value, label)]"""
    return [(int(image[0, 0, 0]), int(label)) for _, image, label in dataset]


def test_class_folders_are_labels(classes):
    source = make_source(folder_config(classes).data)
    assert source.class_names == ("cat", "dog") and not source.no_labels
    pairs = labels_seen(source.train_images(0, 0, BatchShard(60)).take(60))
    assert sorted(value for value, _ in pairs) == [*range(30), *range(100, 130)]
    assert all(label == value // 100 for value, label in pairs)
    held_out = labels_seen(source.held_out_images())
    assert len(held_out) == 16 and all(label == value // 100 for value, label in held_out)
    assert source.train_ids()[0] == "train/cat/deep/00.png"
    assert source.train_labels().tolist() == [0] * 30 + [1] * 30


def test_an_unreadable_image_gives_way_with_its_label(classes):
    for path in sorted((classes / "train" / "cat" / "deep").iterdir()):
        path.write_bytes(b"nothing")
    config = folder_config(classes)
    config.data.corrupt_budget = 0.9
    pairs = labels_seen(make_source(config.data).train_images(0, 0, BatchShard(60)).take(60))
    assert len(pairs) == 60 and all(value >= 100 and label == 1 for value, label in pairs)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("train/x.png", "x.png lies in no class folder"),
        ("test/cow/x.png", "x.png is of a class that has no training images"),
    ],
)
def test_folders_that_give_no_labels(path, expected, classes):
    save(classes / path, np.zeros([8, 8, 3], np.uint8))
    source = make_source(folder_config(classes).data)
    assert expected in source.no_labels and source.class_names == ()
    assert {
        label for _, label in labels_seen(source.train_images(0, 0, BatchShard(12)).take(9))
    } == {-1}


def test_one_class_is_none(tmp_path):
    for i in range(20):
        save(tmp_path / "cat" / f"{i}.png", np.zeros([8, 8, 3], np.uint8))
    assert "all images are of one class, cat" in make_source(folder_config(tmp_path).data).no_labels


def test_the_test_folder_can_be_named(classes):
    os.rename(classes / "test", classes / "mine")
    config = folder_config(classes)
    config.data.test_split = "mine"
    source = make_source(config.data)
    assert (source.num_train, source.num_held_out) == (60, 16)
    config.data.test_split = "test"
    with pytest.raises(UserError, match="data.test_split=test: .* but mine, train"):
        make_source(config.data)


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_other_names_of_the_test_folder(name, classes):
    os.rename(classes / "test", classes / name)
    source = make_source(folder_config(classes).data)
    assert source.class_names == ("cat", "dog") and source.num_held_out == 16


def test_a_folder_beside_train_and_test_must_be_explained(classes):
    save(classes / "unlabelled" / "x.png", np.zeros([8, 8, 3], np.uint8))
    config = folder_config(classes)
    with pytest.raises(UserError, match="holds unlabelled beside train and test; .*test_split"):
        make_source(config.data)
    config.data.test_split = "test"
    assert make_source(config.data).num_train == 60


def test_a_test_folder_without_images(classes):
    for path in (classes / "test").rglob("*.png"):
        path.unlink()
    config = folder_config(classes)
    source = make_source(config.data)
    assert source.num_held_out == 6 and source.class_names == ("cat", "dog")
    config.data.test_split = "test"
    with pytest.raises(UserError, match="data.test_split=test: no images in"):
        make_source(config.data)


def test_hidden_folders_are_no_classes(classes):
    for name in (".ipynb_checkpoints", "__MACOSX"):
        save(classes / "train" / name / "x.png", np.zeros([8, 8, 3], np.uint8))
    assert make_source(folder_config(classes).data).class_names == ("cat", "dog")


def test_one_more_file_hardly_changes_what_is_held_out(tmp_path):
    for i in range(400):
        (tmp_path / f"{i}.png").write_bytes(b"")
    before = set(FolderSource(str(tmp_path), 30, 0, 0.001, 10**8).held_out_ids())
    (tmp_path / "new.png").write_bytes(b"")
    after = set(FolderSource(str(tmp_path), 30, 0, 0.001, 10**8).held_out_ids())
    assert len(before) == len(after) == 30 and len(before & after) >= 29


def test_a_jpeg_is_not_shrunk_below_what_the_test_crop_needs(tmp_path, rng):
    for name in ("a", "b"):
        for i in range(10):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (512, 512), (9, 9, 9)).save(tmp_path / name / f"{i}.jpg")
    config = finetune_config(tmp_path, test_crop=0.25, crop="center")
    shape = next(iter(make_source(config.data).held_out_images()))[1].shape
    assert 64 <= shape[0] <= 128  # 16 / 0.25, rounded up to what the decoder offers


def test_built_in_images_have_labels():
    from selfie_tf.data import synthetic

    config = SelfieConfig()
    config.data.name = "builtin:shapes"
    source = make_source(config.data)
    images, labels = synthetic.draw_shapes(
        np.arange(synthetic.NUM_TRAIN, synthetic.NUM_TRAIN + 9), 32
    )
    for (_, image, label), expected, wanted in zip(source.held_out_images(), images, labels):
        np.testing.assert_array_equal(image, expected)
        assert label == wanted
    config.data.test_split = "validation"
    with pytest.raises(UserError, match="data.test_split=validation"):
        make_source(config.data)


def finetune_config(path, **values):
    config = FinetuneConfig()
    config.data.name, config.data.image_size = f"folder:{path}", 16
    config.patches.size, config.train.batch_size = 4, 12
    for key, value in values.items():
        setattr(config.data, key, value)
    config.validate()
    return config


def pairs_of(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def test_labelled_batches_can_be_asked_for_from_any_step_and_by_rows(classes):
    config = finetune_config(classes)
    source = make_source(config.data)
    whole = pairs_of(pipeline.labelled_batches(source, config), 12)
    for start in (3, 7):
        part = pairs_of(pipeline.labelled_batches(source, config, start), 12 - start)
        for (x, y), (image, label) in zip(part, whole[start:], strict=True):
            np.testing.assert_array_equal(x, image)
            np.testing.assert_array_equal(y, label)
    half = pairs_of(pipeline.labelled_batches(source, config, 2, BatchShard(12, 6, 6), 3), 2)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in half]), whole[2][0][6:])
    images, labels = whole[0]
    assert images.shape == (12, 16, 16, 3) and images.dtype == np.uint8
    assert (labels == images[:, 8, 8, 0] // 100).all()


def test_half_of_the_images_are_mirrored_where_the_config_says(tmp_path):
    pixels = np.zeros([16, 16, 3], np.uint8)
    pixels[:, :8] = 200
    source = IndexedSource(tf.constant(pixels[None]), tf.constant(pixels[None]), ([1], [1]))
    config = finetune_config(tmp_path, crop="center")
    config.train.batch_size = 200
    (images, _), (more, _) = pairs_of(pipeline.labelled_batches(source, config), 2)
    mirrored = (images[:, 0, 0, 0] == 0).mean()
    assert 0.35 < mirrored < 0.65 and (images[:, :, ::-1] == more).all((1, 2, 3)).any()
    config.data.flip = False
    (images, _) = pairs_of(pipeline.labelled_batches(source, config), 1)[0]
    assert (images == pixels).all()


def test_test_batches_have_every_image_once_and_are_filled_up(classes):
    config = finetune_config(classes)
    source = make_source(config.data)
    batches = pairs_of(pipeline.evaluation_batches(source, config, BatchShard(12)), 9)
    assert [len(y) for _, y in batches] == [12, 12]
    labels = np.concatenate([y for _, y in batches])
    reds = np.concatenate([x for x, _ in batches])[:, 8, 8, 0]
    assert (labels[16:] == -1).all() and (labels[:16] == reds[:16] // 100).all()
    assert sorted(reds[:16]) == [*range(8), *range(100, 108)]
    parts = [
        pairs_of(pipeline.evaluation_batches(source, config, BatchShard(12, first, 6), 3), 9)
        for first in (0, 6)
    ]
    assert [len(part) for part in parts] == [4, 4]
    together = [np.concatenate([y for _, y in part]).reshape(2, 6) for part in parts]
    np.testing.assert_array_equal(np.concatenate(together, 1).ravel(), labels)


def test_the_test_crop_is_the_middle(tmp_path):
    pixels = np.zeros([40, 60, 3], np.uint8)
    pixels[5:35, 15:45] = 90  # the central three quarters of the shorter side
    source = IndexedSource([0], tf.constant(pixels[None]), ([1], [1]))
    config = finetune_config(tmp_path, test_crop=0.75)
    images, _ = pairs_of(pipeline.evaluation_batches(source, config, BatchShard(1)), 1)[0]
    assert (images == 90).all()
    config.data.test_crop = 1.0
    images, _ = pairs_of(pipeline.evaluation_batches(source, config, BatchShard(1)), 1)[0]
    assert (images == 0).any()
