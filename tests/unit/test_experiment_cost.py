"""What an experiment will cost."""

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.config import FinetuneConfig
from selfie_tf.experiments import cost


def test_each_kind_of_step_is_timed_once(monkeypatch):
    timed = []
    monkeypatch.setattr(cost, "step_seconds", lambda config, *_: timed.append(config) or 1.0)
    experiment = load_experiment("experiments/cifar10_views")
    cost.describe(experiment, experiment.cells())
    assert sum(isinstance(config, FinetuneConfig) for config in timed) == 1
    sizes = [config.views.size for config in timed if not isinstance(config, FinetuneConfig)]
    pretrained = [r.pretrain.views.size for r in experiment.recipes.values() if r.pretrain]
    assert len(set(pretrained)) >= 3 and sorted(sizes) == sorted(set(pretrained))
