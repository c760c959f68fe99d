"""Several finetuning runs side by side: a table, and the paper's Figure 3."""

import io
import os

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.config import FinetuneConfig, flatten, from_dict, kind_of_run
from selfie_tf.errors import UserError
from selfie_tf.storage.files import read_json, read_points

# What runs of one comparison may differ in.
_FREE = ("init_from", "from_scratch", "train.seed", "data.subset_seed")


def compare(runs: list, picture: str = "") -> str:
    """Compares finished finetuning runs.

    Args:
      runs: (label, work directory) pairs; runs of one label are averaged.
      picture: PNG to write; "" for none.

    Returns:
      A table with the test (or validation) accuracy and losses of each label: the mean and, for
      several runs, the standard deviation (over n - 1). A note says what else the runs differ in.

    Raises:
      UserError: If a run is not a finished finetuning run, or they were evaluated on different
        splits.
    """
    results, configs = [], []
    for _, path in runs:
        result, values = read_json(path, "result.json"), read_json(path, "config.json")
        if result is None or values is None or kind_of_run(values) != "finetuning":
            raise UserError(f"--runs: {path} is not a finished finetuning run (no result.json)")
        results.append(result)
        try:
            configs.append(flatten(from_dict(FinetuneConfig, values)))
        except UserError as error:
            raise UserError(f"--runs: {path}: its config cannot be used ({error})") from error
    splits = {"test" if "test_top1" in result else "validation" for result in results}
    if len(splits) > 1:
        raise UserError("--runs: some were evaluated on test, some on validation images")
    split = splits.pop()
    keys = [f"{split}_top1", f"{split}_top5", f"{split}_loss", "train_loss"]
    keys = [key for key in keys if all(result.get(key) is not None for result in results)]
    labels = list(dict.fromkeys(label for label, _ in runs))
    width = max(map(len, labels))
    lines = [" ".join([f"{'':{width}}  runs", *(f"{key.replace('_', ' '):>17}" for key in keys)])]
    for label in labels:
        chosen = [r for (name, _), r in zip(runs, results, strict=True) if name == label]
        cells = []
        for key in keys:
            values = [result[key] for result in chosen]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
        lines.append(" ".join([f"{label:{width}}  {len(chosen):4}", *(f"{c:>17}" for c in cells)]))
    differing = [
        key
        for key in configs[0]
        if key not in _FREE and any(config.get(key) != configs[0][key] for config in configs)
    ]
    if differing:
        lines.append(f"note: the runs also differ in {', '.join(differing)}")
    if picture:
        points = [
            (label, *(read_points(path, name) for name in ("metrics.jsonl", "evaluations.jsonl")))
            for label, path in runs
        ]
        try:
            buffer = io.BytesIO()
            figures.draw_finetuning(buffer, points, split)
            tf.io.gfile.makedirs(os.path.dirname(os.path.abspath(picture)))
            with tf.io.gfile.GFile(picture, "wb") as file:
                file.write(buffer.getvalue())
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"--picture={picture} cannot be written ({error})") from error
    return "\n".join(lines)
