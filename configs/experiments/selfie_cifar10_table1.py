"""Selfie's Table 1, CIFAR-10: 40 finetunings after tuning (sections 3.1, 3.2).

    python bin/experiment.py --config=configs/experiments/selfie_cifar10_table1.py \
        --workdir=runs/table1 --dry_run

ResNet-50 on 5, 8, 20 and 100 % of the labels, supervised and from Selfie, five seeds each. The peak
learning rate is tuned on a tenth of the labelled images. The seeds also draw the labelled subsets,
of which the paper says nothing. The paper tunes pretraining, too, without saying which values won.
Result: not measured.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.papers import selfie_table1
from selfie_tf.experiments.plan import Experiment

FRACTIONS = {"5%": 0.05, "8%": 0.08, "20%": 0.2, "100%": 1.0}
PUBLISHED = {  # in %, mean and standard deviation of five seeds (Table 1)
    "scratch": ((75.9, 0.7), (79.3, 1.0), (88.3, 0.3), (95.5, 0.2)),
    "selfie": ((75.9, 0.4), (80.3, 0.3), (89.1, 0.5), (95.7, 0.1)),
}


def get_config() -> Experiment:
    return selfie_table1(get("selfie_cifar10"), get("finetune_cifar10"), FRACTIONS, PUBLISHED)
