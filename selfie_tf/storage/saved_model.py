"""Exports as SavedModels: written so that they serve and finetune, and verified when read back.

The object that is saved has what TensorFlow Hub calls a reusable SavedModel: `__call__` with a
`training` argument, traced for inference and for training, so that later finetuning moves the batch
statistics, and `variables` and `trainable_variables`.
"""

import glob
import json
import logging
import os
import shutil

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError, first_line
from selfie_tf.storage import conversion
from selfie_tf.storage.files import sha256, write_atomically

_INFO = "selfie_tf.json"


def write(
    path: str,
    model: keras.Model,
    layer: keras.layers.Layer,
    function,
    image_size: int,
    class_names,
    info: dict,
    card,
    formats=(),
) -> None:
    """Writes an export; it appears whole or not at all.

    Args:
      path: A folder that does not exist yet, local.
      model: The model whose weights are saved.
      layer: The layer whose weights `function` uses: the model itself or a part of it.
      function: (images `[B, S, S, 3]`, training: bool) -> features, or logits `[B, K]` of a
        classifier.
      image_size: S.
      class_names: K strings; none for features.
      info: JSON values to keep with it, `step` among them; see `read_info`.
      card: ({file: sha256}, {format: difference}) -> text of its README.md.
      formats: Those beside the SavedModel. See `conversion.add`, also for the differences.

    Raises:
      UserError: If there is something at `path`, if it cannot be written, or not in
        one of the formats.
    """
    check_output(path)
    path = path.rstrip("/")
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        for left in glob.glob(f"{glob.escape(path)}.tmp-*"):  # of an export that was killed
            shutil.rmtree(left)
        os.makedirs(temporary)
        used = [*layer.trainable_weights, *layer.non_trainable_weights]
        used = [variable for variable in used if "/" in variable.name]
        root = _reusable(function, image_size, class_names)
        root.variables, root.trainable_variables = used, list(layer.trainable_variables)
        # Kept apart, because Keras warns of weights without a gradient.
        seen = {variable.ref() for variable in used}
        root.other_variables = [v for v in _weights(model) if v.ref() not in seen]
        tf.saved_model.save(root, temporary, signatures=root.signatures_to_save)
        differences = {name: conversion.add(temporary, name) for name in formats}
        with open(os.path.join(temporary, "README.md"), "w") as file:
            file.write(card(_digests(temporary), differences))
        info = {
            **info,
            "class_names": list(class_names),
            "weights": [_plain(v) for v in (*root.variables, *root.other_variables)],
            "sha256": _digests(temporary),
        }
        write_atomically(os.path.join(temporary, _INFO), json.dumps(info, indent=2) + "\n")
        os.rename(temporary, path)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--output={path} cannot be written ({first_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(path: str) -> None:
    """Raises UserError if an export cannot go to `path`."""
    if "://" in path:
        raise UserError(f"--output={path}: give a local folder, and copy it")
    if os.path.exists(path):
        raise UserError(f"--output={path} exists already; give another folder, or remove it")


def _reusable(function, image_size, class_names):
    # Not the Keras model itself, of which Keras would save a trace of every layer.
    root = tf.train.Checkpoint()
    root.regularization_losses = []  # part of the interface

    @tf.function(autograph=False)
    def call(images, training=False):
        return function(images, training)

    shape = [None, image_size, image_size, 3]
    for dtype in (tf.uint8, tf.float32):
        for training in (False, True):
            call.get_concrete_function(tf.TensorSpec(shape, dtype, "images"), training)
    root.__call__ = call

    def serve(images):
        output = function(images, False)
        if not class_names:
            return {"features": output}
        best = tf.argmax(output, axis=-1)
        return {
            "logits": output,
            "probabilities": tf.nn.softmax(output),
            "class": tf.gather(tf.constant(class_names), best),
        }

    signatures = {
        name: tf.function(
            serve, input_signature=[tf.TensorSpec(shape, dtype, "images")], autograph=False
        )
        for name, dtype in (("serving_default", tf.uint8), ("serving_float32", tf.float32))
    }
    if class_names:
        root.class_names = tf.function(lambda: tf.constant(class_names), input_signature=[])
    root.signatures_to_save = signatures
    return root


def read_info(path: str) -> dict | None:
    """What was kept with an export; None if there is no export at `path`.

    Raises:
      UserError: If a file of it is damaged or lost.
    """
    name = os.path.join(path, _INFO)
    if not tf.io.gfile.exists(name):
        if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
            raise UserError(
                f"{path}: a SavedModel, but not one of selfie-tf export: no {_INFO} in it"
            )
        return None
    try:
        with tf.io.gfile.GFile(name) as file:
            info = json.load(file)
        expected, found = info["sha256"], _digests(path)
        wrong = sorted(file for file in expected if found.get(file) != expected[file])
    except (ValueError, KeyError, TypeError, AttributeError, tf.errors.OpError) as error:
        raise UserError(f"{path}: {_INFO} cannot be used ({error}); export again") from error
    if wrong:
        raise UserError(
            f"{path}: {', '.join(wrong)} changed or lost since the export; export again"
        )
    return info


def info_sha256(path: str) -> str:
    """The digest of an export: of the file that has those of the others."""
    return sha256(os.path.join(path, _INFO))


def restore(path: str, info: dict, model: keras.Model) -> None:
    """Gives `model` the weights of an export that `read_info` has verified."""
    logging.info("%s: the sha256 of all %d files is right", path, len(info["sha256"]))
    loaded = tf.saved_model.load(path)
    variables = [*loaded.variables, *loaded.other_variables]
    saved = dict(zip(info["weights"], variables, strict=True))
    for variable in _weights(model):
        variable.assign(saved[_plain(variable)])


def _weights(model):
    """All variables but those of the metrics, whose names have no path."""
    return [variable for variable in model.weights if "/" in variable.name]


def _plain(variable):
    return variable.name.split(":")[0]


def _digests(folder):
    names = [
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in tf.io.gfile.walk(folder)
        for name in names
    ]
    # Users may add to the card.
    wanted = sorted(name for name in names if name not in (_INFO, "README.md"))
    return {name: sha256(os.path.join(folder, name)) for name in wanted}
