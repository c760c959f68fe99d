#!/usr/bin/env python
"""Writes what a run has learnt as a SavedModel: features or a classifier, to serve or finetune.

    python bin/export.py --workdir=runs/quickstart/finetuned --output=exports/classifier
    python bin/export.py --workdir=runs/quickstart/pretrained --output=exports/features

The folder holds a model card, README.md, that says how to use it.
"""

import os

import _main
from absl import flags

flags.DEFINE_string("workdir", "", "Folder of a pretraining or finetuning run (required).")
OUTPUT = flags.DEFINE_string("output", "", "Folder to make (required).")


def main():
    if not OUTPUT.value:
        raise _main.UserError("--output is missing: give a folder to make")
    from selfie_tf.evaluation.export import export

    export(*(os.path.expanduser(p) for p in (flags.FLAGS.workdir, OUTPUT.value)))


if __name__ == "__main__":
    _main.run(main)
