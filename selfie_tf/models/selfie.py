"""Selfie's pretraining model (sections 2.1 and 2.2)."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.attention import at_least_float32
from selfie_tf.layers.building import build
from selfie_tf.layers.projection import Projection
from selfie_tf.losses import nt_xent, patch_accuracy, patch_classification_loss
from selfie_tf.models.base import TrainableModel, patch_vectors
from selfie_tf.models.network import Network


class SelfiePretrainer(TrainableModel):
    """Predicts which of an image's hidden patches belongs at which hidden position.

    P turns every patch into a vector h. The vectors of the visible patches, plus their position
    embeddings, are pooled into u. The query of hidden position t is v = u + position embedding
    of t. Its logits are the dot products of v with the vectors h of *all* hidden patches of the
    same image, without position embeddings.

    In this sum, u adds the same to the score of a patch at every position, so the context has no
    say in where a patch belongs. With query "per_location" it has: position t pools the context by
    itself, with u0 + position embedding of t in place of u0.

    Beyond the paper, P can also learn to tell the two views of an image from those of other images
    (SimCLR, Chen et al. 2020): with an `instance_weight`, see `instance_loss_and_accuracy`.

    Args:
      pooling: "attention", or its special cases "mean" and "max" (section 2.2), which have no
        weights.
      logit_scale: "none" (the paper's plain dot product) or "sqrt_dim" (divided by sqrt(D)).
      weight_decay: Factor of the L2 penalty in the loss.
      query: "pooled", the paper's; "per_location"; or "position", the position embedding alone, the
        baseline that sees no context. It has no A.
      jigsaw_weight: Weight of the paper's loss. With 0, training does not use patches, and A and
        the position embeddings are not trained.
      instance_weight: Weight of the instance loss. With 0, there is no projection.
      temperature: See `losses.nt_xent`.
      projection_dim: Width of the projected views.
      negatives: "replica", a view is compared with the others of the same replica; or "all", with
        those of all replicas.
      **kwargs: The arguments of `models.network.Network`, with its defaults, and of `keras.Model`.

    Attributes:
      patch_network: P, a `ResNetV2` of three groups. Its output width is D.
      positions: The position embeddings.
      attention_pooling: A, an `AttentionPooling`; None with another pooling.
      projection: A `Projection` of P's vectors; None without an instance loss.

    Raises:
      ValueError: If `query`, `pooling`, `logit_scale`, `negatives`, `position` or `stem` is
        unknown, `query` is "per_location" without attention, or both weights are 0.
    """

    network_defaults = Network()

    def __init__(
        self,
        pooling: str = "attention",
        logit_scale: str = "none",
        weight_decay: float = 1e-4,
        query: str = "pooled",
        jigsaw_weight: float = 1.0,
        instance_weight: float = 0.0,
        temperature: float = 0.2,
        projection_dim: int = 128,
        negatives: str = "replica",
        **kwargs,
    ):
        network = self.network_defaults.take(kwargs)
        super().__init__(**kwargs)
        self._arguments = {
            **network.arguments(),
            "pooling": pooling,
            "logit_scale": logit_scale,
            "weight_decay": weight_decay,
            "query": query,
            "jigsaw_weight": jigsaw_weight,
            "instance_weight": instance_weight,
            "temperature": temperature,
            "projection_dim": projection_dim,
            "negatives": negatives,
        }
        if query not in ("pooled", "per_location", "position"):
            raise ValueError(f"query={query!r}: expected 'pooled', 'per_location' or 'position'")
        if query == "per_location" and pooling != "attention":
            raise ValueError(f"query='per_location' needs pooling='attention', got {pooling!r}")
        if pooling not in ("attention", "mean", "max"):
            raise ValueError(f"pooling={pooling!r}: expected 'attention', 'mean' or 'max'")
        if logit_scale not in ("none", "sqrt_dim"):
            raise ValueError(f"logit_scale={logit_scale!r}: expected 'none' or 'sqrt_dim'")
        if negatives not in ("replica", "all"):
            raise ValueError(f"negatives={negatives!r}: expected 'replica' or 'all'")
        if not jigsaw_weight and not instance_weight:
            raise ValueError("jigsaw_weight and instance_weight are both 0: there is no loss")
        self.query, self.pooling = query, pooling
        self.patch_network = network.make_backbone("patch_network")
        self.hidden_dim = self.patch_network.output_dim
        self.logit_factor = self.hidden_dim**-0.5 if logit_scale == "sqrt_dim" else 1.0
        self.positions = network.make_positions(self.hidden_dim)
        self.attention_pooling = None
        if pooling == "attention" and query != "position":
            self.attention_pooling = network.make_attention_pooling()
        self.jigsaw_weight, self.instance_weight = jigsaw_weight, instance_weight
        self.temperature, self.negatives = temperature, negatives
        self.projection = None
        if instance_weight:
            self.projection = Projection(self.hidden_dim, projection_dim, name="projection")
            self.instance_loss_metric = keras.metrics.Mean(name="instance_loss")
        if jigsaw_weight and instance_weight:
            self.instance_accuracy_metric = keras.metrics.Mean(name="instance_accuracy")
        if not jigsaw_weight:
            # Rather than weights without a gradient, which weight decay would still shrink.
            for layer in filter(None, (self.positions, self.attention_pooling)):
                layer.trainable = False
        self._make_metrics("patch_accuracy" if jigsaw_weight else "instance_accuracy", weight_decay)

    def build(self, input_shape):
        """Builds every weight; `input_shape` is the dict of the batch's shapes, see `call`."""
        patch_shape = tuple(input_shape["context_patches"])[2:]
        self.patch_size = patch_shape[0]
        build(self.patch_network, [None, *patch_shape])
        build(self.positions, [None, None])
        if self.attention_pooling is not None:
            build(self.attention_pooling, [None, None, self.hidden_dim])
        if self.projection is not None:
            build(self.projection, [None, self.hidden_dim])
        self.built = True

    def get_build_config(self):
        return {"patch_size": self.patch_size}

    def build_from_config(self, config):
        size = config["patch_size"]
        self.build({"context_patches": [None, None, size, size, 3]})

    def patch_features(self, patches: tf.Tensor, training=None) -> tf.Tensor:
        """Computes the vector h of every patch.

        Args:
          patches: uint8, or float in [0, 255], `[B, N, p, p, 3]`.
          training: Whether batch normalisation uses the batch's statistics.

        Returns:
          `[B, N, D]` in the compute dtype.
        """
        return patch_vectors(self.patch_network, patches, training=training)

    def image_features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """Computes what is exported: P's feature map of whole images, averaged.

        Args:
          images: uint8, or float in [0, 255], `[B, H, W, 3]`.
          training: Whether batch normalisation uses the batch's statistics.

        Returns:
          `[B, D]` in the compute dtype.
        """
        return self.patch_features(images[:, None], training=training)[:, 0]

    @property
    def feature_layer(self):
        """The layer that holds the weights of `image_features`."""
        return self.patch_network

    def pool(self, features: tf.Tensor, training=None) -> tf.Tensor:
        """Pools vectors into u.

        Args:
          features: h + position embedding of the visible patches, `[B, N, D]`.
          training: Whether dropout is on.

        Returns:
          u, `[B, D]`.
        """
        if self.pooling == "mean":
            return tf.reduce_mean(features, axis=1)
        if self.pooling == "max":
            return tf.reduce_max(features, axis=1)
        return self.attention_pooling(features, training=training)

    def call(self, x: dict, training=None) -> tf.Tensor:
        """Scores every hidden patch at every hidden position.

        Args:
          x: A dict of `context_patches` uint8 `[B, C, p, p, 3]`, `context_positions` int32
            `[B, C]`, `target_patches` uint8 `[B, T, p, p, 3]` and `target_positions` int32
            `[B, T]`.
          training: Whether layers behave as in training.

        Returns:
          Logits `[B, T, T]`, float32 (float64 in that precision). `[b, t, j]` scores patch j at
          position t, where patch t is the right one.
        """
        # One call of P over all patches: one set of batch statistics, each patch computed once.
        patches = tf.concat([x["context_patches"], x["target_patches"]], axis=1)
        num_context = x["context_patches"].shape[1]
        h = self.patch_features(patches, training=training)  # [B, C + T, D]
        context, target = h[:, :num_context], h[:, num_context:]
        v = self.queries(context, x["context_positions"], x["target_positions"], training=training)
        # In float32 also under mixed precision: plain logits reach hundreds, where bfloat16 only
        # resolves whole numbers.
        return self.logit_factor * tf.matmul(v, at_least_float32(target), transpose_b=True)

    def queries(self, context, context_positions, target_positions, training=None) -> tf.Tensor:
        """Computes the query of every hidden position.

        Args:
          context: Vectors h of the visible patches, `[B, C, D]`.
          context_positions, target_positions: int32 `[B, C]` and `[B, T]`.
          training: Whether dropout is on.

        Returns:
          v, `[B, T, D]`, float32 (float64 in that precision).
        """
        locations = self.positions(target_positions)  # [B, T, D]
        # Added in float32: beside u, bfloat16 would lose much of an embedding, which is small.
        v = at_least_float32(locations)
        if self.query == "position":
            return v
        # Only the visible patches get position embeddings: those of the hidden ones would tell
        # which patch belongs where.
        context += self.positions(context_positions)
        if self.query == "pooled":
            return at_least_float32(self.pool(context, training=training))[:, None] + v
        u = self.attention_pooling.pool_at(context, locations, training=training)  # [B, T, D]
        return at_least_float32(u) + v

    def loss_and_accuracy(self, data, training: bool) -> tuple:
        """See `TrainableModel.loss_and_accuracy`; `data` is the `x` of `call`."""
        logits = self(data, training=training)
        return patch_classification_loss(logits), patch_accuracy(logits)

    def instance_loss_and_accuracy(self, views: tf.Tensor, training: bool) -> tuple:
        """Tells the two views of each image from those of other images, see `losses.nt_xent`.

        Args:
          views: uint8 `[B, 2, V, V, 3]`.
          training: Whether layers behave as in training.

        Returns:
          Losses and accuracies per image, both float `[B]`.
        """
        h = self.patch_features(views, training=training)  # [B, 2, D], by one call of P
        z1, z2 = tf.unstack(at_least_float32(self.projection(h)), axis=1)  # [B, E] each
        return nt_xent(z1, z2, self.temperature, self.negatives == "all")

    @property
    def more_metrics(self) -> list:
        """See `TrainableModel.more_metrics`."""
        if not self.instance_weight:
            return []
        if not self.jigsaw_weight:  # then `accuracy_metric` is the instance loss's
            return [self.instance_loss_metric]
        return [self.instance_loss_metric, self.instance_accuracy_metric]

    def measure(self, data: dict, training: bool) -> dict:
        """See `TrainableModel.measure`.

        Args:
          data: The `x` of `call`, with `views` uint8 `[B, 2, V, V, 3]` for the instance loss. They
            may be missing in evaluation; then the loss is the jigsaw's alone.
          training: Whether layers behave as in training.

        Raises:
          ValueError: If there are no views, and the loss needs them.
        """
        losses, measured = [], {}
        if self.jigsaw_weight:
            jigsaw, measured["patch_accuracy"] = self.loss_and_accuracy(data, training)
            losses.append(self.jigsaw_weight * jigsaw)
        if self.instance_weight and "views" in data:
            instance, accuracies = self.instance_loss_and_accuracy(data["views"], training)
            measured |= {"instance_loss": instance, "instance_accuracy": accuracies}
            losses.append(self.instance_weight * instance)
        elif self.instance_weight and (training or not losses):
            raise ValueError("instance_weight needs `views` in the batch, uint8 [B, 2, V, V, 3]")
        return {"loss": tf.add_n(losses), **measured}
