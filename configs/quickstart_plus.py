"""A small pretraining on built-in images (`make quickstart`), by a recipe beyond the paper.

    python bin/pretrain.py --config=configs/quickstart_plus.py --workdir=runs/quickstart/pretrained

The network and the images of quickstart.py, but the instance loss alone, on views of 16x16 pixels,
as in selfie_plus_cifar10.py. 1,000 steps take 0.7 of the operations of the quickstart's 600.
Two minutes on two CPU cores.
Result: see docs/RESULTS.md.
"""

from selfie_tf.config import SelfieConfig
from selfie_tf.config.files import get


def get_config() -> SelfieConfig:
    config = get("quickstart")
    config.model.jigsaw_weight, config.model.instance_weight = 0.0, 1.0
    config.views.size = 16
    config.optimizer.learning_rate = 0.3
    config.train.steps = 1000
    config.train.picture_every = 250
    return config
