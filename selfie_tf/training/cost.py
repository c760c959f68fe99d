"""What training costs, counted."""

from selfie_tf.config import FinetuneConfig, PretrainConfig
from selfie_tf.methods import METHODS
from selfie_tf.models.flops import classifier_flop


def gflop_per_image(config: PretrainConfig | FinetuneConfig, num_classes: int = 0) -> float:
    """Counts the floating-point operations of one training step per image, in 1e9.

    Multiplications and additions of the convolutions and matrix products, forward, times 3 (the
    backward pass computes one product of the same size for the input's and one for the kernel's
    gradient):

    - a k x k convolution from c to d channels with output h x w: 2 k^2 c d h w. Taps in the
      padding count, as is usual, also where the implementation skips them (3x3 at 2x2 positions:
      4 of 9 taps are real), so the figure compares implementations by images/s;
    - an attention block, see `attention_block_flop`;
    - Selfie's logits: 2 T^2 D;
    - a dense layer from c to d channels: 2 c d.

    Element-wise work, normalisation, the position look-up and the optimizer are left out.

    Args:
      config: A `config.SelfieConfig`, `config.PatchFormerConfig` or `config.FinetuneConfig`.
      num_classes: Number of classes in finetuning.

    Returns:
      GFLOP per image.
    """
    if isinstance(config, FinetuneConfig):
        model = config.model
        forward = classifier_flop(
            num_classes,
            config.data.image_size,
            model.head,
            config.grid,
            model.width,
            model.stem,
            model.attention_layers,
            model.mlp_dim,
            model.patch_by_patch,
            config.patches.mask_ratio,
        )
    else:
        forward = METHODS[config.method].forward_flop(config)
    return 3 * forward / 1e9
