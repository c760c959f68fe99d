#!/usr/bin/env python
"""The command `selfie-tf report` in a checkout; --help describes it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from selfie_tf.cli import run_process  # noqa: E402

if __name__ == "__main__":
    run_process(["report", *sys.argv[1:]])
