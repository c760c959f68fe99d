"""What frozen features tell: how well they separate classes, and how many directions they use."""

import numpy as np

NEIGHBOURS = 20


def knn_accuracy(train, train_labels, test, test_labels, neighbours: int) -> float:
    """Returns the accuracy of a vote among the nearest training features, by cosine similarity.

    Args:
      train, test: Features, float `[N, D]` and `[M, D]`.
      train_labels, test_labels: int `[N]` and `[M]`.
      neighbours: Number of votes; fewer if there are fewer training images.
    """
    from sklearn.neighbors import KNeighborsClassifier  # slow to import

    vote = KNeighborsClassifier(min(neighbours, len(train)), metric="cosine")
    return float(vote.fit(train, train_labels).score(test, test_labels))


def linear_probe_accuracy(train, train_labels, test, test_labels) -> float:
    """Returns the accuracy of logistic regression on standardised features; see `knn_accuracy`."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train, train_labels).score(test, test_labels))


def compute(function, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Computes the features of images in batches, with one shape to compile.

    Args:
      function: A function from images, uint8 `[B, S, S, 3]`, to features `[B, D]`.
      images: uint8 `[N, S, S, 3]`.
      batch_size: Images per call, B; the last batch is filled up.

    Returns:
      float32 `[N, D]`.
    """
    parts = []
    for i in range(0, len(images), batch_size):
        batch = images[i : i + batch_size]
        filled = np.resize(batch, [batch_size, *batch.shape[1:]])
        parts.append(function(filled).numpy()[: len(batch)].astype(np.float32))
    return np.concatenate(parts)


def nearest_others(features: np.ndarray, rows: int, count: int) -> np.ndarray:
    """Finds, for each of the first vectors, the others that are nearest by cosine.

    Args:
      features: float `[N, D]`.
      rows: For how many of the vectors.
      count: How many of the others, fewer than N.

    Returns:
      int `[rows, count]`, the nearest first.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    x = features / np.where(lengths > 0, lengths, 1)
    cosines = x[:rows] @ x.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def effective_rank(features: np.ndarray) -> float:
    """Counts the directions in which features differ, as Roy and Vetterli (2007) do.

    It is exp(entropy) of the singular values of the centred features, divided by their sum: D if
    all directions carry the same, 1 if one carries all, and 0 if the features are equal.

    Args:
      features: float `[N, D]`.
    """
    x = np.asarray(features, np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    # What float32 rounds off would count as directions where there are no others.
    values = values[values > np.finfo(np.float32).eps * np.linalg.norm(x)]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def spread(features: np.ndarray) -> float:
    """Measures how far apart the directions of features are.

    It is the standard deviation of the features over images, at length 1, averaged over dimensions
    and times sqrt(D): 1 if they point everywhere alike, and 0 if all of them are one direction.

    Args:
      features: float `[N, D]`.
    """
    x = np.asarray(features, np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x = x / np.where(lengths > 0, lengths, 1)
    return float(x.std(axis=0).mean() * x.shape[1] ** 0.5)
