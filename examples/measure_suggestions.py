"""Measures whether chosen images make better classifiers than random ones (docs/RESULTS.md).

    python examples/measure_suggestions.py OUTPUT PRETRAINED...

Each PRETRAINED is a pretraining run of the built-in images, such as `cells/selfie/0/pretrain` of
experiments/quickstart. For each, and each way to choose, 250 of its 5,000 training images get their
label, and two classifiers learn from them: the quickstart's, finetuned, and a linear probe of the
frozen features. A line of OUTPUT/results.csv has their accuracies on the 1,000 test images. What
has a line is not done again.
"""

import csv
import json
import os
import sys

# In a checkout; not needed where selfie_tf is installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402

import selfie_tf  # noqa: E402
from selfie_tf.config.files import get  # noqa: E402
from selfie_tf.evaluation.embed import embed  # noqa: E402
from selfie_tf.evaluation.suggest import choose  # noqa: E402
from selfie_tf.training.features import linear_probe_accuracy  # noqa: E402

COUNT = 250
NAMES = ("pretrained", "method", "finetuned", "linear_probe", "classes", "rarest", "most_frequent")
output, *pretrained = sys.argv[1:]
os.makedirs(output, exist_ok=True)
table = os.path.join(output, "results.csv")
if not os.path.exists(table):
    with open(table, "w") as file:
        file.write(",".join(NAMES) + "\n")

for seed, run in enumerate(pretrained):
    found = embed(run, data_name="builtin:shapes")
    train = found["split"] == "train"
    features, labels = (found[name][train] for name in ("features", "labels"))
    for method in ("random", "kmeans", "farthest"):
        with open(table) as file:
            if any(
                row["pretrained"] == run and row["method"] == method for row in csv.DictReader(file)
            ):
                continue
        if method == "random":
            chosen = np.random.RandomState(seed).permutation(len(labels))[:COUNT]
        else:
            chosen = choose(features, COUNT, method, seed)
        counts = np.bincount(labels[chosen], minlength=10)
        subset = os.path.join(output, f"{seed}-{method}.json")
        with open(subset, "w") as file:
            json.dump({"ids": found["ids"][train][np.sort(chosen)].tolist()}, file)
        config = get("finetune_quickstart")
        config.init_from, config.train.seed = run, seed
        config.data.subset_file, config.data.label_fraction = subset, 1.0
        config.train.eval_every = config.train.steps
        result = selfie_tf.finetune(config, os.path.join(output, f"{seed}-{method}"))
        probe = linear_probe_accuracy(
            features[chosen], labels[chosen], found["features"][~train], found["labels"][~train]
        )
        row = (
            run,
            method,
            result["test_top1"],
            probe,
            (counts > 0).sum(),
            min(counts),
            max(counts),
        )
        with open(table, "a") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        print(dict(zip(NAMES, row)), flush=True)
