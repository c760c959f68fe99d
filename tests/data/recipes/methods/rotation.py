"""Rotation prediction (Gidaris et al. 2018), as the recipe of CONTRIBUTING.md adds it."""

import numpy as np
import tensorflow as tf

from selfie_tf import figures, losses
from selfie_tf.config.rotation import RotationConfig
from selfie_tf.methods.base import Method, mean
from selfie_tf.models import flops
from selfie_tf.models.rotation import RotationPretrainer


class Rotation(Method):
    name = "rotation"
    config = RotationConfig
    accuracy = "rotation_accuracy"
    picture = "rotations"
    target = "rotation"

    def make_input(self, image, config, seed, training):
        turns = tf.random.stateless_uniform([], seed, 0, 4, tf.int32)
        side = config.data.image_size
        return {"image": tf.ensure_shape(tf.image.rot90(image, turns), [side, side, 3]),
                "rotation": turns}  # fmt: skip

    def build(self, config):
        model = RotationPretrainer(
            config.model.width, config.model.stem, config.optimizer.decay_in_loss
        )
        side = config.data.image_size
        model.build({"image": [None, side, side, 3]})
        return model

    def evaluate(self, config, source, predict):
        all_losses, accuracies = [], []
        size, limit = config.train.batch_size, config.data.eval_images
        for batch in self.held_out_batches(source, config, size, limit, crop=False):
            logits = predict(batch)
            all_losses.append(losses.classification_loss(logits, batch["rotation"]).numpy())
            accuracies.append(losses.top_k(logits, batch["rotation"], 1).numpy())
        return {
            "held_out_loss": mean(all_losses),
            "held_out_rotation_accuracy": mean(accuracies),
            "evaluated_images": sum(map(len, accuracies)),
        }

    def describe(self, held_out):
        return f"rotation accuracy {held_out['held_out_rotation_accuracy']:.3f} (chance 0.250)"

    def draw(self, file, config, batch, predictions):
        titles = {f"step {step}": batch["image"] for step in predictions}
        figures._draw_columns(file, [("rotated", batch["image"]), *titles.items()])

    def draw_curves(self, file, points, result, probes=(), kind="png"):
        baselines = {"loss": {"guessing": np.log(4)}, self.accuracy: {"guessing": 0.25}}
        figures.draw_curves(file, points, self.accuracy, baselines, probes=probes, kind=kind)

    def forward_flop(self, config):
        model = config.model
        return flops.patch_network_flop(model.width, model.stem, config.data.image_size)
