"""Image classifiers that finetuning trains (section 2.3), from pretrained weights or afresh."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import UserError
from selfie_tf.layers.attention import at_least_float32
from selfie_tf.layers.attention_pooling import AttentionPooling
from selfie_tf.layers.resnet import ResNetV2
from selfie_tf.losses import classification_loss, top_k
from selfie_tf.models.base import (
    TrainableModel,
    build_under_name,
    constructor_arguments,
    make_positions,
    normalize,
    patch_vectors,
)
from selfie_tf.patches import patchify

TOP5_FROM = 20  # classes; with fewer, top-5 says little


class ImageClassifier(TrainableModel):
    """A network that makes features of images, and a dense layer.

    A subclass calls `_make_head` in its constructor, builds `head`, and has `features` and
    `transfers`. Data are (images uint8 `[B, S, S, 3]`, labels int `[B]`).

    Attributes:
      head: the dense layer.
    """

    def _make_head(self, num_classes: int, label_smoothing: float, weight_decay: float) -> None:
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        # Logits in float32 also under mixed precision.
        dtype = None if self.compute_dtype == "float64" else "float32"
        self.head = keras.layers.Dense(num_classes, dtype=dtype, name="head")
        self._make_metrics("top1", weight_decay)

    def features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """What the last dense layer sees.

        Args:
          images: uint8 or float in [0, 255], `[B, S, S, 3]`.

        Returns:
          `[B, D]` in the compute dtype.
        """
        raise NotImplementedError

    def transfers(self, pretrainer, origin: str) -> list:
        """(layer of `pretrainer`, built layer of this model) for each part that is taken over.

        Raises:
          UserError: if the pretrained model has no such part; `origin` is what it is called.
        """
        raise NotImplementedError

    def call(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """Args: images, see `features`. Returns: logits `[B, K]`, float32 (or float64)."""
        features = self.features(images, training=training)
        return at_least_float32(self.head(at_least_float32(features)))

    def loss_and_accuracy(self, data, training: bool) -> tuple:
        """Loss of each image, and whether the label is answered; labels of -1 count as wrong."""
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
    """ResNet-50 v2, or P and attention pooling (Figure 5, Table 2), and a dense layer.

    "resnet50" is the whole network over the full image, then global average pooling. Groups 1 to 3
    and the stem are those of P.

    "resnet36_attention" is P over the full image, its feature map averaged onto the pretraining's
    grid, so that A sees a sequence of the length and with the positions that it was trained on.
    With `patch_by_patch` P sees each patch alone instead, as in pretraining.

    Args:
      num_classes: K.
      image_size: side S of the images in pixels.
      head: "resnet50" or "resnet36_attention".
      grid: patches a side ("resnet36_attention"); must divide the feature map's side, or S with
        `patch_by_patch`.
      patch_by_patch: see above.
      width, stem, attention_layers, num_heads, mlp_dim, dropout_rate, position, norm_momentum,
      norm_synchronized, seed: as in `models.selfie.SelfiePretrainer`.
      label_smoothing: see `losses.classification_loss`; in training only.
      weight_decay: factor of the L2 penalty in the loss.

    Attributes:
      backbone: a `ResNetV2` of four groups, or of three.
      positions, attention_pooling: as in `SelfiePretrainer`; None with "resnet50".
      head: the dense layer.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 32,
        head: str = "resnet50",
        grid: int = 4,
        patch_by_patch: bool = False,
        width: int = 64,
        stem: str = "small",
        attention_layers: int = 3,
        num_heads: int = 32,
        mlp_dim: int = 640,
        dropout_rate: float = 0.1,
        position: str = "learned",
        label_smoothing: float = 0.0,
        weight_decay: float = 1e-4,
        norm_momentum: float = 0.9,
        norm_synchronized: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = constructor_arguments(locals())
        super().__init__(**kwargs)
        self._arguments = arguments
        if head not in ("resnet50", "resnet36_attention"):
            raise ValueError(f"head={head!r}: expected 'resnet50' or 'resnet36_attention'")
        attention = head == "resnet36_attention"
        self.image_size, self.grid = image_size, grid
        self.patch_by_patch = attention and patch_by_patch
        self.backbone = ResNetV2(
            width=width,
            num_groups=3 if attention else 4,
            stem=stem,
            norm_momentum=norm_momentum,
            synchronized=norm_synchronized,
            name="backbone",
        )
        self.positions = self.attention_pooling = None
        self.feature_dim = (16 if attention else 32) * width
        positions = make_positions(position, grid, self.feature_dim)
        if attention:
            self.positions = positions
            self.attention_pooling = AttentionPooling(
                attention_layers,
                num_heads,
                mlp_dim,
                dropout_rate,
                1000 * seed,  # blocks count on from here
                name="attention_pooling",
            )
        self._make_head(num_classes, label_smoothing, weight_decay)

    def build(self, input_shape=None):
        """Builds every weight."""
        size = self.image_size // self.grid if self.patch_by_patch else self.image_size
        side = self.backbone.compute_output_shape([None, size, size, 3])[1]
        if self.attention_pooling and not self.patch_by_patch and side % self.grid:
            raise ValueError(
                f"the {side}x{side} feature map of {self.image_size}-pixel images cannot be "
                f"averaged onto grid={self.grid}"
            )
        build_under_name(
            [
                (self.backbone, [None, size, size, 3]),
                (self.positions, [None, None]),
                (self.attention_pooling, [None, None, self.feature_dim]),
                (self.head, [None, self.feature_dim]),
            ]
        )
        self.built = True

    def features(self, images: tf.Tensor, training=None) -> tf.Tensor:
        """As `ImageClassifier.features`; D = 32 * width ("resnet50") or 16 * width."""
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

    def transfers(self, pretrainer, origin: str) -> list:
        """P; and A and the positions, where this model has them."""
        pairs = [(pretrainer.patch_network, self.backbone)]
        if self.attention_pooling is not None:
            if not isinstance(pretrainer.attention_pooling, AttentionPooling):
                raise UserError(
                    f"{origin} has no attention pooling of Selfie's: give "
                    "--config.model.head=resnet50, or for PatchFormer's a config of "
                    "configs/finetune_patchformer_*.py"
                )
            pairs.append((pretrainer.positions, self.positions))
            pairs.append((pretrainer.attention_pooling, self.attention_pooling))
        return pairs


def load_pretrained_weights(classifier: ImageClassifier, pretrainer, origin: str) -> dict:
    """Copies the parts that the classifier takes from pretraining, see `transfers`.

    Args:
      classifier: built.
      pretrainer: a built `SelfiePretrainer` or `PatchFormerPretrainer`.
      origin: what messages call it.

    Returns:
      `loaded`, `fresh` and `unused`: lists of the names of the classifier's tensors that were
      loaded and those that keep their initial values, and of the pretrainer's that have no place.

    Raises:
      UserError: on the first tensor that differs; nothing is loaded then.
    """
    assignments, unused = [], []
    for source, target in classifier.transfers(pretrainer, origin):
        found, wanted = _by_name(source), _by_name(target)
        for name, variable in wanted.items():
            # A fourth group follows P, so P's last normalisation has no place, nor it P's.
            if getattr(target, "num_groups", 0) == 4 and name.startswith(
                ("group4/", "final_norm/")
            ):
                continue
            shape = tuple(found[name].shape) if name in found else "missing"
            if shape != tuple(variable.shape):
                raise UserError(
                    f"{origin} does not fit: {source.name}/{name} is {shape} there and "
                    f"{tuple(variable.shape)} here; give {_keys_of(source)} as in pretraining"
                )
            assignments.append((variable, found.pop(name)))
        rest = [f"{source.name}/{name}" for name in found]
        unused += rest
        too_many = [name for name in rest if "/final_norm/" not in name]
        if too_many:
            raise UserError(
                f"{origin} does not fit: {too_many[0]} is not there in this model; give "
                f"{_keys_of(source)} as in pretraining"
            )
    for variable, value in assignments:
        variable.assign(tf.cast(value, variable.dtype))
    loaded = {variable.name for variable, _ in assignments}
    weights = [v.name for v in (*classifier.trainable_weights, *classifier.non_trainable_weights)]
    states = [name for name in weights if "/" in name]  # the others are metrics
    return {
        "loaded": [_plain(name) for name in states if name in loaded],
        "fresh": [
            _plain(name)
            for name in states
            if name not in loaded and not _plain(name).endswith("/calls")  # dropout's count
        ],
        "unused": unused,
    }


def _keys_of(layer) -> str:
    """The keys that decide about a layer's shapes."""
    if layer.name == "patch_network":
        return "--config.model.width and --config.model.stem"
    if layer.name == "positions":
        return "--config.patches.size, --config.data.image_size and --config.model.position"
    return "--config.model.attention_layers, --config.model.mlp_dim and --config.model.width"


def _by_name(layer) -> dict:
    """{name below the layer: variable}, without the counts of dropout's calls."""
    named = {_plain(v.name).partition("/")[2]: v for v in layer.weights}
    return {name: v for name, v in named.items() if not name.endswith("/calls")}


def _plain(name):
    return name.split(":")[0]
