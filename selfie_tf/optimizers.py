"""Section 3.2: momentum SGD, and a learning rate that warms up and then falls as a cosine."""

import tf_keras as keras


def warmup_cosine(
    learning_rate: float, steps: int, warmup_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to `learning_rate` in `warmup_steps`, then a half cosine to 0 at `steps`.

    Args:
      learning_rate: the peak.
      steps: of the whole run, warm-up included.
      warmup_steps: less than `steps`; 0 starts at the peak.

    Returns:
      a Keras schedule from step to learning rate.
    """
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup_steps, warmup_target=learning_rate, warmup_steps=warmup_steps
    )


def make_optimizer(name: str, learning_rate, momentum: float = 0.9) -> keras.optimizers.Optimizer:
    """Makes the optimizer called `name`.

    Args:
      name: "sgd": SGD with Nesterov momentum, as the paper.
      learning_rate: float or Keras schedule.
      momentum: of SGD.

    Returns:
      a Keras optimizer. Weight decay is not its business: the paper's is L2 in the loss, whose
      gradient passes through the momentum, unlike the decoupled decay that Keras optimizers offer.

    Raises:
      ValueError: on an unknown name.
    """
    if name == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True)
    raise ValueError(f"optimizer {name!r} is not known: expected 'sgd'")
