"""Loss and accuracy of a classifier on held-out images."""

import numpy as np
import tensorflow as tf

from selfie_tf.data.pipeline import evaluation_batches
from selfie_tf.distribution import strategy as distribution
from selfie_tf.errors import UserError
from selfie_tf.losses import classification_loss, top_k
from selfie_tf.models.classifier import TOP5_FROM
from selfie_tf.training.classes import balanced_accuracy
from selfie_tf.training.run import distribute


class ClassifierEvaluator:
    """Loss and accuracies (top-5 from 20 classes up) over all held-out images, by all replicas.

    Args:
      config: A `config.FinetuneConfig`.
      source: The source whose held-out images are evaluated.
      strategy: Its scope is the one that the model was built in.
      model: A `models.classifier.ImageClassifier`.
    """

    def __init__(self, config, source, strategy: tf.distribute.Strategy, model):
        self._config, self._source, self._strategy = config, source, strategy
        several_workers = distribution.num_workers(strategy) > 1
        self._names = ["loss", "top1"] + ["top5"] * (model.num_classes >= TOP5_FROM)

        def evaluate(images, labels):
            logits = model(images, training=False)
            values = [classification_loss(logits, labels), top_k(logits, labels, 1)]
            if "top5" in self._names:
                values.append(top_k(logits, labels, 5))
            values.append(tf.cast(labels >= 0, tf.float32))
            sums = tf.stack([tf.reduce_sum(tf.cast(v, tf.float32)) for v in values])
            best = tf.reduce_max(tf.nn.softmax(tf.cast(logits, tf.float32)), axis=-1)
            # Class numbers are exact in float32.
            rows = [tf.cast(v, tf.float32) for v in (labels, tf.argmax(logits, axis=-1), best)]
            rows = tf.stack(rows, axis=1)  # [B, 3]
            if several_workers:  # a process sees its own replicas only
                rows = tf.distribute.get_replica_context().all_gather(rows, axis=0)
            return sums, rows

        @tf.function(autograph=False)
        def step(images, labels):
            sums, rows = strategy.run(evaluate, args=(images, labels))
            # In the order of replicas, which is that of the batch. Gathered, each has all rows.
            rows = strategy.experimental_local_results(rows)
            rows = rows[0] if several_workers else tf.concat(rows, axis=0)
            return strategy.reduce("SUM", sums, axis=None), rows

        self._step = step

    def run_with_predictions(self) -> tuple:
        """Measures the classifier.

        Returns:
          The metrics {"loss": ..., "top1": ..., "balanced_accuracy": ...}, and "top5" from 20
          classes up, with accuracies in [0, 1]; and, in the order of the source's held-out images,
          labels and predicted classes, int64 `[N]`, and the probabilities of the predicted classes,
          float32 `[N]`. Every worker returns all of them.

        Raises:
          UserError: If images have no label.
        """
        batches = distribute(
            self._config,
            self._strategy,
            lambda shard, size: evaluation_batches(self._source, self._config, shard, size),
        )
        total, rows = 0.0, []
        for batch in batches:
            sums, more = self._step(*batch)
            total = total + tf.cast(sums, tf.float64).numpy()
            rows.append(more.numpy())
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
        rows = np.concatenate(rows)
        labels, predictions, probabilities = rows[rows[:, 0] >= 0].T  # others fill the last batch
        metrics["balanced_accuracy"] = balanced_accuracy(labels, predictions)
        return metrics, labels.astype(np.int64), predictions.astype(np.int64), probabilities
