"""Looking at images before training: what is counted, which copies are found, and the page."""

import base64
import io
import json
import os
import shlex

import numpy as np
import pytest
from PIL import Image

from selfie_tf import cli
from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.data import make_source, synthetic
from selfie_tf.data.source import IndexedSource
from selfie_tf.errors import UserError
from selfie_tf.inspection import duplicates, page, report, suggest, survey, words

from browser import opened
from helpers import TINY, fails, read_json, save_noise, succeeds, training_batches

EVIL = "<script>document.title = 'evil'<∕script>\"&\n$x"


@pytest.fixture(scope="module", autouse=True)
def no_timing():
    """Steps take half a second per image, wherever this runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "step_seconds", lambda config, batch_size, seconds: batch_size / 2)
        yield


def scene(rng, height=96, width=128):
    """A random picture with large and small structures, as photographs have."""
    image = np.zeros([height, width, 3])
    for cells in (3, 6, 24):
        rough = rng.integers(0, 256, [cells, cells, 3], dtype=np.uint8)
        image += np.asarray(Image.fromarray(rough).resize((width, height)), float) / cells
    return Image.fromarray(np.uint8(255 * image / image.max()))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def inspected(*flags):
    """What `inspect` found: inspect.json."""
    succeeds("inspect", *flags, "--output=out")
    return read_json("out/inspect.json")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes with a test folder; images of all kinds, copies and unreadable files.

    The folder `images`, and what `inspect` found and printed: `out`, `stdout.txt`.
    """
    rng = np.random.default_rng(20190606)
    root = tmp_path_factory.mktemp("folder") / "images"
    scenes = [scene(rng) for _ in range(12)]
    for i, image in enumerate(scenes):
        save(image, root / "train" / ("a" if i < 8 else EVIL) / f"{i}.png")
    for k in range(3):
        save(scene(rng), root / "test" / ("a" if k else EVIL) / f"{k}.png")
    a = root / "train" / "a"
    save(scene(rng).convert("CMYK"), a / "cmyk.jpg")
    save(scene(rng).convert("P"), a / "palette.gif")
    save(scene(rng).convert("L"), a / "grey.bmp")
    turned = Image.Exif()
    turned[0x0112] = 6
    save(scene(rng), a / "turned.jpg", exif=turned)
    transparent = scene(rng)
    transparent.putalpha(100)
    save(transparent, a / "transparent.png")
    deep = rng.integers(0, 65_536, [40, 30]).astype(np.uint16)
    save(Image.fromarray(deep), a / "deep.png")
    (root / "test" / "a" / "same file.png").write_bytes((a / "0.png").read_bytes())
    save(scenes[1], root / "test" / "a" / "same pixels.bmp")
    save(scenes[2].resize((64, 48)), root / "test" / "a" / "smaller.jpg", quality=60)
    (root / "train" / EVIL / "other class.png").write_bytes((a / "3.png").read_bytes())
    (a / "text.jpg").write_text("no image")
    (a / "cut.png").write_bytes((a / "5.png").read_bytes()[:999])
    os.mkfifo(a / "fifo.jpg")
    out = succeeds("inspect", root, *TINY, f"--output={root.parent}/out")
    (root.parent / "stdout.txt").write_text(out)
    return root


@pytest.fixture
def found(folder):
    return read_json(folder.parent / "out" / "inspect.json")


def test_a_folder_of_images_of_all_kinds(folder, found):
    assert (found["images"], found["training"], found["held_out"]) == (28, 22, 6)
    assert found["modes"] == {
        "RGB": 21,
        "CMYK": 1,
        "palette": 1,
        "grey": 1,
        "grey, 16 bits": 1,
    }
    assert found["notes"] == {"EXIF rotation": 1, "transparency": 1}
    assert found["formats"] == {"PNG": 19, "JPEG": 3, "BMP": 2, "GIF": 1}
    assert found["bytes"] == sum(
        path.stat().st_size
        for path in folder.rglob("*.*")
        if path.is_file() and path.name not in ("text.jpg", "cut.png")
    )
    assert {row["class"]: (row["training"], row["held_out"]) for row in found["classes"]} == {
        EVIL: (5, 1),
        "a": (17, 5),
    }
    shown = {(row["width"], row["height"]): row["images"] for row in found["sizes"]["frequent"]}
    assert shown == {(128, 96): 22, (96, 128): 1, (64, 48): 1, (30, 40): 1}
    assert found["sizes"]["quantiles"]["shorter side"]["minimum"] == 30


def test_unreadable_files_have_a_reason(found):
    found = found["unreadable"]
    reasons = {os.path.basename(file["path"]): file["reason"] for file in found["files"]}
    assert found["count"] == 3 and set(reasons) == {"text.jpg", "cut.png", "fifo.jpg"}
    assert reasons["fifo.jpg"] == "a FIFO, not a regular file"
    assert "not an image" in reasons["text.jpg"] and "truncated" in reasons["cut.png"]


def test_copies_between_training_and_held_out_images_come_first(found):
    found = found["duplicates"]
    groups = [
        (
            group["kind"],
            group["crosses"],
            group["classes_differ"],
            {os.path.basename(image["path"]) for image in group["images"]},
        )
        for group in found["groups"]
    ]
    assert sorted(groups[:3], key=str) == [
        ("same file", True, False, {"0.png", "same file.png"}),
        ("same pixels", True, False, {"1.png", "same pixels.bmp"}),
        ("similar", True, False, {"2.png", "smaller.jpg"}),
    ]
    assert groups[3:] == [("same file", False, True, {"3.png", "other class.png"})]
    assert found["held_out_with_copy_in_training"] == 3
    assert found["groups_with_different_classes"] == 1
    assert found["kinds"]["same file"] == {"groups": 2, "superfluous_images": 2}


def test_the_table_warns_of_what_fakes_accuracy(folder):
    out = (folder.parent / "stdout.txt").read_text()
    assert (
        "Warning: Held-out images with a copy or a similar image among the training images: 3 of 6."
        in out
    )
    assert "Copies fake accuracy" in out and "cannot be read. Training would stop" in out
    assert json.dumps(EVIL) in out  # on one line
    assert "another one: 4 (2 same file, 1 same pixels, 1 similar). Similar ones may be" in out


def test_the_table_says_how_many_groups_of_copies_it_leaves_out(found):
    assert "... and" not in words.table(found)
    found["duplicates"]["groups"] *= 3
    assert "... and groups of copies that are not shown here: 7" in words.table(found)


# Copies


def seen_of(images):
    found = []
    for i, image in enumerate(images):
        bits, small = survey._hash(np.asarray(image))
        found.append(
            survey.Seen(
                str(i), False, width=image.width, height=image.height, bits=bits, small=small
            )
        )
    return found


def test_edited_copies_are_similar_and_other_images_are_not(rng):
    images = [scene(rng) for _ in range(30)]
    grey = images[4].convert("L").convert("RGB")
    brighter = images[5].point([min(255, int(1.2 * x)) for x in range(256)] * 3)
    squeezed = images[6].resize((128, 80))
    content = io.BytesIO()
    images[7].save(content, "JPEG", quality=30)
    edited = [grey, brighter, squeezed, Image.open(content)]
    pairs = duplicates.similar_pairs(seen_of([*images, *edited]))
    assert pairs.tolist() == [[4, 30], [5, 31], [6, 32], [7, 33]]


def test_images_of_one_grey_are_not_similar():
    images = [Image.new("RGB", (20, 20), (level,) * 3) for level in (0, 100, 200)]
    assert len(duplicates.similar_pairs(seen_of(images))) == 0


def test_pairs_are_those_of_a_loop_over_all_of_them(rng, monkeypatch):
    monkeypatch.setattr(duplicates, "_ROWS", 7)
    base = seen_of([scene(rng) for _ in range(5)])
    seen = []
    for i in range(40):
        one = base[i % 5]
        bits = one.bits.copy()
        bits[rng.permutation(64)[: rng.integers(0, 12)]] ^= True
        small = one.small.astype(int) + rng.integers(-80, 81, one.small.shape) * (i % 3 == 0)
        seen.append(survey.Seen("", False, bits=bits, small=np.uint8(np.clip(small, 0, 255))))
    expected = [
        [i, j]
        for i in range(40)
        for j in range(i + 1, 40)
        if np.sum(seen[i].bits != seen[j].bits) <= 10
        and np.corrcoef(seen[i].small.ravel(), seen[j].small.ravel())[0, 1] >= 0.95
    ]
    assert 10 < len(expected) < 300
    assert duplicates.similar_pairs(seen).tolist() == expected


def test_many_copies_are_one_group(tmp_path, rng):
    save_noise(tmp_path / "images", [f"{i}.png" for i in range(3)])
    for i in range(500):
        (tmp_path / "images" / f"copy {i}.png").write_bytes(
            (tmp_path / "images/0.png").read_bytes()
        )
    found = inspected(tmp_path / "images", *TINY)["duplicates"]
    assert [len(group["images"]) for group in found["groups"]] == [501]


# Other sources


@pytest.fixture
def few_shapes(monkeypatch):
    """540 built-in images to train on and 60 held out, instead of 6,000."""
    monkeypatch.setattr(synthetic, "NUM_TRAIN", 540)
    monkeypatch.setattr(synthetic, "NUM_TEST", 60)


def test_built_in_images_have_no_files(few_shapes):
    found = inspected("--data_name=builtin:shapes", "--limit=400", *TINY)
    assert (found["images"], found["looked_at"]) == (600, 400)
    assert sum(row["held_out"] for row in found["classes"]) == 40
    assert found["modes"] == found["formats"] == {} and found["bytes"] == 0
    assert sum(row["training"] + row["held_out"] for row in found["classes"]) == 400
    assert len(found["classes"]) == 10 and "kilobytes" not in found["sizes"]["quantiles"]
    assert found["suggestion"]["config"] == "quickstart"


def test_the_copy_of_an_array_is_one_of_pixels(monkeypatch, rng):
    noise = rng.integers(0, 256, [12, 16, 16, 3], dtype=np.uint8)
    source = IndexedSource(noise[:10], np.stack([noise[3], noise[11]]))
    monkeypatch.setattr(report, "make_source", lambda *_: source)
    (group,) = inspected("--data_name=builtin:shapes", *TINY)["duplicates"]["groups"]
    assert (group["kind"], group["crosses"]) == ("same pixels", True)
    assert [image["path"] for image in group["images"]] == ["10", "3"]


# Speed and suggestions


def test_hours_are_those_of_the_given_config_or_of_the_suggested_one(tmp_path):
    save_noise(tmp_path / "images", [f"{i}.png" for i in range(20)])
    given = inspected(tmp_path / "images", *TINY)["config"]
    assert given["name"] == "configs/quickstart.py" and given["measured_batch_size"] == 8
    assert given["seconds_per_step"] == 8.0  # 16 images
    assert given["hours"] == pytest.approx(8 * 24 / 3600)
    chosen = inspected(tmp_path / "images", "--config.train.steps=300")
    assert chosen["config"]["name"] == "selfie_cifar10 as suggested"
    assert (chosen["config"]["steps"], chosen["config"]["batch_size"]) == (300, 8)
    assert "--config.train.steps=300" in chosen["suggestion"]["command"]
    assert chosen["config"]["too_small"] == 20  # 16 pixels of 32


def make_seen(side, unreadable=0):
    seen = [survey.Seen("", False, width=side, height=2 * side) for i in range(100 - unreadable)]
    return [*seen, *(survey.Seen("", False, error="broken") for _ in range(unreadable))]


@pytest.mark.parametrize(
    "count, side, config, expected",
    [
        (54_000, 32, "selfie_cifar10", {"train.batch_size": 128, "train.steps": 42_100}),
        (60_000, 64, "selfie_cifar10", {"data.image_size": 64, "patches.size": 16}),
        (200, 159, "selfie_cifar10", {"train.batch_size": 16, "train.steps": 2000}),
        (60, 32, "selfie_cifar10", {"train.batch_size": 8}),
        (6, 32, "selfie_cifar10", {"train.batch_size": 4}),
        (18_000, 160, "selfie_imagenet224", {"train.batch_size": 128, "train.steps": 14_000}),
        (2_000_000, 500, "selfie_imagenet224", {"train.steps": 120_000}),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_the_rules(count, side, config, expected, gpu):
    given = {"data.name": "folder:my images"}
    found = suggest.suggest(make_seen(side), count, given, gpu)
    assert found.config == config and expected.items() <= found.values.items()
    assert found.values.get("model.width") == (None if gpu else 16)
    assert "data.corrupt_budget" not in found.values


def test_a_suggestion_allows_the_unreadable_files_and_keeps_what_was_given():
    given = {"data.name": "folder:x", "model.width": 4}
    found = suggest.suggest(make_seen(32, 10), 100, given, False)
    assert 0.1 <= found.values["data.corrupt_budget"] <= 0.102
    assert found.values["model.width"] == 4 and "model.width" not in found.reasons


def test_the_suggested_command_is_one(tmp_path):
    """It parses, and would train."""
    save_noise(tmp_path / "it's \n mine", [f"{i}.png" for i in range(20)], [70, 70])
    found = inspected(tmp_path / "it's \n mine")
    program, command, *flags = shlex.split(found["suggestion"]["command"])
    assert (program, command) == ("selfie-tf", "pretrain")
    config = cli.parse(cli.COMMANDS[command], flags).config
    assert config.data.name == f"folder:{tmp_path}/it's \n mine"
    assert config.data.image_size == 64 and make_source(config.data).num_train == 18


# Mistakes


def test_images_are_given_once(tmp_path):
    for flags in ([], ["x", "--data_name=y"], ["--images=x", "--config.data.name=folder:y"]):
        assert "give the images once" in fails("inspect", *flags)
    assert "unexpected argument" in fails("inspect", "x", "y")
    assert "no such folder" in fails("inspect", "nowhere")
    assert "--limit" in fails("inspect", "x", "--limit=0")


def test_folders_without_a_readable_image(tmp_path):
    (tmp_path / "images").mkdir()
    assert "no images" in fails("inspect", tmp_path / "images", "--output=out")
    for name in ("a.png", 'b"\n.jpg'):
        (tmp_path / "images" / name).write_text("no image")
    line = fails("inspect", tmp_path / "images", "--output=out")
    assert "none of 2 images can be read" in line and "not an image of a known format" in line
    assert os.listdir("out") == []


def test_an_output_that_is_a_file_is_noticed_before_the_work(tmp_path):
    (tmp_path / "out").write_text("")
    line = fails("inspect", "--data_name=builtin:shapes", "--output=out")
    assert "--output=out" in line and "cannot be written" in line


def test_a_folder_in_the_place_of_the_second_file_is_noticed_before_the_work(tmp_path):
    (tmp_path / "inspect.json").mkdir()
    line = fails("inspect", "--data_name=builtin:shapes", f"--output={tmp_path}")
    assert f"{tmp_path}/inspect.json is a folder" in line
    assert os.listdir(tmp_path) == ["inspect.json"]


def test_ctrl_c_ends_it(tmp_path, monkeypatch):
    save_noise(tmp_path / "images", [f"{i}.png" for i in range(1000)], [4, 4])
    count = iter(range(10**6))

    def interrupt(*arguments):
        if next(count) == 20:
            raise KeyboardInterrupt
        return decode(*arguments)

    decode = survey.to_rgb
    monkeypatch.setattr(survey, "to_rgb", interrupt)
    assert fails("inspect", tmp_path / "images", "--output=out", code=130) == "error: interrupted"
    assert next(count) < 600 and os.listdir("out") == []


# The page


def test_the_page_shows_names_as_they_are_in_a_browser(folder, found):
    path = folder.parent / "out" / "inspect.html"
    with opened(path) as driver:
        assert driver.title == f"Images of folder:{folder}"
        text = driver.find_element("tag name", "main").text
        assert " ".join(EVIL.split()) in " ".join(text.split())
        assert "or a similar image among the training images: 3 of 6" in text
        assert found["suggestion"]["command"] in text
        alternatives = [i.get_attribute("alt") for i in driver.find_elements("tag name", "img")]
        assert sum("same pixels.bmp" in alt for alt in alternatives) >= 1
        assert len([alt for alt in alternatives if alt.startswith("training image")]) == 12
    assert b"<script>document" not in path.read_bytes()


def decoded(rows):
    """{title: images uint8 [B, S, S, 3]} of `patch_rows`."""

    def read(item):
        content = base64.b64decode(item["picture"].partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content))).astype(int)

    return {row["title"]: np.stack([read(item) for item in row["items"]]) for row in rows}


def batch_of(config):
    config.data.name = "builtin:shapes"
    config.train.batch_size = 2
    batch = next(iter(training_batches(make_source(config.data), config)))
    return {key: value.numpy() for key, value in batch.items()}


def test_pictures_of_selfies_patches_are_its_batch(few_shapes):
    config = SelfieConfig()
    config.model.instance_weight = 1.0
    batch = batch_of(config)
    shown = decoded(page.patch_rows(batch, 4))
    assert [*shown] == [
        "Cut into patches",
        "Hidden patches in grey",
        "View 1, for the instance loss",
        "View 2, for the instance loss",
    ]
    for b in range(2):
        for patches, positions, grey in (
            ("context_patches", "context_positions", False),
            ("target_patches", "target_positions", True),
        ):
            for patch, position in zip(batch[patches][b], batch[positions][b]):
                row, column = divmod(int(position), 4)
                # 5 pixels for each; what is near a line has some of its white.
                inner = np.s_[b, 40 * row + 5 : 40 * row + 35, 40 * column + 5 : 40 * column + 35]
                expected = patch.repeat(5, 0).repeat(5, 1)[5:35, 5:35].mean((0, 1))
                assert np.abs(shown["Cut into patches"][inner].mean((0, 1)) - expected).max() < 6
                found = shown["Hidden patches in grey"][inner].mean((0, 1))
                assert np.abs(found - (128 if grey else expected)).max() < 6
    view = batch["views"][1, 0].mean((0, 1))
    assert np.abs(shown["View 1, for the instance loss"][1].mean((0, 1)) - view).max() < 3


def test_pictures_of_patchformers_patches_are_augmented(few_shapes):
    config = PatchFormerConfig()
    config.data.image_size, config.patches.size, config.patches.target_size = 32, 4, 4
    batch = batch_of(config)
    shown = decoded(page.patch_rows(batch, 8))
    hidden, filled = shown.values()
    for b in range(2):
        for k, position in enumerate(batch["context_positions"][b]):
            row, column = divmod(int(position), 8)
            inner = np.s_[b, 20 * row + 4 : 20 * row + 16, 20 * column + 4 : 20 * column + 16]
            expected = batch["context_patches"][b, k].repeat(5, 0).repeat(5, 1)[4:16, 4:16]
            for images in (hidden, filled):
                assert np.abs(images[inner].mean((0, 1)) - expected.mean((0, 1))).max() < 12
        for k, position in enumerate(batch["target_positions"][b]):
            row, column = divmod(int(position), 8)
            inner = np.s_[b, 20 * row + 4 : 20 * row + 16, 20 * column + 4 : 20 * column + 16]
            level = 85 * batch["target_levels"][b, k].repeat(5, 0).repeat(5, 1)[4:16, 4:16].mean()
            assert abs(filled[inner].mean() - level) < 12 and abs(hidden[inner].mean() - 128) < 6


def test_the_contact_sheet_has_all_classes(rng):
    seen = [survey.Seen("", False, label=int(i > 95)) for i in range(100)]
    seen[97].error = "broken"
    chosen = page.contact_sheet(seen, 10)
    assert len(set(chosen)) == 10 and 97 not in chosen
    assert sorted(seen[i].label for i in chosen) == [0] * 7 + [1] * 3


def test_durations():
    assert [words.hours(x) for x in (0.5, 3.25, 240)] == ["30 minutes", "3.2 hours", "10 days"]


def test_a_source_that_cannot_be_read_is_one_line(tiny_config, monkeypatch):
    tiny_config.data.name = "tfds:nothing_like_it"
    with pytest.raises(UserError, match="nothing_like_it"):
        report.inspect(tiny_config, "/nowhere", 10)
