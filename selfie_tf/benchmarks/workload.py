"""What a run of a config would train on: its images, batches and model."""

import tempfile

import tf_keras as keras

from selfie_tf.config import FinetuneConfig, RunConfig
from selfie_tf.data import check_batch_size, make_source
from selfie_tf.data.pipeline import labelled_batches
from selfie_tf.data.source import BatchShard
from selfie_tf.data.subsets import labelled_source
from selfie_tf.methods import METHODS
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model
from selfie_tf.training.initialise import take_network


class Workload:
    """The images, batches and model of a config of any kind.

    Args:
      config: A config of pretraining or finetuning. Its network is that of `init_from`, if there is
        one; the weights are random.
      data_dir: See `data.make_source`.

    Attributes:
      config: With the network of `init_from`.
      source: Where images come from; in finetuning, the labelled ones.

    Raises:
      UserError: If there are no such images, or fewer than one batch of them.
    """

    def __init__(self, config: RunConfig, data_dir: str = ""):
        with tempfile.TemporaryDirectory() as empty:
            self.config = take_network(config, empty)
        self.finetunes = isinstance(config, FinetuneConfig)
        self.source = make_source(self.config.data, data_dir)
        if self.finetunes:
            self.source, _ = labelled_source(self.source, self.config.data)
        check_batch_size(self.config, self.source)

    @property
    def num_classes(self) -> int:
        """The number of classes in finetuning; 0 in pretraining."""
        return len(self.source.class_names) if self.finetunes else 0

    def batches(self, step: int = 0, shard: BatchShard | None = None, size: int = 0):
        """Makes the run's endless batches, see `data.pipeline`."""
        if self.finetunes:
            return labelled_batches(self.source, self.config, step, shard, size)
        method = METHODS[self.config.method]
        return method.training_batches(self.source, self.config, step, shard, size)

    def build(self, steps_per_execution: int = 1) -> keras.Model:
        """Makes the compiled model; call it in the strategy's scope."""
        if self.finetunes:
            model = build_classifier(self.config, self.num_classes)
        else:
            model = build_pretrainer(self.config)
        compile_model(self.config, model, steps_per_execution)
        return model
