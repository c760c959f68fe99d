"""Runs and exports, read back from disk."""

import collections.abc
import contextlib
import dataclasses
import os
import typing

import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import FinetuneConfig, PretrainConfig
from selfie_tf.errors import UserError
from selfie_tf.methods import read_config
from selfie_tf.storage import saved_model
from selfie_tf.storage.checkpoints import Checkpointer
from selfie_tf.storage.files import read_json
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model


@dataclasses.dataclass
class LoadedRun:
    """A model read from disk, and what is known of it.

    Attributes:
      model: Compiled, in float32 (float64 if the run was), or in the precision of training.
      config: The run's config.
      class_names: The names of a classifier's classes; empty after pretraining.
      step: The step of the weights.
      origin: One line that says where the model is from.
      fingerprint: That of the images it was trained on, see `data.source.IndexedSource`.
      sha256: Hexadecimal digest of the checkpoint or the export that the weights are from.
    """

    model: keras.Model
    config: typing.Any
    class_names: tuple
    step: int
    origin: str
    fingerprint: str
    sha256: str = ""

    def check_images(self, source) -> None:
        """Raises UserError if the run's images have changed, and with them the held-out ones."""
        if self.fingerprint.partition("#")[0] not in ("", source.fingerprint):
            raise UserError(
                f"data.name={self.config.data.name} holds other images than the run was trained "
                "on, or its lists have other labels, so held-out images may have been trained on; "
                "bring back the same files, or name other data with --data_name"
            )


def load_pretraining_run(path: str, as_trained: bool = False) -> LoadedRun:
    """Loads a pretraining run.

    Args:
      path: The work directory of the run, finished or not, or an export of it.
      as_trained: Whether to compute in the precision of training, mixed_bfloat16 for example.

    Raises:
      UserError: If there is neither at `path`, no whole checkpoint, or a damaged export.
    """
    return _load(path, PretrainConfig, lambda config, _: build_pretrainer(config), as_trained)


def load_finetuning_run(path: str, as_trained: bool = False) -> LoadedRun:
    """Loads a finetuning run; see `load_pretraining_run`."""

    def build(config, names):
        return build_classifier(config, len(names))

    return _load(path, FinetuneConfig, build, as_trained)


def load_pretrained(path: str) -> keras.Model:
    """Loads the model of a pretraining run.

    Args:
      path: The work directory of the run, finished or not, or an export of it.

    Returns:
      The model, a `SelfiePretrainer` or `PatchFormerPretrainer`, with the weights of the newest
      whole checkpoint. `.patch_network` is P, `.attention_pooling` pools P's vectors, and
      `.image_features(images)` gives what exports give.

    Raises:
      UserError: If there is neither at `path`, no whole checkpoint, or a damaged export.
    """
    return load_pretraining_run(path).model


def load_finetuned(path: str) -> keras.Model:
    """Loads the classifier of a finetuning run; arguments and errors as `load_pretrained`."""
    return load_finetuning_run(path).model


def is_finetuning(path: str) -> bool:
    """Whether a work directory or export is of a finetuning run.

    Raises:
      UserError: If there is neither at `path`.
    """
    return isinstance(read_run_config(path), FinetuneConfig)


def read_run_config(path: str):
    """The config of a work directory or export.

    Raises:
      UserError: If there is neither at `path`.
    """
    return _config(path, saved_model.read_info(path))


@contextlib.contextmanager
def loading_precision(config, as_trained: bool = False) -> collections.abc.Iterator[None]:
    """Within it, models are made in the precision of a `LoadedRun` of `config`."""
    policy, precision = keras.mixed_precision.global_policy(), config.train.precision
    keras.mixed_precision.set_global_policy(
        precision if as_trained or precision == "float64" else "float32"
    )
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(policy)


def _load(path, kind, build, as_trained):
    info = saved_model.read_info(path)
    config = _config(path, info)
    if not isinstance(config, kind):
        found, wanted = ("finetuning", "pretraining")[:: 1 if kind is PretrainConfig else -1]
        raise UserError(f"{path} comes from a {found} run; give a {wanted} run")
    about = info if info is not None else read_json(path, "subset.json") or {}
    class_names = about.get("class_names", ())
    if kind is FinetuneConfig and not class_names:
        raise UserError(f"{path}: no class names: its subset.json is lost; bring it back")
    data = info if info is not None else read_json(path, "data.json") or {}
    with loading_precision(config, as_trained):
        model = build(config, class_names)
        compile_model(config, model)
    if info is not None:
        saved_model.restore(path, info, model)
        step, digest = info["step"], saved_model.info_sha256(path)
    else:
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        checkpointer = Checkpointer(os.path.join(path, "checkpoints"), checkpoint)
        step = checkpointer.restore()
        if not step:
            raise UserError(f"{path}: no checkpoint in it yet")
        digest = checkpointer.sha256(step)
    origin = f"{path} ({config.data.name}, step {step} of {config.train.steps})"
    images = data.get("fingerprint", "")
    return LoadedRun(model, config, tuple(class_names), step, origin, images, digest)


def _config(path, info):
    values = read_json(path, "config.json") if info is None else info["config"]
    if values is None:
        raise UserError(
            f"{path}: no config.json in it; give the work directory of a run, or an export"
        )
    try:
        return read_config(values)
    except UserError as error:
        raise UserError(f"{path}: its config cannot be used ({error})") from error
