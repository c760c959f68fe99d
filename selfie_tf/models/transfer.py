"""Copying weights from one model to another."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError
from selfie_tf.models.classifier import ImageClassifier


def copy_weights(source: keras.Model, target: keras.Model, origin: str) -> dict:
    """Copies all weights between two built models of one class.

    Moving statistics are copied, too. Metrics and dropout's counts of calls are not: they belong to
    a run. The projection is copied where both models have one.

    Args:
      source, target: Built models.
      origin: What error messages call the source.

    Returns:
      A dict of three lists of tensor names, as `load_pretrained_weights` returns it. Here `fresh`
      and `unused` can only be of the projection.

    Raises:
      UserError: On the first tensor that differs; nothing is copied then.
    """
    found, wanted = _states(source), _states(target)
    loaded, fresh, unused = [], [], []
    for name in {**wanted, **found}:
        there, here = (
            tuple(states[name].shape) if name in states else "missing" for states in (found, wanted)
        )
        if there == here:
            loaded.append(name)
        elif name.startswith("projection/") and "missing" in (there, here):
            (fresh if there == "missing" else unused).append(name)
        else:
            raise UserError(f"{origin} does not fit: {name} is {there} there and {here} here")
    for name in loaded:
        wanted[name].assign(found[name])
    return {"loaded": loaded, "fresh": fresh, "unused": unused}


def load_pretrained_weights(classifier: ImageClassifier, pretrainer, origin: str) -> dict:
    """Copies the weights that a classifier takes from pretraining, see `transfers`.

    Args:
      classifier: A built classifier.
      pretrainer: A built `SelfiePretrainer` or `PatchFormerPretrainer`.
      origin: What error messages call the pretrained model.

    Returns:
      A dict of three lists of tensor names: `loaded`, the classifier's that were loaded; `fresh`,
      the classifier's that keep their initial values; `unused`, the pretrained model's that the
      classifier has no counterpart of.

    Raises:
      UserError: On the first tensor that does not fit; nothing is loaded then.
    """
    assignments, unused = [], []
    for source, target in classifier.transfers(pretrainer, origin):
        found, wanted = _by_name(source), _by_name(target)
        for name, variable in wanted.items():
            # Where a fourth group follows P, P's last normalisation fits neither P nor that group.
            if getattr(target, "num_groups", 0) == 4 and name.startswith(
                ("group4/", "final_norm/")
            ):
                continue
            if name not in found or found[name].shape != variable.shape:
                raise _misfit(origin, source, name, found.get(name), variable)
            assignments.append((variable, found.pop(name)))
        for name, variable in found.items():
            if not name.startswith("final_norm/"):
                raise _misfit(origin, source, name, variable, None)
            unused.append(f"{source.name}/{name}")
    for variable, value in assignments:
        variable.assign(tf.cast(value, variable.dtype))
    loaded = {variable.name for variable, _ in assignments}
    weights = [v.name for v in (*classifier.trainable_weights, *classifier.non_trainable_weights)]
    states = [name for name in weights if "/" in name]  # the others are metrics
    return {
        "loaded": [_path(name) for name in states if name in loaded],
        "fresh": [
            _path(name)
            for name in states
            if name not in loaded and not _path(name).endswith("/calls")  # dropout's count
        ],
        "unused": unused,
    }


def _misfit(origin, layer, name, found, wanted):
    """The error for a tensor of `layer` that differs, or is missing (None) on one side."""
    there, here = ("missing" if v is None else tuple(v.shape) for v in (found, wanted))
    # The arguments that decide about the layer's shapes.
    arguments = {"patch_network": "width and stem", "positions": "grid, width and position"}.get(
        layer.name, "attention_layers, mlp_dim and width"
    )
    return UserError(
        f"{origin} does not fit: {layer.name}/{name} is {there} there and {here} here; give the "
        f"{arguments} of pretraining"
    )


def _by_name(layer) -> dict:
    """{name below the layer: variable}, without dropout's counts of calls."""
    named = {_path(v.name).partition("/")[2]: v for v in layer.weights}
    return {name: v for name, v in named.items() if not name.endswith("/calls")}


def _states(model):
    """{name: variable} without metrics, whose names have no path, and dropout's counts."""
    named = {_path(v.name): v for v in model.weights}
    return {n: v for n, v in named.items() if "/" in n and not n.endswith("/calls")}


def _path(name):
    return name.split(":")[0]
