"""The pretext tasks. A new one is a module here and a line in `METHODS`: see CONTRIBUTING.md."""

from selfie_tf.config import FinetuneConfig, RunConfig, from_dict, kind_of_run
from selfie_tf.errors import UserError
from selfie_tf.methods.base import Method
from selfie_tf.methods.patchformer import PatchFormer
from selfie_tf.methods.selfie import Selfie

METHODS = {
    "selfie": Selfie(),
    "patchformer": PatchFormer(),
}

__all__ = ["METHODS", "Method", "read_config"]


def read_config(values: dict) -> RunConfig:
    """Turns the contents of a config.json into a config of the kind it is of.

    Args:
      values: See `config.to_dict`. Values that are missing keep their defaults.

    Returns:
      A config of the method that `values` names, or a `FinetuneConfig`.

    Raises:
      UserError: On an unknown method or key, or a value that cannot work.
    """
    if kind_of_run(values) == "finetuning":
        return from_dict(FinetuneConfig, values)
    name = values.get("method", "selfie")  # the first configs named no method
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"method={name!r}: expected one of {', '.join(METHODS)}")
    return from_dict(METHODS[name].config, values)
