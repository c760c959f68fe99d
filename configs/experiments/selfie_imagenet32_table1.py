"""Selfie's Table 1, ImageNet at 32x32: 40 finetunings after tuning (sections 3.1, 3.2).

    python bin/experiment.py --config=configs/experiments/selfie_imagenet32_table1.py \
        --workdir=runs/table1 --dry_run

As selfie_cifar10_table1, on 5, 10, 20 and 100 % of the labels. Result: not measured.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.papers import selfie_table1
from selfie_tf.experiments.plan import Experiment

FRACTIONS = {"5%": 0.05, "10%": 0.1, "20%": 0.2, "100%": 1.0}
PUBLISHED = {  # in %, mean and standard deviation of five seeds (Table 1)
    "scratch": ((13.1, 0.8), (25.9, 0.5), (32.7, 0.4), (55.7, 0.6)),
    "selfie": ((18.3, 0.1), (30.2, 0.5), (33.5, 0.2), (56.4, 0.6)),
}


def get_config() -> Experiment:
    return selfie_table1(get("selfie_imagenet32"), get("finetune_imagenet32"), FRACTIONS, PUBLISHED)
