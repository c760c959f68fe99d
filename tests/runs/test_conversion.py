"""Exports as ONNX and for TensorFlow Lite: what they hold, and how making them fails."""

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf.data import synthetic
from selfie_tf.data.crops import resize_and_center
from selfie_tf.errors import Interrupted, UserError
from selfie_tf.storage import conversion, saved_model
from selfie_tf.training.load import load_finetuned

from helpers import (
    ROOT,
    TINY,
    TINY_FINETUNE,
    TINY_FINETUNE_PATCHFORMER,
    TINY_PATCHFORMER,
    fails,
    succeeds,
)

MISSING = [
    name for name in ("onnx", "onnxruntime", "tf2onnx") if not importlib.util.find_spec(name)
]
NEEDS_ONNX = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
KINDS = ["features", "classifier", "patchformer_classifier"]
FORMATS = [pytest.param("onnx", marks=NEEDS_ONNX), "tflite"]

# tf.lite.Interpreter, whose successor is a package of its own.
pytestmark = pytest.mark.filterwarnings("ignore:[^A-Z]*Warning. tf.lite.Interpreter:UserWarning")


@pytest.fixture(scope="module")
def images():
    return synthetic.draw_shapes(np.arange(5000, 5003), 16)[0]


@pytest.fixture(scope="module")
def workdir(shared):
    return shared(TINY)


@pytest.fixture(scope="module")
def exports(workdir, shared, tmp_path_factory):
    """kind -> its export in all formats that can be made here; made once."""
    root = tmp_path_factory.mktemp("exports")

    def finetuned(flags, pretrained):
        return shared([*flags, f"--config.init_from={pretrained}"], "finetune")

    @functools.cache
    def make(kind):
        if kind == "features":
            path = workdir
        elif kind == "classifier":
            path = finetuned([*TINY_FINETUNE, "--config.model.head=resnet36_attention"], workdir)
        else:
            path = finetuned(TINY_FINETUNE_PATCHFORMER, shared(TINY_PATCHFORMER))
        formats = "tflite" if MISSING else "savedmodel,onnx,tflite"
        flags = [f"--workdir={path}", f"--output={root}/{kind}", f"--format={formats}"]
        out = succeeds("export", *flags)
        assert re.search(r"^model.tflite: 0.\d MB, differs from the SavedModel by \S+$", out, re.M)
        assert "Optimizing" not in out  # tf2onnx's own messages
        return root / kind

    return make


def run_card(export, name, images):
    """Runs the lines of an export's card that import the module `name`."""
    card = (export / "README.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", card, re.S) if name in b)
    variables = {"PATH": str(export), "images": images}
    exec(block, variables)
    return variables["outputs"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_lines_of_the_card_give_what_the_savedmodel_gives(name, kind, exports, images):
    model = tf.saved_model.load(str(exports(kind)))
    run = {"onnx": "onnxruntime", "tflite": "tf.lite"}[name]
    for batch in (images[:1], images):
        expected = model.signatures["serving_default"](images=tf.constant(batch))
        found = run_card(exports(kind), run, batch)
        keys = {"features"} if kind == "features" else {"logits", "probabilities", "class"}
        assert set(found) == set(expected) == keys
        for key in keys - {"class"}:
            value = expected[key].numpy()
            assert found[key].dtype == np.float32 and found[key].shape == value.shape
            size = np.abs(value).max()
            assert np.abs(found[key] - value).max() <= conversion.TOLERANCE * size
            # Images differ by more, so that another image's outputs would not pass.
            assert len(batch) == 1 or np.ptp(value, axis=0).max() > 10 * conversion.TOLERANCE * size
        if "class" in keys:
            names = [x if isinstance(x, str) else x.decode() for x in found["class"]]
            assert names == [x.decode() for x in expected["class"].numpy()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tflite_file_takes_any_number_of_bytes_images_by_built_in_operations(kind, exports):
    content = (exports(kind) / "model.tflite").read_bytes()
    (image,) = tf.lite.Interpreter(model_content=content).get_input_details()
    assert image["dtype"] is np.uint8
    assert image["shape_signature"].tolist() == [-1, 16, 16, 3]
    assert b"Flex" not in content


@NEEDS_ONNX
@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_file_takes_any_number_of_bytes_images_by_standard_operations(kind, exports):
    import onnx

    model = onnx.load(str(exports(kind) / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    (image,) = model.graph.input
    dims = image.type.tensor_type.shape.dim
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert dims[0].dim_param == "batch" and [d.dim_value for d in dims[1:]] == [16, 16, 3]
    for output in model.graph.output:
        assert output.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_an_export_with_more_formats_is_an_export(exports):
    export = exports("classifier")
    assert load_finetuned(str(export)).head.built
    files = saved_model.read_info(str(export))["sha256"]
    card = (export / "README.md").read_text()
    assert f"{files['model.tflite']}  model.tflite" in card
    formats = "tflite" if MISSING else "onnx,tflite"
    assert f"--output={export} --format=savedmodel,{formats}`" in card


def fail(workdir, tmp_path, formats):
    """How an export fails; nothing may be left of it."""
    flags = [f"--workdir={workdir}", f"--output={tmp_path}/x", f"--format={formats}"]
    line = fails("export", *flags)
    assert os.listdir(tmp_path) == []
    return line


def test_a_format_that_cannot_be_made_leaves_nothing(workdir, tmp_path, monkeypatch):
    def convert(folder, served):
        assert "x.tmp-" in folder and os.path.exists(f"{folder}/saved_model.pb")
        raise ValueError("no such operation\nmore about it")

    monkeypatch.setitem(conversion._CONVERTERS, "tflite", convert)
    assert fail(workdir, tmp_path, "tflite") == (
        "error: --format=tflite: this network cannot be converted (no such operation); "
        "leave tflite out of --format"
    )


@pytest.mark.parametrize(("wrong", "said"), [(0.01, "1.0e-02"), (np.nan, "nan")])
def test_a_file_that_computes_something_else_is_refused(wrong, said, exports, monkeypatch):
    run = conversion._RUNNERS["tflite"]

    def run_badly(content):
        def outputs(images):
            features = run(content)(images)["features"]
            if len(images) > 1:  # right for one image
                features[1, 2] += wrong * np.abs(features).max()
            return {"features": features}

        return outputs

    monkeypatch.setitem(conversion._RUNNERS, "tflite", run_badly)
    with pytest.raises(UserError, match=f"--format=tflite: outputs differ .* by {said} of"):
        conversion.add(str(exports("features")), "tflite")


def test_a_signal_ends_a_conversion_as_a_signal(exports, monkeypatch):
    def convert(folder, served):
        raise Interrupted(15, "terminated")

    monkeypatch.setitem(conversion._CONVERTERS, "tflite", convert)
    with pytest.raises(Interrupted):
        conversion.add(str(exports("features")), "tflite")


def test_a_missing_extra_is_named_before_any_work(workdir, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    missing = ("tf2onnx", "onnxruntime")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n in missing else find_spec(n, *a)
    )
    monkeypatch.setattr(saved_model, "write", None)
    line = fail(workdir, tmp_path, "tflite,onnx")
    assert "--format=onnx needs " in line and "pip install " in line
    assert "onnxruntime tf2onnx" in line.partition("pip install ")[2]
    assert "--format=onx: expected savedmodel, onnx, tflite" in fail(workdir, tmp_path, "onx")


def test_the_guides_way_to_serve(exports, rng, tmp_path, monkeypatch):
    """Its Python makes the pixels of evaluation, and its command runs the signature on them."""
    with open(os.path.join(ROOT, "docs", "GUIDE.md")) as file:
        section = file.read().partition("## Serve it elsewhere")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    small = Image.fromarray(rng.integers(0, 256, [5, 8, 3], dtype=np.uint8))
    small.resize((90, 60), Image.Resampling.BICUBIC).save("photo.jpg")
    python = re.search(r"```python\n(.*?)```", section, re.S)[1]
    exec(python.replace("(32, 32)", "(16, 16)"), {})
    found = np.load("images.npy")
    photo = np.asarray(Image.open("photo.jpg"))
    expected = resize_and_center(tf.constant(photo), 16).numpy()[None]
    assert found.shape == (1, 16, 16, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 5 < np.ptp(expected)
    command = re.search(r"^saved_model_cli (run .*?)^```", section, re.S | re.M)[1]
    command = command.replace("exports/classifier", str(exports("classifier")))
    words = shlex.split(command.replace("\\\n", " "))
    script = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", *words]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predicted = np.argmax(load_finetuned(str(exports("classifier")))(found, training=False))
    assert f"output key class:\n[b'{synthetic.CLASS_NAMES[predicted]}']" in done.stdout
