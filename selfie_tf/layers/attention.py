"""Attention blocks (section 2.2), and a dropout whose state lives in the checkpoint.

Keras's own dropout, which its MultiHeadAttention contains, draws from a generator that
tf.train.Checkpoint does not save: a resumed run would drop other units.
"""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.building import build


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Casts bfloat16 and float16 to float32, and leaves float32 and float64 as they are."""
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


class StatelessDropout(keras.layers.Layer):
    """Dropout that is a function of the seed, the replica and the number of training calls so far.

    The number of calls is a non-trainable weight. Checkpoints hold it, so a resumed run drops what
    the uninterrupted one would have dropped.

    Args:
      rate: Fraction of units that is set to zero; the others are scaled by 1 / (1 - rate).
      seed: int; must differ among the layers of a model.
    """

    def __init__(self, rate: float, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed

    def build(self, input_shape):
        self.calls = self.add_weight(
            "calls",
            [],
            dtype=tf.int64,
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Drops units of `inputs` (float, of any shape) if `training`, else returns them."""
        if training is None:
            training = keras.backend.learning_phase()
        if not self.rate or (isinstance(training, (bool, int)) and not training):
            return inputs
        if isinstance(training, (bool, int)):
            return self._drop(inputs)
        return tf.cond(tf.cast(training, tf.bool), lambda: self._drop(inputs), lambda: inputs)

    def _drop(self, inputs):
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed=self._next_seed())

    def _next_seed(self):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        count = tf.identity(self.calls)
        stream = tf.cast(self.seed, tf.int64) * 65_536 + tf.cast(replica, tf.int64)
        self.calls.assign_add(1)
        return tf.stack([stream, count])

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class PatchDropout(StatelessDropout):
    """Draws which of each image's patches to keep, anew at each training call.

    round(rate * N) of N patches are left out. Arguments and randomness are those of
    `StatelessDropout`, but nothing is scaled, and there is no `call`.
    """

    def kept(self, batch_size: tf.Tensor, count: int, training: bool = False) -> tf.Tensor:
        """Draws the patches to keep.

        Args:
          batch_size: Number of images B, an int32 scalar.
          count: Patches per image, N.
          training: Whether patches are left out. A bool, as the result's shape depends on it.

        Returns:
          Positions int32 `[B, K]`, ascending. K is N - round(rate * N) in training, else N.
        """
        kept = count - round(self.rate * count) if training else count
        if kept == count:
            return tf.tile(tf.range(count)[None], [batch_size, 1])
        noise = tf.random.stateless_uniform([batch_size, count], self._next_seed())
        return tf.sort(tf.math.top_k(noise, kept).indices)


class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis, then scale and offset, computed in float32.

    Keras's own goes through fused batch normalisation. Where each "batch" is one vector, the
    gradient of that depends on how CPU threads happen to share the work, so that two runs differ.

    Args:
      epsilon: Added to the variance.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        for name, initializer in (("gamma", "ones"), ("beta", "zeros")):
            weight = self.add_weight(
                name, [input_shape[-1]], initializer=initializer, experimental_autocast=False
            )
            setattr(self, name, weight)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalises `inputs` (float `[..., D]`); the result has the same shape and dtype."""
        x = at_least_float32(inputs)
        x -= tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        x = x * tf.math.rsqrt(variance + self.epsilon) * self.gamma + self.beta
        return tf.cast(x, inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


class MultiHeadAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention with dropout on the attention weights.

    Args:
      num_heads: Attention heads; must divide the input's width.
      dropout_rate: Fraction of the attention weights that is dropped.
      seed: Seed of the dropout.
    """

    def __init__(self, num_heads: int, dropout_rate: float = 0.1, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.dropout_rate, self.seed = num_heads, dropout_rate, seed

    def build(self, input_shape):
        dim = input_shape[-1]
        if dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide the width {dim}")
        for name in ("query", "key", "value", "output"):
            layer = keras.layers.Dense(dim, name=name)
            build(layer, input_shape)
            setattr(self, f"{name}_projection", layer)
        self.dropout = StatelessDropout(self.dropout_rate, self.seed, name="dropout")
        build(self.dropout, None)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, context=None, training=None, mask=None) -> tf.Tensor:
        """Attends from `inputs` over `context`.

        Args:
          inputs: float `[B, N, D]`.
          context: float `[B, M, D]`; None attends over `inputs` (self-attention).
          training: Whether dropout is on.
          mask: bool `[N, M]`, whether vector n may attend to vector m; None lets all attend to all.

        Returns:
          `[B, N, D]`.
        """
        context = inputs if context is None else context
        count, dim = inputs.shape[1:]
        heads = self.num_heads

        def split(x):  # [B, N, D] -> [B, heads, N, D/heads]
            return tf.transpose(tf.reshape(x, [-1, x.shape[1], heads, dim // heads]), [0, 2, 1, 3])

        query = split(self.query_projection(inputs)) * (dim // heads) ** -0.5
        key = split(self.key_projection(context))
        value = split(self.value_projection(context))
        scores = tf.matmul(query, key, transpose_b=True)  # [B, heads, N, M]
        logits = at_least_float32(scores)
        if mask is not None:
            logits = tf.where(mask, logits, logits.dtype.min)
        weights = tf.cast(tf.nn.softmax(logits), scores.dtype)
        x = tf.matmul(self.dropout(weights, training=training), value)  # [B, heads, N, D/heads]
        x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, count, dim])  # [B, N, D]
        return self.output_projection(x)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }


class AttentionBlock(keras.layers.Layer):
    """One block of A: attention, then two dense layers with GELU between them.

    As in BERT, which section 2.2 names as the design: dropout, residual connection and layer norm
    follow the attention, and again the dense layers.

    Args:
      num_heads: Attention heads; must divide the input's width D.
      mlp_dim: Width of the intermediate layer.
      dropout_rate: Fraction dropped of the attention weights, and of the units before each residual
        connection.
      seed: int; the block's three dropouts use 3 * seed, 3 * seed + 1 and 3 * seed + 2.
    """

    def __init__(
        self, num_heads: int, mlp_dim: int, dropout_rate: float = 0.1, seed: int = 0, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_heads, self.mlp_dim = num_heads, mlp_dim
        self.dropout_rate, self.seed = dropout_rate, seed

    def build(self, input_shape):
        dim = input_shape[-1]
        rate, seed = self.dropout_rate, 3 * self.seed
        self.attention = MultiHeadAttention(self.num_heads, rate, seed, name="attention")
        self.attention_dropout = StatelessDropout(rate, seed + 1, name="attention_dropout")
        self.attention_norm = LayerNorm(name="attention_norm")
        self.intermediate = keras.layers.Dense(
            self.mlp_dim, activation=tf.nn.gelu, name="intermediate"
        )
        self.output_dense = keras.layers.Dense(dim, name="output")
        self.output_dropout = StatelessDropout(rate, seed + 2, name="output_dropout")
        self.output_norm = LayerNorm(name="output_norm")
        narrow, wide = input_shape, [*input_shape[:-1], self.mlp_dim]
        for layer, shape in (
            (self.attention, narrow),
            (self.attention_dropout, narrow),
            (self.attention_norm, narrow),
            (self.intermediate, narrow),
            (self.output_dense, wide),
            (self.output_dropout, narrow),
            (self.output_norm, narrow),
        ):
            build(layer, shape)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, context=None, training=None, mask=None) -> tf.Tensor:
        """Arguments and result are those of `MultiHeadAttention.call`."""
        x = self.attention(inputs, context, training=training, mask=mask)
        x = self.attention_norm(inputs + self.attention_dropout(x, training=training))
        y = self.output_dense(self.intermediate(x))  # [B, N, mlp_dim] -> [B, N, D]
        return self.output_norm(x + self.output_dropout(y, training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }


class Transformer(keras.layers.Layer):
    """A sequence of attention blocks.

    Args:
      num_layers: Number of blocks.
      num_heads: Attention heads; must divide the input's width D.
      mlp_dim: Width of the blocks' intermediate layers.
      dropout_rate: See `AttentionBlock`.
      seed: Seed of the first block; the others count on from it.
    """

    def __init__(
        self,
        num_layers: int = 3,
        num_heads: int = 32,
        mlp_dim: int = 640,
        dropout_rate: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_layers, self.num_heads, self.mlp_dim = num_layers, num_heads, mlp_dim
        self.dropout_rate, self.seed = dropout_rate, seed
        self.blocks = [
            AttentionBlock(num_heads, mlp_dim, dropout_rate, seed + i, name=f"block{i + 1}")
            for i in range(num_layers)
        ]

    def build(self, input_shape):
        for block in self.blocks:
            build(block, input_shape)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None, mask=None) -> tf.Tensor:
        """Runs the blocks over `inputs`, float `[B, N, D]`; the result has the same shape.

        `training` and `mask` are those of `MultiHeadAttention.call`.
        """
        x = inputs
        for block in self.blocks:
            x = block(x, training=training, mask=mask)
        return x

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }
