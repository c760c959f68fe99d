#!/usr/bin/env python
"""Measures what a run has learnt, on images that it has not seen.

    python bin/evaluate.py --workdir=runs/quickstart/finetuned   # a finetuning run
    python bin/evaluate.py --workdir=runs/quickstart/pretrained   # a pretraining run

Of a finetuning run: top-1 and top-5 accuracy, a table of the classes and a confusion matrix. Of a
pretraining run: patch or pixel accuracy, and what 20 nearest neighbours and a linear probe make of
its frozen features, beside those of the untrained network. Takes exports as well.
"""

import os

import _main
from absl import flags

flags.DEFINE_string("workdir", "", "Folder of the run, or of an export (required).")
OUTPUT = flags.DEFINE_string("output", "", "Folder for evaluation.json; the run's own if empty.")
DATA_NAME = flags.DEFINE_string(
    "data_name", "", "Labelled data to evaluate on, as config.data.name; the run's own if empty."
)
TRAIN_IMAGES = flags.DEFINE_integer(
    "train_images", 10_000, "kNN and linear probe learn from at most so many images.", 1
)


def main():
    from selfie_tf.evaluation import evaluate as evaluation
    from selfie_tf.training.load import is_finetuning

    path = os.path.expanduser(flags.FLAGS.workdir)
    arguments = {
        "path": path,
        "output": os.path.expanduser(OUTPUT.value) or path,
        "data_name": DATA_NAME.value,
        "data_dir": os.path.expanduser(_main.DATA_DIR.value),
    }
    if is_finetuning(path):
        print(evaluation.finetuned_report(evaluation.evaluate_finetuned(**arguments)))
    else:
        result = evaluation.evaluate_pretrained(**arguments, train_images=TRAIN_IMAGES.value)
        print(evaluation.pretrained_report(result))


if __name__ == "__main__":
    _main.run(main)
