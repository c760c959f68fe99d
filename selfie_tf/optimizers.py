"""SGD and AdamW, and a learning rate that warms up and then falls as a cosine."""

import tf_keras as keras

_NO_KERNEL = r"^(?!(.*/)?kernel(/replica_\d+)?(:\d+)?$)"


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


def make_optimizer(
    name: str,
    learning_rate,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-6,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer called `name`.

    Args:
      name: "sgd": SGD with Nesterov momentum (Selfie); "adamw": Adam with decoupled weight decay
        (PatchFormer).
      learning_rate: float or Keras schedule.
      momentum: of SGD.
      weight_decay: of AdamW: at each step a kernel loses this part of itself times the learning
        rate; norms, biases and embeddings don't. Of no matter to SGD: Selfie's decay is L2 in the
        loss, whose gradient passes through the momentum.
      beta_1, beta_2, epsilon: of AdamW; BERT's by default.

    Returns:
      a Keras optimizer.

    Raises:
      ValueError: on an unknown name.
    """
    if name == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True)
    if name == "adamw":
        optimizer = keras.optimizers.AdamW(
            learning_rate, weight_decay, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon
        )
        # Searched for in names: a pattern that finds something unless the name's last part is
        # `kernel`. A replica's copy of a variable has a part more, and must decay like the others.
        optimizer.exclude_from_weight_decay(var_names=[_NO_KERNEL])
        return optimizer
    raise ValueError(f"optimizer {name!r} is not known: expected 'sgd' or 'adamw'")
