"""PatchFormer's pretext task: the model of a config, its held-out figures, its picture."""

import numpy as np
import tensorflow as tf

from selfie_tf import figures, losses
from selfie_tf.config import PatchFormerConfig
from selfie_tf.data.pipeline import held_out_batches
from selfie_tf.models.patchformer import PatchFormerPretrainer
from selfie_tf.patches import gray_levels

NAME = "reconstruction"  # of the picture
ACCURACY = "pixel_accuracy"  # the training metric
TRUTH = "target_levels"  # answers have its shape
PICTURE_CROPPED = False  # the picture's images are whole


def build(config: PatchFormerConfig) -> PatchFormerPretrainer:
    """Makes the model with all its weights; call it in the strategy's scope."""
    pretrainer = PatchFormerPretrainer(
        target_size=config.patches.target_size,
        num_levels=2**config.patches.target_bits,
        query=config.model.query,
        label_smoothing=config.model.label_smoothing,
        **config.network_arguments,
    )
    size = config.patches.size
    pretrainer.build({"context_patches": [None, config.num_context, size, size, 3]})
    return pretrainer


def evaluate(config: PatchFormerConfig, source, logits) -> dict:
    """Pixel accuracy on held-out images, uncropped and without noise, and two blank guesses.

    Args:
      config: of the run.
      source: whose held-out images are taken.
      logits: batch -> logits.

    Returns:
      `held_out_loss`; `pixel_accuracy`; `baseline_accuracy`, of always answering the level that is
      the most frequent among all the hidden pixels; `image_baseline_accuracy`, of answering the
      most frequent level of the same image's visible pixels; `evaluated_images`.
    """
    bits = config.patches.target_bits
    all_losses, accuracies, guesses = [], [], []
    counts = np.zeros(2**bits, np.int64)
    for batch in held_out_batches(
        source, config, config.train.batch_size, config.data.eval_images, crop=False
    ):
        answer, levels = logits(batch), batch["target_levels"]
        loss = losses.classification_loss(answer, levels)
        all_losses.append(tf.reduce_mean(loss, axis=[1, 2, 3]).numpy())
        accuracies.append(losses.pixel_accuracy(answer, levels).numpy())
        visible = gray_levels(batch["context_patches"], bits).numpy()
        guesses.append(image_baseline(visible, levels.numpy()))
        counts += np.bincount(levels.numpy().ravel(), minlength=len(counts))
    accuracies = np.concatenate(accuracies)
    return {
        "held_out_loss": float(np.mean(np.concatenate(all_losses))),
        "pixel_accuracy": float(np.mean(accuracies)),
        "baseline_accuracy": float(counts.max() / counts.sum()),
        "image_baseline_accuracy": float(np.mean(np.concatenate(guesses))),
        "evaluated_images": len(accuracies),
    }


def image_baseline(visible: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Accuracy of answering, in each image, the most frequent level of its visible pixels.

    Args:
      visible, hidden: int `[B, ...]`, levels.

    Returns:
      float `[B]`.
    """
    guesses = [np.argmax(np.bincount(image.ravel())) for image in visible]
    return np.array([np.mean(h == guess) for h, guess in zip(hidden, guesses, strict=True)])


def result(trained: dict, held_out: dict) -> dict:
    """What result.json says: means of training metrics, and what `evaluate` found.

    `pixel_accuracy` is that on held-out images.
    """
    renamed = {f"train_{k}" if k in ("loss", ACCURACY) else k: v for k, v in trained.items()}
    return {**renamed, **held_out}


def describe(held_out: dict) -> str:
    """What `evaluate` found, as a line."""
    return (
        f"pixel accuracy on {held_out['evaluated_images']} held-out images: "
        f"{held_out['pixel_accuracy']:.3f} (always the most frequent level "
        f"{held_out['baseline_accuracy']:.3f}, the image's own most frequent visible level "
        f"{held_out['image_baseline_accuracy']:.3f})"
    )


def draw(file, config: PatchFormerConfig, batch: dict, answers_at: dict) -> None:
    """Draws the answers of {step: int `[B, T, s, s]`}, see `figures.draw_reconstruction`."""
    p, truth = config.patches, "truth"
    if p.target == "center_crop" and p.target_size < p.size:
        truth = f"truth: {p.target_size}x{p.target_size} middles\nof patches, enlarged"
    figures.draw_reconstruction(file, batch, answers_at, config.grid, 2**p.target_bits, truth)


def draw_curves(file, points: list, result: dict) -> None:
    """Draws the training metrics beside blank guesses, see `figures.draw_curves`."""
    guesses = {
        "the image's most frequent visible level (held out)": result["image_baseline_accuracy"],
        "the most frequent level (held out)": result["baseline_accuracy"],
    }
    figures.draw_curves(file, points, ACCURACY, {ACCURACY: guesses})
