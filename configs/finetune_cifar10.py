"""Finetuning on CIFAR-10, the paper's run (sections 2.3, 3.1, 3.2; Table 1).

    python bin/finetune.py --config=configs/finetune_cifar10.py --workdir=runs/cifar10_5 \
        --config.init_from=runs/cifar10 --config.data.label_fraction=0.05

ResNet-50 of which groups 1 to 3 come from pretraining; without `init_from` it is the supervised
baseline. The paper's fractions are 0.05, 0.08, 0.2 and 1; it tunes the peak learning rate in
{0.01, 0.02, 0.05, 0.1, 0.2, 0.4} on a tenth of the labelled images
(`--config.data.validation_fraction=0.1`). Expected cost: 120 000 steps of 512 images.
Result at this size: not measured.
"""

from selfie_tf.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig()  # the defaults are this run
