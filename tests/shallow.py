"""A shallow P: one unit per group instead of ResNet-50's 3, 4, 6 and 3.

How runs are saved, resumed, distributed and exported does not depend on the depth of P, but most of
the time of a tiny run does: it goes into tracing P.

As a script, `python shallow.py SCRIPT FLAGS` runs SCRIPT so.
"""

import os
import runpy
import sys

FULL, SHALLOW = (3, 4, 6, 3), (1, 1, 1, 1)


def set_depth(units):
    from selfie_tf.layers import resnet

    resnet.UNITS_PER_GROUP = units


def is_shallow():
    from selfie_tf.layers import resnet

    return resnet.UNITS_PER_GROUP == SHALLOW


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    set_depth(SHALLOW)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
