"""Weights from one model to another of the same kind."""

import tf_keras as keras

from selfie_tf.errors import UserError


def copy_weights(source: keras.Model, target: keras.Model, origin: str) -> dict:
    """Copies all weights between two built models of one class.

    Moving statistics are copied, too. Metrics and dropout's counts of calls are not: they belong to
    a run.

    Args:
      source, target: Built models.
      origin: What error messages call the source.

    Returns:
      A dict of three lists of tensor names, as `load_pretrained_weights` returns it. Here `fresh`
      and `unused` are empty.

    Raises:
      UserError: On the first tensor that differs; nothing is copied then.
    """
    found, wanted = _states(source), _states(target)
    for name in {**wanted, **found}:
        there, here = (
            tuple(states[name].shape) if name in states else "missing" for states in (found, wanted)
        )
        if there != here:
            raise UserError(f"{origin} does not fit: {name} is {there} there and {here} here")
    for name, variable in wanted.items():
        variable.assign(found[name])
    return {"loaded": list(wanted), "fresh": [], "unused": []}


def _states(model):
    """{name: variable} without metrics, whose names have no path, and dropout's counts."""
    named = {variable.name.split(":")[0]: variable for variable in model.weights}
    return {n: v for n, v in named.items() if "/" in n and not n.endswith("/calls")}
