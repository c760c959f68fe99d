#!/usr/bin/env python
"""Pretrains Selfie or PatchFormer without labels on a folder of images or a TFDS dataset.

    python bin/pretrain.py --config=configs/quickstart.py --workdir=runs/quickstart/pretrained

The same command again resumes after any kill. Single config values: --config.train.steps=1000.
"""

import _main

from selfie_tf.config import PretrainConfig

_main.define_config("selfie_cifar10.py", PretrainConfig)
_main.define_training_flags()


def main():
    # After the flags: a mistake in them shows without waiting for TensorFlow.
    from selfie_tf.training.pretrain import pretrain

    _main.train(pretrain)


if __name__ == "__main__":
    _main.run(main)
