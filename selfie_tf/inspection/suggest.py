"""Suggests a config of pretraining from what was seen of the images, by simple rules.

1. Config. Built-in images: `quickstart`. Otherwise by the median of the images' shorter sides: from
   160 pixels on `selfie_imagenet224`; below, `selfie_cifar10`, with images and patches of twice the
   size (64 and 16) from 64 pixels on.
2. Batch. 128, or the largest power of two of which the training images make ten batches, if that is
   smaller; at least 8 where there are as many images. The papers' batches suit TPUs.
3. Steps. 100 epochs, but at least 2,000 steps and at most the config's.
4. Learning rate. 0.05, which was used with batches of 128 so far (docs/RESULTS.md); the papers' 0.1
   goes with batches of 512 and more.
5. Width. Without a GPU, 16 instead of 64 (with 8 heads and 160 units), which takes about a
   sixteenth of the time.
6. Unreadable files. If there are more than the config allows, the limit is raised to them.
7. Held-out images stay as the config says: the data's own test images, or else 1,000, at most a
   tenth. What the user set stays, too.

They are a start, not the result of a search.
"""

import dataclasses
import math

import numpy as np

from selfie_tf.config import files


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A config to begin with.

    Attributes:
      config: The name of one of the package's configs.
      values: {key: value} of what is set differently.
      reasons: {key: words}; the config's own key is "config".
    """

    config: str
    values: dict
    reasons: dict


def suggest(seen: list, train: int, given: dict, gpu: bool) -> Suggestion:
    """Applies the rules above.

    Args:
      seen: A list of `survey.Seen`, at least one of them readable.
      train: How many training images there are.
      given: {key: value} of what the user set, `data.name` among it.
      gpu: Whether there is a GPU.
    """
    readable = [image for image in seen if not image.error]
    side = int(np.median([min(image.width, image.height) for image in readable]))
    values = {"data.name": given["data.name"]}
    words = f"the median of the shorter sides is {side} pixels"
    if given["data.name"].startswith("builtin:"):
        name, words = "quickstart", "it goes with the built-in images"
    else:
        name = "selfie_imagenet224" if side >= 160 else "selfie_cifar10"
    reasons = {"config": words}
    if name == "selfie_cifar10" and side >= 64:
        values |= {"data.image_size": 64, "patches.size": 16}
        reasons["data.image_size"] = words
    config = files.get(name)
    if name != "quickstart":
        batch = min(128, max(8, _power_of_two(train // 10)), _power_of_two(train))
        steps = min(max(100 * train // batch, 2000), config.train.steps)
        steps = steps // 100 * 100
        values |= {
            "train.batch_size": batch,
            "train.steps": steps,
            "optimizer.learning_rate": 0.05,
        }
        reasons["train.batch_size"] = f"for {train:,} training images"
        reasons["train.steps"] = f"{steps * batch / max(train, 1):,.0f} epochs"
        reasons["optimizer.learning_rate"] = "for batches of at most 128 images"
        if not gpu:
            values |= {"model.width": 16, "model.num_heads": 8, "model.mlp_dim": 160}
            reasons["model.width"] = "there is no GPU"
    unreadable = 1 - len(readable) / len(seen)
    if unreadable > config.data.corrupt_budget:
        limit = min(math.ceil(1000 * unreadable + 1) / 1000, 1.0)
        values["data.corrupt_budget"] = limit
        reasons["data.corrupt_budget"] = f"{unreadable:.1%} of the files are unreadable"
    reasons = {key: words for key, words in reasons.items() if key not in given}
    return Suggestion(name, {**values, **given}, reasons)


def _power_of_two(number):
    """The largest one up to `number`; at least 1."""
    return 2 ** int(math.log2(max(number, 1)))


def command_line(suggestion: Suggestion) -> list:
    """The words of the command that pretrains as suggested."""
    flags = [f"--config.{key}={value}" for key, value in suggestion.values.items()]
    return ["selfie-tf", "pretrain", f"--config={suggestion.config}", *flags, "--workdir=runs/mine"]
