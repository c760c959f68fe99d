"""What a pretext task has to say of itself."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf.data.pipeline import held_out_batches, training_batches


class Method:
    """A pretext task: its input, model, evaluation and picture. Subclasses are in this package.

    Attributes:
      name: What `config.method` calls it.
      config: The class of its configs, a `config.PretrainConfig`.
      accuracy: Name of the model's accuracy metric.
      picture: File name of its picture, without the suffix.
      picture_words: What the picture shows.
      picture_cropped: Whether the picture's images are cropped as in training.
      target: Key of the batch whose tensor has the shape of a prediction.
    """

    name: str
    config: type
    accuracy: str
    picture: str
    picture_words = "What the network predicts for held-out images, one row per image."
    picture_cropped = False
    target: str

    def make_input(self, image: tf.Tensor, config, seed: tf.Tensor, training: bool) -> dict:
        """Turns one image into the model's input, in tf.data.

        Args:
          image: uint8 `[S, S, 3]`, cropped.
          config: The run's config.
          seed: int64 `[2]`, different for each image and epoch.
          training: Whether the input may be augmented.

        Returns:
          A dict of tensors of static shape, without the batch dimension.
        """
        raise NotImplementedError

    def make_views(self, image: tf.Tensor, config, seed: tf.Tensor) -> dict:
        """Turns one training image, before its crop, into more of the input; into none by default.

        Args:
          image: uint8 `[h, w, 3]`.
          config: The run's config.
          seed: int64 `[2]`, the same as for `make_input`.

        Returns:
          A dict as that of `make_input`, which it is added to.
        """
        return {}

    def trains_task(self, config) -> bool:
        """Whether training learns the pretext task; a config may leave only other losses."""
        return True

    def build(self, config) -> keras.Model:
        """Makes the model with all its weights; call it in the strategy's scope."""
        raise NotImplementedError

    def evaluate(self, config, source, predict) -> dict:
        """Measures the pretext task on held-out images.

        Args:
          config: The run's config.
          source: The source whose held-out images are used.
          predict: A function from a batch to the model's logits.

        Returns:
          Metrics for result.json, `evaluated_images` among them.
        """
        raise NotImplementedError

    def result(self, trained: dict, held_out: dict) -> dict:
        """Joins the means of the training metrics and what `evaluate` found, for result.json."""
        return {**trained, **held_out}

    def describe(self, held_out: dict) -> str:
        """Sums up what `evaluate` found in one line."""
        raise NotImplementedError

    def draw(self, file, config, batch: dict, predictions: dict) -> None:
        """Draws predictions for a few held-out images as a PNG.

        Args:
          file: Open for writing in binary.
          config: The run's config.
          batch: The model's input as NumPy arrays.
          predictions: {step: int array shaped as `batch[self.target]`}, ascending.
        """
        raise NotImplementedError

    def draw_curves(
        self, file, points: list, result: dict, probes: list = (), kind: str = "png"
    ) -> None:
        """Draws the training metrics beside those of a network that has learnt nothing.

        Args:
          file: Open for writing in binary.
          points: The log points of metrics.jsonl.
          result: The contents of result.json.
          probes: The points of probes.jsonl; none without `train.probe_every`.
          kind: "png" or "svg".
        """
        raise NotImplementedError

    def forward_flop(self, config) -> int:
        """Floating-point operations of the forward pass for one image, see `models.flops`."""
        raise NotImplementedError

    def training_batches(self, source, config, start_step=0, shard=None, batch_size=0):
        """See `data.pipeline.training_batches`."""
        return training_batches(
            source, config, self.make_input, self.make_views, start_step, shard, batch_size
        )

    def held_out_batches(self, source, config, batch_size: int, limit: int, crop: bool = True):
        """See `data.pipeline.held_out_batches`."""
        return held_out_batches(source, config, self.make_input, batch_size, limit, crop)


def mean(arrays: list) -> float:
    """Mean over all elements of a list of arrays."""
    return float(np.mean(np.concatenate(arrays)))
