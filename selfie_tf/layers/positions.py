"""Position embeddings: one per patch, or the sum of a row's and a column's (section 2.2)."""

import tensorflow as tf
import tf_keras as keras


class LearnedPositions(keras.layers.Layer):
    """One learned vector per position of a grid (the paper's choice for 32x32 images).

    Args:
      rows: Rows of the grid.
      columns: Columns of the grid.
      dim: Width of a vector, D.
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
        """Looks up the vectors of positions.

        Args:
          positions: int `[...]`, each row * columns + column.

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
    """One learned vector per row plus one per column (the paper's choice for 7x7 grids).

    A 7x7 grid has 14 vectors instead of 49. Arguments and `call` are those of `LearnedPositions`.
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
    # That of BERT; the paper names none.
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _look_up(embedding, positions, dtype):
    # A product with one-hot vectors instead of a gather: its gradient is dense, so that momentum
    # reaches every embedding at every step, and on TPU it is a matrix product.
    return tf.matmul(
        tf.one_hot(positions, embedding.shape[0], dtype=dtype), tf.cast(embedding, dtype)
    )
