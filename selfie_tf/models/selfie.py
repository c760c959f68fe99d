"""Selfie's pretraining model (sections 2.1 and 2.2)."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.attention import at_least_float32
from selfie_tf.layers.attention_pooling import AttentionPooling
from selfie_tf.layers.positions import FactorizedPositions, LearnedPositions
from selfie_tf.layers.resnet import ResNetV2
from selfie_tf.losses import l2_penalty, patch_accuracy, patch_classification_loss
from selfie_tf.models.steps import descend


def normalize(images: tf.Tensor, dtype) -> tf.Tensor:
    """Pixels in [0, 255] to [-1, 1]; in the model, so that bytes are what travels to the device."""
    return tf.cast(tf.cast(images, tf.float32) / 127.5 - 1.0, dtype)


class SelfiePretrainer(keras.Model):
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
        super().__init__(**kwargs)
        self._arguments = {
            "grid": grid,
            "width": width,
            "stem": stem,
            "attention_layers": attention_layers,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "dropout_rate": dropout_rate,
            "position": position,
            "pooling": pooling,
            "logit_scale": logit_scale,
            "weight_decay": weight_decay,
            "norm_momentum": norm_momentum,
            "norm_synchronized": norm_synchronized,
            "seed": seed,
        }
        if pooling not in ("attention", "mean", "max"):
            raise ValueError(f"pooling={pooling!r}: expected 'attention', 'mean' or 'max'")
        if logit_scale not in ("none", "sqrt_dim"):
            raise ValueError(f"logit_scale={logit_scale!r}: expected 'none' or 'sqrt_dim'")
        if position not in ("learned", "factorized"):
            raise ValueError(f"position={position!r}: expected 'learned' or 'factorized'")
        self.hidden_dim = 16 * width
        self.pooling, self.weight_decay = pooling, weight_decay
        self.logit_factor = self.hidden_dim**-0.5 if logit_scale == "sqrt_dim" else 1.0
        self.patch_network = ResNetV2(
            width=width,
            num_groups=3,
            stem=stem,
            norm_momentum=norm_momentum,
            synchronized=norm_synchronized,
            name="patch_network",
        )
        positions = LearnedPositions if position == "learned" else FactorizedPositions
        self.positions = positions(grid, grid, self.hidden_dim, name="positions")
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
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.accuracy_metric = keras.metrics.Mean(name="patch_accuracy")
        self.l2_metric = keras.metrics.Mean(name="l2")
        self.gradient_norm_metric = keras.metrics.Mean(name="gradient_norm")
        self.nonfinite_metric = keras.metrics.Sum(name="nonfinite_steps")

    def build(self, input_shape):
        """Builds every weight; `input_shape` is the dict of the batch's shapes (see `call`)."""
        patch_shape = tuple(input_shape["context_patches"])[2:]
        self.patch_size = patch_shape[0]
        for layer, shape in (
            (self.patch_network, [None, *patch_shape]),
            (self.positions, [None, None]),
            (self.attention_pooling, [None, None, self.hidden_dim]),
        ):
            if layer is not None:
                with tf.name_scope(layer.name):
                    layer.build(shape)
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
        count, height, width, channels = patches.shape[1:]
        x = tf.reshape(patches, [-1, height, width, channels])  # [B * N, p, p, 3]
        x = self.patch_network(normalize(x, self.compute_dtype), training=training)
        x = tf.reduce_mean(x, axis=[1, 2])  # [B * N, D]
        return tf.reshape(x, [-1, count, self.hidden_dim])

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

    @property
    def metrics(self):
        return [
            self.loss_metric,
            self.accuracy_metric,
            self.l2_metric,
            self.gradient_norm_metric,
            self.nonfinite_metric,
        ]

    def train_step(self, x: dict) -> dict:
        """One optimiser step on the global batch; see `call` for `x`."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            losses = patch_classification_loss(logits)  # [B]
            loss = tf.reduce_mean(losses)
            l2 = self.weight_decay * l2_penalty(self.trainable_variables)
            scaled = (loss + l2) / replicas  # gradients are summed over replicas
        norm = descend(self, tape, scaled)
        self.l2_metric.update_state(l2)
        self.gradient_norm_metric.update_state(norm)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        self.nonfinite_metric.update_state(1.0 - tf.cast(finite, tf.float32))
        return self._updated(losses, logits)

    def test_step(self, x: dict) -> dict:
        """Loss and patch accuracy of a batch of held-out images."""
        logits = self(x, training=False)
        result = self._updated(patch_classification_loss(logits), logits)
        return {name: result[name] for name in ("loss", "patch_accuracy")}

    def predict_step(self, x: dict) -> tf.Tensor:
        return self(x, training=False)

    def _updated(self, losses, logits):
        self.loss_metric.update_state(losses)
        self.accuracy_metric.update_state(patch_accuracy(logits))
        return {metric.name: metric.result() for metric in self.metrics}

    def get_config(self):
        return {**super().get_config(), **self._arguments}
