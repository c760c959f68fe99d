"""Rotation prediction: by how many quarter turns was the image rotated?"""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.building import build
from selfie_tf.layers.resnet import ResNetV2
from selfie_tf.losses import classification_loss, top_k
from selfie_tf.models.base import TrainableModel, normalize


class RotationPretrainer(TrainableModel):
    """P over the whole image, and a dense layer for the four rotations."""

    attention_pooling = None

    def __init__(self, width: int, stem: str, weight_decay: float, **kwargs):
        super().__init__(**kwargs)
        self._arguments = {"width": width, "stem": stem, "weight_decay": weight_decay}
        self.patch_network = ResNetV2(width=width, num_groups=3, stem=stem, name="patch_network")
        self.head = keras.layers.Dense(4, name="head")
        self._make_metrics("rotation_accuracy", weight_decay)

    def build(self, input_shape):
        build(self.patch_network, [None, *input_shape["image"][1:]])
        build(self.head, [None, self.patch_network.output_dim])
        self.built = True

    @property
    def feature_layer(self):
        return self.patch_network

    def image_features(self, images, training=None):
        x = normalize(images, self.patch_network.compute_dtype)
        return tf.reduce_mean(self.patch_network(x, training=training), axis=[1, 2])

    def call(self, x, training=None):
        return self.head(self.image_features(x["image"], training=training))

    def loss_and_accuracy(self, data, training):
        logits = self(data, training=training)
        return classification_loss(logits, data["rotation"]), top_k(logits, data["rotation"], 1)
