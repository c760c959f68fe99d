"""Pictures of a pretraining run: the same held-out images at every picture step."""

import io
import json

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.data.crops import resize_and_center
from selfie_tf.storage.files import write_atomically
from selfie_tf.training.features import compute, nearest_others

_NUM_IMAGES = 6
_NUM_POOL = 256  # held-out images that neighbours are looked for in
_NUM_NEIGHBOURS = 5
_BATCH_SIZE = 32


class TaskPicture:
    """What the network predicts for a few held-out images.

    Args:
      method: A `methods.Method`.
      run: An open `training.run.Run`, with its source.
      predict: A function from a batch to the model's logits.

    Attributes:
      name: File name of the picture, without the suffix.
      shape: The shape of what `predict` returns.
      columns: Number of steps side by side in the last picture, at most.
    """

    columns = 6

    def __init__(self, method, run, predict):
        self.name = method.picture
        self._method, self._config, self._predict = method, run.config, predict
        batches = method.held_out_batches(
            run.source, run.config, _NUM_IMAGES, _NUM_IMAGES, method.picture_cropped
        )
        self._tensors = next(iter(batches))
        self._batch = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self.shape = self._batch[method.target].shape

    def predict(self) -> np.ndarray:
        """The predictions of the moment, int."""
        return self._predict(self._tensors).numpy().argmax(-1)

    def draw(self, file, predictions: dict) -> None:
        """Draws predictions as a PNG, see `methods.Method.draw`."""
        self._method.draw(file, self._config, self._batch, predictions)


class NeighbourPicture:
    """The held-out images whose features are nearest to those of a few of them.

    It takes the place of `TaskPicture` where training does without the pretext task.

    Args:
      run: An open `training.run.Run`, with its source.
      features: A function from images, uint8 `[B, S, S, 3]`, to features `[B, D]`.
    """

    name, columns = "neighbours", 2
    words = (
        "Held-out images, one per row, each with the others whose features are nearest to its own "
        "by cosine, after the steps in the titles."
    )

    def __init__(self, run, features):
        size = run.config.data.image_size
        images = run.source.held_out_images().take(_NUM_POOL)
        images = images.map(lambda _, image, label: resize_and_center(image, size))
        self._images = np.stack(list(images.as_numpy_iterator()))
        self._features = features
        count = len(self._images)
        self.shape = (min(_NUM_IMAGES, count), min(_NUM_NEIGHBOURS, count - 1))

    def predict(self) -> np.ndarray:
        """The numbers of the nearest images, int, the nearest first."""
        features = compute(self._features, self._images, _BATCH_SIZE)
        return nearest_others(features, *self.shape)

    def draw(self, file, predictions: dict) -> None:
        """Draws the neighbours after each step as a PNG, see `figures.draw_neighbours`."""
        figures.draw_neighbours(file, self._images, predictions)


class Pictures:
    """Draws the same held-out images again and again, and remembers what was predicted.

    Args:
      run: An open `training.run.Run`, with its source.
      subject: A `TaskPicture` or a `NeighbourPicture`.
    """

    def __init__(self, run, subject):
        self._run, self._subject = run, subject
        self._history_path = run.directory.join("figures", f"{subject.name}.json")
        self._history = {}

    def rewind(self, step: int) -> None:
        """Reads the predictions up to `step`, which a resumed run will not make again."""
        try:
            with tf.io.gfile.GFile(self._history_path) as file:
                saved = json.load(file)
            history = {int(s): np.array(p) for s, p in saved.items() if int(s) <= step}
        except (tf.errors.OpError, ValueError, AttributeError):
            return  # pictures never stop a run
        self._history = {s: p for s, p in history.items() if p.shape == self._subject.shape}

    def draw(self, step: int, writer) -> None:
        """Draws the picture of `step`, for TensorBoard too.

        Args:
          step: The current step.
          writer: TensorBoard's; None in a process that writes nothing.
        """
        # Every worker predicts, because the weights may be spread over all of them.
        self._history[step] = self._subject.predict()
        if writer is None:
            return
        history = {s: p.tolist() for s, p in self._history.items()}
        write_atomically(self._history_path, json.dumps(history))
        name = self._subject.name
        picture = self._write(f"{name}_{step:08d}.png", {step: self._history[step]})
        with writer.as_default(step):
            tf.summary.image(name, picture[None])
        writer.flush()

    def draw_progress(self) -> None:
        """Draws some picture steps side by side, evenly spaced in log(step)."""
        if not self._run.is_chief or not self._history:
            return
        steps = sorted(self._history)
        indices = np.geomspace(1, len(steps), min(self._subject.columns, len(steps)))
        chosen = sorted({steps[round(index) - 1] for index in indices})
        self._write(f"{self._subject.name}.png", {step: self._history[step] for step in chosen})

    def _write(self, name, predictions):
        buffer = io.BytesIO()
        self._subject.draw(buffer, predictions)
        with tf.io.gfile.GFile(self._run.directory.join("figures", name), "wb") as file:
            file.write(buffer.getvalue())
        return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()
