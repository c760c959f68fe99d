#!/usr/bin/env python
"""Pretrains Selfie without labels on a folder of images or a TFDS dataset.

    python bin/pretrain.py --config=configs/quickstart.py --workdir=runs/quickstart

The same command again resumes after any kill. Single config values: --config.train.steps=1000.
"""

import os

import _main
from absl import flags

WORKDIR = flags.DEFINE_string("workdir", "", "Folder for this run (required).")
TPU = flags.DEFINE_string("tpu", "", "Name or address of a TPU; `local` on a TPU VM.")
VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices", 0, "Split the CPU into that many replicas, to try distribution."
)


def main():
    if not WORKDIR.value:
        raise _main.UserError("--workdir is missing: give a folder for this run")
    # After the flags: a mistake in them shows without waiting for TensorFlow.
    from selfie_tf import distribute, training

    strategy = distribute.make_strategy(TPU.value, VIRTUAL_DEVICES.value)
    training.pretrain(
        _main.CONFIG.value,
        os.path.expanduser(WORKDIR.value),
        strategy,
        data_dir=os.path.expanduser(_main.DATA_DIR.value),
        download=_main.DOWNLOAD.value,
        remote_data=TPU.value not in ("", "local"),
    )


if __name__ == "__main__":
    _main.run(main)
