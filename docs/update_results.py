"""Puts the finished runs of an experiment into docs/results, and their table into RESULTS.md.

    python docs/update_results.py cifar10 runs/cifar10

NAME is that of `configs/experiments/NAME.py`. Rows of other machines stay. The table is put where
that of the rows before was; the first time it is printed, to be put in by hand.
"""

import argparse
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from selfie_tf.cli.config_files import load_experiment  # noqa: E402
from selfie_tf.errors import UserError  # noqa: E402
from selfie_tf.experiments.rows import (  # noqa: E402
    TABLE,
    merge,
    read_table,
    read_tables,
    write_table,
)
from selfie_tf.experiments.tables import summarize, to_markdown  # noqa: E402
from selfie_tf.storage.files import write_atomically  # noqa: E402


def update(name: str, workdir: str, docs: str) -> str:
    """Adds what an experiment's folder has, and replaces the table.

    Args:
      name: Of the experiment.
      workdir: Its folder.
      docs: The folder with RESULTS.md and results/.

    Returns:
      The table if there was none to replace, else "".

    Raises:
      UserError: If there is no such experiment, no finished run, or a run that is not in the plan.
    """
    experiment = load_experiment(f"experiments/{name}")
    path = os.path.join(docs, "results", f"{name}.csv")
    predictions = os.path.join(docs, "results", f"{name}_predictions")
    before = read_table(path)
    old = to_markdown(summarize(experiment, before, predictions))
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
    new = to_markdown(summarize(experiment, rows, predictions))
    with open(os.path.join(docs, "RESULTS.md")) as file:
        text = file.read()
    if not before or old not in text:
        return new
    write_atomically(os.path.join(docs, "RESULTS.md"), text.replace(old, new))
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of configs/experiments/NAME.py")
    parser.add_argument("workdir", help="the experiment's folder")
    arguments = parser.parse_args()
    docs = os.path.dirname(os.path.abspath(__file__))
    try:
        table = update(arguments.name, arguments.workdir, docs)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table or f"{arguments.name}: docs/results and the table in RESULTS.md are up to date")


if __name__ == "__main__":
    main()
