"""Position embeddings: a vector a patch, or the sum of a row and a column vector (section 2.2)."""

import tensorflow as tf
import tf_keras as keras


class LearnedPositions(keras.layers.Layer):
    """One learned vector for each of a grid's positions (the paper's choice for 32x32 images).

    Args:
      rows, columns: of the grid.
      dim: D, width of a vector.
    """

    def __init__(self, rows: int, columns: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns, self.dim = rows, columns, dim

    def build(self, input_shape):
        self.embedding = self.add_weight(
            "embedding", [self.rows * self.columns, self.dim], initializer=_initializer()
        )
        super().build(input_shape)

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        """Looks the vectors up.

        Args:
          positions: int `[...]`, row * columns + column.

        Returns:
          `[..., D]` in the compute dtype.
        """
        return _look_up(self.embedding, positions, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "rows": self.rows,
            "columns": self.columns,
            "dim": self.dim,
        }


class FactorizedPositions(LearnedPositions):
    """A learned vector for each row plus one for each column (the paper's choice for 7x7 grids).

    14 vectors instead of 49. Arguments and call as `LearnedPositions`.
    """

    def build(self, input_shape):
        self.row_embedding = self.add_weight(
            "row_embedding", [self.rows, self.dim], initializer=_initializer()
        )
        self.column_embedding = self.add_weight(
            "column_embedding", [self.columns, self.dim], initializer=_initializer()
        )
        keras.layers.Layer.build(self, input_shape)

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        dtype = self.compute_dtype
        row = _look_up(self.row_embedding, positions // self.columns, dtype)
        return row + _look_up(self.column_embedding, positions % self.columns, dtype)


def _initializer():
    # BERT's; the paper says nothing of it.
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _look_up(embedding, positions, dtype):
    # A product with one-hot rows, not a gather: its gradient is dense, so that momentum reaches
    # every row at every step, and it is a matrix product on TPU.
    return tf.matmul(
        tf.one_hot(positions, embedding.shape[0], dtype=dtype), tf.cast(embedding, dtype)
    )
