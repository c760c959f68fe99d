"""TF_CONFIG: whether it can be used, and waiting until its workers have started."""

import errno
import json
import logging
import os
import socket
import time

from selfie_tf.errors import UserError

_EXAMPLE = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
_SILENT, _BETWEEN = 5.0, 60.0  # seconds of waiting before the first message, and between messages


def check_tf_config(text: str) -> None:
    """Checks the environment variable before TensorFlow reads it.

    Raises:
      UserError: If TensorFlow could not use it, or would wait forever.
    """
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        problem = _find_problem(cluster, task)
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error})"
    except KeyError as error:
        problem = f"lacks {error}"
    except (TypeError, AttributeError):
        problem = "not an object with cluster and task"
    if problem:
        raise UserError(f"TF_CONFIG: {problem}; expected e.g. {_EXAMPLE}")


def _find_problem(cluster, task):
    if set(cluster) - {"chief", "worker"}:
        return f"jobs {sorted(cluster)} (only chief and worker take part in training)"
    for job, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            return f"cluster.{job} is not a list of host:port"
    index, count = task["index"], len(cluster[task["type"]])
    if not isinstance(index, int) or not 0 <= index < count:
        return f"task.index={index!r} is not one of the {count} {task['type']}s"
    every = [address for addresses in cluster.values() for address in addresses]
    twice = sorted({address for address in every if every.count(address) > 1})
    if twice:
        return f"{twice[0]} is listed twice"
    return None


def _is_address(value):
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    try:
        host.encode("idna")  # as connecting does
    except UnicodeError:
        return False
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def wait_for_workers(text: str) -> None:
    """Returns once every other worker of a checked TF_CONFIG listens at its address.

    TensorFlow waits for them as well, but says nothing, and no Ctrl-C or SIGTERM ends it.

    Raises:
      UserError: If this worker cannot listen at its own.
    """
    config = json.loads(text)
    task = config["task"]
    own = config["cluster"][task["type"]][task["index"]]
    others = [a for addresses in config["cluster"].values() for a in addresses if a != own]
    if not others:
        return
    tell = time.monotonic() + _SILENT
    # Others find this one here, and afterwards TensorFlow's server at the same port.
    with _listen(own):
        missing = others
        while True:
            why = _problems(missing) or _problems(others)  # one may have gone meanwhile
            if not why:
                return
            missing = list(why)
            if time.monotonic() > tell:
                listed = ", ".join(f"{address} ({reason})" for address, reason in why.items())
                logging.info("waiting for the worker(s) at %s", listed)
                tell += _BETWEEN
            time.sleep(0.1)


def _listen(address):
    port = int(address.rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        hint = "is an earlier start of it still running? Otherwise give" if taken else "give"
        raise UserError(
            f"TF_CONFIG: cannot listen at {address}, this worker's address "
            f"({os.strerror(error.errno)}); {hint} it another port, in all workers' TF_CONFIG"
        ) from error


def _problems(addresses):
    """{address: why no worker is reached there}, for those where none is."""
    found = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=1) as connection:
                # A port of this machine may by chance be connected to itself.
                if connection.getsockname() == connection.getpeername():
                    found[address] = "nobody listens"
        except OSError as error:  # also if the name is not known yet
            found[address] = error.strerror or str(error)
    return found
