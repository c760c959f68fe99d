"""The train step of a config as one core of a TPU would get it, lowered to XLA's HLO without a TPU.

TensorFlow's bridge to XLA is the same code for every device, so the CPU's does. What TPUStrategy
does to the step while it traces is done by `ReplicaStrategy` here.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute import distribute_lib, one_device_strategy

from selfie_tf.config import FinetuneConfig
from selfie_tf.data.pipeline import labelled_batches
from selfie_tf.data.source import BatchShard
from selfie_tf.data.synthetic import ShapesSource
from selfie_tf.methods import METHODS
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model


class ReplicaStrategy(tf.distribute.Strategy):
    """Traces what one of `num_replicas` TPU cores runs.

    As under TPUStrategy, the replica's id is an input of the step, each tensor that replicas agree
    on is one sum over replicas, and all else (moving statistics, metrics) is each replica's own.
    """

    def __init__(self, num_replicas: int):
        super().__init__(_Extended(self, num_replicas))

    def run(self, fn, args=(), kwargs=None, options=None):
        """Calls `fn`; the first of `args` is the replica's id, an int32 scalar tensor."""
        replica_id, *args = args
        with self.scope(), _ReplicaContext(self, replica_id):
            return fn(*args, **(kwargs or {}))


class _ReplicaContext(distribute_lib.ReplicaContext):
    @property
    def devices(self):
        return self.strategy.extended.worker_devices


class _Extended(one_device_strategy.OneDeviceExtended):
    def __init__(self, strategy, num_replicas):
        super().__init__(strategy, "/cpu:0")
        self._replicas = num_replicas

    @property
    def _num_replicas_in_sync(self):
        return self._replicas

    def _reduce_to(self, reduce_op, value, destinations, options):
        if reduce_op != tf.distribute.ReduceOp.SUM:
            raise NotImplementedError(f"{reduce_op}: replicas only sum here")
        value = tf.convert_to_tensor(value)
        if self._replicas == 1:
            return value
        # The operation takes no float64. `find_problems` finds it all the same.
        narrow = tf.cast(value, tf.float32) if value.dtype == tf.float64 else value
        summed = gen_xla_ops.xla_all_reduce(
            input=narrow,
            group_assignment=tf.constant([list(range(self._replicas))]),
            reduce_op="Add",
            mode="CrossReplica",
        )
        return tf.cast(summed, value.dtype)

    def _batch_reduce_to(self, reduce_op, value_destination_pairs, options):
        return [self._reduce_to(reduce_op, v, d, options) for v, d in value_destination_pairs]


_BRIDGE = "CPU"  # by default a GPU's where there is one


@dataclasses.dataclass
class Lowered:
    """A train step in HLO.

    Attributes:
      serialize: Makes the serialized HLO module, lowering the step once more; its parameters are
        the replica's id, the batch and all variables, each with the output that replaces it.
      all_reduces: Sums over replicas.
      variables_updated: Variables of which the step makes new values.
      batch_bytes: Size of one core's batch, as it comes from the host.
      batch_dtypes: Names of the dtypes of its tensors, in the structure of the batch.
      problems: What a TPU's compiler would accept but a step on a TPU should not have, in words.
    """

    serialize: Callable[[], bytes]
    all_reduces: int
    variables_updated: int
    batch_bytes: int
    batch_dtypes: dict | tuple
    problems: list


class TrainStep:
    """The train step of a config for one of several cores, at any batch size.

    Args:
      config: See `config`; for finetuning all weights are random.
      cores: Number of cores that share the step.
      num_classes: Number of classes, for a `config.FinetuneConfig`.
    """

    def __init__(self, config, cores: int, num_classes: int = 1000):
        self._config, self._cores, self._lowered = config, cores, {}
        self._strategy = ReplicaStrategy(cores)
        keras.mixed_precision.set_global_policy(config.train.precision)
        with self._strategy.scope():
            if isinstance(config, FinetuneConfig):
                self.model = build_classifier(config, num_classes)
            else:
                self.model = build_pretrainer(config)
            compile_model(config, self.model, 1)

    def lower(self, batch_per_core: int) -> Lowered:
        """Lowers the step for one core's batch; once, however many chips it is compiled for.

        Raises:
          ValueError, tf.errors.OpError: If there is something in it that XLA cannot compile.
        """
        if batch_per_core not in self._lowered:
            self._lowered[batch_per_core] = self._lower(batch_per_core)
        return self._lowered[batch_per_core]

    def _lower(self, batch_per_core):
        spec = self.batch_spec(batch_per_core)
        leaves = tf.nest.flatten(spec)
        step = self.function(spec)
        compiler_ir = step.experimental_get_compiler_ir(tf.TensorSpec([], tf.int32), *leaves)
        text = compiler_ir(stage="hlo", platform_name=_BRIDGE)
        gradients = [weight.shape for weight in self.model.trainable_variables]
        return Lowered(
            serialize=functools.cache(
                lambda: compiler_ir(stage="hlo_serialized", platform_name=_BRIDGE)
            ),
            all_reduces=count_operations(text)["all-reduce"],
            variables_updated=text.split("\n", 1)[0].count("-alias)"),
            batch_bytes=sum(s.shape.num_elements() * s.dtype.size for s in leaves),
            batch_dtypes=tf.nest.map_structure(lambda s: s.dtype.name, spec),
            problems=find_problems(text, gradients if self._cores > 1 else ()),
        )

    def function(self, spec):
        """The step as a `tf.function` of (replica's id, the batch's tensors, flattened)."""

        @tf.function(jit_compile=True, autograph=False)
        def step(replica_id, *leaves):
            batch = tf.nest.pack_sequence_as(spec, leaves)
            return self._strategy.run(self.model.train_step, args=(replica_id, batch))

        return step

    def batch_spec(self, batch_size: int):
        """What the input pipeline yields; it depends on the config alone, not on the images."""
        source, shard = ShapesSource(self._config.data.image_size), BatchShard(batch_size)
        if isinstance(self._config, FinetuneConfig):
            return labelled_batches(source, self._config, shard=shard).element_spec
        method = METHODS[self._config.method]
        return method.training_batches(source, self._config, shard=shard).element_spec


def count_operations(hlo: str) -> collections.Counter:
    """Counts the operations of an HLO module's text by name."""
    return collections.Counter(re.findall(r" ([a-z][a-z0-9\-]*)\(", hlo))


_HOST = ("infeed", "outfeed", "send", "recv")


def find_problems(hlo: str, summed=()) -> list:
    """Finds in HLO text what a TPU's compiler accepts but a step on a TPU should not have.

    Args:
      hlo: Before any optimization.
      summed: Shapes of what must be summed over the cores, each by itself.

    Returns:
      One line of text per problem.
    """
    problems = []
    sums = re.findall(r"= \w+\[([\d,]*)\]\S* all-reduce\(", hlo)
    wanted = [",".join(map(str, shape)) for shape in summed]
    missing = collections.Counter(wanted) - collections.Counter(sums)
    if missing:
        problems.append(
            f"{missing.total()} of {len(wanted)} gradients are not summed over the cores"
        )
    bounded = sorted(set(re.findall(r"\w+\[[^\]\n]*<=\d+[^\]\n]*\]", hlo)))
    if bounded:
        problems.append(
            f"dynamic shapes {', '.join(bounded[:3])} (as of boolean_mask, where, unique)"
        )
    if re.search(r"\b(f64|c128)\[", hlo):
        problems.append("float64, which a TPU only emulates")
    operations = count_operations(hlo)
    host = [name for name in _HOST if operations[name]]
    if host:
        problems.append(f"calls to the host: {', '.join(host)}")
    calls = sorted(set(re.findall(r'custom_call_target="([^"]+)"', hlo)))
    if calls:
        problems.append(f"custom calls, which not every compiler has: {', '.join(calls)}")
    if operations["rng"] or operations["rng-get-and-update-state"]:
        problems.append("random numbers with a state outside of the checkpoint")
    return problems
