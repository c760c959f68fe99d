"""Whether a config's train step compiles for a TPU, and fits: without a TPU, with its compiler."""

import importlib.util
import json
import logging
import subprocess
import sys
import tempfile

import tensorflow as tf

from selfie_tf.benchmarks.tpu import compiler
from selfie_tf.benchmarks.tpu.lowering import TrainStep
from selfie_tf.errors import UserError

OK, REJECTED, PROBLEMS = "compiles", "rejected", "problems"
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
_GRAIN = 8  # images
MEANING = (
    "Compiled ahead of time, not run. This proves that the step, traced for one of N cores, is "
    "accepted by that chip's compiler, fits its memory, and sums all gradients over the cores. It "
    "says nothing about how TPUStrategy starts and places variables, nor about the input pipeline, "
    "checkpoints, several hosts, a TPU's numerics, or speed."
)


def describe(topology: str) -> dict:
    """Returns what the TPU's compiler says of a topology, see `compiler.describe`.

    Raises:
      UserError: If it knows no such topology, or is not installed.
    """
    missing = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not installed: `make check-tpu` makes an environment with "
            "it, .venv-aot/bin/python; or `pip install -r requirements/aot.txt`"
        )
    about = _in_child(topology)
    if "rejected" in about:
        reason = about["rejected"].strip().split("\n")[0]
        raise UserError(f"--topology={topology}: {reason}; expected e.g. v3:2x2 or v5e:2x4")
    return about


def check(step: TrainStep, about: dict, batch_per_core: int) -> dict:
    """Lowers and compiles a train step.

    Args:
      step: The train step, traced for `about["cores"]` cores.
      about: The topology, see `describe`.
      batch_per_core: Images per core and step.

    Returns:
      A dict for JSON: `status` is OK, REJECTED (`reason` says why) or PROBLEMS (`problems`).
    """
    result = {**about, "batch_per_core": batch_per_core}
    try:
        lowered = step.lower(batch_per_core)
    except (ValueError, tf.errors.OpError) as error:
        return {**result, "status": REJECTED, "reason": _shorten(str(error))}
    result |= {
        "batch_dtypes": lowered.batch_dtypes,
        "batch_bytes": lowered.batch_bytes,
        "all_reduces_lowered": lowered.all_reduces,
        "variables_updated": lowered.variables_updated,
    }
    if lowered.problems:
        return {**result, "status": PROBLEMS, "problems": lowered.problems}
    with tempfile.NamedTemporaryFile(suffix=".hlo") as file:
        file.write(lowered.serialize())
        file.flush()
        compiled = _in_child(about["topology"], file.name)
    if "rejected" in compiled:
        return {**result, "status": REJECTED, "reason": _shorten(compiled["rejected"])}
    used = ("argument_bytes", "new_output_bytes", "temporary_bytes", "program_bytes")
    headroom = about["hbm_bytes"] - sum(compiled[name] for name in used)
    result |= {**compiled, "headroom_bytes": headroom}
    if result["updated_in_place"] < result["variables_updated"]:
        problem = (
            f"only {result['updated_in_place']} of {result['variables_updated']} variables are "
            "updated in place; the others take memory twice"
        )
        return {**result, "status": PROBLEMS, "problems": [problem]}
    return {**result, "status": OK}


def largest(step: TrainStep, about: dict, batch_per_core: int) -> dict:
    """Searches for the largest batch per core that compiles, to within a sixteenth or 8 images.

    Args:
      step, about: As in `check`.
      batch_per_core: Where to begin.

    Returns:
      The check of that batch, with the smallest batch refused as `refused_batch_per_core`; or the
      check that shows that none compiles.
    """
    best, refused = None, None
    batch = max(_GRAIN, batch_per_core // _GRAIN * _GRAIN)
    while True:
        result = check(step, about, batch)
        logging.info("  %d images per core: %s", batch, result["status"])
        if result["status"] == OK:
            best, low = result, batch
        elif best or result["status"] == REJECTED and _OUT_OF_MEMORY in result["reason"]:
            refused = batch  # if a smaller one compiles, size is the reason, whatever is said
        else:
            return result
        if best is None:
            if refused <= _GRAIN:
                return result
            batch = refused // 2
        elif refused is None:
            # As if only the temporaries grew; but the compiler saves memory where it is short.
            batch = int(low * max(1.25, 1 + best["headroom_bytes"] / best["temporary_bytes"]))
            batch = max(batch, low + _GRAIN)
        elif refused - low <= max(_GRAIN, low // 16):
            return {**best, "refused_batch_per_core": refused}
        else:
            batch = (low + refused) // 2
        batch = max(_GRAIN, batch // _GRAIN * _GRAIN)


def _in_child(*arguments):
    child = subprocess.run(
        [sys.executable, compiler.__file__, *arguments], capture_output=True, text=True
    )
    try:
        return json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = f"the compiler ended with code {child.returncode}: {child.stderr[-2000:]}"
        return {"rejected": reason}


def _shorten(reason):
    """The first lines of a compiler's reason; the rest are tables and stacks."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return " ".join(lines[:3])[:600]


def table(results) -> str:
    """Formats checks for a terminal, one column per check."""
    gib = lambda key: lambda r: f"{r[key] / 2**30:.2f} GiB"  # noqa: E731
    rows = [
        ("chip", lambda r: r["chip"]),
        ("topology", lambda r: r["topology"]),
        ("cores", lambda r: r["cores"]),
        ("images per core", lambda r: r["batch_per_core"]),
        ("from the host per core and step", lambda r: f"{r['batch_bytes'] / 2**20:.1f} MiB"),
        ("HBM per core", gib("hbm_bytes")),
        ("- variables and batch", gib("argument_bytes")),
        ("- temporaries", gib("temporary_bytes")),
        ("- program", gib("program_bytes")),
        ("headroom", gib("headroom_bytes")),
        ("all-reduces, as traced", lambda r: r["all_reduces_lowered"]),
        ("all-reduces, combined", lambda r: r["all_reduces"]),
        ("variables updated", lambda r: r["variables_updated"]),
        ("- in place", lambda r: r["updated_in_place"]),
        ("GFLOP per core and step", lambda r: f"{r['gflop']:.0f}"),
        ("seconds to compile", lambda r: f"{r['compile_seconds']:.0f}"),
        ("smallest batch refused", lambda r: r["refused_batch_per_core"]),
    ]
    lines = []
    for name, value in rows:
        cells = []
        for result in results:
            try:
                cells.append(str(value(result)))
            except KeyError:
                cells.append("-")
        if any(cell != "-" for cell in cells):
            lines.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
        for line in lines
    )
