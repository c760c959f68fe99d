"""PatchFormer (ICLR 2020 submission): its pretraining model and its classifier."""

import inspect

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError
from selfie_tf.layers.attention import PatchDropout, StatelessDropout, Transformer
from selfie_tf.layers.attention_pooling import QueryPooling
from selfie_tf.layers.decoder import UpsamplingDecoder
from selfie_tf.layers.resnet import EXPANSION, BottleneckUnit, ResNetV2
from selfie_tf.losses import classification_loss, pixel_accuracy
from selfie_tf.models.base import (
    TrainableModel,
    build_under_name,
    constructor_arguments,
    make_positions,
    patch_vectors,
)
from selfie_tf.models.classifier import ImageClassifier
from selfie_tf.patches import patchify

QUERIES = ("per_location", "pooled")


class PatchEncoder(keras.layers.Layer):
    """What pretraining and finetuning share: P, positions, a Transformer, attention pooling.

    P is Selfie's: the first three groups of ResNet-50 v2 with a 3x3 stem, 40 convolutions and no
    dense layer. The paper calls its own "ResNet-41, a customized version of the first 3 stacks of
    ResNet-50"; the figure that would show it is lost.

    Args:
      grid: patches a side.
      width: channels of P's stem; the vectors have D = 16 * width.
      stem: "small" or "imagenet", see `ResNetV2`.
      attention_layers, num_heads, mlp_dim, dropout_rate: of the Transformer, see `Transformer`;
        the pooling has one block of the same kind.
      position: "learned" or "factorized".
      norm_momentum, norm_synchronized: of batch normalisation, see `ResNetV2`.
      seed: int, of the dropout.

    Attributes:
      patch_network: P, a `ResNetV2` of three groups.
      positions: the position embeddings, of the patches and of the queries.
      transformer: over the vectors of the visible patches.
      attention_pooling: a `QueryPooling`.
    """

    def __init__(
        self,
        grid: int = 14,
        width: int = 64,
        stem: str = "small",
        attention_layers: int = 10,
        num_heads: int = 16,
        mlp_dim: int = 4096,
        dropout_rate: float = 0.1,
        position: str = "factorized",
        norm_momentum: float = 0.9,
        norm_synchronized: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = constructor_arguments(locals())
        super().__init__(**kwargs)
        self._arguments = arguments
        self.num_patches, self.hidden_dim = grid**2, 16 * width
        self.patch_network = ResNetV2(
            width=width,
            num_groups=3,
            stem=stem,
            norm_momentum=norm_momentum,
            synchronized=norm_synchronized,
            name="patch_network",
        )
        self.positions = make_positions(position, grid, self.hidden_dim)
        first = 1000 * seed  # blocks count on from here
        self.transformer = Transformer(
            attention_layers, num_heads, mlp_dim, dropout_rate, first, name="transformer"
        )
        self.attention_pooling = QueryPooling(
            num_heads, mlp_dim, dropout_rate, first + attention_layers, name="attention_pooling"
        )

    def build(self, input_shape):
        """Args: input_shape, of patches: `[B, C, p, p, 3]`."""
        vectors = [None, None, self.hidden_dim]
        build_under_name(
            [
                (self.patch_network, [None, *input_shape[2:]]),
                (self.positions, [None, None]),
                (self.transformer, vectors),
                (self.attention_pooling, vectors),
            ]
        )
        super().build(input_shape)

    def call(self, patches: tf.Tensor, positions: tf.Tensor, training=None) -> tf.Tensor:
        """Encodes the visible patches of each image, all knowing of each other.

        Args:
          patches: uint8 or float in [0, 255], `[B, C, p, p, 3]`.
          positions: int32 `[B, C]`.

        Returns:
          context vectors `[B, C, D]` in the compute dtype.
        """
        h = patch_vectors(self.patch_network, patches, training=training)
        return self.transformer(h + self.positions(positions), training=training)

    def pool(self, context: tf.Tensor, positions: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the context once for each location.

        Args:
          context: `[B, C, D]`.
          positions: of the locations, int32 `[B, T]`.

        Returns:
          `[B, T, D]`.
        """
        return self.attention_pooling(context, self.positions(positions), training=training)

    def pool_all(self, context: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the context into one vector: `[B, C, D]` to `[B, D]`.

        Its query has the mean of all position embeddings: pretraining tells no more of the learned
        vector than its sum with an embedding, so alone it would mean nothing.
        """
        locations = tf.reduce_mean(self.positions(tf.range(self.num_patches)), axis=0)
        locations = tf.tile(locations[None, None], [tf.shape(context)[0], 1, 1])  # [B, 1, D]
        return self.attention_pooling(context, locations, training=training)[:, 0]

    def get_config(self):
        return {**super().get_config(), **self._arguments}


def _make_encoder(arguments):
    """The encoder of a model, whose constructor has all the arguments of the encoder's."""
    *names, _ = list(inspect.signature(PatchEncoder.__init__).parameters)[1:]  # not kwargs
    return PatchEncoder(**{name: arguments[name] for name in names}, name="encoder")


class PatchFormerPretrainer(TrainableModel):
    """Decodes the grey content of an image's hidden patches from its visible ones (section 2.1).

    The visible patches become context vectors (`PatchEncoder`). For each hidden place the query,
    a learned vector plus the place's position embedding, attends over them; a decoder makes from
    the result a small map of the hidden pixels' grey levels.

    Args:
      grid, width, stem, attention_layers, num_heads, mlp_dim, dropout_rate, position,
      norm_momentum, norm_synchronized, seed: see `PatchEncoder`.
      target_size: side s of the map in pixels, a power of two.
      num_levels: grey levels, K.
      query: "per_location", or "pooled": one vector pools the context for all places, as in
        Selfie, and a place adds its position embedding to that. The paper's "attention-pooled
        context vectors" can be read either way.
      label_smoothing: see `losses.classification_loss`; the paper's "soft-label noise".
      weight_decay: factor of the L2 penalty in the loss; AdamW decays by itself.

    Attributes:
      encoder: a `PatchEncoder`; `patch_network`, `positions` and `attention_pooling` are its.
      decoder: an `UpsamplingDecoder`.
    """

    def __init__(
        self,
        grid: int = 14,
        width: int = 64,
        stem: str = "small",
        attention_layers: int = 10,
        num_heads: int = 16,
        mlp_dim: int = 4096,
        dropout_rate: float = 0.1,
        position: str = "factorized",
        target_size: int = 8,
        num_levels: int = 4,
        query: str = "per_location",
        label_smoothing: float = 0.01,
        weight_decay: float = 0.0,
        norm_momentum: float = 0.9,
        norm_synchronized: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = constructor_arguments(locals())
        super().__init__(**kwargs)
        self._arguments = arguments
        if query not in QUERIES:
            raise ValueError(f"query={query!r}: expected 'per_location' or 'pooled'")
        self.query, self.label_smoothing = query, label_smoothing
        self.encoder = _make_encoder(arguments)
        self.decoder = UpsamplingDecoder(
            target_size, num_levels, norm_momentum, norm_synchronized, name="decoder"
        )
        self._make_metrics("pixel_accuracy", weight_decay)

    patch_network = property(lambda self: self.encoder.patch_network)
    positions = property(lambda self: self.encoder.positions)
    attention_pooling = property(lambda self: self.encoder.attention_pooling)
    feature_layer = property(lambda self: self.encoder)

    def build(self, input_shape):
        """Builds every weight; `input_shape` is the dict of the batch's shapes (see `call`)."""
        patches = tuple(input_shape["context_patches"])
        self.patch_size = patches[2]
        self.encoder.build(patches)
        build_under_name([(self.decoder, [None, self.encoder.hidden_dim])])
        self.built = True

    def get_build_config(self):
        return {"patch_size": self.patch_size}

    def build_from_config(self, config):
        size = config["patch_size"]
        self.build({"context_patches": [None, None, size, size, 3]})

    def call(self, x: dict, training=None) -> tf.Tensor:
        """Answers every hidden pixel.

        Args:
          x: `context_patches` uint8 `[B, C, p, p, 3]`, `context_positions` int32 `[B, C]`,
            `target_positions` int32 `[B, T]`; other keys are of no matter here.

        Returns:
          logits `[B, T, s, s, K]`, float32 (or float64).
        """
        encoder, targets = self.encoder, x["target_positions"]
        context = encoder(x["context_patches"], x["context_positions"], training=training)
        if self.query == "pooled":
            u = encoder.pool_all(context, training=training)  # [B, D]
            v = u[:, None] + encoder.positions(targets)  # [B, T, D]
        else:
            v = encoder.pool(context, targets, training=training)  # [B, T, D]
        logits = self.decoder(tf.reshape(v, [-1, encoder.hidden_dim]), training=training)
        return tf.reshape(logits, [-1, targets.shape[1], *logits.shape[1:]])

    def loss_and_accuracy(self, data: dict, training: bool) -> tuple:
        """Loss and pixel accuracy of each image; `data` as `call`'s x, with `target_levels`."""
        logits, levels = self(data, training=training), data["target_levels"]
        smoothing = self.label_smoothing if training else 0.0
        losses = classification_loss(logits, levels, smoothing)  # [B, T, s, s]
        return tf.reduce_mean(losses, axis=[1, 2, 3]), pixel_accuracy(logits, levels)

    def image_features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """What is exported: the pooled context of all patches.

        Args:
          images: uint8 or float in [0, 255], `[B, S, S, 3]`.

        Returns:
          `[B, D]` in the compute dtype.
        """
        patches = patchify(images, self.patch_size)  # [B, N, p, p, 3]
        positions = tf.tile(tf.range(patches.shape[1])[None], [tf.shape(patches)[0], 1])
        context = self.encoder(patches, positions, training=training)
        return self.encoder.pool_all(context, training=training)


class PatchFormerClassifier(ImageClassifier):
    """Finetuning (section 2.2): encoder, pooled vector, a residual unit, dropout, a dense layer.

    Args:
      num_classes: K.
      image_size: side S of the images in pixels.
      grid, width, stem, attention_layers, num_heads, mlp_dim, dropout_rate, position,
      norm_momentum, norm_synchronized, seed: see `PatchEncoder`; `dropout_rate` also of the
        dropout before the last layer.
      mask_ratio: part of each image's patches that training leaves out, others at each step.
      label_smoothing: see `losses.classification_loss`; in training only.
      weight_decay: factor of the L2 penalty in the loss; AdamW decays by itself.

    Attributes:
      encoder: a `PatchEncoder`.
      residual: a `BottleneckUnit`, as P has them, on the pooled vector.
      head: the dense layer.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        grid: int = 14,
        width: int = 64,
        stem: str = "small",
        attention_layers: int = 10,
        num_heads: int = 16,
        mlp_dim: int = 4096,
        dropout_rate: float = 0.1,
        position: str = "factorized",
        mask_ratio: float = 0.1,
        label_smoothing: float = 0.1,
        weight_decay: float = 0.0,
        norm_momentum: float = 0.9,
        norm_synchronized: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = constructor_arguments(locals())
        super().__init__(**kwargs)
        self._arguments = arguments
        if image_size % grid:
            raise ValueError(f"grid={grid} does not divide image_size={image_size}")
        self.image_size, self.patch_size = image_size, image_size // grid
        self.encoder = _make_encoder(arguments)
        after = 3000 * seed + 3 * (attention_layers + 1)  # the first seed that no block has
        self.patch_dropout = PatchDropout(mask_ratio, after, name="patch_dropout")
        self.residual = BottleneckUnit(
            self.encoder.hidden_dim // EXPANSION,
            norm_momentum=norm_momentum,
            synchronized=norm_synchronized,
            name="residual",
        )
        self.dropout = StatelessDropout(dropout_rate, after + 1, name="dropout")
        self._make_head(num_classes, label_smoothing, weight_decay)

    patch_network = property(lambda self: self.encoder.patch_network)
    attention_pooling = property(lambda self: self.encoder.attention_pooling)

    def build(self, input_shape=None):
        """Builds every weight."""
        dim = self.encoder.hidden_dim
        self.encoder.build([None, None, self.patch_size, self.patch_size, 3])
        build_under_name(
            [
                (self.patch_dropout, None),
                (self.residual, [None, 1, 1, dim]),
                (self.dropout, None),
                (self.head, [None, dim]),
            ]
        )
        self.built = True

    def features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """As `ImageClassifier.features`; D = 16 * width. `training` is a bool or None."""
        training = bool(keras.backend.learning_phase() if training is None else training)
        patches = patchify(images, self.patch_size)  # [B, N, p, p, 3]
        positions = self.patch_dropout.kept(tf.shape(patches)[0], patches.shape[1], training)
        patches = tf.gather(patches, positions, batch_dims=1)  # [B, K, p, p, 3]
        context = self.encoder(patches, positions, training=training)
        u = self.encoder.pool_all(context, training=training)  # [B, D]
        u = self.residual(u[:, None, None], training=training)[:, 0, 0]
        return self.dropout(u, training=training)

    def transfers(self, pretrainer, origin: str) -> list:
        """All of the encoder."""
        if not isinstance(pretrainer, PatchFormerPretrainer):
            raise UserError(
                f"{origin} is of Selfie, not of PatchFormer: give another config, e.g. "
                "--config=configs/finetune_cifar10.py"
            )
        theirs, mine = pretrainer.encoder, self.encoder
        return [
            (getattr(theirs, part), getattr(mine, part))
            for part in ("patch_network", "positions", "transformer", "attention_pooling")
        ]
