"""docs/TPU.md's table, from the files that `selfie-tf check-tpu --json` writes.

python -m selfie_tf.benchmarks.tpu.report docs/TPU.md build/tpu/*.json
"""

import json
import math
import sys

from selfie_tf.storage.files import write_atomically

# Published peaks of a core in bfloat16, TFLOP/s (Google Cloud's pages of each version; those of v2,
# v3 and v4 are half a chip's, which has two cores).
PEAK = {"TPU v2": 22.5, "TPU v3": 61.5, "TPU v4": 137.5, "TPU v5 lite": 197, "TPU v6 lite": 918}
UTILISATION = 0.3  # of the peak; a guess
_BEGIN, _END = "<!-- table: make tpu-table -->", "<!-- end of table -->"
_HEAD = [
    "config, global batch",
    "topology",
    "images per core",
    "HBM",
    "variables and batch",
    "temporaries",
    "program",
    "headroom",
    "all-reduces traced / combined",
    "in place",
    "GFLOP per core and step",
    "estimated step",
    "estimated run",
    "chip-hours",
]


def table(runs: list) -> str:
    """Formats the files of `check-tpu --json` as a Markdown table.

    Args:
      runs: Dicts, one per config.

    Returns:
      One row per config and topology; sizes in GiB per core.
    """
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for run in runs:
        name = run["config"].removeprefix("configs/").removesuffix(".py")
        for result in run["checks"]:
            cells = [f"{name}, {run['batch_size']}", result["topology"], result["batch_per_core"]]
            cells += _measurements(result, run["steps"])
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _measurements(result, steps):
    if result["status"] != "compiles":
        words = " ".join(result.get("problems", [result.get("reason", "")]))
        return [f"{result['hbm_bytes'] / 2**30:.2f}", f"{result['status']}: {words}", *[""] * 9]
    sizes = ("hbm", "argument", "temporary", "program", "headroom")
    seconds = result["gflop"] / 1e3 / (UTILISATION * PEAK[result["chip"]])
    hours = seconds * steps / 3600
    chips = math.prod(map(int, result["topology"].partition(":")[2].split("x")))
    return [
        *(f"{result[f'{size}_bytes'] / 2**30:.2f}" for size in sizes),
        f"{result['all_reduces_lowered']} / {result['all_reduces']}",
        f"{result['updated_in_place']} of {result['variables_updated']}",
        f"{result['gflop']:.0f}",
        f"{seconds * 1e3:.0f} ms",
        f"{hours:.1f} h",
        f"{hours * chips:.1f}",
    ]


def replace(text: str, new: str) -> str:
    """Puts `new` where `text` has its table."""
    before, found, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not found or not end:
        raise ValueError(f"no {_BEGIN} ... {_END}")
    return f"{before}{_BEGIN}\n{new}\n{_END}{after}"


def main(path, *files):
    runs = []
    for name in files:
        with open(name) as file:
            runs.append(json.load(file))
    with open(path) as file:
        text = file.read()
    write_atomically(path, replace(text, table(runs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
