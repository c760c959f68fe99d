"""Selfie's pretraining model (sections 2.1 and 2.2)."""

import tensorflow as tf

from selfie_tf.layers.attention import at_least_float32
from selfie_tf.layers.attention_pooling import AttentionPooling
from selfie_tf.layers.resnet import ResNetV2
from selfie_tf.losses import patch_accuracy, patch_classification_loss
from selfie_tf.models.base import (
    TrainableModel,
    build_under_name,
    constructor_arguments,
    make_positions,
    patch_vectors,
)


class SelfiePretrainer(TrainableModel):
    """Predicts which of an image's hidden patches belongs at each of its hidden places.

    P turns every patch into a vector h. The seen ones, with their position embeddings, are pooled
    into u. The query of hidden place t is v = u + position embedding of t; its logits are the dot
    products of v with the h of *all* hidden patches of the same image, without positions.

    Args:
      grid: patches a side.
      width: channels of P's stem; h has D = 16 * width.
      stem: "small" or "imagenet", see `ResNetV2`.
      attention_layers, num_heads, mlp_dim, dropout_rate: of A, see `AttentionPooling`.
      position: "learned" or "factorized".
      pooling: "attention", or its special cases "mean" and "max" (section 2.2) with no weights.
      logit_scale: "none" (the paper's plain dot product) or "sqrt_dim" (divided by sqrt(D)).
      weight_decay: factor of the L2 penalty in the loss.
      norm_momentum, norm_synchronized: of batch normalisation, see `ResNetV2`.
      seed: int, of the dropout.

    Attributes:
      patch_network: P, a `ResNetV2` of three groups.
      attention_pooling: A, an `AttentionPooling`; None with another pooling.
      positions: the position embeddings.
    """

    def __init__(
        self,
        grid: int = 4,
        width: int = 64,
        stem: str = "small",
        attention_layers: int = 3,
        num_heads: int = 32,
        mlp_dim: int = 640,
        dropout_rate: float = 0.1,
        position: str = "learned",
        pooling: str = "attention",
        logit_scale: str = "none",
        weight_decay: float = 1e-4,
        norm_momentum: float = 0.9,
        norm_synchronized: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = constructor_arguments(locals())
        super().__init__(**kwargs)
        self._arguments = arguments
        if pooling not in ("attention", "mean", "max"):
            raise ValueError(f"pooling={pooling!r}: expected 'attention', 'mean' or 'max'")
        if logit_scale not in ("none", "sqrt_dim"):
            raise ValueError(f"logit_scale={logit_scale!r}: expected 'none' or 'sqrt_dim'")
        self.hidden_dim = 16 * width
        self.pooling = pooling
        self.logit_factor = self.hidden_dim**-0.5 if logit_scale == "sqrt_dim" else 1.0
        self.patch_network = ResNetV2(
            width=width,
            num_groups=3,
            stem=stem,
            norm_momentum=norm_momentum,
            synchronized=norm_synchronized,
            name="patch_network",
        )
        self.positions = make_positions(position, grid, self.hidden_dim)
        self.attention_pooling = None
        if pooling == "attention":
            self.attention_pooling = AttentionPooling(
                attention_layers,
                num_heads,
                mlp_dim,
                dropout_rate,
                1000 * seed,  # blocks count on from here
                name="attention_pooling",
            )
        self._make_metrics("patch_accuracy", weight_decay)

    def build(self, input_shape):
        """Builds every weight; `input_shape` is the dict of the batch's shapes (see `call`)."""
        patch_shape = tuple(input_shape["context_patches"])[2:]
        self.patch_size = patch_shape[0]
        build_under_name(
            [
                (self.patch_network, [None, *patch_shape]),
                (self.positions, [None, None]),
                (self.attention_pooling, [None, None, self.hidden_dim]),
            ]
        )
        self.built = True

    def get_build_config(self):
        return {"patch_size": self.patch_size}

    def build_from_config(self, config):
        size = config["patch_size"]
        self.build({"context_patches": [None, None, size, size, 3]})

    def patch_features(self, patches: tf.Tensor, training=None) -> tf.Tensor:
        """h of every patch.

        Args:
          patches: uint8 or float in [0, 255], `[B, N, p, p, 3]`.

        Returns:
          `[B, N, D]` in the compute dtype.
        """
        return patch_vectors(self.patch_network, patches, training=training)

    def image_features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """What is exported: P's feature map of whole images, averaged.

        Args:
          images: uint8 or float in [0, 255], `[B, H, W, 3]`.

        Returns:
          `[B, D]` in the compute dtype.
        """
        return self.patch_features(images[:, None], training=training)[:, 0]

    @property
    def feature_layer(self):
        """The layer that has the weights of `image_features`."""
        return self.patch_network

    def pool(self, features: tf.Tensor, training=None) -> tf.Tensor:
        """u: `[B, N, D]` (h + position embedding) pooled to `[B, D]`."""
        if self.pooling == "mean":
            return tf.reduce_mean(features, axis=1)
        if self.pooling == "max":
            return tf.reduce_max(features, axis=1)
        return self.attention_pooling(features, training=training)

    def call(self, x: dict, training=None) -> tf.Tensor:
        """Scores every hidden patch at every hidden place.

        Args:
          x: `context_patches` uint8 `[B, C, p, p, 3]`, `context_positions` int32 `[B, C]`,
            `target_patches` uint8 `[B, T, p, p, 3]`, `target_positions` int32 `[B, T]`.

        Returns:
          logits float32 `[B, T, T]` (float64 in that precision): `[b, t, j]` scores patch j at
          place t; patch t is right at place t.
        """
        # One call of P over all patches: one set of batch statistics, each patch computed once.
        patches = tf.concat([x["context_patches"], x["target_patches"]], axis=1)
        num_context = x["context_patches"].shape[1]
        h = self.patch_features(patches, training=training)  # [B, C + T, D]
        context, target = h[:, :num_context], h[:, num_context:]
        # Positions go to the encoder's h only: with the targets' they would give the answer away.
        u = self.pool(context + self.positions(x["context_positions"]), training=training)
        v = u[:, None] + self.positions(x["target_positions"])  # [B, T, D]
        # In float32 also under mixed precision: plain logits reach hundreds, where bfloat16
        # tells only whole numbers apart.
        return self.logit_factor * tf.matmul(
            at_least_float32(v), at_least_float32(target), transpose_b=True
        )

    def loss_and_accuracy(self, data: dict, training: bool) -> tuple:
        """Loss and patch accuracy of each image; see `call` for `data`."""
        logits = self(data, training=training)
        return patch_classification_loss(logits), patch_accuracy(logits)
