"""Pretrains Selfie or PatchFormer on images without labels.

    selfie-tf pretrain --config=quickstart --workdir=runs/quickstart/pretrained
    selfie-tf pretrain --config=quickstart --workdir=runs/mine --config.data.name=folder:my/images

Images come from a folder, from TensorFlow Datasets, or are built in. The same command again
resumes the run after any interruption; to see pictures and curves, point TensorBoard at the work
directory.
"""

from selfie_tf.cli.common import Arguments, Command, define_training_flags, train
from selfie_tf.config import PretrainConfig


def run(arguments: Arguments) -> None:
    """Pretrains, or resumes."""
    from selfie_tf.training.pretrain import pretrain

    train(pretrain, arguments)


COMMAND = Command(
    "pretrain", __doc__, define_training_flags, run, PretrainConfig, config="selfie_cifar10"
)
