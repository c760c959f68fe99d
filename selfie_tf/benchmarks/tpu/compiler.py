"""Compiles HLO for a TPU without one, by the TPU's own compiler. Uses JAX and no TensorFlow.

    python compiler.py v3:2x2             what kind of TPU that is
    python compiler.py v3:2x2 step.hlo    what compiling for all its cores gives

It is a process of its own, because the compiler may abort, and holds a lock while it lives. It
prints one line of JSON; {"rejected": reason} if the compiler refuses.
"""

import json
import os
import re
import sys
import time

# So that the compiler looks for no TPU on this machine; set before JAX is imported.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
# By default libtpu also shards the update of large weights over the cores, each with all-reduces
# of its own. Without that one sees whether the gradients are summed in one go; memory is the same
# within 2 %, and not less.
_OPTIONS = [("xla_jf_auto_cross_replica_sharding", "false")]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_LARGE = """func.func public @main(%a: tensor<1099511627776xf32>) -> tensor<1099511627776xf32> {
  %b = stablehlo.negate %a : tensor<1099511627776xf32>
  return %b : tensor<1099511627776xf32>
}"""


def describe(topology: str) -> dict:
    """What libtpu says of a topology, as a dict for JSON; sizes in bytes per core."""
    devices = _devices(topology)
    try:
        _compile(_TOO_LARGE, devices[:1])
    except Exception as error:  # that says how much there is
        found = re.search(r"available HBM \(([\d.]+)([KMGT])", str(error))
        if found is None:
            raise
        size, unit = found.groups()
    return {
        "topology": topology,
        "chip": devices[0].device_kind,
        "cores": len(devices),
        "hbm_bytes": int(float(size) * _UNITS[unit]),
    }


def compile_hlo(hlo: bytes, topology: str) -> dict:
    """Compiles a program that all cores run, as under TPUStrategy.

    Args:
      hlo: Serialized HLO module.
      topology: As libtpu names it, "v3:2x2".

    Returns:
      A dict for JSON; sizes in bytes per core.

    Raises:
      Exception: The compiler's, with its reason.
    """
    import jaxlib._jax as jaxlib_jax  # private, as other names here: requirements/aot.txt pins them

    start = time.time()
    executable = _compile(jaxlib_jax.mlir.hlo_to_stablehlo(hlo), _devices(topology))
    memory = executable.get_compiled_memory_stats()
    text = executable.hlo_modules()[0].to_string()
    return {
        "compile_seconds": time.time() - start,
        "argument_bytes": memory.argument_size_in_bytes,
        "new_output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.generated_code_size_in_bytes,
        "gflop": executable.cost_analysis()["flops"] / 1e9,
        "all_reduces": len(re.findall(r" all-reduce(?:-start)?\(", text)),
        "updated_in_place": text.split("\n", 1)[0].count("-alias)"),
    }


def _devices(topology):
    from jax.experimental import topologies

    return topologies.get_topology_desc(topology, platform="tpu").devices


def _compile(stablehlo, devices):
    import jaxlib._jax as jaxlib_jax
    import numpy as np
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir
    from jaxlib import xla_client

    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = len(devices), 1  # TPUStrategy's way, not SPMD
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[device.id] for device in devices])
    )
    options.env_option_overrides = _OPTIONS
    with mlir.make_ir_context():
        module = ir.Module.parse(stablehlo)
        _drop_copies(module.operation)
        return devices[0].client.compile(module, jaxlib_jax.DeviceList(tuple(devices)), options)


def _drop_copies(operation):
    """Removes mhlo.copy, which changes nothing and which jaxlib cannot turn into StableHLO."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in list(block.operations):
                _drop_copies(inner.operation)
                if inner.operation.name == "mhlo.copy":
                    source = inner.operation.operands[0]
                    inner.operation.results[0].replace_all_uses_with(source)
                    inner.operation.erase()


def main(topology, path=None):
    os.environ.update(_ENVIRONMENT)
    try:
        if path is None:
            result = describe(topology)
        else:
            with open(path, "rb") as file:
                result = compile_hlo(file.read(), topology)
    except Exception as error:
        result = {"rejected": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
