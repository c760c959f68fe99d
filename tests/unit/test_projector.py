"""The folder for TensorBoard's projector, as TensorBoard itself reads it."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin
from werkzeug.test import Client

from selfie_tf.evaluation import projector

from helpers import call, fails, succeeds


@pytest.fixture
def images(tmp_path, rng):
    """{path below tmp_path/images: pixels}"""
    names = ["a.png", "b/c/ä, é.png", 'b/"d"\t\n.png', "b/e.png", "f.png"]
    pixels = {name: rng.integers(0, 256, [16, 16, 3], dtype=np.uint8) for name in names}
    for name, image in pixels.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return pixels


def served(folder, route):
    """What TensorBoard sends to the browser."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context = base_plugin.TBContext(data_provider=provider, logdir=str(folder))
    app = projector_plugin.ProjectorPlugin(context).get_plugin_apps()[route]
    response = Client(app).get(route, query_string={"run": ".", "name": "features"})
    assert response.status_code == 200, response.data
    return response.data


def check(folder, pixels, ids):
    """What TensorBoard serves are features, names and thumbnails of these images."""
    (found,) = json.loads(served(folder, "/info"))["embeddings"]
    assert found["tensorName"] == "features" and found["tensorShape"] == [len(ids), 3]
    assert found["sprite"]["singleImageDim"] == [32, 32]
    header, *lines = served(folder, "/metadata").decode().splitlines()
    assert header == "path\tlabel\tsplit"
    assert lines == [f"{' '.join(name.split())}\t\t" for name in ids]
    tensor = np.frombuffer(served(folder, "/tensor"), np.float32).reshape([len(ids), 3])
    sprite = np.asarray(Image.open(io.BytesIO(served(folder, "/sprite_image"))))
    columns = sprite.shape[1] // 32
    for i, name in enumerate(ids):
        np.testing.assert_allclose(tensor[i], pixels[name].mean((0, 1)), rtol=1e-5)
        row, column = divmod(i, columns)
        shown = sprite[32 * row : 32 * row + 32 : 2, 32 * column : 32 * column + 32 : 2]
        np.testing.assert_array_equal(shown, pixels[name])


def test_tensorboard_shows_features_names_and_thumbnails(means, images, tmp_path):
    flags = ["--workdir=run", f"--images={tmp_path}/images", f"--output={tmp_path}/x.npz"]
    succeeds("embed", *flags, f"--projector={tmp_path}/new/p")
    with np.load(tmp_path / "x.npz") as file:
        check(tmp_path / "new" / "p", images, file["ids"].tolist())


def test_what_a_sprite_cannot_hold_is_left_out(means, images, tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "_SPRITE_SIDE", 64)
    flags = ["--workdir=run", f"--images={tmp_path}/images", f"--output={tmp_path}/x.npz"]
    out = succeeds("embed", *flags, f"--projector={tmp_path}/p")
    assert "left out the last 1 of 5 images" in out
    with np.load(tmp_path / "x.npz") as file:
        check(tmp_path / "p", images, file["ids"].tolist()[:4])


def test_a_folder_that_is_not_whole_shows_nothing(means, images, tmp_path, monkeypatch):
    flags = ["--workdir=run", f"--images={tmp_path}/images", f"--output={tmp_path}/x.npz"]
    flags += [f"--projector={tmp_path}/p"]
    succeeds("embed", *flags)
    (tmp_path / "p" / "thumbnails.png").unlink()
    (tmp_path / "p" / "thumbnails.png").mkdir()  # cannot be replaced
    assert "thumbnails.png cannot be written" in fails("embed", *flags)
    assert not (tmp_path / "p" / "projector_config.pbtxt").exists()
    assert (tmp_path / "x.npz").exists()


def test_a_file_in_the_way_is_one_line_before_anything_is_computed(means, images, tmp_path):
    (tmp_path / "p").write_text("")
    flags = ["--workdir=run", f"--images={tmp_path}/images", f"--output={tmp_path}/x.npz"]
    code, _, err = call("embed", *flags, f"--projector={tmp_path}/p")
    assert code == 1 and f"--projector={tmp_path}/p cannot be written" in err
    assert not (tmp_path / "x.npz").exists()
