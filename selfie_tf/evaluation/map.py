"""A map of many images by their features, as an HTML page."""

import base64
import logging

import numpy as np

from selfie_tf.errors import UserError
from selfie_tf.evaluation.images import write_output
from selfie_tf.evaluation.thumbnails import draw_sprites
from selfie_tf.pages import page

NEIGHBOURS = 8
_TSNE_IMAGES = 5_000  # t-SNE of more takes too long; see `layout`
_LISTED = 24  # pairs, and outliers
_SHEET_SIDE = 2048  # pixels, which any browser decodes


def write_map(path: str, embeddings: dict, name: str) -> None:
    """Writes the page of `to_page` to a file, and logs its size."""
    html = to_page(embeddings, f"Map of {name}").encode()
    write_output("map", path, html)
    logging.info("%s: %d images, %.1f MB", path, len(embeddings["ids"]), len(html) / 1e6)


def to_page(embeddings: dict, title: str) -> str:
    """Makes the page: a map, the nearest neighbours of each image, similar pairs, outliers.

    Args:
      embeddings: See `embed.embed`, with `thumbnails`.
      title: The page's title.

    Returns:
      HTML.

    Raises:
      UserError: If there are fewer than two images, or their features tell nothing apart.
    """
    unit = normalize(embeddings["features"])
    if len(unit) < 2:
        raise UserError("a map needs at least two images; give more images")
    places, placed = layout(unit)
    indices, cosines = nearest(unit, NEIGHBOURS)
    ids, thumbnails = embeddings["ids"], embeddings["thumbnails"]
    names = [*map(str, embeddings["class_names"]), ""]  # -1 is the last
    labels, splits = embeddings["labels"], embeddings["split"]

    def about(i):
        words = (names[labels[i]], str(splits[i]))
        return {
            "index": int(i),
            "path": str(ids[i]),
            "words": ", ".join(word for word in words if word),
            "picture": page.thumbnail(thumbnails[i]),
        }

    pairs = [
        {"cosine": f"{cosine:.4f}", "images": [about(i), about(j)]}
        for i, j, cosine in closest_pairs(indices, cosines, _LISTED)
    ]
    means = cosines.mean(1)
    lonely = [
        {"cosine": f"{means[i]:.4f}", **about(i)}
        for i in np.argsort(means, kind="stable")[:_LISTED]
    ]
    side = thumbnails.shape[1]
    columns = _SHEET_SIDE // side
    sheets = [
        page.picture(draw_sprites(thumbnails[i : i + columns**2], columns, "jpeg"), "jpeg")
        for i in range(0, len(thumbnails), columns**2)
    ]
    split_names, split_numbers = np.unique(splits, return_inverse=True)
    values = {
        "side": side,
        "columns": columns,
        "places": _array(places, "<f4"),
        "neighbours": _array(indices, "<i4"),
        "cosines": _array(cosines, "<f4"),
        "paths": ids.tolist(),
        "groups": {
            "class": {"names": names[:-1], "of": _array(labels, "<i4")},
            "split": {
                "names": [str(name) for name in split_names if name],
                "of": _array(split_numbers if splits[0] else np.full(len(ids), -1), "<i4"),
            },
        },
    }
    return page.render(
        "map.html",
        title,
        count=len(ids),
        dim=embeddings["features"].shape[1],
        placed=placed,
        neighbours=indices.shape[1],
        model=str(embeddings["model"]),
        fingerprint=str(embeddings["fingerprint"]),
        pairs=pairs,
        outliers=lonely,
        sheets=sheets,
        data=values,
    )


def normalize(features: np.ndarray) -> np.ndarray:
    """Scales features, float `[N, D]`, to length 1, so that scalar products are cosines.

    Raises:
      UserError: If one is not finite.
    """
    if not np.isfinite(features).all():
        raise UserError("features are not finite: the network has diverged; give another one")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths, lengths, 1)


def layout(unit: np.ndarray) -> tuple:
    """Gives each image a place, so that similar ones lie together.

    PCA keeps 50 dimensions, of which t-SNE makes two. Of more than 5,000 images, t-SNE takes a
    random choice; each of the others is put among its three nearest neighbours in the choice.

    Args:
      unit: Features of length 1, float `[N, D]`.

    Returns:
      Places, float32 `[N, 2]`, within [0, 1] and with the shape of the map kept; and the number of
      images that t-SNE has placed.

    Raises:
      UserError: If all features are equal.
    """
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.manifold import TSNE
    from sklearn.neighbors import KNeighborsRegressor

    if np.ptp(unit, axis=0).max() == 0:
        raise UserError(
            "all images have the same features: the network tells none apart; give another one"
        )
    count, dim = unit.shape
    reduced = PCA(min(50, count, dim), random_state=0).fit_transform(unit)
    chosen = np.random.default_rng(0).permutation(count)[:_TSNE_IMAGES]
    if len(chosen) < 5 or reduced.shape[1] < 2:  # too little for t-SNE
        places = np.pad(reduced, ((0, 0), (0, 1)))[:, :2]
    else:
        perplexity = min(30, (len(chosen) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
        found = tsne.fit_transform(reduced[chosen])
        places = np.empty((count, 2), found.dtype)
        places[chosen] = found
        others = np.setdiff1d(np.arange(count), chosen)
        if len(others):
            near = KNeighborsRegressor(3, weights="distance").fit(reduced[chosen], found)
            places[others] = near.predict(reduced[others])
    places = places - places.min(0)
    return (places / places.max()).astype(np.float32), len(chosen)


def nearest(unit: np.ndarray, number: int) -> tuple:
    """Finds the images that are most similar to each image, most similar first.

    Args:
      unit: See `layout`.
      number: How many; all others if they are fewer.

    Returns:
      Indices int `[N, k]`, and cosines float `[N, k]`.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    number = min(number, len(unit) - 1)
    indices = NearestNeighbors(n_neighbors=number).fit(unit).kneighbors(return_distance=False)
    cosines = np.stack([np.sum(unit * unit[column], 1) for column in indices.T], 1)
    return indices, np.clip(cosines, -1, 1)


def closest_pairs(indices: np.ndarray, cosines: np.ndarray, number: int) -> list:
    """Lists the most similar pairs (i, j, cosine) with i < j, of what `nearest` returns."""
    pairs = {}
    for flat in np.argsort(-cosines, axis=None, kind="stable")[: 2 * number]:
        i, k = divmod(int(flat), cosines.shape[1])
        pair = min(i, int(indices[i, k])), max(i, int(indices[i, k]))
        pairs.setdefault(pair, float(cosines[i, k]))
    return [(*pair, cosine) for pair, cosine in pairs.items()][:number]


def _array(values, dtype):
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")
