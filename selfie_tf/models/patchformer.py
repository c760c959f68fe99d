"""PatchFormer (ICLR 2020 submission): its pretraining model and its classifier."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError
from selfie_tf.layers.attention import PatchDropout, StatelessDropout, Transformer
from selfie_tf.layers.attention_pooling import QueryPooling
from selfie_tf.layers.building import build
from selfie_tf.layers.decoder import UpsamplingDecoder
from selfie_tf.layers.resnet import EXPANSION, BottleneckUnit
from selfie_tf.losses import classification_loss, pixel_accuracy
from selfie_tf.models.base import TrainableModel, patch_vectors
from selfie_tf.models.classifier import ImageClassifier
from selfie_tf.models.network import Network
from selfie_tf.patches import patchify

QUERIES = ("per_location", "pooled")
PATCHFORMER = Network(
    grid=14, attention_layers=10, num_heads=16, mlp_dim=4096, position="factorized"
)


class PatchEncoder(keras.layers.Layer):
    """What pretraining and finetuning share: P, positions, a Transformer and attention pooling.

    P is Selfie's: the first three groups of ResNet-50 v2 with a 3x3 stem, 40 convolutions and no
    dense layer. The paper calls its own network "ResNet-41, a customized version of the first 3
    stacks of ResNet-50"; the figure that would show it is lost.

    Args:
      **kwargs: The arguments of `models.network.Network`, with the defaults of `PATCHFORMER`, and
        of `keras.layers.Layer`. The attention pooling has one block, of the same kind as the
        Transformer's.

    Attributes:
      patch_network: P, a `ResNetV2` of three groups. Its output width is D.
      positions: The position embeddings, of the patches and of the queries.
      transformer: A `Transformer` over the vectors of the visible patches.
      attention_pooling: A `QueryPooling`.
    """

    network_defaults = PATCHFORMER

    def __init__(self, **kwargs):
        network = self.network_defaults.take(kwargs)
        super().__init__(**kwargs)
        self._arguments = network.arguments()
        self.num_patches = network.grid**2
        self.patch_network = network.make_backbone("patch_network")
        self.hidden_dim = self.patch_network.output_dim
        self.positions = network.make_positions(self.hidden_dim)
        block = network.num_heads, network.mlp_dim, network.dropout_rate
        seed, layers = network.first_block_seed, network.attention_layers
        self.transformer = Transformer(layers, *block, seed, name="transformer")
        self.attention_pooling = QueryPooling(*block, seed + layers, name="attention_pooling")

    def build(self, input_shape):
        """Builds every weight; `input_shape` is that of patches, `[B, C, p, p, 3]`."""
        vectors = [None, None, self.hidden_dim]
        build(self.patch_network, [None, *input_shape[2:]])
        build(self.positions, [None, None])
        build(self.transformer, vectors)
        build(self.attention_pooling, vectors)
        super().build(input_shape)

    def call(self, patches: tf.Tensor, positions: tf.Tensor, training=None) -> tf.Tensor:
        """Encodes the visible patches of each image, each patch in view of the others.

        Args:
          patches: uint8, or float in [0, 255], `[B, C, p, p, 3]`.
          positions: Positions of the patches, int32 `[B, C]`.
          training: Whether layers behave as in training.

        Returns:
          Context vectors `[B, C, D]` in the compute dtype.
        """
        h = patch_vectors(self.patch_network, patches, training=training)
        return self.transformer(h + self.positions(positions), training=training)

    def pool(self, context: tf.Tensor, positions: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the context once per location.

        Args:
          context: Context vectors `[B, C, D]`.
          positions: Positions of the locations, int32 `[B, T]`.
          training: Whether dropout is on.

        Returns:
          `[B, T, D]`.
        """
        return self.attention_pooling(context, self.positions(positions), training=training)

    def pool_all(self, context: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the context into one vector.

        The query takes the mean of all position embeddings. The learned vector alone would mean
        nothing: in pretraining it only occurs in a sum with an embedding.

        Args:
          context: Context vectors `[B, C, D]`.
          training: Whether dropout is on.

        Returns:
          `[B, D]`.
        """
        locations = tf.reduce_mean(self.positions(tf.range(self.num_patches)), axis=0)
        locations = tf.tile(locations[None, None], [tf.shape(context)[0], 1, 1])  # [B, 1, D]
        return self.attention_pooling(context, locations, training=training)[:, 0]

    def get_config(self):
        return {**super().get_config(), **self._arguments}


class PatchFormerPretrainer(TrainableModel):
    """Decodes the grey content of an image's hidden patches from its visible ones (section 2.1).

    The visible patches become context vectors, see `PatchEncoder`. Each hidden position has a
    query, a learned vector plus the position's embedding, that attends over them. From the result a
    decoder makes a small map of the hidden pixels' grey levels.

    Args:
      target_size: Side s of the map in pixels, a power of two.
      num_levels: Number of grey levels, K.
      query: "per_location"; or "pooled", where one vector pools the context for all positions, as
        in Selfie, and each position adds its embedding to it. The paper's "attention-pooled context
        vectors" can be read either way.
      label_smoothing: See `losses.classification_loss`; in training only. The paper's "soft-label
        noise".
      weight_decay: Factor of the L2 penalty in the loss; AdamW decays weights by itself.
      **kwargs: The arguments of `models.network.Network`, with the defaults of `PATCHFORMER`, and
        of `keras.Model`.

    Attributes:
      encoder: A `PatchEncoder`; `patch_network`, `positions` and `attention_pooling` are its own.
      decoder: An `UpsamplingDecoder`.

    Raises:
      ValueError: If `query`, `position` or `stem` is unknown, or `target_size` no power of two.
    """

    network_defaults = PATCHFORMER

    def __init__(
        self,
        target_size: int = 8,
        num_levels: int = 4,
        query: str = "per_location",
        label_smoothing: float = 0.01,
        weight_decay: float = 0.0,
        **kwargs,
    ):
        network = self.network_defaults.take(kwargs)
        super().__init__(**kwargs)
        self._arguments = {
            **network.arguments(),
            "target_size": target_size,
            "num_levels": num_levels,
            "query": query,
            "label_smoothing": label_smoothing,
            "weight_decay": weight_decay,
        }
        if query not in QUERIES:
            raise ValueError(f"query={query!r}: expected 'per_location' or 'pooled'")
        self.query, self.label_smoothing = query, label_smoothing
        self.encoder = PatchEncoder(**network.arguments(), name="encoder")
        self.decoder = UpsamplingDecoder(
            target_size,
            num_levels,
            network.norm_momentum,
            network.norm_synchronized,
            name="decoder",
        )
        self._make_metrics("pixel_accuracy", weight_decay)

    patch_network = property(lambda self: self.encoder.patch_network)
    positions = property(lambda self: self.encoder.positions)
    attention_pooling = property(lambda self: self.encoder.attention_pooling)
    feature_layer = property(lambda self: self.encoder)

    def build(self, input_shape):
        """Builds every weight; `input_shape` is the dict of the batch's shapes, see `call`."""
        patches = tuple(input_shape["context_patches"])
        self.patch_size = patches[2]
        self.encoder.build(patches)
        build(self.decoder, [None, self.encoder.hidden_dim])
        self.built = True

    def get_build_config(self):
        return {"patch_size": self.patch_size}

    def build_from_config(self, config):
        size = config["patch_size"]
        self.build({"context_patches": [None, None, size, size, 3]})

    def call(self, x: dict, training=None) -> tf.Tensor:
        """Predicts the grey level of every hidden pixel.

        Args:
          x: A dict of `context_patches` uint8 `[B, C, p, p, 3]`, `context_positions` int32
            `[B, C]` and `target_positions` int32 `[B, T]`. Other keys are ignored.
          training: Whether layers behave as in training.

        Returns:
          Logits `[B, T, s, s, K]`, float32 (or float64).
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

    def loss_and_accuracy(self, data, training: bool) -> tuple:
        """See `TrainableModel.loss_and_accuracy`; `data` is `call`'s x with `target_levels`."""
        logits, levels = self(data, training=training), data["target_levels"]
        smoothing = self.label_smoothing if training else 0.0
        losses = classification_loss(logits, levels, smoothing)  # [B, T, s, s]
        return tf.reduce_mean(losses, axis=[1, 2, 3]), pixel_accuracy(logits, levels)

    def image_features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """Computes what is exported: the pooled context of all patches.

        Args:
          images: uint8, or float in [0, 255], `[B, S, S, 3]`.
          training: Whether layers behave as in training.

        Returns:
          `[B, D]` in the compute dtype.
        """
        patches = patchify(images, self.patch_size)  # [B, N, p, p, 3]
        positions = tf.tile(tf.range(patches.shape[1])[None], [tf.shape(patches)[0], 1])
        context = self.encoder(patches, positions, training=training)
        return self.encoder.pool_all(context, training=training)


class PatchFormerClassifier(ImageClassifier):
    """Encoder, pooled vector, residual unit, dropout and a dense layer (section 2.2).

    Args:
      num_classes: Number of classes, K.
      image_size: Side S of the images in pixels.
      mask_ratio: Fraction of each image's patches that training leaves out, drawn anew at each
        step.
      label_smoothing: See `losses.classification_loss`; in training only.
      weight_decay: Factor of the L2 penalty in the loss; AdamW decays weights by itself.
      backbone_factor, frozen_steps: See `ResNetClassifier`.
      **kwargs: The arguments of `models.network.Network`, with the defaults of `PATCHFORMER`, and
        of `keras.Model`. `dropout_rate` is also that of the dropout before the last layer.

    Attributes:
      encoder: A `PatchEncoder`.
      residual: A `BottleneckUnit` like those of P, on the pooled vector. With several replicas its
        batch statistics are taken over all of them, whatever `norm_synchronized` is.
      head: The dense layer.

    Raises:
      ValueError: If `position` or `stem` is unknown, or `grid` does not divide `image_size`.
    """

    network_defaults = PATCHFORMER

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        mask_ratio: float = 0.1,
        label_smoothing: float = 0.1,
        weight_decay: float = 0.0,
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
            "mask_ratio": mask_ratio,
            "label_smoothing": label_smoothing,
            "weight_decay": weight_decay,
            "backbone_factor": backbone_factor,
            "frozen_steps": frozen_steps,
        }
        if image_size % network.grid:
            raise ValueError(f"grid={network.grid} does not divide image_size={image_size}")
        self.image_size, self.patch_size = image_size, image_size // network.grid
        self.encoder = PatchEncoder(**network.arguments(), name="encoder")
        # The first dropout seed that no block has: each block, and the pooling's, has three.
        seed = 3 * (network.first_block_seed + network.attention_layers + 1)
        self.patch_dropout = PatchDropout(mask_ratio, seed, name="patch_dropout")
        # Here batch normalisation sees one vector per image. Statistics of the few images of one
        # replica would be no use: with a single image the unit's branch would be 0 in training.
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        self.residual = BottleneckUnit(
            self.encoder.hidden_dim // EXPANSION,
            norm_momentum=network.norm_momentum,
            synchronized=network.norm_synchronized or several,
            name="residual",
        )
        self.dropout = StatelessDropout(network.dropout_rate, seed + 1, name="dropout")
        self._make_head(num_classes, label_smoothing, weight_decay, backbone_factor, frozen_steps)

    patch_network = property(lambda self: self.encoder.patch_network)
    attention_pooling = property(lambda self: self.encoder.attention_pooling)

    def build(self, input_shape=None):
        """Builds every weight."""
        dim = self.encoder.hidden_dim
        self.encoder.build([None, None, self.patch_size, self.patch_size, 3])
        build(self.patch_dropout, None)
        build(self.residual, [None, 1, 1, dim])
        build(self.dropout, None)
        build(self.head, [None, dim])
        self.built = True

    def features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """See `ImageClassifier.features`; `training` is a bool or None."""
        training = bool(keras.backend.learning_phase() if training is None else training)
        patches = patchify(images, self.patch_size)  # [B, N, p, p, 3]
        positions = self.patch_dropout.kept(tf.shape(patches)[0], patches.shape[1], training)
        patches = tf.gather(patches, positions, batch_dims=1)  # [B, K, p, p, 3]
        context = self.encoder(patches, positions, training=training)
        u = self.encoder.pool_all(context, training=training)  # [B, D]
        u = self.residual(u[:, None, None], training=training)[:, 0, 0]
        return self.dropout(u, training=training)

    @property
    def pretrained_layers(self) -> list:
        """See `ImageClassifier.pretrained_layers`: all of the encoder."""
        return [self.encoder]

    def transfers(self, pretrainer, origin: str) -> list:
        """See `ImageClassifier.transfers`: all of the encoder."""
        if not isinstance(pretrainer, PatchFormerPretrainer):
            raise UserError(
                f"{origin} has no encoder of PatchFormer's, which PatchFormerClassifier needs: use "
                "ResNetClassifier with head='resnet50'"
            )
        theirs, mine = pretrainer.encoder, self.encoder
        return [
            (getattr(theirs, name), getattr(mine, name))
            for name in ("patch_network", "positions", "transformer", "attention_pooling")
        ]
