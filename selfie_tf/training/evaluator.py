"""Loss and accuracy of a classifier on held-out images."""

import numpy as np
import tensorflow as tf

from selfie_tf.data.pipeline import evaluation_batches
from selfie_tf.errors import UserError
from selfie_tf.losses import classification_loss, top_k
from selfie_tf.models.classifier import TOP5_FROM
from selfie_tf.training.run import distribute


class ClassifierEvaluator:
    """Loss, top-1 and (from 20 classes up) top-5 over all held-out images, by all replicas.

    Args:
      config: A `config.FinetuneConfig`.
      source: The source whose held-out images are evaluated.
      strategy: Its scope is the one that the model was built in.
      model: A `models.classifier.ImageClassifier`.
    """

    def __init__(self, config, source, strategy: tf.distribute.Strategy, model):
        self._config, self._source, self._strategy = config, source, strategy
        self._names = ["loss", "top1"] + ["top5"] * (model.num_classes >= TOP5_FROM)

        def evaluate(images, labels):
            logits = model(images, training=False)
            values = [classification_loss(logits, labels), top_k(logits, labels, 1)]
            if "top5" in self._names:
                values.append(top_k(logits, labels, 5))
            values.append(tf.cast(labels >= 0, tf.float32))
            sums = tf.stack([tf.reduce_sum(tf.cast(v, tf.float32)) for v in values])
            return sums, tf.argmax(logits, axis=-1)

        @tf.function(autograph=False)
        def step(images, labels):
            sums, predictions = strategy.run(evaluate, args=(images, labels))
            return strategy.reduce("SUM", sums, axis=None), predictions

        self._step = step

    def run(self) -> dict:
        """Returns {"loss": ..., "top1": ..., "top5": ...}; accuracies are in [0, 1].

        Raises:
          UserError: If images have no label.
        """
        return self.run_with_predictions()[0]

    def run_with_predictions(self) -> tuple:
        """As `run`, with every image's label and predicted class.

        Returns:
          The metrics, and two int64 `[N]`: labels and predictions of this process's replicas.
        """
        batches = distribute(
            self._config,
            self._strategy,
            lambda shard, size: evaluation_batches(self._source, self._config, shard, size),
        )
        total, labels, predictions = 0.0, [], []
        local = self._strategy.experimental_local_results
        for images, wanted in batches:
            sums, predicted = self._step(images, wanted)
            total = total + tf.cast(sums, tf.float64).numpy()
            labels += [x.numpy() for x in local(wanted)]
            predictions += [x.numpy() for x in local(predicted)]
        count = total[-1]
        if count != self._source.num_held_out:
            raise UserError(
                f"data.test_split={self._config.data.test_split}: {count:.0f} of "
                f"{self._source.num_held_out} held-out images of {self._config.data.name} have a "
                "label; give a split that has labels"
            )
        metrics = {
            name: float(value / count) for name, value in zip(self._names, total, strict=False)
        }
        labels, predictions = np.concatenate(labels), np.concatenate(predictions)
        real = labels >= 0  # the others fill the last batch up
        return metrics, labels[real], predictions[real]
