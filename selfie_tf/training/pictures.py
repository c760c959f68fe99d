"""Pictures of a pretraining run: the same held-out images at every picture step."""

import io
import json

import numpy as np
import tensorflow as tf

from selfie_tf.storage.files import write_atomically

_NUM_IMAGES = 6
_NUM_COLUMNS = 6  # steps side by side in the last picture


class Pictures:
    """Draws the model's predictions for the same held-out images, and remembers them.

    Args:
      method: A `methods.Method`.
      run: An open `training.run.Run`, with its source.
      predict: A function from a batch to the model's logits.
    """

    def __init__(self, method, run, predict):
        self._method, self._run, self._predict = method, run, predict
        self._history_path = run.directory.join("figures", f"{method.picture}.json")
        batches = method.held_out_batches(
            run.source, run.config, _NUM_IMAGES, _NUM_IMAGES, method.picture_cropped
        )
        self._tensors = next(iter(batches))
        self._batch = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._history = {}

    def rewind(self, step: int) -> None:
        """Reads the predictions up to `step`, which a resumed run will not make again."""
        try:
            with tf.io.gfile.GFile(self._history_path) as file:
                saved = json.load(file)
            history = {int(s): np.array(p) for s, p in saved.items() if int(s) <= step}
        except (tf.errors.OpError, ValueError, AttributeError):
            return  # pictures never stop a run
        shape = self._batch[self._method.target].shape
        self._history = {s: p for s, p in history.items() if p.shape == shape}

    def draw(self, step: int, writer) -> None:
        """Draws the picture of `step`, for TensorBoard too.

        Args:
          step: The current step.
          writer: TensorBoard's; None in a process that writes nothing.
        """
        # Every worker predicts, because the weights may be spread over all of them.
        self._history[step] = self._predict(self._tensors).numpy().argmax(-1)
        if writer is None:
            return
        history = {s: p.tolist() for s, p in self._history.items()}
        write_atomically(self._history_path, json.dumps(history))
        name = self._method.picture
        picture = self._write(f"{name}_{step:08d}.png", {step: self._history[step]})
        with writer.as_default(step):
            tf.summary.image(name, picture[None])
        writer.flush()

    def draw_progress(self) -> None:
        """Draws up to six picture steps side by side, evenly spaced in log(step)."""
        if not self._run.is_chief or not self._history:
            return
        steps = sorted(self._history)
        indices = np.geomspace(1, len(steps), min(_NUM_COLUMNS, len(steps)))
        chosen = sorted({steps[round(index) - 1] for index in indices})
        self._write(f"{self._method.picture}.png", {step: self._history[step] for step in chosen})

    def _write(self, name, predictions):
        buffer = io.BytesIO()
        self._method.draw(buffer, self._run.config, self._batch, predictions)
        with tf.io.gfile.GFile(self._run.directory.join("figures", name), "wb") as file:
            file.write(buffer.getvalue())
        return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()
