"""Self-supervised image pretraining in TensorFlow 2 / Keras: Selfie (Trinh, Luong, Le 2019)."""

import os

# Keras 3 breaks under tf.distribute in several ways (README, "The stack and why"): Keras 2 it is.
# Set before TensorFlow is imported, this also makes `tf.keras` in a user's own script the same
# library; when TensorFlow came first, `import tf_keras as keras` still gets Keras 2.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"
