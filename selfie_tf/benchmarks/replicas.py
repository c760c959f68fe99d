"""What distribution costs on this machine: one global batch, divided over several replicas.

Replicas here share the processor's cores (GPUs are left out), so this is the overhead of dividing
the work, not a speed-up; a ratio of 1 is none.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import PretrainConfig, to_dict
from selfie_tf.data import make_source
from selfie_tf.data.source import BatchShard
from selfie_tf.distribution.strategy import make_strategy
from selfie_tf.errors import UserError
from selfie_tf.methods import METHODS, read_config
from selfie_tf.training.build import build_pretrainer, compile_model
from selfie_tf.training.run import distribute

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def scaling(config: PretrainConfig, seconds: float, virtual_devices: list, workers: list) -> dict:
    """Measures training steps over several replicas against one, each in processes of its own.

    Args:
      config: Its `train.batch_size` is divided among the replicas. One batch is made beforehand
        and used for all steps.
      seconds: Least duration of each measurement.
      virtual_devices, workers: Numbers of replicas, in one process and in as many processes.

    Returns:
      A dict for JSON: images/s of one replica, at the beginning and at the end; and for each number
      of replicas images/s, and the ratio to the mean of those two.

    Raises:
      UserError: If the replicas cannot share the batch, or a process fails.
    """
    for count in (*virtual_devices, *workers):
        if count < 1 or config.train.batch_size % count:
            raise UserError(
                f"{count} replicas cannot share a batch of {config.train.batch_size} evenly: give "
                "a --batch_size divisible by all numbers of --virtual_devices and --workers"
            )
    begin = _measure(config, seconds, 1, 1)
    found = {
        "virtual_devices": [(n, _measure(config, seconds, n, 1)) for n in virtual_devices],
        "workers": [(n, _measure(config, seconds, 1, n)) for n in workers],
    }
    end = _measure(config, seconds, 1, 1)
    return {
        "batch_size": config.train.batch_size,
        "precision": config.train.precision,
        "cores": os.cpu_count(),
        "one_replica_images_per_second": [begin, end],
        **{
            kind: [
                {"replicas": n, "images_per_second": x, "to_one_replica": 2 * x / (begin + end)}
                for n, x in rates
            ]
            for kind, rates in found.items()
        },
    }


def _measure(config, seconds, devices, workers):
    """Images/s of the step, from the first of `workers` processes."""
    task = json.dumps({"config": to_dict(config), "seconds": seconds, "devices": devices})
    # No GPUs: the CPU split into several replicas has none, so nothing else may have one.
    environment = {**os.environ, "PYTHONPATH": ROOT, "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CONFIG", None)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(workers)]}
    children, outputs = [], []
    try:
        for index in range(workers):
            if workers > 1:
                tf_config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
                environment = {**environment, "TF_CONFIG": json.dumps(tf_config)}
            outputs.append([tempfile.TemporaryFile("w+") for _ in range(2)])
            command = [sys.executable, "-m", "selfie_tf.benchmarks.replicas", task]
            out, err = outputs[-1]
            children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))
        while any(child.poll() is None for child in children):
            if any(child.poll() for child in children):
                break  # the others would wait for it
            time.sleep(0.05)
        texts = [[file.seek(0) or file.read() for file in pair] for pair in outputs]
        for child, (_, err) in zip(children, texts):
            if child.poll():
                raise UserError(
                    failure(
                        child.returncode, err.splitlines(), f"with {devices * workers} replica(s)"
                    )
                )
        rate, replicas = json.loads(texts[0][0].splitlines()[-1])
        if replicas != devices * workers:
            raise RuntimeError(f"{replicas} replicas, not {devices * workers}")
        return rate
    finally:
        for child in children:
            child.kill()
            child.wait()
        for pair in outputs:
            for file in pair:
                file.close()


def failure(code: int, lines: list, when: str) -> str:
    """Why a process failed: its own line, or what its end tells.

    Args:
      code: Its exit code.
      lines: Its stderr.
      when: What it was doing, for the beginning of the line.
    """
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if own:
        return own[-1]
    if code == -signal.SIGKILL:
        why = "killed, perhaps for lack of memory: give a smaller --batch_size"
    else:
        why = lines[-1] if lines else "and said nothing"
    return f"{when}, a process ended with code {code}: {why}"


def free_ports(count: int) -> list:
    """Ports that nothing listened to a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _images_per_second(config, seconds, devices):
    """Images/s of all replicas, and their number."""
    strategy = make_strategy(virtual_devices=devices if devices > 1 else 0)
    method = METHODS[config.method]
    keras.mixed_precision.set_global_policy(config.train.precision)
    with strategy.scope():
        model = build_pretrainer(config)
        compile_model(config, model, 1)
    source = make_source(config.data)

    def one_batch(shard: BatchShard, size):
        batches = method.training_batches(source, config, shard=shard, batch_size=size)
        return batches.take(shard.count // size).cache().repeat()

    batches = iter(distribute(config, strategy, one_batch))

    @tf.function
    def step(batch):
        losses = strategy.run(model.train_step, args=(batch,))["loss"]
        return strategy.experimental_local_results(losses)[0]

    def take(count):
        start = time.perf_counter()
        for _ in range(count):
            float(step(next(batches)))  # read, so that it has ended
        return time.perf_counter() - start

    take(2)
    # As many steps for every worker: they wait for each other, and none may leave first.
    rehearsal = tf.constant(take(2) / 2)
    context = tf.distribute.get_replica_context
    longest = strategy.run(lambda: context().all_reduce("mean", rehearsal))
    longest = strategy.experimental_local_results(longest)[0]
    count = max(3, round(seconds / float(longest)))
    return config.train.batch_size * count / take(count), strategy.num_replicas_in_sync


if __name__ == "__main__":
    given, code = json.loads(sys.argv[1]), 0
    try:
        config = read_config(given["config"])
        measured = _images_per_second(config, given["seconds"], given["devices"])
        print(json.dumps(measured), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 1
    os._exit(code)  # workers' servers may keep the process alive
