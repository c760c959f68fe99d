"""Exports as ONNX and for TensorFlow Lite, made from the SavedModel and compared with it.

Both have the input and the outputs of the signature `serving_default`, with the batch size free.
"""

import importlib.util
import logging
import os
import warnings

import numpy as np
import tensorflow as tf

from selfie_tf.errors import Interrupted, UserError, first_line

# The largest difference from the SavedModel's outputs, as a fraction of the largest value of the
# same output. Kernels sum in other orders, and layer norms amplify that; 1e-5 is usual.
TOLERANCE = 1e-3

_SIGNATURE = "serving_default"


def add(folder: str, name: str) -> float:
    """Writes `model.onnx` or `model.tflite` into the folder of a SavedModel, and compares them.

    Args:
      folder: The folder.
      name: "onnx" or "tflite".

    Returns:
      The largest difference between their outputs, see `TOLERANCE`.

    Raises:
      UserError: If the network cannot be converted, or the difference is above `TOLERANCE`.
    """
    loaded = tf.saved_model.load(folder)  # its signatures do not keep the variables alive
    served = loaded.signatures[_SIGNATURE]
    try:
        content = _CONVERTERS[name](folder, served)
        difference = _difference(served, _RUNNERS[name](content))
    except (Interrupted, UserError):
        raise
    except Exception as error:  # converters raise errors of all kinds
        raise UserError(
            f"--format={name}: this network cannot be converted ({first_line(error)}); leave "
            f"{name} out of --format"
        ) from error
    if not difference <= TOLERANCE:  # or NaN
        raise UserError(
            f"--format={name}: outputs differ from the SavedModel's by {difference:.1e} of their "
            f"largest value, {TOLERANCE:.0e} is allowed; leave {name} out of --format"
        )
    with open(os.path.join(folder, f"model.{name}"), "wb") as file:
        file.write(content)
    logging.info(
        "model.%s: %.1f MB, differs from the SavedModel by %.1e",
        name,
        len(content) / 1e6,
        difference,
    )
    return difference


def check(names) -> None:
    """Raises UserError if there is no such format, or a package that it needs is missing."""
    for name in names:
        if name not in FORMATS:
            raise UserError(f"--format={name}: expected {', '.join(FORMATS)}, or several of them")
    packages = ("onnx", "onnxruntime", "tf2onnx") if "onnx" in names else ()
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        raise UserError(
            f"--format=onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )


def _difference(expected, found):
    """The largest difference of any number in the outputs of two functions, see `TOLERANCE`."""
    shape, worst = expected.structured_input_signature[1]["images"].shape[1:], 0.0
    pixels = np.random.default_rng(0).integers(0, 256, [3, *shape], dtype=np.uint8)
    for images in (pixels, pixels[:1]):  # one file takes both
        outputs = found(images)
        for name, values in expected(images=tf.constant(images)).items():
            if values.dtype.is_floating:
                distance = np.abs(outputs[name] - values).max() / np.abs(values).max()
                worst = np.maximum(worst, distance)  # keeps NaN
    return float(worst)


def _to_tflite(folder, _):
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[_SIGNATURE])
    # Every build of the interpreter has these; others come with TensorFlow's own kernels.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def _run_tflite(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that tf.lite.Interpreter will move
        runner = tf.lite.Interpreter(model_content=content).get_signature_runner(_SIGNATURE)
    return lambda images: runner(images=images)


def _to_onnx(_, served):
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(
        tf.function(lambda images: served(images=images), autograph=False),
        [served.structured_input_signature[1]["images"]],
        custom_op_handlers={"Erfc": (_convert_erfc, [])},
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model.SerializeToString()


def _convert_erfc(graph, node, name, _):
    """1 - erf(x): tf2onnx has no Erfc, of which TensorFlow makes GELU."""
    import tf2onnx

    graph.remove_node(name)
    one = graph.make_const(tf2onnx.utils.make_name("one"), np.array(1.0, np.float32))
    erf = graph.make_node("Erf", node.input)
    graph.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=node.output)


def _run_onnx(content):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


_CONVERTERS = {"onnx": _to_onnx, "tflite": _to_tflite}
_RUNNERS = {"onnx": _run_onnx, "tflite": _run_tflite}
FORMATS = ("savedmodel", *_CONVERTERS)
