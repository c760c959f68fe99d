"""Finds copies: the same file, the same pixels, or an image that looks the same.

Two images look the same if their perceptual hashes (64 bits) differ in at most 10 bits, and their
grey levels at 16x16 pixels correlate with at least 0.95. Such pairs are the same picture in another
size, quality, brightness, or in grey, or one with a small margin cut off.
"""

import collections
import dataclasses
import logging

import numpy as np
from scipy import sparse

from selfie_tf.inspection.survey import threads

KINDS = ("same file", "same pixels", "similar")

_BITS, _CORRELATION = 10, 0.95
_ROWS = 256  # of the table of distances at a time
_PARTNERS = 200  # per image; enough to connect a group, and keeps memory small
_EXACT = 2000  # images to decode in full, at most


@dataclasses.dataclass(frozen=True)
class Group:
    """Images that are copies of one another.

    Attributes:
      kind: One of `KINDS`, of the least similar of them.
      images: Their positions, ascending, the held-out images first.
      crosses: Whether training and held-out images are among them.
      labels_differ: Whether they have different labels.
    """

    kind: str
    images: tuple
    crosses: bool
    labels_differ: bool


def find_groups(seen: list, images) -> list:
    """Finds all groups of copies.

    Args:
      seen: A list of `survey.Seen`.
      images: The `survey.Arrays` that it is of.

    Returns:
      `Group`s. Those with training and held-out images come first, then the largest.
    """
    same = collections.defaultdict(list)
    for i, image in enumerate(seen):
        if not image.error:
            same[image.digest].append(i)
    first = [members[0] for members in same.values()]
    pairs = similar_pairs([seen[i] for i in first])
    pixels = _pixels(seen, images, np.array(first, int)[pairs])
    count = len(first)
    links = sparse.coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(count, count))
    _, component = sparse.csgraph.connected_components(links, directed=False)
    members = collections.defaultdict(list)
    for i, number in zip(first, component):
        members[number].append(i)
    groups = []
    for leaders in members.values():
        found = [i for leader in leaders for i in same[seen[leader].digest]]
        if len(found) > 1:
            kind = "similar"
            if len(leaders) == 1:
                # Of images without a file of their own, the digest is of the pixels.
                kind = "same file" if seen[found[0]].num_bytes else "same pixels"
            elif len({pixels.get(i, i) for i in leaders}) == 1:
                kind = "same pixels"
            labels = {seen[i].label for i in found} - {-1}
            splits = {seen[i].held_out for i in found}
            found.sort(key=lambda i: (not seen[i].held_out, i))
            groups.append(Group(kind, tuple(found), len(splits) > 1, len(labels) > 1))
    return sorted(groups, key=lambda group: (not group.crosses, -len(group.images), group.images))


def similar_pairs(seen: list) -> np.ndarray:
    """Finds the pairs of images that look the same.

    Every image is compared with every other, in matrix products: 20,000 take seconds.

    Args:
      seen: A list of `survey.Seen`.

    Returns:
      int `[P, 2]`, positions in `seen`, the smaller one first. Of an image that has very many
      partners only the next 200 are compared.
    """
    found = [np.empty([0, 2], int)]
    if not seen:
        return found[0]
    signs = np.where(np.stack([image.bits for image in seen]), 1, -1).astype(np.float32)
    grey = np.stack([image.small for image in seen]).reshape(len(seen), -1)
    for start in range(0, len(seen), _ROWS):
        rows = signs[start : start + _ROWS]
        # The product of two hashes is 64 - 2 * distance.
        near = rows @ signs[start:].T >= rows.shape[1] - 2 * _BITS
        pairs = np.argwhere(np.triu(near, 1)) + start
        begin = np.searchsorted(pairs[:, 0], pairs[:, 0])  # rows are in order
        pairs = pairs[np.arange(len(pairs)) - begin < _PARTNERS]
        alike = _correlation(grey[pairs[:, 0]], grey[pairs[:, 1]]) >= _CORRELATION
        found.append(pairs[alike])
    return np.concatenate(found)


def _correlation(one, other):
    """Of rows `[P, n]`; 0 where one of them is of a single grey."""
    one, other = (x - x.mean(1, keepdims=True, dtype=np.float32) for x in (one, other))
    product = np.sqrt((one * one).sum(1) * (other * other).sum(1))
    return (one * other).sum(1) / np.maximum(product, 1e-6)


def _pixels(seen, images, pairs):
    """{position: hash of the pixels} of the files that may have the same pixels as another."""
    wanted = set()
    for i, j in pairs:
        one, other = seen[i], seen[j]
        if (one.width, one.height) == (other.width, other.height) and one.num_bytes:
            if np.count_nonzero(one.bits != other.bits) <= 2:
                wanted |= {int(i), int(j)}
    if len(wanted) > _EXACT:
        logging.info("of %d very similar images, %d are compared exactly", len(wanted), _EXACT)
    chosen = sorted(wanted)[:_EXACT]
    if not chosen:
        return {}
    with threads() as pool:
        return dict(zip(chosen, pool.map(images.pixels, chosen)))
