"""Pre-activation bottleneck ResNet (ResNet v2), the patch network P of Selfie.

He et al. 2016b, "Identity Mappings in Deep Residual Networks". Selfie (section 3.2) takes the first
three groups of ResNet-50 as its patch network, "ResNet-36", and all four groups ("ResNet-50") as
the supervised baseline.
"""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.building import build, build_chain

UNITS_PER_GROUP = (3, 4, 6, 3)  # ResNet-50
STRIDES_PER_GROUP = (1, 2, 2, 2)
EXPANSION = 4  # output channels of a bottleneck unit, divided by its filters


def convolve(inputs, kernel, strides=1):
    """Convolves with 'SAME' padding, by matrix products where static shapes make that faster.

    Args:
      inputs: float `[N, H, W, C]`; H and W may be unknown.
      kernel: `[kh, kw, C, F]`, of the same dtype.
      strides: Stride in both directions.

    Returns:
      `[N, ceil(H / strides), ceil(W / strides), F]`.
    """
    # Speed-ups are over `tf.nn.conv2d`, forward and backward, in float32 / mixed_bfloat16, on a
    # two-core AVX-512 CPU with 1,024 patches at the widths of P. For other shapes conv2d is faster.
    kernel_size, map_size = tuple(kernel.shape[:2]), tuple(inputs.shape[1:3])
    if kernel_size == (1, 1):  # 1.0 to 1.2 / 1.0 to 1.7 times; with strides 1.2 to 1.5 / 1.6 to 2.1
        if strides > 1:
            # Picks every second position; with `inputs[:, ::2, ::2]` the whole is half as fast.
            inputs = tf.nn.avg_pool2d(inputs, 1, strides, "VALID")  # [N, h, w, C]
        return tf.tensordot(inputs, kernel[0, 0], 1)  # [N, h, w, F]
    if kernel_size == (3, 3):
        if map_size == (1, 1):
            strides = 1  # one position either way
        # 2.3 / 2.5 times on 2x2 maps, 1.1 / 1.7 times from 4x4 to 2x2. Smaller maps also because
        # on CPU conv2d's bfloat16 kernel gradient at 1x1 outputs holds NaN now and then.
        if (*map_size, strides) in ((1, 1, 1), (2, 2, 1), (2, 2, 2), (4, 4, 2)):
            return _convolve_by_rows(inputs, kernel, strides)
    return tf.nn.conv2d(inputs, kernel, strides, "SAME")


def _convolve_by_rows(inputs, kernel, strides):
    """Computes each output row as one matrix product of the up to three input rows that it sees.

    This pays where rows are so short that few of the products are with zeros. Rows of padding are
    skipped. Strides divide the map, so 'SAME' pads 1 row before (stride 1) or none (stride 2).
    """
    height, width, channels = inputs.shape[1:]
    filters = kernel.shape[3]
    out_height, out_width = height // strides, width // strides
    before = 2 - strides
    # Input column j meets output column x at the kernel's column j - strides * x + before.
    padded = tf.pad(kernel, [[0, 0], [width, width], [0, 0], [0, 0]])
    starts = [width + before - strides * x for x in range(out_width)]
    band = tf.stack([padded[:, start : start + width] for start in starts], axis=3)
    band = tf.reshape(band, [3, width * channels, out_width * filters])  # from [3, W, C, w, F]
    flat = tf.reshape(inputs, [-1, height * width * channels])  # [N, H * W * C]
    rows = []
    for y in range(out_height):
        top = strides * y - before
        first, last = max(top, 0), min(top + 3, height)
        seen = flat[:, first * width * channels : last * width * channels]
        weights = tf.reshape(band[first - top : last - top], [-1, out_width * filters])
        rows.append(tf.matmul(seen, weights))  # [N, w * F]
    return tf.reshape(tf.concat(rows, axis=1), [-1, out_height, out_width, filters])


class Convolution(keras.layers.Conv2D):
    """2-D convolution without bias, 'SAME' padding, He-normal kernel `[kh, kw, in, out]`.

    Args:
      filters: Output channels.
      kernel_size: Side of the square kernel.
      strides: Stride in both directions.
    """

    def __init__(self, filters, kernel_size, strides=1, **kwargs):
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            **kwargs,
        )

    def convolution_op(self, inputs, kernel):
        return convolve(inputs, kernel, self.strides[0])

    def get_config(self):
        config = keras.layers.Layer.get_config(self)
        config.update(
            filters=self.filters, kernel_size=self.kernel_size[0], strides=self.strides[0]
        )
        return config


class NormReLU(keras.layers.Layer):
    """Batch normalisation over all but the channel axis, then ReLU.

    Args:
      momentum: Momentum of the moving statistics.
      synchronized: Whether batch statistics are taken over all replicas.
    """

    def __init__(self, momentum=0.9, synchronized=False, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.synchronized = synchronized

    def build(self, input_shape):
        # On CPUs the kernels for bfloat16 work on 16 channels at once. With other numbers of
        # channels the forward pass takes 4 times as long as in float32, the gradient 8 times.
        narrow = self.compute_dtype == "bfloat16" and input_shape[-1] % 16
        self.norm = keras.layers.BatchNormalization(
            momentum=self.momentum,
            epsilon=1e-5,
            synchronized=self.synchronized,
            dtype="float32" if narrow else self.dtype_policy,
            name="norm",
        )
        build(self.norm, input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        x = tf.nn.relu(self.norm(inputs, training=training))
        return tf.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tf.TensorShape(input_shape)

    def get_config(self):
        config = super().get_config()
        config.update(momentum=self.momentum, synchronized=self.synchronized)
        return config


class BottleneckUnit(keras.layers.Layer):
    """Pre-activation bottleneck unit: 1x1, 3x3 (strided) and 1x1 convolution plus shortcut.

    He et al. 2016b, figure 1b: batch normalisation and ReLU come before each convolution, and
    nothing follows the addition.

    Args:
      filters: Channels of the 3x3 convolution; the output has 4 times as many.
      strides: Stride of the 3x3 convolution and of the projection.
      project: Whether the shortcut is a 1x1 convolution of the pre-activated input, instead of the
        input itself. Needed where the shape changes.
      norm_momentum: Momentum of batch normalisation's moving statistics.
      synchronized: Whether batch statistics are taken over all replicas.

    Raises:
      ValueError: If `strides` changes the shape and `project` is False.
    """

    def __init__(
        self, filters, strides=1, project=False, norm_momentum=0.9, synchronized=False, **kwargs
    ):
        super().__init__(**kwargs)
        if strides != 1 and not project:
            raise ValueError(f"strides={strides} changes the shape: project must be True")
        self.filters = filters
        self.strides = strides
        self.project = project
        self.norm_momentum = norm_momentum
        self.synchronized = synchronized
        self.norm1 = NormReLU(norm_momentum, synchronized, name="norm1")
        self.conv1 = Convolution(filters, 1, name="conv1")
        self.norm2 = NormReLU(norm_momentum, synchronized, name="norm2")
        self.conv2 = Convolution(filters, 3, strides, name="conv2")
        self.norm3 = NormReLU(norm_momentum, synchronized, name="norm3")
        self.conv3 = Convolution(EXPANSION * filters, 1, name="conv3")
        if project:
            self.projection = Convolution(EXPANSION * filters, 1, strides, name="projection")

    def build(self, input_shape):
        if self.project:
            build(self.projection, input_shape)
        elif input_shape[-1] != EXPANSION * self.filters:
            raise ValueError(
                f"without a projection the input must have 4 * filters = "
                f"{EXPANSION * self.filters} channels, got input shape {tuple(input_shape)}"
            )
        layers = (self.norm1, self.conv1, self.norm2, self.conv2, self.norm3, self.conv3)
        build_chain(layers, input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        x = self.norm1(inputs, training=training)  # [N, H, W, C]
        shortcut = self.projection(x) if self.project else inputs
        x = self.norm2(self.conv1(x), training=training)  # [N, H, W, filters]
        x = self.norm3(self.conv2(x), training=training)  # [N, h, w, filters]
        return self.conv3(x) + shortcut  # [N, h, w, 4 * filters]

    def compute_output_shape(self, input_shape):
        return self.conv3.compute_output_shape(self.conv2.compute_output_shape(input_shape))

    def get_config(self):
        config = super().get_config()
        config.update(
            filters=self.filters,
            strides=self.strides,
            project=self.project,
            norm_momentum=self.norm_momentum,
            synchronized=self.synchronized,
        )
        return config


class ResNetGroup(keras.layers.Layer):
    """A sequence of bottleneck units; the first projects its shortcut and applies the stride.

    Args:
      filters: Channels of the 3x3 convolutions; the output has 4 times as many.
      num_units: Number of units.
      strides: Stride of the first unit.
      norm_momentum: Momentum of batch normalisation's moving statistics.
      synchronized: Whether batch statistics are taken over all replicas.
    """

    def __init__(
        self, filters, num_units, strides=1, norm_momentum=0.9, synchronized=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.num_units = num_units
        self.strides = strides
        self.norm_momentum = norm_momentum
        self.synchronized = synchronized
        self.units = [
            BottleneckUnit(
                filters,
                strides=strides if i == 0 else 1,
                project=i == 0,
                norm_momentum=norm_momentum,
                synchronized=synchronized,
                name=f"unit{i + 1}",
            )
            for i in range(num_units)
        ]

    def build(self, input_shape):
        build_chain(self.units, input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        x = inputs
        for unit in self.units:
            x = unit(x, training=training)
        return x

    def compute_output_shape(self, input_shape):
        return _chain_output_shape(self.units, input_shape)

    def get_config(self):
        config = super().get_config()
        config.update(
            filters=self.filters,
            num_units=self.num_units,
            strides=self.strides,
            norm_momentum=self.norm_momentum,
            synchronized=self.synchronized,
        )
        return config


class ResNetV2(keras.layers.Layer):
    """ResNet-50 v2 (He et al. 2016b) cut after `num_groups` groups: images to feature maps.

    Three groups at width 64 are Selfie's patch network P (section 3.2), with 8.53 M trainable
    parameters. Four groups are the body of ResNet-50. The weights serve images of any size.

    Args:
      width: Filters of the first group; each further group doubles them.
      num_groups: Number of groups, 1 to 4.
      stem: "small", one 3x3 convolution of stride 1, for patches and 32x32 images; or "imagenet",
        a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2.
      norm_momentum: Momentum of batch normalisation's moving statistics.
      synchronized: Whether batch statistics are taken over all replicas.

    Attributes:
      output_dim: Channels of the feature map, 4 * width * 2**(num_groups - 1).
      stem: A `Stem`, `[N, H, W, 3]` to `[N, h, w, width]`.
      groups: A list of `ResNetGroup`.
      final_norm: The batch normalisation and ReLU that end a pre-activation network.

    Raises:
      ValueError: If `num_groups` or `stem` is unknown.
    """

    def __init__(
        self,
        width=64,
        num_groups=3,
        stem="small",
        norm_momentum=0.9,
        synchronized=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 1 <= num_groups <= len(UNITS_PER_GROUP):
            raise ValueError(f"num_groups={num_groups}: expected 1 to {len(UNITS_PER_GROUP)}")
        self.width = width
        self.num_groups = num_groups
        self.output_dim = EXPANSION * width * 2 ** (num_groups - 1)
        self.norm_momentum = norm_momentum
        self.synchronized = synchronized
        self.stem = Stem(width, stem, name="stem")
        self.groups = [
            ResNetGroup(
                width * 2**i,
                UNITS_PER_GROUP[i],
                STRIDES_PER_GROUP[i],
                norm_momentum=norm_momentum,
                synchronized=synchronized,
                name=f"group{i + 1}",
            )
            for i in range(num_groups)
        ]
        self.final_norm = NormReLU(norm_momentum, synchronized, name="final_norm")

    def build(self, input_shape):
        build_chain([self.stem, *self.groups, self.final_norm], input_shape)
        super().build(input_shape)

    def call(self, images, training=None):
        """Computes the feature map.

        Args:
          images: float `[N, H, W, 3]`, normalised.
          training: Whether batch normalisation uses the batch's statistics.

        Returns:
          `[N, h, w, output_dim]` in the compute dtype.
        """
        x = self.stem(images)
        for group in self.groups:
            x = group(x, training=training)
        return self.final_norm(x, training=training)

    def compute_output_shape(self, input_shape):
        return _chain_output_shape([self.stem, *self.groups], input_shape)

    def get_config(self):
        config = super().get_config()
        config.update(
            width=self.width,
            num_groups=self.num_groups,
            stem=self.stem.kind,
            norm_momentum=self.norm_momentum,
            synchronized=self.synchronized,
        )
        return config


class Stem(keras.layers.Layer):
    """The first convolution, and for "imagenet" the max-pooling.

    Args:
      filters: Output channels.
      kind: "small" or "imagenet", see `ResNetV2`.

    Raises:
      ValueError: If `kind` is another.
    """

    def __init__(self, filters, kind="small", **kwargs):
        super().__init__(**kwargs)
        if kind not in ("small", "imagenet"):
            raise ValueError(f"stem={kind!r}: expected 'small' or 'imagenet'")
        self.filters = filters
        self.kind = kind
        kernel_size, strides = (3, 1) if kind == "small" else (7, 2)
        self.conv = Convolution(filters, kernel_size, strides, name="conv")

    def build(self, input_shape):
        build(self.conv, input_shape)
        super().build(input_shape)

    def call(self, images):
        x = self.conv(images)  # [N, H, W, filters] or [N, H/2, W/2, filters]
        if self.kind == "imagenet":
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")  # [N, H/4, W/4, filters]
        return x

    def compute_output_shape(self, input_shape):
        shape = self.conv.compute_output_shape(input_shape)
        if self.kind == "imagenet":
            n, h, w, c = shape
            shape = tf.TensorShape([n, h and -(-h // 2), w and -(-w // 2), c])
        return shape

    def get_config(self):
        config = super().get_config()
        config.update(filters=self.filters, kind=self.kind)
        return config


def _chain_output_shape(layers, input_shape):
    for layer in layers:
        input_shape = layer.compute_output_shape(input_shape)
    return input_shape
