"""PatchFormer: which grey levels do the hidden patches have? (ICLR 2020 submission)"""

import numpy as np
import tensorflow as tf

from selfie_tf import figures, losses
from selfie_tf.config import PatchFormerConfig
from selfie_tf.data.augment import augment_patches
from selfie_tf.methods.base import Method, mean
from selfie_tf.models import flops
from selfie_tf.models.patchformer import PatchFormerPretrainer
from selfie_tf.patches import gray_levels, mask_image, patchify, shrink


class PatchFormer(Method):
    name = "patchformer"
    config = PatchFormerConfig
    accuracy = "pixel_accuracy"
    picture = "reconstruction"
    picture_words = (
        "Held-out images, one per row: the original, the visible patches, the grey levels "
        "predicted for the hidden pixels after each step, and the true ones."
    )
    target = "target_levels"

    def make_input(self, image, config, seed, training):
        """See `Method.make_input` and `patches.mask_image`.

        In training the visible patches are augmented as `config.augment` says; targets never are.
        Otherwise the input also has `original`, uint8 `[S, S, 3]`, for pictures.
        """
        p = config.patches
        cells, size = config.num_hidden_cells, p.target_size
        x = mask_image(image, p.size, p.mask_block, cells, size, p.target, p.target_bits, seed)
        if not training:
            return {**x, "original": image}
        noise = tf.random.experimental.stateless_fold_in(seed, 1)
        visible = augment_patches(x["context_patches"], config.augment, noise)
        return {**x, "context_patches": visible}

    def build(self, config: PatchFormerConfig) -> PatchFormerPretrainer:
        """See `Method.build`."""
        model = PatchFormerPretrainer(
            target_size=config.patches.target_size,
            num_levels=2**config.patches.target_bits,
            query=config.model.query,
            label_smoothing=config.model.label_smoothing,
            **config.network_arguments,
        )
        size = config.patches.size
        model.build({"context_patches": [None, config.num_context, size, size, 3]})
        return model

    def evaluate(self, config: PatchFormerConfig, source, predict) -> dict:
        """Measures pixel accuracy on uncropped images without noise, and three baselines.

        Returns:
          `held_out_loss`; `pixel_accuracy`; `baseline_accuracy`: always predicting the level that
          is the most frequent among all hidden pixels; `image_baseline_accuracy`: predicting the
          most frequent level of the same image's visible pixels; `nearest_visible_accuracy`:
          predicting the level of the nearest visible pixel, see `nearest_visible_baseline`;
          `evaluated_images`.
        """
        bits, size = config.patches.target_bits, config.train.batch_size
        all_losses, accuracies, baselines, nearest = [], [], [], []
        counts = np.zeros(2**bits, np.int64)
        pixels = target_pixels(config)
        for batch in self.held_out_batches(
            source, config, size, config.data.eval_images, crop=False
        ):
            logits, levels = predict(batch), batch["target_levels"]
            loss = losses.classification_loss(logits, levels)
            all_losses.append(tf.reduce_mean(loss, axis=[1, 2, 3]).numpy())
            accuracies.append(losses.pixel_accuracy(logits, levels).numpy())
            visible = gray_levels(batch["context_patches"], bits).numpy()
            baselines.append(image_baseline(visible, levels.numpy()))
            nearest.append(nearest_visible_baseline(config, batch, pixels))
            counts += np.bincount(levels.numpy().ravel(), minlength=len(counts))
        return {
            "held_out_loss": mean(all_losses),
            "pixel_accuracy": mean(accuracies),
            "baseline_accuracy": float(counts.max() / counts.sum()),
            "image_baseline_accuracy": mean(baselines),
            "nearest_visible_accuracy": mean(nearest),
            "evaluated_images": sum(map(len, accuracies)),
        }

    def result(self, trained: dict, held_out: dict) -> dict:
        """See `Method.result`; `pixel_accuracy` is the one on held-out images."""
        renamed = {
            f"train_{name}" if name in ("loss", self.accuracy) else name: value
            for name, value in trained.items()
        }
        return {**renamed, **held_out}

    def describe(self, held_out: dict) -> str:
        """See `Method.describe`."""
        return (
            f"pixel accuracy on {held_out['evaluated_images']} held-out images: "
            f"{held_out['pixel_accuracy']:.3f} (copying the nearest visible pixel "
            f"{held_out['nearest_visible_accuracy']:.3f}, the image's own most frequent visible "
            f"level {held_out['image_baseline_accuracy']:.3f}, always the most frequent level "
            f"{held_out['baseline_accuracy']:.3f})"
        )

    def draw(self, file, config, batch, predictions):
        """See `Method.draw` and `figures.draw_reconstruction`."""
        p, truth = config.patches, "truth"
        if p.target == "center_crop" and p.target_size < p.size:
            truth = f"truth: middle {p.target_size}x{p.target_size}\npixels, enlarged"
        levels = 2**p.target_bits
        figures.draw_reconstruction(file, batch, predictions, config.grid, levels, truth)

    def draw_curves(self, file, points, result, probes=(), kind="png"):
        """See `Method.draw_curves`."""
        baselines = {
            "the nearest visible pixel (held out)": result["nearest_visible_accuracy"],
            "the image's most frequent visible level (held out)": result["image_baseline_accuracy"],
            "the most frequent level (held out)": result["baseline_accuracy"],
        }
        accuracy = {self.accuracy: baselines}
        figures.draw_curves(file, points, self.accuracy, accuracy, probes=probes, kind=kind)

    def forward_flop(self, config: PatchFormerConfig) -> int:
        """P and the Transformer on the visible patches, the queries, and the decoder."""
        model, dim, p = config.model, config.model.hidden_dim, config.patches
        seen, targets = config.num_context, config.num_targets
        total = seen * flops.patch_network_flop(model.width, model.stem, p.size)
        block = flops.attention_block_flop(seen, seen, dim, model.mlp_dim)
        total += model.attention_layers * block
        queries = 1 if model.query == "pooled" else targets
        total += flops.attention_block_flop(queries, seen, dim, model.mlp_dim)
        return total + targets * flops.decoder_flop(dim, p.target_size, 2**p.target_bits)


def image_baseline(visible: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Accuracy of predicting, for each image, the most frequent level of its visible pixels.

    Args:
      visible, hidden: Grey levels, int `[B, ...]`.

    Returns:
      float `[B]`.
    """
    levels = [np.argmax(np.bincount(image.ravel())) for image in visible]
    return np.array([np.mean(h == level) for h, level in zip(hidden, levels, strict=True)])


def target_pixels(config: PatchFormerConfig) -> np.ndarray:
    """Row and column in the image of each pixel that is decoded of each patch: `[N, s, s, 2]`."""
    p, side = config.patches, np.arange(config.data.image_size)
    coordinates = tf.constant(np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1))
    return shrink(patchify(coordinates, p.size), p.target_size, p.target).numpy()


def nearest_visible(shown: np.ndarray, size: int, pixels: np.ndarray) -> np.ndarray:
    """Finds the visible pixel that is nearest to each of some pixels.

    Nearest by the Euclidean distance between pixel centres, over the whole image. Of several at the
    same distance it is the first in row order.

    Args:
      shown: Which patches are visible, bool `[G, G]`; at least one is.
      size: Side p of a patch in pixels.
      pixels: Row and column of each pixel, int `[..., 2]`.

    Returns:
      Row and column of the visible pixel nearest to each, int `[..., 2]`.
    """
    # Within a row of patches, every row of pixels shows the same columns. So of each row of patches
    # the nearest row of pixels counts, and in it the nearest visible column.
    side = np.arange(len(shown) * size)[:, None]
    first = size * np.arange(len(shown))
    closest = np.clip(side, first, first + size - 1)  # [S, G], in each row, or column, of patches
    apart = np.abs(side - closest)
    far = 2 * len(side)  # farther than any two pixels
    across = np.where(shown, apart[:, None], far)  # [S, G, G]: column, row of patches, its patches
    column = closest[side, across.argmin(-1)]  # [S, G]; argmin takes the first of equals
    distance = across.min(-1)
    rows, columns = pixels[..., 0], pixels[..., 1]
    chosen = (apart[rows] ** 2 + distance[columns] ** 2).argmin(-1)  # [...], a row of patches
    return np.stack([closest[rows, chosen], column[columns, chosen]], axis=-1)


def nearest_visible_baseline(config: PatchFormerConfig, batch: dict, pixels) -> np.ndarray:
    """Accuracy of predicting, for each hidden pixel, the level of the nearest visible one.

    Args:
      config: The run's config.
      batch: A batch of `PatchFormer.make_input` without training.
      pixels: See `target_pixels`.

    Returns:
      float `[B]`.
    """
    levels = gray_levels(batch["original"], config.patches.target_bits).numpy()  # [B, S, S]
    hidden, truth = batch["target_positions"].numpy(), batch["target_levels"].numpy()
    accuracies = []
    for b in range(len(levels)):
        shown = ~np.isin(np.arange(config.num_patches), hidden[b])
        shown = shown.reshape(config.grid, config.grid)
        copied = nearest_visible(shown, config.patches.size, pixels[hidden[b]])  # [T, s, s, 2]
        accuracies.append(np.mean(levels[b][copied[..., 0], copied[..., 1]] == truth[b]))
    return np.array(accuracies)
