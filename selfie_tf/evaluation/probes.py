"""How well frozen features of a pretrained network tell classes apart."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf.data.crops import resize_and_center
from selfie_tf.data.source import reading
from selfie_tf.data.subsets import choose
from selfie_tf.errors import UserError
from selfie_tf.training.build import build_pretrainer

BATCH_SIZE = 128
_NEIGHBOURS = 20


def probe(config, source, model, train_images: int) -> dict:
    """Lets two simple classifiers learn from frozen features of labelled images.

    The features are those that are exported, `image_features`. A vote among the 20 nearest
    neighbours and a linear probe learn from training images and are tested on held-out ones. The
    same is done with the network as it was before training: without that the numbers say nothing.

    Args:
      config: The config of the pretraining run; its `data` names the labelled data.
      source: The labelled images.
      model: The pretrained model.
      train_images: Number of labelled images to learn from, at most; each class gives the same
        fraction.

    Returns:
      A dict for JSON, with `knn_top1` and `linear_probe_top1` of `pretrained` and `untrained`.

    Raises:
      UserError: If images have no label or cannot be read.
    """
    names = source.class_names
    with reading(source, config.data):
        ids, labels = source.train_ids(), source.train_labels()
        if labels.min() < 0:
            raise UserError(f"data.name={config.data.name}: training images have no label")
        chosen = choose(ids, labels, names, min(1.0, train_images / len(ids)), at_least=1)
        few = source.select(chosen, chosen)  # held out, they come in order and uncropped
    result = {"data": config.data.name, "training_images": len(chosen), "classes": len(names)}
    keras.utils.set_random_seed(config.train.seed)  # the weights that the run began with
    untrained = build_pretrainer(config)
    for key, network in (("pretrained", model), ("untrained", untrained)):

        @tf.function(autograph=False)
        def features(images, network=network):
            return network.image_features(images, training=False)

        train, train_labels = _outputs(few, config.data, features)
        test, test_labels = _outputs(source, config.data, features)
        knn, linear = knn_accuracy, linear_probe_accuracy
        result["test_images"] = len(test_labels)
        result[key] = {
            "knn_top1": knn(train, train_labels, test, test_labels, _NEIGHBOURS),
            "linear_probe_top1": linear(train, train_labels, test, test_labels),
        }
    return result


def knn_accuracy(train, train_labels, test, test_labels, neighbours: int) -> float:
    """Returns the accuracy of a vote among the nearest training features, by cosine similarity.

    Args:
      train, test: Features, float `[N, D]` and `[M, D]`.
      train_labels, test_labels: int `[N]` and `[M]`.
      neighbours: Number of votes; fewer if there are fewer training images.
    """
    from sklearn.neighbors import KNeighborsClassifier  # slow to import

    vote = KNeighborsClassifier(min(neighbours, len(train)), metric="cosine")
    return float(vote.fit(train, train_labels).score(test, test_labels))


def linear_probe_accuracy(train, train_labels, test, test_labels) -> float:
    """Returns the accuracy of logistic regression on standardised features; see `knn_accuracy`."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train, train_labels).score(test, test_labels))


def _outputs(source, data, function):
    """Applies `function` to all held-out images; returns its outputs and the labels as arrays."""
    fraction = getattr(data, "test_crop", 1.0)
    images = source.held_out_images().map(
        lambda _, image, label: (resize_and_center(image, data.image_size, fraction), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    with reading(source, data):
        pairs = [(function(x).numpy(), y.numpy()) for x, y in images.batch(BATCH_SIZE)]
    outputs, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if labels.min() < 0:
        raise UserError(
            f"data.name={data.name}: images of the test split have no label; choose another with "
            "--config.data.test_split in training"
        )
    return outputs, labels
