"""From a run to a SavedModel with a model card; `storage.saved_model` says what is in it."""

import logging

import tensorflow as tf

from selfie_tf.config import flatten, to_dict
from selfie_tf.errors import UserError
from selfie_tf.storage import conversion, saved_model
from selfie_tf.storage.files import read_json
from selfie_tf.training.build import num_weights
from selfie_tf.training.load import is_finetuning, load_finetuning_run, load_pretraining_run
from selfie_tf.training.run import versions


def export(workdir: str, output: str, formats=()) -> None:
    """Writes the features of a pretraining run, or the classifier of a finetuning run.

    Args:
      workdir: The work directory of the run, finished or not.
      output: Folder to make.
      formats: "onnx", "tflite" or both, to be written beside the SavedModel.

    Raises:
      UserError: See `training.load.load_pretraining_run`, `saved_model.write` and
        `conversion.check`.
    """
    saved_model.check_output(output)
    conversion.check(formats)
    formats = [name for name in dict.fromkeys(formats) if name != "savedmodel"]
    if saved_model.read_info(workdir) is not None:
        raise UserError(f"--workdir={workdir} is an export already; copy it")
    classifier = is_finetuning(workdir)
    run = load_finetuning_run(workdir) if classifier else load_pretraining_run(workdir)
    model, config = run.model, run.config

    def function(images, training):
        if classifier:
            return model(images, training=training)
        return model.image_features(images, training=training)

    command = f"selfie-tf export --workdir={workdir} --output={output}"
    if formats:
        command += f" --format=savedmodel,{','.join(formats)}"
    info = {
        "kind": "classifier" if classifier else "features",
        "origin": run.origin,
        "step": run.step,
        "config": to_dict(config),
        "fingerprint": run.fingerprint,
        "result": read_json(workdir, "result.json") or {},
        "command": command,
        "versions": versions(),
    }

    def card(digests, differences):
        return _card(info, run, function, digests, differences)

    size = config.data.image_size
    layer = model if classifier else model.feature_layer
    saved_model.write(output, model, layer, function, size, run.class_names, info, card, formats)
    logging.info("exported %s to %s", run.origin, output)


_FORMATS = {
    "onnx": (
        "## Use with ONNX Runtime",
        "",
        "```python",
        "import onnxruntime  # TensorFlow is not needed",
        "session = onnxruntime.InferenceSession(f'{PATH}/model.onnx')",
        "names = [output.name for output in session.get_outputs()]",
        "outputs = dict(zip(names, session.run(None, {'images': images})))",
        "```",
    ),
    "tflite": (
        "## Use with TensorFlow Lite",
        "",
        "```python",
        "import tensorflow as tf",
        "interpreter = tf.lite.Interpreter(f'{PATH}/model.tflite')",
        "outputs = interpreter.get_signature_runner()(images=images)",
        "```",
        "",
        "Without TensorFlow: `pip install ai-edge-litert`, and take `Interpreter` from "
        "`ai_edge_litert.interpreter`. The file needs built-in operations alone.",
    ),
}


def _is_patchformer(config):
    return "patchformer" in (getattr(config, "method", ""), getattr(config.model, "head", ""))


def _card(info, run, function, digests, differences):
    config, size = run.config, run.config.data.image_size
    classifier = info["kind"] == "classifier"
    dim = function(tf.zeros([1, size, size, 3], tf.uint8), False).shape[-1]
    outputs = f"`logits`, `probabilities` float32 `[B, {dim}]` and `class` string `[B]`"
    if not classifier:
        what = "P's feature map, averaged over the image"
        if _is_patchformer(config):
            what = "the context of all patches, pooled"
        outputs = f"`features` float32 `[B, {dim}]`: {what}"
    training = ""
    if _is_patchformer(config):
        training = "patches are left out, dropout is on, " if classifier else "dropout is on, "
    measured = {
        key: value
        for key, value in info["result"].items()
        if isinstance(value, (int, float)) and key not in ("steps", "resumed_at")
    }
    lines = [
        f"# Image {info['kind']}, {'finetuned' if classifier else 'pretrained'} with selfie_tf",
        "",
        f"From {info['origin']}; {num_weights(run.model):,} trainable weights.",
        "",
        "## Use",
        "",
        f"Images are RGB, {size}x{size} pixels, values 0 to 255: uint8, or float32 of the same "
        f"range. The `serving_default` signature takes `images` uint8 `[B, {size}, {size}, 3]` "
        f"(`serving_float32`: float32) and returns {outputs}. First scale your images, and crop "
        f"the central {size}x{size} square.",
        "",
        "```python",
        "import tensorflow as tf",
        "model = tf.saved_model.load(PATH)",
        "model.signatures['serving_default'](images=images)",
        f"model(images, False)  # {'logits' if classifier else 'features'}, for inference",
        "model(images, True)   # the same for training: "
        + f"{training}batch statistics are used, and the moving ones updated",
        "model.trainable_variables",
        "```",
        "",
        "Or `hub.KerasLayer(PATH, trainable=True)`"
        + ("." if classifier else ", or `selfie-tf finetune --config.init_from=PATH`."),
        "",
    ]
    for name, difference in differences.items():
        lines += [
            *_FORMATS[name],
            "",
            "Input (uint8, any number of images) and outputs are those of `serving_default`. On "
            f"random images, outputs differed from the SavedModel's by {difference:.1e} of their "
            "largest value.",
            "",
        ]
    if classifier:
        lines += [
            "## Classes",
            "",
            ", ".join(run.class_names) + ". Also as `model.class_names()`.",
            "",
        ]
    lines += ["## Measured", ""]
    lines += [f"- {key}: {value:g}" for key, value in measured.items()] or [
        f"The run has not finished: step {info['step']} of {config.train.steps}."
    ]
    lines += ["", "## Config", "", "| key | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in flatten(config).items()]
    lines += ["", "## Made with", "", f"`{info['command']}`", ""]
    lines += [f"- {key}: {value}" for key, value in info["versions"].items() if value]
    lines += ["", "## sha256", "", "```"]
    lines += [f"{digest}  {name}" for name, digest in digests.items()]
    return "\n".join([*lines, "```", ""])
