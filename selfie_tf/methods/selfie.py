"""Selfie: which hidden patch belongs at which hidden position? (Trinh, Luong, Le 2019)"""

import numpy as np

from selfie_tf import figures, losses
from selfie_tf.config import SelfieConfig
from selfie_tf.methods.base import Method, mean
from selfie_tf.models import flops
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.patches import split_image


class Selfie(Method):
    name = "selfie"
    config = SelfieConfig
    accuracy = "patch_accuracy"
    picture = "jigsaw"
    picture_cropped = True
    target = "target_positions"

    def make_input(self, image, config, seed, training):
        """See `Method.make_input` and `patches.split_image`."""
        return split_image(image, config.patches.size, config.num_context, seed)

    def build(self, config: SelfieConfig) -> SelfiePretrainer:
        """See `Method.build`."""
        model = SelfiePretrainer(
            pooling=config.model.pooling,
            logit_scale=config.model.logit_scale,
            **config.network_arguments,
        )
        size = config.patches.size
        model.build({"context_patches": [None, config.num_context, size, size, 3]})
        return model

    def evaluate(self, config: SelfieConfig, source, predict) -> dict:
        """Measures loss and patch accuracy, on cropped and on uncropped images.

        Both, because the paper's zero padding gives edge positions away: the patches of cropped
        images carry a black margin, and at first a network may learn little else.
        """
        loss, accuracy, count = self._measure(config, source, predict, crop=True)
        _, uncropped, _ = self._measure(config, source, predict, crop=False)
        return {
            "chance": 1 / config.num_targets,
            "held_out_loss": loss,
            "held_out_patch_accuracy": accuracy,
            "held_out_patch_accuracy_uncropped": uncropped,
            "evaluated_images": count,
        }

    def _measure(self, config, source, predict, crop):
        all_losses, accuracies = [], []
        size, limit = config.train.batch_size, config.data.eval_images
        for batch in self.held_out_batches(source, config, size, limit, crop):
            logits = predict(batch)
            all_losses.append(losses.patch_classification_loss(logits).numpy())
            accuracies.append(losses.patch_accuracy(logits).numpy())
        return mean(all_losses), mean(accuracies), sum(map(len, accuracies))

    def describe(self, held_out: dict) -> str:
        """See `Method.describe`."""
        return (
            f"patch accuracy on {held_out['evaluated_images']} held-out images: "
            f"{held_out['held_out_patch_accuracy']:.3f} cropped as in training, "
            f"{held_out['held_out_patch_accuracy_uncropped']:.3f} uncropped "
            f"(chance {held_out['chance']:.3f})"
        )

    def draw(self, file, config, batch, predictions):
        """See `Method.draw` and `figures.draw_jigsaw`."""
        figures.draw_jigsaw(file, batch, predictions, config.grid)

    def draw_curves(self, file, points, result):
        """See `Method.draw_curves`."""
        chance = result["chance"]
        baselines = {"loss": {"chance": -np.log(chance)}, self.accuracy: {"chance": chance}}
        figures.draw_curves(file, points, self.accuracy, baselines)

    def forward_flop(self, config: SelfieConfig) -> int:
        """P on every patch, A over the context, and the logits."""
        model, dim, targets = config.model, config.model.hidden_dim, config.num_targets
        patch = flops.patch_network_flop(model.width, model.stem, config.patches.size)
        total = config.num_patches * patch
        if model.pooling == "attention":
            n = config.num_context + 1
            block = flops.attention_block_flop(n, n, dim, model.mlp_dim)
            total += model.attention_layers * block
        return total + 2 * targets**2 * dim
