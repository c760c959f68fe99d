"""Selfie's Table 1, ImageNet at 224x224: 40 finetunings after tuning (sections 3.1, 3.2).

    python bin/experiment.py --config=configs/experiments/selfie_imagenet224_table1.py \
        --workdir=runs/table1 --dry_run

As selfie_cifar10_table1, on 5, 10, 20 and 100 % of the labels. Result: not measured.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.papers import selfie_table1
from selfie_tf.experiments.plan import Experiment

FRACTIONS = {"5%": 0.05, "10%": 0.1, "20%": 0.2, "100%": 1.0}
PUBLISHED = {  # in %, mean and standard deviation of five seeds (Table 1)
    "scratch": ((35.6, 0.7), (59.6, 0.2), (65.7, 0.2), (76.9, 0.2)),
    "selfie": ((46.7, 0.4), (61.9, 0.2), (67.1, 0.2), (77.0, 0.1)),
}


def get_config() -> Experiment:
    return selfie_table1(
        get("selfie_imagenet224"), get("finetune_imagenet224"), FRACTIONS, PUBLISHED
    )
