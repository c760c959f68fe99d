"""How well frozen features of a pretrained network tell classes apart."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf.data.crops import resize_and_center
from selfie_tf.data.source import BatchShard, reading, without_autotuning
from selfie_tf.data.subsets import choose
from selfie_tf.errors import UserError
from selfie_tf.models.transfer import copy_weights
from selfie_tf.training.build import build_pretrainer
from selfie_tf.training.features import NEIGHBOURS, knn_accuracy, linear_probe_accuracy
from selfie_tf.training.load import loading_precision

BATCH_SIZE = 128
_STATISTICS_IMAGES = 2048


def probe(config, source, model, train_images: int, label_fraction: float = 1.0) -> dict:
    """Lets two simple classifiers learn from frozen features of labelled images.

    The features are those that are exported, `image_features`. A vote among the 20 nearest
    neighbours and a linear probe learn from training images and are tested on held-out ones. The
    same is done with the network as it was before training: without that the numbers say nothing.

    Both networks are also measured with batch statistics of whole images, see `reestimated`.
    Selfie's own are those of patches, and either can do better.

    Args:
      config: The config of the pretraining run; its `data` names the labelled data.
      source: The labelled images.
      model: The pretrained model; it is left as it is.
      train_images: Number of labelled images to learn from, at most; each class gives the same
        fraction.
      label_fraction: Fraction of each class's images to learn from, at most, in [0, 1], but at
        least one image. As far as `train_images` allows, they are those that a finetuning run with
        this `data.label_fraction` and `data.subset_seed=0` has.

    Returns:
      A dict for JSON, with `knn_top1` and `linear_probe_top1` of `pretrained`, `untrained`,
      `pretrained_reestimated` and `untrained_reestimated`. The last two have the statistics of
      `statistics_images` training images.

    Raises:
      UserError: If images have no label or cannot be read.
    """
    names = source.class_names
    with reading(source, config.data):
        ids, labels = source.train_ids(), source.train_labels()
        if labels.min() < 0:
            raise UserError(f"data.name={config.data.name}: training images have no label")
        fraction = min(label_fraction, train_images / len(ids))
        chosen = choose(ids, labels, names, fraction, at_least=1)
        few = source.select(chosen, chosen)  # held out, they come in order and uncropped
    statistics_images = min(_STATISTICS_IMAGES, source.num_train)
    result = {
        "data": config.data.name,
        "training_images": len(chosen),
        "statistics_images": statistics_images,
        "classes": len(names),
    }
    keras.utils.set_random_seed(config.train.seed)  # the weights that the run began with
    with loading_precision(config):
        untrained = build_pretrainer(config)
    # The same images for every run; their labels are not needed.
    whole = source.train_images(0, 0, BatchShard(BATCH_SIZE)).take(statistics_images)
    for key, network in (("pretrained", model), ("untrained", untrained)):
        with reading(source, config.data):
            other = reestimated(config, network, _squares(whole, config.data).map(lambda x, _: x))
        for name, used in ((key, network), (f"{key}_reestimated", other)):
            result[name], result["test_images"] = _accuracies(config, few, source, used)
    return result


def reestimated(config, network, batches) -> keras.Model:
    """Makes a copy of a network whose batch normalisation has the statistics of other images.

    The network sees each batch as in training. The mean of a layer is that of its inputs from all
    batches, and so is the variance. Batches count by their number of images.

    Args:
      config: The config of the run that the network is of.
      network: A pretraining model.
      batches: Whole images, uint8 `[b, S, S, 3]`, an iterable.

    Returns:
      A model with the weights of `network`. Layers that `image_features` does not use keep their
      statistics.
    """
    with loading_precision(config):
        copy = build_pretrainer(config)
    copy_weights(network, copy, "the network")
    norms = [m for m in copy.submodules if isinstance(m, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # so that moving statistics are those of the last batch

    @tf.function(autograph=False, reduce_retracing=True)
    def see(images):
        copy.image_features(images, training=True)

    sizes, means, variances = [], [], []
    for images in batches:
        see(images)
        sizes.append(len(images))
        means.append([norm.moving_mean.numpy().astype(np.float64) for norm in norms])
        variances.append([norm.moving_variance.numpy().astype(np.float64) for norm in norms])
    for i, norm in enumerate(norms):
        mean = np.average([batch[i] for batch in means], axis=0, weights=sizes)
        within = np.average([batch[i] for batch in variances], axis=0, weights=sizes)
        between = np.average([(batch[i] - mean) ** 2 for batch in means], axis=0, weights=sizes)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(within + between)
    return copy


def _accuracies(config, few, source, network):
    """Measures one network; returns the accuracies, and the number of test images."""

    @tf.function(autograph=False, reduce_retracing=True)
    def features(images):
        return network.image_features(images, training=False)

    train, train_labels = _outputs(few, config.data, features)
    test, test_labels = _outputs(source, config.data, features)
    accuracies = {
        "knn_top1": knn_accuracy(train, train_labels, test, test_labels, NEIGHBOURS),
        "linear_probe_top1": linear_probe_accuracy(train, train_labels, test, test_labels),
    }
    return accuracies, len(test_labels)


def _outputs(source, data, function):
    """Applies `function` to all held-out images; returns its outputs and the labels as arrays."""
    batches = _squares(source.held_out_images(), data)
    with reading(source, data):
        pairs = [(function(x).numpy(), y.numpy()) for x, y in batches]
    outputs, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if labels.min() < 0:
        raise UserError(
            f"data.name={data.name}: images of the test split have no label; choose another with "
            "--config.data.test_split in training"
        )
    return outputs, labels


def _squares(images, data):
    """Batches of the central squares of (number, image, label), with the labels."""
    images = images.map(
        lambda _, image, label: (resize_and_center(image, data.image_size), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return without_autotuning(images.batch(BATCH_SIZE))
