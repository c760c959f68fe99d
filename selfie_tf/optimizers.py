"""SGD, AdamW and LAMB, and a learning rate that warms up and then falls as a cosine."""

import warnings

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError

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
        (PatchFormer); "lamb": TensorFlow Addons' (You et al. 2019), for very large batches.
      learning_rate: float or Keras schedule.
      momentum: of SGD.
      weight_decay: of AdamW: at each step a kernel loses this part of itself times the learning
        rate; norms, biases and embeddings don't. Of LAMB: of the same, added to its update. Of no
        matter to SGD: Selfie's decay is L2 in the loss, whose gradient passes through the momentum.
      beta_1, beta_2, epsilon: of AdamW and LAMB; BERT's by default.

    Returns:
      a Keras optimizer; LAMB is one of Keras's older kind (`keras.optimizers.legacy`), so use
      `build`, `apply_gradients` and `current_learning_rate` here on either.

    Raises:
      ValueError: on an unknown name.
      UserError: on LAMB without TensorFlow Addons.
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
    if name == "lamb":
        return _addons().LAMB(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            # The layers' own step lengths too are for kernels only, as is usual.
            exclude_from_weight_decay=[_NO_KERNEL],
            exclude_from_layer_adaptation=[_NO_KERNEL],
        )
    raise ValueError(f"optimizer {name!r} is not known: expected 'sgd', 'adamw' or 'lamb'")


def build(optimizer, variables) -> None:
    """Makes the optimizer's variables for `variables`, so that a checkpoint holds them at once."""
    if _is_legacy(optimizer):
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)


def apply_gradients(optimizer, gradients, variables) -> None:
    """One step with gradients that replicas agree on; call it in replica context."""
    pairs = zip(gradients, variables, strict=True)
    if _is_legacy(optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def current_learning_rate(optimizer) -> float:
    """The learning rate of the latest step."""
    if _is_legacy(optimizer):
        latest = tf.maximum(optimizer.iterations - 1, 0)
        return float(optimizer.learning_rate(latest))
    return float(tf.convert_to_tensor(optimizer.learning_rate))


def _is_legacy(optimizer):
    return isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def _addons():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that its development has ended
            import tensorflow_addons
    except ImportError as error:
        raise UserError(
            "optimizer.name=lamb is TensorFlow Addons', which is not here or not for this "
            "TensorFlow: with Python 3.11, pip install -r requirements/addons.txt in an "
            "environment of its own; adamw needs nothing"
        ) from error
    return tensorflow_addons.optimizers
