"""What an experiment will cost."""

import os
import re

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.config import FinetuneConfig
from selfie_tf.experiments import cost

from helpers import ROOT


def test_each_kind_of_step_is_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr(cost, "step_seconds", lambda config, *_: timed.append(config) or 1.0)
    experiment = load_experiment("experiments/cifar10_trials")
    cost.describe(experiment, experiment.cells())
    assert sum(isinstance(config, FinetuneConfig) for config in timed) == 1
    pretrained = [config for config in timed if not isinstance(config, FinetuneConfig)]
    # The published loss, and the instance loss on three sizes of views; not each batch or length.
    assert sorted(config.views.size for config in pretrained) == [0, 0, 16, 24]
    assert sorted(config.model.jigsaw_weight for config in pretrained) == [0, 0, 0, 1]


def test_each_cell_of_a_search_costs_what_its_setting_says(monkeypatch):
    """PatchFormer's search tries batches of 16 to 256 images."""
    monkeypatch.setattr(cost, "step_seconds", lambda *_: 1.0)
    monkeypatch.setattr(cost, "gflop_per_image", lambda config: 1.0)
    experiment = load_experiment("experiments/patchformer_imagenet")
    tune = [cell for cell in experiment.cells() if cell.kind == "tune"]
    configs = [experiment.config(cell) for cell in tune]
    assert len({config.train.batch_size for config in configs}) == 5
    images = sum(config.train.batch_size * config.train.steps for config in configs)
    *_, total = cost.describe(experiment, tune).splitlines()
    assert total.split()[:4] == ["total", f"{len(tune)}", f"{images:,}", f"{images:,}"]


def test_the_table_of_costs_is_that_of_the_dry_runs(monkeypatch):
    monkeypatch.setattr(cost, "step_seconds", lambda *_: 1.0)
    with open(os.path.join(ROOT, "docs", "REPRODUCTION.md")) as file:
        written = re.findall(r"^\| `(\w+)` \|.* \| ([\d.]+) \| (\d+) \|$", file.read(), re.M)
    assert len(written) == 5
    for name, images, operations in written:
        experiment = load_experiment(f"experiments/{name}")
        *_, total = cost.describe(experiment, experiment.cells()).splitlines()
        found = [float(number.replace(",", "")) for number in total.split()[2:4]]
        assert abs(found[0] / 1e9 - float(images)) <= 0.5 * 0.1 ** len(images.partition(".")[2])
        assert abs(found[1] / 1e9 - float(operations)) <= 0.5


def test_a_large_network_is_timed_on_fewer_images(monkeypatch):
    """A step of PatchFormer on 32 photographs takes more memory than a small machine has."""
    timed = []
    monkeypatch.setattr(cost, "step_seconds", lambda config, size, _: timed.append(size) or 2.0)
    experiment = load_experiment("experiments/patchformer_imagenet")
    (cell,) = [cell for cell in experiment.cells() if cell.kind == "pretrain"]
    images = 128 * 300_000
    *_, total = cost.describe(experiment, [cell]).splitlines()
    assert timed == [2] and float(total.split()[-1].replace(",", "")) == round(images / 3600, 1)
