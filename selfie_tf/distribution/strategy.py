"""Picks the strategy: a TPU by name, TF_CONFIG workers, GPUs, or the CPU."""

import os
import signal
import threading

import grpc
import numpy as np
import tensorflow as tf

from selfie_tf.distribution import tf_config as cluster_config
from selfie_tf.errors import UserError, first_line

_TIMEOUT = 15.0  # seconds for a TPU's name to resolve and its port to answer


def make_strategy(tpu: str = "", virtual_devices: int = 0) -> tf.distribute.Strategy:
    """Makes the strategy for the hardware at hand. Call it once per process, before any tensor.

    Args:
      tpu: Name or `grpc://` address of a TPU; "local" on a TPU VM; "" for none.
      virtual_devices: Number of replicas to split the CPU into, to try distribution anywhere.

    Returns:
      TPUStrategy with `tpu`; else MultiWorkerMirroredStrategy where TF_CONFIG names a cluster;
      else MirroredStrategy over `virtual_devices` or over several GPUs; else the one GPU's or, on
      the CPU, the default strategy.

    Raises:
      UserError: If the TPU is absent or unreachable, TF_CONFIG cannot be used, or the arguments
        exclude each other.
    """
    if virtual_devices < 0:
        raise UserError(f"--virtual_devices={virtual_devices}: expected 0 or more")
    tf_config = os.environ.get("TF_CONFIG", "")
    if virtual_devices and (tpu or tf_config):
        other = "--tpu" if tpu else "TF_CONFIG"
        raise UserError(f"--virtual_devices and {other} exclude each other: drop one")
    if tpu:
        return _tpu_strategy(tpu)
    if tf_config:
        return _worker_strategy(tf_config)
    if virtual_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(virtual_devices)]
        )
        return tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(virtual_devices)])
    gpus = _let_gpu_memory_grow()
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    if gpus:
        return tf.distribute.OneDeviceStrategy("/gpu:0")
    return tf.distribute.get_strategy()


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line on the hardware, for logs and result.json."""
    kind = type(strategy).__name__.removesuffix("V2").removeprefix("_")
    devices = sorted(
        {d.device_type for d in tf.config.list_logical_devices() if "SYSTEM" not in d.device_type}
    )
    return f"{kind}, {strategy.num_replicas_in_sync} replica(s), devices: {', '.join(devices)}"


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes the work directory."""
    resolver = strategy.cluster_resolver
    if is_tpu(strategy) or resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that share one MultiWorkerMirroredStrategy run; 1 otherwise."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec()
    return sum(spec.num_tasks(job) for job in spec.jobs if job in ("chief", "worker"))


def worker_name(strategy: tf.distribute.Strategy) -> str:
    """A name that is unique among the workers of a run."""
    return f"{strategy.cluster_resolver.task_type}-{strategy.cluster_resolver.task_id}"


def gather(strategy: tf.distribute.Strategy, value: int) -> list:
    """Returns the `value` of every worker; all of them must call this."""
    if num_workers(strategy) == 1:
        return [value]
    mine = tf.constant([value], tf.int64)

    @tf.function
    def gathered():
        return strategy.run(lambda: tf.distribute.get_replica_context().all_gather(mine, axis=0))

    return strategy.experimental_local_results(gathered())[0].numpy().tolist()


def averager(strategy: tf.distribute.Strategy, variables):
    """Makes a function that gives all replicas the mean of their moving statistics.

    With batch statistics per replica, each replica has moving statistics of its own, and a
    checkpoint holds their mean. They are moving averages, so their mean does not depend on how
    often the function is called. All workers must call it.

    Args:
      strategy: The strategy of the run.
      variables: All variables that are not trained; the others among them are left alone.
    """
    own = [
        v
        for v in variables
        if v.synchronization == tf.VariableSynchronization.ON_READ
        and v.aggregation == tf.VariableAggregation.MEAN
    ]
    if strategy.num_replicas_in_sync == 1 or not own:
        return lambda: None

    @tf.function(autograph=False)
    def average():
        for v in own:
            # Outside of a replica: reads the mean, writes it to all.
            v.assign(tf.convert_to_tensor(v), read_value=False)

    return average


class ReplicaValues:
    """Scalars of which each replica has its own, to be added up: the variables of Keras metrics.

    A TensorFlow checkpoint holds their sums over replicas. All workers must call each method.

    Args:
      strategy: The strategy of the run.
      variables: Scalars of one dtype.
    """

    def __init__(self, strategy: tf.distribute.Strategy, variables: list):
        self._strategy, self._variables = strategy, variables
        self._several_workers = num_workers(strategy) > 1
        self._dtype = variables[0].dtype

        def own():
            values = tf.stack([tf.convert_to_tensor(v) for v in variables])[None]  # [1, V]
            if self._several_workers:  # a process sees its own replicas only
                values = tf.distribute.get_replica_context().all_gather(values, axis=0)
            return values

        self._read = tf.function(lambda: strategy.run(own), autograph=False)

    def read(self) -> np.ndarray:
        """Returns the values of all replicas, `[R, V]`."""
        values = self._strategy.experimental_local_results(self._read())
        return (values[0] if self._several_workers else tf.concat(values, axis=0)).numpy()

    def write(self, values: np.ndarray) -> None:
        """Sets the values of all replicas.

        Args:
          values: `[R, V]`. If R is not the number of replicas, the first takes all sums.
        """
        values = tf.constant(values, self._dtype)
        others = self._strategy.num_replicas_in_sync - 1
        if len(values) != others + 1:
            values = tf.pad(tf.reduce_sum(values, axis=0, keepdims=True), [[0, others], [0, 0]])

        def assign():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for variable, value in zip(
                self._variables, tf.unstack(tf.gather(values, replica)), strict=True
            ):
                variable.assign(value)

        tf.function(lambda: self._strategy.run(assign), autograph=False)()


def per_replica_batch(strategy: tf.distribute.Strategy, batch_size: int) -> int:
    """Returns the size of the batch that one replica sees.

    Raises:
      UserError: If the replicas cannot share the batch evenly.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"train.batch_size={batch_size} is not divisible by the {replicas} replicas: "
            f"use e.g. train.batch_size={-(-batch_size // replicas) * replicas}"
        )
    return batch_size // replicas


def _let_gpu_memory_grow():
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return gpus


def _worker_strategy(tf_config: str) -> tf.distribute.Strategy:
    cluster_config.check_tf_config(tf_config)
    _let_gpu_memory_grow()
    cluster_config.wait_for_workers(tf_config)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"TF_CONFIG: cannot start this worker: {first_line(error)}") from error
    finally:
        # TensorFlow's own handler only notes the signal, for a feature that is not used here.
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
    """Connects to the TPU, starts its system and makes the strategy; fails within seconds."""
    way_out = "give --tpu=NAME of a running TPU, --tpu=local on a TPU VM, or leave --tpu out"
    if name == "local":
        if not tf.config.list_physical_devices("TPU") and not _has_tpu_driver():
            raise UserError(f"--tpu=local: this machine has no TPU that TensorFlow sees; {way_out}")
    address = "" if name == "local" else name

    def resolve():
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        return resolver, resolver.master() if address else ""

    # Resolving a name asks the cloud's metadata server and API, which retry for minutes.
    resolver, master = _within(_TIMEOUT, resolve, f"--tpu={name}", way_out)
    if master.startswith("grpc://"):
        # Connecting for real waits forever if a port is open and says nothing.
        channel = grpc.insecure_channel(master.removeprefix("grpc://").partition("/")[0])
        try:
            grpc.channel_ready_future(channel).result(timeout=_TIMEOUT)
        except grpc.FutureTimeoutError as error:
            message = f"--tpu={name}: {master} does not answer within {_TIMEOUT:.0f} s; {way_out}"
            raise UserError(message) from error
        finally:
            channel.close()
    try:
        if address:
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:  # whatever the runtime throws: the user needs the line
        raise UserError(
            f"--tpu={name}: the TPU system did not start ({first_line(error)}); {way_out}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _has_tpu_driver() -> bool:
    try:
        import libtpu  # noqa: F401  (comes with the tensorflow-tpu wheel)
    except ImportError:
        return False
    return any(entry.startswith("accel") or entry == "vfio" for entry in os.listdir("/dev"))


def _within(seconds, function, culprit, way_out):
    """Calls function() in a thread, and gives up on it after `seconds`."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise UserError(f"{culprit}: no such TPU answered within {seconds:.0f} s; {way_out}")
    value, error = outcome[0]
    if error is not None:
        raise UserError(f"{culprit}: {first_line(error)}; {way_out}") from error
    return value
