#!/usr/bin/env python
"""Trains an image classifier on few labels, from a pretrained network or from nothing.

    python bin/finetune.py --config=configs/finetune_quickstart.py --workdir=runs/finetuned \
        --config.init_from=runs/quickstart/pretrained

Without --config.init_from it is the supervised baseline. The same command again resumes.
"""

import _main

from selfie_tf.config import FinetuneConfig

_main.define_config("finetune_cifar10.py", FinetuneConfig)
_main.define_training_flags()


def main():
    # After the flags: a mistake in them shows without waiting for TensorFlow.
    from selfie_tf.training.finetune import finetune

    _main.train(finetune)


if __name__ == "__main__":
    _main.run(main)
