"""Selfie: which hidden patch belongs at which hidden position? (Trinh, Luong, Le 2019)"""

import collections
import itertools
import math

import numpy as np
import tensorflow as tf

from selfie_tf import figures, losses
from selfie_tf.config import SelfieConfig
from selfie_tf.data.augment import augment_patches
from selfie_tf.data.crops import random_resized_crop
from selfie_tf.methods.base import Method, mean
from selfie_tf.models import flops
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.patches import split_image

# Metrics of training where `model.instance_weight` is on.
_INSTANCE = ("instance_accuracy", "instance_loss")


class Selfie(Method):
    name = "selfie"
    config = SelfieConfig
    accuracy = "patch_accuracy"
    picture = "jigsaw"
    picture_words = (
        "Held-out images, one per row: the original, the visible patches, and the hidden patches "
        "where the network puts them after each step. White borders are right, red ones wrong."
    )
    picture_cropped = True
    target = "target_positions"

    def make_input(self, image, config, seed, training):
        """See `Method.make_input` and `patches.split_image`."""
        return split_image(image, config.patches.size, config.num_context, seed)

    def make_views(self, image, config, seed):
        """See `Method.make_views`: two random crops with noise, if there is an instance loss.

        They are of the uncropped image, whose crop may have a black margin.
        """
        if not config.model.instance_weight:
            return {}
        # Not the seed itself, which draws the split.
        one, two, noise = (
            tf.random.experimental.stateless_fold_in(seed, tf.constant(i, tf.int64))
            for i in (1, 2, 3)
        )
        size, area = config.view_size, config.views.min_crop_area
        views = tf.stack([random_resized_crop(image, size, area, s) for s in (one, two)])
        return {"views": augment_patches(views, config.views, noise)}  # [2, V, V, 3]

    def trains_task(self, config: SelfieConfig) -> bool:
        """See `Method.trains_task`: whether the jigsaw has a weight."""
        return config.model.jigsaw_weight > 0

    def build(self, config: SelfieConfig) -> SelfiePretrainer:
        """See `Method.build`."""
        model = SelfiePretrainer(
            query=config.model.query,
            pooling=config.model.pooling,
            logit_scale=config.model.logit_scale,
            jigsaw_weight=config.model.jigsaw_weight,
            instance_weight=config.model.instance_weight,
            temperature=config.model.temperature,
            projection_dim=config.model.projection_dim,
            negatives=config.model.negatives,
            **config.network_arguments,
        )
        size = config.patches.size
        model.build({"context_patches": [None, config.num_context, size, size, 3]})
        return model

    def evaluate(self, config: SelfieConfig, source, predict) -> dict:
        """Measures loss and patch accuracy, on cropped and on uncropped images.

        Both, because the paper's zero padding gives edge positions away: the patches of cropped
        images carry a black margin, and at first a network may learn little else. Where there is
        such a margin, `margin_baseline` says how far that alone goes. A network that was not
        trained to solve jigsaws is not measured.
        """
        if not self.trains_task(config):
            return {"evaluated_images": 0}
        loss, accuracy, count = self._measure(config, source, predict, crop=True)
        _, uncropped, _ = self._measure(config, source, predict, crop=False)
        return {
            "chance": 1 / config.num_targets,
            **({"margin_baseline": margin_baseline(config)} if has_margin(config) else {}),
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
        if not held_out["evaluated_images"]:
            return "no jigsaws were solved (model.jigsaw_weight=0)"
        margin = ""
        if "margin_baseline" in held_out:
            margin = f", from the margin alone {held_out['margin_baseline']:.3f} cropped"
        return (
            f"patch accuracy on {held_out['evaluated_images']} held-out images: "
            f"{held_out['held_out_patch_accuracy']:.3f} cropped as in training, "
            f"{held_out['held_out_patch_accuracy_uncropped']:.3f} uncropped "
            f"(chance {held_out['chance']:.3f}{margin})"
        )

    def draw(self, file, config, batch, predictions):
        """See `Method.draw` and `figures.draw_jigsaw`."""
        figures.draw_jigsaw(file, batch, predictions, config.grid)

    def draw_curves(self, file, points, result, probes=(), kind="png"):
        """See `Method.draw_curves`."""
        shown = [name for name in (self.accuracy, *_INSTANCE) if name in points[0]]
        baselines = {}
        if self.accuracy in shown:
            chance = result["chance"]
            baselines = {"loss": {"chance": -np.log(chance)}, self.accuracy: {"chance": chance}}
            if "margin_baseline" in result:
                baselines[self.accuracy]["the margin alone"] = result["margin_baseline"]
            if len(shown) > 1:  # the loss is a sum of two
                del baselines["loss"]
        figures.draw_curves(file, points, shown[0], baselines, shown[1:], probes, kind)

    def forward_flop(self, config: SelfieConfig) -> int:
        """P on every patch, A over the context, and the logits; P on two views, their projection.

        The similarities of views, a matter of the batch, are left out.
        """
        model, dim = config.model, config.model.hidden_dim
        total = self._jigsaw_flop(config) if model.jigsaw_weight else 0
        if model.instance_weight:
            view = flops.patch_network_flop(model.width, model.stem, config.view_size)
            total += 2 * (view + 2 * dim * (dim + model.projection_dim))
        return total

    def _jigsaw_flop(self, config):
        model, dim, targets = config.model, config.model.hidden_dim, config.num_targets
        patch = flops.patch_network_flop(model.width, model.stem, config.patches.size)
        total = config.num_patches * patch
        if model.pooling == "attention" and model.query != "position":
            n = config.num_context + (1 if model.query == "pooled" else targets)
            block = flops.attention_block_flop(n, n, dim, model.mlp_dim)
            total += model.attention_layers * block
        return total + 2 * targets**2 * dim


def has_margin(config: SelfieConfig) -> bool:
    """Whether the training crop shows pixels that are not of the image."""
    data = config.data
    return data.crop == "pad" and config.patches.pad > 0 and data.pad_mode in ("zeros", "mean")


def margin_baseline(config: SelfieConfig) -> float:
    """Computes the patch accuracy of an observer that only sees where the margin lies.

    It knows the crop's offset, and which of a patch's pixels are of the margin. For a position it
    picks at random among the hidden patches whose margin fits. If the hidden patches have k
    different margins, it is right k times out of T on average. The result is the mean over all
    offsets and all choices of hidden patches.
    """
    size, pad, grid = config.patches.size, config.patches.pad, config.grid
    edge, targets = config.data.image_size + pad, config.num_targets
    choices = math.comb(config.num_patches, targets)

    def margins(offset):
        """Pixels of margin before and after the image, in each row (or column) of patches."""
        starts = [offset + size * i for i in range(grid)]
        inside = [(max(pad - start, 0), max(start + size - edge, 0)) for start in starts]
        return [(size, 0) if sum(pixels) >= size else pixels for pixels in inside]

    total, offsets = 0.0, range(2 * pad + 1)
    for rows, columns in itertools.product(map(margins, offsets), repeat=2):
        kinds = collections.Counter(
            "margin only" if (size, 0) in (row, column) else (row, column)
            for row, column in itertools.product(rows, columns)
        )
        for count in kinds.values():  # is at least one of these patches hidden?
            total += 1 - math.comb(config.num_patches - count, targets) / choices
    return total / len(offsets) ** 2 / targets
