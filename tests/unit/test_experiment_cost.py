"""What an experiment will cost."""

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.config import FinetuneConfig
from selfie_tf.experiments import cost


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
