#!/usr/bin/env python
"""Compares finished finetuning runs: a table, and the curves of the paper's Figure 3.

    python bin/compare.py --runs=pretrained=runs/a,scratch=runs/b \
        --picture=runs/comparison.png

Runs of one label (other seeds, say) are averaged.
"""

import os

import _main
from absl import flags

RUNS = flags.DEFINE_list("runs", [], "LABEL=WORKDIR, separated by commas (required).")
PICTURE = flags.DEFINE_string("picture", "", "PNG to write; none if empty.")


def main():
    pairs = [run.partition("=") for run in RUNS.value]
    if not pairs or not all(label and path for label, _, path in pairs):
        raise _main.UserError(
            f"--runs={','.join(RUNS.value)}: expected LABEL=WORKDIR,LABEL=WORKDIR,..."
        )
    from selfie_tf.evaluation.compare import compare

    runs = [(label, os.path.expanduser(path)) for label, _, path in pairs]
    print(compare(runs, os.path.expanduser(PICTURE.value)))


if __name__ == "__main__":
    _main.run(main)
