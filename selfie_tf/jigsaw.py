"""Selfie's pretext task: the model of a config, its figures on held-out images, its picture."""

import numpy as np

from selfie_tf import figures, losses
from selfie_tf.config import Config
from selfie_tf.data.pipeline import held_out_batches
from selfie_tf.models.selfie import SelfiePretrainer

NAME = "jigsaw"  # of the picture
ACCURACY = "patch_accuracy"  # the training metric
TRUTH = "target_positions"  # answers have its shape
PICTURE_CROPPED = True  # the picture's images are cropped as in training


def build(config: Config) -> SelfiePretrainer:
    """Makes the model with all its weights; call it in the strategy's scope."""
    pretrainer = SelfiePretrainer(
        pooling=config.model.pooling,
        logit_scale=config.model.logit_scale,
        **config.network_arguments,
    )
    size = config.patches.size
    pretrainer.build({"context_patches": [None, config.num_context, size, size, 3]})
    return pretrainer


def evaluate(config: Config, source, logits) -> dict:
    """Loss and patch accuracy on held-out images, cropped as in training and uncropped.

    Both, because the paper's zero padding gives places at the edge away: the patches of cropped
    images carry a black margin, and a network may learn little else at first.

    Args:
      config: of the run.
      source: whose held-out images are taken.
      logits: batch -> logits.
    """
    cropped, uncropped = (_evaluate(config, source, logits, crop) for crop in (True, False))
    return {
        "chance": 1 / config.num_targets,
        "held_out_loss": cropped[0],
        "held_out_patch_accuracy": cropped[1],
        "held_out_patch_accuracy_uncropped": uncropped[1],
        "evaluated_images": cropped[2],
    }


def _evaluate(config, source, logits, crop):
    all_losses, accuracies = [], []
    for batch in held_out_batches(
        source, config, config.train.batch_size, config.data.eval_images, crop
    ):
        answer = logits(batch)
        all_losses.append(losses.patch_classification_loss(answer).numpy())
        accuracies.append(losses.patch_accuracy(answer).numpy())
    all_losses, accuracies = np.concatenate(all_losses), np.concatenate(accuracies)
    return float(np.mean(all_losses)), float(np.mean(accuracies)), len(accuracies)


def result(trained: dict, held_out: dict) -> dict:
    """What result.json says: means of training metrics, and what `evaluate` found."""
    return {**trained, **held_out}


def describe(held_out: dict) -> str:
    """What `evaluate` found, as a line."""
    return (
        f"patch accuracy on {held_out['evaluated_images']} held-out images: "
        f"{held_out['held_out_patch_accuracy']:.3f} cropped as in training, "
        f"{held_out['held_out_patch_accuracy_uncropped']:.3f} uncropped "
        f"(chance {held_out['chance']:.3f})"
    )


def draw(file, config: Config, batch: dict, answers_at: dict) -> None:
    """Draws the choices of {step: int `[B, T]`}, see `figures.draw_jigsaw`."""
    figures.draw_jigsaw(file, batch, answers_at, config.grid)


def draw_curves(file, points: list, result: dict) -> None:
    """Draws the training metrics beside chance, see `figures.draw_curves`."""
    chance = result["chance"]
    guesses = {"loss": {"guessing": -np.log(chance)}, ACCURACY: {"guessing": chance}}
    figures.draw_curves(file, points, ACCURACY, guesses)
