"""Puts the finished runs of an experiment into docs/results, and their tables into RESULTS.md.

    python docs/update_results.py cifar10 runs/cifar10

NAME is that of `configs/experiments/NAME.py`. Rows of other machines stay. A table is put where
that of the rows before was; the first time it is printed, to be put in by hand.
"""

import argparse
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from selfie_tf.cli.config_files import load_experiment  # noqa: E402
from selfie_tf.errors import UserError  # noqa: E402
from selfie_tf.experiments import probes  # noqa: E402
from selfie_tf.experiments.rows import (  # noqa: E402
    TABLE,
    merge,
    read_table,
    read_tables,
    write_table,
)
from selfie_tf.experiments.tables import summarize, to_markdown  # noqa: E402
from selfie_tf.storage.files import write_atomically  # noqa: E402


def tables(experiment, rows: list, predictions: str) -> list:
    """The tables of RESULTS.md: after finetuning, and of frozen features ("" without probes)."""
    finetuned = to_markdown(summarize(experiment, rows, predictions))
    return [finetuned, probes.to_markdown(experiment, rows)]


def update(name: str, workdir: str, docs: str) -> str:
    """Adds what an experiment's folder has, and replaces the tables.

    Args:
      name: Of the experiment.
      workdir: Its folder.
      docs: The folder with RESULTS.md and results/.

    Returns:
      The tables that had none to replace, "" if there are none.

    Raises:
      UserError: If there is no such experiment, no finished run, or a run that is not in the plan.
    """
    experiment = load_experiment(f"experiments/{name}")
    path = os.path.join(docs, "results", f"{name}.csv")
    predictions = os.path.join(docs, "results", f"{name}_predictions")
    before = read_table(path)
    old = tables(experiment, before, predictions)
    order = {cell.name: number for number, cell in enumerate(experiment.cells())}
    rows = merge(before, read_tables([os.path.join(workdir, TABLE)]))
    for row in rows:
        if row["cell"] not in order:
            raise UserError(f"{row['cell']}: no cell of experiments/{name}; is it another's table?")
    rows.sort(key=lambda row: order[row["cell"]])
    write_table(path, rows)
    kept = os.path.join(workdir, "predictions")
    if os.path.isdir(kept):
        shutil.copytree(kept, predictions, dirs_exist_ok=True)
    page = os.path.join(docs, "RESULTS.md")
    with open(page) as file:
        text = file.read()
    left = []
    for earlier, new in zip(old, tables(experiment, rows, predictions), strict=True):
        # With the blank line: a table may be the beginning of another experiment's.
        if before and earlier and f"{earlier}\n" in text:
            text = text.replace(f"{earlier}\n", f"{new}\n")
        elif new:
            left.append(new)
    write_atomically(page, text)
    return "\n".join(left)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of configs/experiments/NAME.py")
    parser.add_argument("workdir", help="the experiment's folder")
    arguments = parser.parse_args()
    docs = os.path.dirname(os.path.abspath(__file__))
    try:
        left = update(arguments.name, arguments.workdir, docs)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(left or f"{arguments.name}: docs/results and RESULTS.md are up to date")


if __name__ == "__main__":
    main()
