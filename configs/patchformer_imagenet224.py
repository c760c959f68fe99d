"""PatchFormer pretraining on ImageNet at 224x224, the paper's run (section 2.1).

    python bin/pretrain.py --config=configs/patchformer_imagenet224.py --workdir=runs/patchformer \
        --config.data.name=folder:/path/to/images

14x14 grid of 16x16 patches, 80 seen and 116 hidden (29 of 49 blocks of 2x2); of each hidden patch
the middle 8x8 pixels are decoded to 4 grey levels. Ten attention blocks of width 1024. The paper
says nothing of warm-up, decay of the learning rate, or the crop before cutting: 10 000 steps, a
cosine, and random resized crops are our choice. Expected cost: 300 000 steps of 128 images. Result
at this size: not measured.
"""

from selfie_tf.config import PatchFormerConfig


def get_config() -> PatchFormerConfig:
    return PatchFormerConfig()  # the defaults are this run
