"""SGD, AdamW and LAMB, and a learning rate that warms up and then decays as a cosine."""

import warnings

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError

_NO_KERNEL = r"^(?!(.*/)?kernel(/replica_\d+)?(:\d+)?$)"


def warmup_cosine(
    learning_rate: float, steps: int, warmup_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a schedule: linear warm-up from 0, then a half cosine down to 0.

    Args:
      learning_rate: The peak, reached after `warmup_steps`.
      steps: Number of steps of the whole run, including the warm-up. The rate is 0 there.
      warmup_steps: Number of warm-up steps, less than `steps`. With 0 the run starts at the peak.

    Returns:
      A Keras schedule from step to learning rate.
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
    """Makes an optimizer.

    Only kernels decay: normalisations, biases and embeddings do not.

    Args:
      name: "sgd", with Nesterov momentum (Selfie); "adamw", Adam with decoupled weight decay
        (PatchFormer); or "lamb", from TensorFlow Addons (You et al. 2019), for very large batches.
      learning_rate: A float or a Keras schedule.
      momentum: Momentum of SGD.
      weight_decay: With AdamW, a kernel shrinks by this fraction times the learning rate at each
        step. LAMB adds this multiple of the kernel to its update. SGD ignores it: Selfie's weight
        decay is L2 in the loss, so that its gradient passes through the momentum.
      beta_1, beta_2, epsilon: Of AdamW and LAMB; the defaults are those of BERT.

    Returns:
      A Keras optimizer. LAMB is of an older kind (`keras.optimizers.legacy`); `build`,
      `apply_gradients` and `current_learning_rate` of this module work with both.

    Raises:
      ValueError: If `name` is unknown.
      UserError: If LAMB is asked for and TensorFlow Addons is missing.
    """
    if name == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True)
    if name == "adamw":
        optimizer = keras.optimizers.AdamW(
            learning_rate, weight_decay, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon
        )
        # Keras searches names for this pattern, which matches unless the last component is
        # `kernel`. A replica's copy has one more component, and must decay like the others.
        optimizer.exclude_from_weight_decay(var_names=[_NO_KERNEL])
        return optimizer
    if name == "lamb":
        return _addons().LAMB(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            # Step lengths per layer, too, are for kernels only, as is usual.
            exclude_from_weight_decay=[_NO_KERNEL],
            exclude_from_layer_adaptation=[_NO_KERNEL],
        )
    raise ValueError(f"optimizer {name!r} is unknown: expected 'sgd', 'adamw' or 'lamb'")


def build(optimizer, variables) -> None:
    """Makes the optimizer's variables now, so that a checkpoint before the first step has them."""
    if _is_legacy(optimizer):
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)


def apply_gradients(optimizer, gradients, variables) -> None:
    """Takes a step with gradients that are already summed over replicas; in replica context."""
    pairs = zip(gradients, variables, strict=True)
    if _is_legacy(optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def apply_gradients_slowed(
    optimizer, gradients, variables, slowed, factor: float, frozen_steps: int
) -> list:
    """Takes a step as `apply_gradients`, in which some variables move less, or not at all at first.

    The optimizer computes its update as usual, and a fraction of it is kept. So with any optimizer
    the variables have a learning rate of their own: the optimizer's, times the factor. Decoupled
    weight decay is scaled, too.

    While variables are frozen their gradients are 0, so that no momentum builds up. Training them
    begins after that with moments of 0. Adam's correction for this start counts their own steps:
    counted from the first step of the run, it would make their first updates over six times too
    long. LAMB is left as it is: its kernels have a step length that does not depend on this.

    Args:
      optimizer: Its `iterations` say which step this is.
      gradients: Of `variables`, summed over replicas.
      variables: All variables to train.
      slowed: Those of `variables` that move less.
      factor: What the updates of `slowed` are multiplied with.
      frozen_steps: In this number of first steps `slowed` stay as they are.

    Returns:
      The gradients that the step was taken with.
    """
    step, chosen = tf.identity(optimizer.iterations), {v.ref() for v in slowed}
    starts_late = bool(frozen_steps) and isinstance(
        optimizer, (keras.optimizers.Adam, keras.optimizers.AdamW)
    )
    if frozen_steps:
        gradients = [
            tf.where(step < frozen_steps, tf.zeros_like(g), g) if v.ref() in chosen else g
            for g, v in zip(gradients, variables, strict=True)
        ]
    before = [tf.identity(v) for v in slowed]
    apply_gradients(optimizer, gradients, variables)

    def keep_a_fraction(variable, old, step):
        new = tf.identity(variable)
        if factor != 1.0 or starts_late:
            scale = tf.constant(factor, new.dtype)
            if starts_late:
                scale *= _late_start(optimizer, step, frozen_steps, new.dtype)
            new = old + scale * (new - old)
        if frozen_steps:
            new = tf.where(step < frozen_steps, old, new)
        variable.assign(new)

    def keep_fractions(strategy, before, step):
        for variable, old in zip(slowed, before, strict=True):
            update = strategy.extended.update
            update(variable, keep_a_fraction, args=(old, step), group=False)

    # As Keras's optimizers update variables: not all strategies let a replica assign to them.
    tf.__internal__.distribute.interim.maybe_merge_call(
        keep_fractions, tf.distribute.get_strategy(), before, step
    )
    return gradients


def current_learning_rate(optimizer) -> float:
    """Returns the learning rate of the latest step."""
    if _is_legacy(optimizer):
        latest = tf.maximum(optimizer.iterations - 1, 0)
        return float(optimizer.learning_rate(latest))
    return float(tf.convert_to_tensor(optimizer.learning_rate))


def _late_start(optimizer, step, frozen_steps, dtype):
    """What Adam's update is multiplied with where moments are 0 during `frozen_steps`."""

    def correction(count):
        one, count = tf.ones([], dtype), tf.cast(count, dtype)
        return tf.sqrt(one - optimizer.beta_2**count) / (one - optimizer.beta_1**count)

    return correction(tf.maximum(step + 1 - frozen_steps, 1)) / correction(step + 1)


def _is_legacy(optimizer):
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def _addons():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that its development has ended
            import tensorflow_addons
    except ImportError as error:
        raise UserError(
            "optimizer.name=lamb needs TensorFlow Addons, which is not installed or does not fit "
            "this TensorFlow: in a new environment with Python 3.11, pip install -r "
            "requirements/addons.txt; or use optimizer.name=adamw"
        ) from error
    return tensorflow_addons.optimizers
