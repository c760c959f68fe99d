"""What the features of the pretrained networks are worth without finetuning."""

import re

import numpy as np

from selfie_tf.experiments.plan import Experiment
from selfie_tf.experiments.tables import (
    PRETEXT_ACCURACIES,
    markdown_table,
    percent,
    pretext_accuracy,
)

# As the runner names them, e.g. pretrained_reestimated_linear_probe_top1_500.
_COLUMN = re.compile(r"(pretrained|untrained)_(reestimated_)?(linear_probe|knn)_top1_(\d+)$")
_TITLES = {"linear_probe": "linear probe", "knn": "nearest neighbours"}


def to_markdown(experiment: Experiment, rows: list) -> str:
    """Frozen features of every recipe as a Markdown table.

    Args:
      experiment: The plan. Networks of one number start from equal weights, so that "untrained"
        takes one of each.
      rows: See `rows.read_table`; more may be missing.

    Returns:
      The table: mean ± standard deviation over networks, in per cent; once with the statistics
      of batch normalisation as they are, once re-estimated on whole images. "" without probes.
    """
    probed = [row for row in rows if row["kind"] == "probe" and row["status"] == "finished"]
    of_each_number = {row["pretraining"]: row for row in probed}.values()
    groups = {"untrained": [_values(row, "untrained") for row in of_each_number]}
    for recipe in experiment.recipes:
        groups[recipe] = [_values(row, "pretrained") for row in probed if row["recipe"] == recipe]
    columns = sorted(
        {(kind, count) for group in groups.values() for one in group for kind, _, count in one},
        key=lambda column: (list(_TITLES).index(column[0]), column[1]),
    )
    if not columns:
        return ""
    pretext = {name: pretext_accuracy(experiment, rows, name) for name in PRETEXT_ACCURACIES}
    pretext = {name: known for name, known in pretext.items() if known}
    table = []
    for recipe, group in groups.items():
        for again in (False, True):
            cells = [_mean([one.get((k, again, n)) for one in group]) for k, n in columns]
            if not any(cells):
                continue
            networks = {row["network"] for row in probed if row["recipe"] == recipe}
            cells += [
                "" if again else _mean([known.get(network) for network in sorted(networks)])
                for known in pretext.values()
            ]
            table.append([recipe, str(len(group)), "re-estimated" if again else "kept", *cells])
    head = ["recipe", "networks", "statistics"]
    head += [f"{_TITLES[kind]}, {count:,}" for kind, count in columns]
    return markdown_table(head + [PRETEXT_ACCURACIES[name] for name in pretext], table)


def _values(row, state):
    """{(kind, whether re-estimated, number of labelled images): accuracy} of one network."""
    found = {}
    for name, value in row.items():
        match = _COLUMN.match(name)
        if match and match[1] == state:
            found[match[3], bool(match[2]), int(match[4])] = value
    return found


def _mean(values):
    """Mean ± standard deviation of the accuracies that there are."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return percent(np.mean(known), np.std(known, ddof=1) if len(known) > 1 else None)
