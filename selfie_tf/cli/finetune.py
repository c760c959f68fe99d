"""Trains an image classifier on few labels, from a pretrained network or from random weights.

    selfie-tf finetune --config=finetune_quickstart --workdir=runs/finetuned \\
        --config.init_from=runs/quickstart/pretrained

Without --config.init_from it trains the supervised baseline. The same command again resumes the
run after any interruption.
"""

from selfie_tf.cli.common import Arguments, Command, define_training_flags, train
from selfie_tf.config import FinetuneConfig


def run(arguments: Arguments) -> None:
    """Finetunes, or resumes."""
    from selfie_tf.training.finetune import finetune

    train(finetune, arguments)


COMMAND = Command(
    "finetune", __doc__, define_training_flags, run, FinetuneConfig, config="finetune_cifar10"
)
