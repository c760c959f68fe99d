"""Which classes a classifier confuses."""

import numpy as np


def confusion_matrix(labels, predictions, num_classes: int) -> np.ndarray:
    """Counts how often class i (row) was predicted as class j (column): int `[K, K]`."""
    from sklearn.metrics import confusion_matrix  # slow to import

    return confusion_matrix(labels, predictions, labels=range(num_classes))


def balanced_accuracy(labels, predictions) -> float:
    """Averages the recall over classes, so that each counts the same however many images it has.

    Args:
      labels, predictions: Class numbers, int `[N]`. Classes without images do not count.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    return float(np.mean([np.mean(predictions[labels == c] == c) for c in np.unique(labels)]))


def per_class(labels, predictions, names) -> list:
    """Measures each class by itself.

    Args:
      labels, predictions: Class numbers, int `[N]`.
      names: K class names.

    Returns:
      One dict per class: its name as `class`; its number of `images`; `recall`, the fraction of
      them that is recognised, None without images; `precision`, the fraction of the predictions of
      this class that is right, None if it was never predicted; and `confused_with`, the class that
      its images are most often mistaken for, None if they never are.
    """
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    matrix = confusion_matrix(labels, predictions, len(names))
    precision, recall, _, images = precision_recall_fscore_support(
        labels, predictions, labels=range(len(names)), zero_division=np.nan
    )
    wrong = matrix * (1 - np.eye(len(names), dtype=int))
    return [
        {
            "class": name,
            "images": int(images[i]),
            "recall": None if np.isnan(recall[i]) else float(recall[i]),
            "precision": None if np.isnan(precision[i]) else float(precision[i]),
            "confused_with": names[int(np.argmax(wrong[i]))] if wrong[i].any() else None,
        }
        for i, name in enumerate(names)
    ]
