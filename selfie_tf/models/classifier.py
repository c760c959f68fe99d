"""Image classifiers for finetuning (section 2.3), from pretrained or random weights."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError
from selfie_tf.layers.attention import at_least_float32
from selfie_tf.layers.attention_pooling import AttentionPooling
from selfie_tf.layers.building import build
from selfie_tf.losses import classification_loss, top_k
from selfie_tf.models.base import TrainableModel, normalize, patch_vectors
from selfie_tf.models.network import Network
from selfie_tf.optimizers import apply_gradients_slowed
from selfie_tf.patches import patchify

TOP5_FROM = 20  # classes; with fewer, top-5 says little


class ImageClassifier(TrainableModel):
    """A network that computes features of images, followed by a dense layer.

    A subclass calls `_make_head` in its constructor, builds `head`, and implements `features`,
    `pretrained_layers` and `transfers`. Data are pairs of images, uint8 `[B, S, S, 3]`, and labels,
    int `[B]`.

    Attributes:
      head: The dense layer.
    """

    def _make_head(
        self,
        num_classes: int,
        label_smoothing: float,
        weight_decay: float,
        backbone_factor: float,
        frozen_steps: int,
    ) -> None:
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.backbone_factor, self.frozen_steps = backbone_factor, frozen_steps
        # Logits are float32 also under mixed precision.
        dtype = None if self.compute_dtype == "float64" else "float32"
        self.head = keras.layers.Dense(num_classes, dtype=dtype, name="head")
        self._make_metrics("top1", weight_decay)

    def features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """Computes the input of the dense layer.

        Args:
          images: uint8, or float in [0, 255], `[B, S, S, 3]`.
          training: Whether layers behave as in training.

        Returns:
          `[B, D]` in the compute dtype.
        """
        raise NotImplementedError

    @property
    def pretrained_layers(self) -> list:
        """The layers whose weights come from pretraining, or would come from there."""
        raise NotImplementedError

    def apply_gradients(self, gradients: list) -> list:
        """See `TrainableModel.apply_gradients` and `optimizers.apply_gradients_slowed`."""
        if self.backbone_factor == 1.0 and not self.frozen_steps:
            return super().apply_gradients(gradients)
        return apply_gradients_slowed(
            self.optimizer,
            gradients,
            self.trainable_variables,
            [v for layer in self.pretrained_layers for v in layer.trainable_variables],
            self.backbone_factor,
            self.frozen_steps,
        )

    def transfers(self, pretrainer, origin: str) -> list:
        """Pairs the layers of a pretrained model with those that take their weights.

        Args:
          pretrainer: A built `SelfiePretrainer` or `PatchFormerPretrainer`.
          origin: What error messages call the pretrained model.

        Returns:
          Pairs of a layer of `pretrainer` and the built layer of this model that takes its weights.

        Raises:
          UserError: If the pretrained model lacks such a layer.
        """
        raise NotImplementedError

    def call(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """Classifies images.

        Args:
          images: uint8, or float in [0, 255], `[B, S, S, 3]`.
          training: Whether layers behave as in training.

        Returns:
          Logits `[B, K]`, float32 (or float64).
        """
        features = self.features(images, training=training)
        return at_least_float32(self.head(at_least_float32(features)))

    def loss_and_accuracy(self, data, training: bool) -> tuple:
        """See `TrainableModel.loss_and_accuracy`; a label of -1 counts as predicted wrongly."""
        images, labels = data
        logits = self(images, training=training)
        smoothing = self.label_smoothing if training else 0.0
        return classification_loss(logits, labels, smoothing), top_k(logits, labels, 1)

    def predict_step(self, data) -> tf.Tensor:
        return self(data[0] if isinstance(data, tuple) else data, training=False)

    def get_build_config(self):
        return {"image_size": self.image_size}  # Keras skips building where this is empty

    def build_from_config(self, config):
        self.build()


class ResNetClassifier(ImageClassifier):
    """ResNet-50 v2, or P and attention pooling (Figure 5, Table 2), followed by a dense layer.

    With head "resnet50" the whole network sees the full image, and its feature map is averaged. The
    stem and groups 1 to 3 are those of P.

    With head "resnet36_attention" P sees the full image, and its feature map is averaged onto the
    grid of pretraining. So A sees a sequence of the length, and with the positions, that it was
    trained on. With `patch_by_patch` P sees each patch alone instead, as in pretraining.

    Args:
      num_classes: Number of classes, K.
      image_size: Side S of the images in pixels.
      head: "resnet50" or "resnet36_attention".
      patch_by_patch: Whether P sees each patch alone ("resnet36_attention").
      label_smoothing: See `losses.classification_loss`; in training only.
      weight_decay: Factor of the L2 penalty in the loss.
      backbone_factor: Factor of the learning rate for `pretrained_layers`.
      frozen_steps: In this number of first steps `pretrained_layers` are not trained. Their batch
        normalisation already adapts its moving statistics.
      **kwargs: The arguments of `models.network.Network`, with its defaults, and of `keras.Model`.
        With "resnet36_attention" `grid` must divide the side of the feature map, or S with
        `patch_by_patch`.

    Attributes:
      backbone: A `ResNetV2` of four groups, or of three with "resnet36_attention".
      positions: The position embeddings; None with "resnet50".
      attention_pooling: A, an `AttentionPooling`; None with "resnet50".
      head: The dense layer.

    Raises:
      ValueError: If `head`, `position` or `stem` is unknown.
    """

    network_defaults = Network()

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        head: str = "resnet50",
        patch_by_patch: bool = False,
        label_smoothing: float = 0.0,
        weight_decay: float = 1e-4,
        backbone_factor: float = 1.0,
        frozen_steps: int = 0,
        **kwargs,
    ):
        network = self.network_defaults.take(kwargs)
        super().__init__(**kwargs)
        self._arguments = {
            **network.arguments(),
            "num_classes": num_classes,
            "image_size": image_size,
            "head": head,
            "patch_by_patch": patch_by_patch,
            "label_smoothing": label_smoothing,
            "weight_decay": weight_decay,
            "backbone_factor": backbone_factor,
            "frozen_steps": frozen_steps,
        }
        if head not in ("resnet50", "resnet36_attention"):
            raise ValueError(f"head={head!r}: expected 'resnet50' or 'resnet36_attention'")
        attention = head == "resnet36_attention"
        self.image_size, self.grid = image_size, network.grid
        self.patch_by_patch = attention and patch_by_patch
        self.backbone = network.make_backbone("backbone", num_groups=3 if attention else 4)
        self.feature_dim = self.backbone.output_dim
        self.positions = self.attention_pooling = None
        if attention:
            self.positions = network.make_positions(self.feature_dim)
            self.attention_pooling = network.make_attention_pooling()
        self._make_head(num_classes, label_smoothing, weight_decay, backbone_factor, frozen_steps)

    def build(self, input_shape=None):
        """Builds every weight."""
        size = self.image_size // self.grid if self.patch_by_patch else self.image_size
        side = self.backbone.compute_output_shape([None, size, size, 3])[1]
        if self.attention_pooling and not self.patch_by_patch and side % self.grid:
            raise ValueError(
                f"the {side}x{side} feature map of {self.image_size}-pixel images cannot be "
                f"averaged onto grid={self.grid}"
            )
        build(self.backbone, [None, size, size, 3])
        if self.attention_pooling is not None:
            build(self.positions, [None, None])
            build(self.attention_pooling, [None, None, self.feature_dim])
        build(self.head, [None, self.feature_dim])
        self.built = True

    def features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """See `ImageClassifier.features`."""
        if self.attention_pooling is None:
            x = self.backbone(normalize(images, self.compute_dtype), training=training)
            return tf.reduce_mean(x, axis=[1, 2])
        cells = self.grid**2
        if self.patch_by_patch:
            patches = patchify(images, self.image_size // self.grid)  # [B, N, p, p, 3]
            x = patch_vectors(self.backbone, patches, training=training)  # [B, N, D]
        else:
            x = self.backbone(normalize(images, self.compute_dtype), training=training)
            side = x.shape[1] // self.grid
            x = tf.nn.avg_pool2d(x, side, side, "VALID")  # [B, grid, grid, D]
            x = tf.reshape(x, [-1, cells, self.feature_dim])  # [B, N, D]
        x += self.positions(tf.range(cells)[None])
        return self.attention_pooling(x, training=training)

    @property
    def pretrained_layers(self) -> list:
        """See `ImageClassifier.pretrained_layers`: of P; with attention A and positions."""
        if self.attention_pooling is not None:
            return [self.backbone, self.positions, self.attention_pooling]
        # P's last normalisation does not fit behind the fourth group.
        return [self.backbone.stem, *self.backbone.groups[:3]]

    def transfers(self, pretrainer, origin: str) -> list:
        """See `ImageClassifier.transfers`: P; and with attention pooling A and the positions."""
        pairs = [(pretrainer.patch_network, self.backbone)]
        if self.attention_pooling is not None:
            if not isinstance(pretrainer.attention_pooling, AttentionPooling):
                raise UserError(
                    f"{origin} has no attention pooling of Selfie's, which "
                    "head='resnet36_attention' needs: use head='resnet50'; or, if it is of "
                    "PatchFormer, PatchFormerClassifier"
                )
            pairs.append((pretrainer.positions, self.positions))
            pairs.append((pretrainer.attention_pooling, self.attention_pooling))
        return pairs
