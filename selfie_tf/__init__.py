"""Self-supervised image pretraining in TensorFlow 2 / Keras: Selfie and PatchFormer.

The command line is `selfie-tf --help`. From Python:

    import selfie_tf

    model = selfie_tf.load_pretrained("runs/quickstart/pretrained")  # a run, or an export of one
    features = model.image_features(images)  # uint8 [B, 32, 32, 3] -> float32 [B, D]
    patch_network = model.patch_network  # a Keras layer, to build your own model on

    classifier = selfie_tf.load_finetuned("runs/quickstart/finetuned")
    logits = classifier(images)  # float32 [B, classes]

    selfie_tf.export("runs/quickstart/finetuned", "exports/classifier")  # a SavedModel

Runs begin with a config, see `selfie_tf.config`:

    config = selfie_tf.config.SelfieConfig()
    config.data.name = "folder:my/images"
    result = selfie_tf.pretrain(config, "runs/mine")

`import selfie_tf` is cheap: TensorFlow is imported when one of these functions is first used.
"""

import importlib
import os
import typing

# Keras 3 breaks under tf.distribute in several ways (docs/ARCHITECTURE.md), so this is Keras 2.
# Set before TensorFlow is imported, this also makes `tf.keras` in a user's own script the same
# library; when TensorFlow came first, `import tf_keras as keras` still gets Keras 2.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"

if typing.TYPE_CHECKING:
    from selfie_tf import config
    from selfie_tf.evaluation.export import export
    from selfie_tf.training.finetune import finetune
    from selfie_tf.training.load import load_finetuned, load_pretrained
    from selfie_tf.training.pretrain import pretrain

__all__ = ["config", "export", "finetune", "load_finetuned", "load_pretrained", "pretrain"]

_MODULES = {
    "export": "selfie_tf.evaluation.export",
    "finetune": "selfie_tf.training.finetune",
    "load_finetuned": "selfie_tf.training.load",
    "load_pretrained": "selfie_tf.training.load",
    "pretrain": "selfie_tf.training.pretrain",
}


def __getattr__(name: str) -> typing.Any:
    """Imports what is asked for (PEP 562)."""
    if name == "config":
        return importlib.import_module("selfie_tf.config")
    if name not in _MODULES:
        raise AttributeError(f"module 'selfie_tf' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
