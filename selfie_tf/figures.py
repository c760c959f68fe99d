"""Pictures of what is learnt: jigsaws (Selfie's Figure 2), reconstructions, curves, confusion."""

import itertools
import warnings

import numpy as np

_DPI = 130
WHITE, RED, HIDDEN = (255, 255, 255), (230, 30, 30), (128, 128, 128)
_ACCURACY = {"top1": "accuracy", "balanced_accuracy": "balanced accuracy"}

_BASELINE_COLOR = "0.45"
# Colours that differ in lightness too, for grey prints, with a marker and a dash each. The three
# numbers have no common divisor, so that dozens of recipes look different.
_COLORS = ("#08306b", "#ffa04d", "#5ab46a", "#5e3c99", "#a50f15", "#c4459a")
_MARKERS = ("s", "o", "^", "D", "v", "P", "*")
_DASHES = ("--", "-", "-.", ":", (0, (5, 1, 1, 1)))


def _looks(recipes):
    """{recipe: arguments of `axis.plot`} by position; only the first, the baseline, is grey."""
    return {
        recipe: {
            "color": _COLORS[(i - 1) % len(_COLORS)] if i else _BASELINE_COLOR,
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i % len(_DASHES)],
        }
        for i, recipe in enumerate(recipes)
    }


def arrange(batch: dict, choices: np.ndarray | None, grid: int, border: bool = True) -> np.ndarray:
    """Puts patches together to images, the hidden ones where the model puts them.

    Args:
      batch: The model's input as NumPy arrays, see `models.selfie.SelfiePretrainer.call`.
      choices: int `[B, T]`, the number of the hidden patch to draw at each hidden position, with a
        white border if it is the right one and a red border if not. None leaves the hidden
        positions grey.
      grid: Patches per side.
      border: Whether borders are drawn.

    Returns:
      uint8 `[B, S, S, 3]`.
    """
    targets = batch["target_patches"]  # [B, T, p, p, 3]
    count, num_targets, size = targets.shape[:3]
    images = np.zeros([count, grid * size, grid * size, 3], np.uint8)

    def put(b, position, patch):
        row, column = divmod(int(position), grid)
        images[b, row * size : (row + 1) * size, column * size : (column + 1) * size] = patch

    for b in range(count):
        for patch, position in zip(batch["context_patches"][b], batch["context_positions"][b]):
            put(b, position, patch)
        for t, position in enumerate(batch["target_positions"][b]):
            if choices is None:
                put(b, position, np.full_like(targets[b, 0], HIDDEN))
                continue
            patch = targets[b, choices[b, t]].copy()
            if border:
                color, line = (WHITE if choices[b, t] == t else RED), max(1, size // 12)
                patch[:line], patch[-line:], patch[:, :line], patch[:, -line:] = [color] * 4
            put(b, position, patch)
    return images


def original(batch: dict, grid: int) -> np.ndarray:
    """Returns the images that `batch` was cut from, uint8 `[B, S, S, 3]`."""
    whole = {
        "context_patches": np.concatenate([batch["context_patches"], batch["target_patches"]], 1),
        "context_positions": np.concatenate(
            [batch["context_positions"], batch["target_positions"]], 1
        ),
        "target_patches": batch["target_patches"][:, :0],
        "target_positions": batch["target_positions"][:, :0],
    }
    return arrange({**whole, "target_patches": batch["target_patches"]}, None, grid)


def draw_jigsaw(path, batch: dict, choices_at: dict, grid: int) -> None:
    """Draws the jigsaw as a PNG, one row per image.

    The columns are the original, the visible patches, and what the model chooses after each step.

    Args:
      path: A file name, or a file that is open for writing.
      batch: The images to show, see `arrange`.
      choices_at: {step: choices int `[B, T]`}, in ascending order.
      grid: Patches per side.
    """
    truth = np.arange(batch["target_positions"].shape[1])
    columns = [("original", original(batch, grid)), ("visible", arrange(batch, None, grid))]
    for step, choices in choices_at.items():
        fraction = np.mean(choices == truth)
        images = arrange(batch, choices, grid)
        columns.append((f"step {step:,}\n{fraction:.0%} correct", images))
    _draw_columns(path, columns)


def draw_neighbours(path, images: np.ndarray, neighbours_at: dict) -> None:
    """Draws images beside others as a PNG, one row per image.

    Args:
      path: A file name, or a file that is open for writing.
      images: uint8 `[N, S, S, 3]`; the first ones are the rows.
      neighbours_at: {step: numbers of the others, int `[rows, count]`}, in ascending order.
    """
    rows = len(next(iter(neighbours_at.values())))
    columns = [("image", images[:rows])]
    for step, neighbours in neighbours_at.items():
        for place, chosen in enumerate(neighbours.T, 1):
            title = f"{place}." if place > 1 else f"step {step:,}\nnearest"
            columns.append((title, images[chosen]))
    _draw_columns(path, columns)


def _draw_columns(path, columns):
    """Columns are (title, images uint8 `[B, S, S, 3]`)."""
    montage = _montage([images for _, images in columns])
    height, width = montage.shape[:2]
    header = 60  # pixels: two lines
    figure = _figure(width / _DPI, (height + header) / _DPI)
    figure.figimage(montage, 0, 0)
    for column, (title, _) in enumerate(columns):
        x, y = (column + 0.5) / len(columns), (height + 6) / (height + header)
        figure.text(x, y, title, fontsize=9, ha="center", va="bottom", linespacing=1.1)
    _save(figure, path)


def draw_sheet(path, images: np.ndarray, captions: list, columns: int = 8) -> None:
    """Draws a contact sheet as a PNG, row by row.

    Args:
      path: A file name, or a file that is open for writing.
      images: uint8 `[N, S, S, 3]`.
      captions: N strings of up to two lines, put below the images. Long lines are cut.
      columns: Images per row, at most.
    """
    columns, below, gap = min(columns, len(images)), 46, 14
    rows = -(-len(images) // columns)
    missing = np.full([rows * columns - len(images), *images.shape[1:]], 255, np.uint8)
    grid = np.concatenate([images, missing]).reshape([rows, columns, *images.shape[1:]])
    montage = _montage(list(grid.swapaxes(0, 1)), 160, gap, below)
    height, width = montage.shape[:2]
    figure = _figure(width / _DPI, height / _DPI)
    figure.figimage(montage, 0, 0)
    fits = int(width / columns / 8.2)  # characters
    for i, caption in enumerate(captions):
        row, column = divmod(i, columns)
        x, y = (column + 0.5) / columns, 1 - ((row + 1) / rows - (below - 4) / height)
        lines = [x if len(x) <= fits else f"{x[: fits - 1]}…" for x in caption.split("\n")]
        figure.text(
            x, y, _escape("\n".join(lines)), fontsize=7, ha="center", va="top", linespacing=1.1
        )
    _save(figure, path)


def _montage(columns, cell=200, gap=14, below=14):
    """Puts columns of images `[B, S, S, 3]` side by side, on white, about `cell` pixels each.

    There are `gap` pixels between columns, and `below` pixels below each image.

    Axes of Matplotlib would take a second per picture, and shift pixels by fractions of one.
    """
    scale = max(1, round(cell / columns[0].shape[1]))
    margins = ((0, 0), (0, below), (gap // 2, gap - gap // 2), (0, 0))
    large = (images.repeat(scale, axis=1).repeat(scale, axis=2) for images in columns)
    padded = (np.pad(images, margins, constant_values=255) for images in large)
    return np.concatenate([np.concatenate(images) for images in padded], axis=1)


def draw_reconstruction(
    path, batch: dict, levels_at: dict, grid: int, num_levels: int, truth_title: str = "truth"
) -> None:
    """Draws the decoded grey levels of hidden patches as a PNG, one row per image.

    The columns are the original, the visible patches, the levels predicted after each step, and
    the true levels, see `put_levels`.

    Args:
      path: A file name, or a file that is open for writing.
      batch: The images to show, as `PatchFormerPretrainer.call` takes them, and `original` uint8
        `[B, S, S, 3]`.
      levels_at: {step: predicted levels int `[B, T, s, s]`}, in ascending order.
      grid: Patches per side.
      num_levels: Number of grey levels.
      truth_title: Title of the last column.
    """
    truth = batch["target_levels"]
    blank = np.zeros([*truth.shape[:2], *batch["context_patches"].shape[2:]], np.uint8)
    visible = arrange({**batch, "target_patches": blank}, None, grid)
    columns = [("original", batch["original"]), ("visible", visible)]
    for step, levels in levels_at.items():
        title = f"step {step:,}\n{np.mean(levels == truth):.0%} correct"
        columns.append((title, put_levels(batch, levels, grid, num_levels)))
    columns.append((truth_title, put_levels(batch, truth, grid, num_levels)))
    _draw_columns(path, columns)


def put_levels(batch: dict, levels: np.ndarray, grid: int, num_levels: int) -> np.ndarray:
    """Puts the visible patches together, with grey levels at the hidden positions.

    The levels are enlarged to fill the patch, even if they only belong to its middle: small squares
    on grey are hard to read.

    Args:
      batch: The images, see `draw_reconstruction`.
      levels: int `[B, T, s, s]`.
      grid: Patches per side.
      num_levels: Number of grey levels.

    Returns:
      uint8 `[B, S, S, 3]`.
    """
    size = batch["context_patches"].shape[2]
    nearest = np.arange(size) * levels.shape[-1] // size
    shown = np.round(levels * (255 / (num_levels - 1))).astype(np.uint8)  # [B, T, s, s]
    patches = shown[:, :, nearest][..., nearest, None].repeat(3, -1)  # [B, T, p, p, 3]
    right = np.tile(np.arange(patches.shape[1]), [len(patches), 1])
    return arrange({**batch, "target_patches": patches}, right, grid, border=False)


def draw_curves(
    path,
    points: list,
    accuracy: str,
    baselines: dict,
    more=(),
    probes: list = (),
    kind: str = "png",
) -> None:
    """Draws loss and accuracy over steps.

    Args:
      path: A file name, or a file that is open for writing.
      points: Dicts with `step`, `loss` and the accuracy, as in metrics.jsonl.
      accuracy: Name of the accuracy metric.
      baselines: {metric: {label: value}}, what is reached without learning.
      more: Names of more metrics to draw, a panel each.
      probes: Dicts as in probes.jsonl; if there are any, their accuracies take one more panel.
      kind: "png" or "svg".
    """
    names = ["loss", accuracy, *more]
    panels = len(names) + bool(probes)
    figure, axes = _subplots(panels, 4 * panels, 3)
    steps = [point["step"] for point in points]
    marker = "o" if len(points) == 1 else None  # one point makes no line
    for axis, key in zip(axes, names):
        axis.plot(steps, [point[key] for point in points], linewidth=1.2, marker=marker)
        _label_steps(axis, key.replace("_", " ") + " (nats)" * key.endswith("loss"))
        if key == accuracy or key.endswith("_accuracy"):
            axis.set_ylim(0, 1)
        styles = itertools.cycle(("--", ":", "-."))
        for style, (name, value) in zip(styles, baselines.get(key, {}).items()):
            axis.axhline(value, color="0.5", linestyle=style, linewidth=1, label=name)
        if key in baselines:
            axis.legend(fontsize=8)
    losses = [point["loss"] for point in points]
    if max(losses) > 10 * min(losses) > 0:  # plain dot products start at hundreds
        axes[0].set_yscale("log")
    if probes:
        _draw_probes(axes[-1], probes)
    _save(figure, path, kind)


def _draw_probes(axis, probes):
    steps = [point["step"] for point in probes]
    for i, (key, name) in enumerate(
        (("knn_top1", "nearest neighbours"), ("linear_probe_top1", "linear probe"))
    ):
        found = [point[key] for point in probes]
        axis.plot(steps, found, color=f"C{i}", marker="os"[i], markersize=3, label=name)
        if steps[0] == 0:
            axis.axhline(found[0], color=f"C{i}", linestyle=":", linewidth=1, label="at step 0")
    _label_steps(axis, "accuracy by frozen features")
    axis.set_ylim(0, 1)
    axis.legend(fontsize=8)


def draw_finetuning(
    path,
    runs: list,
    split: str = "test",
    kind: str = "png",
    metric: str = "top1",
    recipes: list = (),
) -> None:
    """Draws training loss, test loss and test accuracy over steps (the paper's Figure 3).

    Args:
      path: A file name, or a file that is open for writing.
      runs: Tuples (label, log points, evaluations), one per run, as in metrics.jsonl and
        evaluations.jsonl. Runs with the same label look the same.
      split: "test" or "validation".
      kind: "png" or "svg".
      metric: Which accuracy, "top1" or "balanced_accuracy".
      recipes: The recipes of the plan, see `draw_label_fractions`, if the labels are recipes.
    """
    figure, axes = _subplots(3, 11, 3)
    labels = list(dict.fromkeys(label for label, *_ in runs))
    looks = _looks(recipes or [None, *labels])  # without a plan, no label is the baseline
    for axis, which, key, scale, title in (
        (axes[0], 1, "loss", 1, "training loss (nats)"),
        (axes[1], 2, f"{split}_loss", 1, f"{split} loss (nats)"),
        (axes[2], 2, f"{split}_{metric}", 100, f"{split} {_ACCURACY[metric]} (%)"),
    ):
        for run in runs:
            points = [point for point in run[which] if key in point]
            axis.plot(
                [point["step"] for point in points],
                [scale * point[key] for point in points],
                **looks[run[0]] if which == 2 else {**looks[run[0]], "marker": None},
                markersize=4,
                linewidth=1.2,
            )
        _label_steps(axis, title)
    if any(labels):
        _legend(figure, {label: looks[label] for label in labels})
    _save(figure, path, kind)


def draw_label_fractions(path, lines: dict, recipes: list, kind: str = "png") -> None:
    """Draws accuracy over the number of labelled images, and the gain (the paper's Figure 4).

    Args:
      path: A file name, or a file that is open for writing.
      lines: {recipe: `experiments.tables.Line`s}, all with the same baseline. Bars are standard
        deviations on the left, 95 % intervals of the difference on the right.
      recipes: The recipes of the plan, the baseline first. A recipe's position is its look, so that
        it is the same in all figures of an experiment.
      kind: "png" or "svg".
    """
    figure, (left, right) = _subplots(2, 8, 3.4)
    looks = _looks(recipes)
    for i, (recipe, found) in enumerate(lines.items()):
        found = sorted(found, key=lambda line: line.labelled_images)
        aside = 1.02 ** (i - (len(lines) - 1) / 2)  # so that no bar hides another
        style = {**looks[recipe], "markersize": 5, "capsize": 3}
        left.errorbar(
            [aside * line.labelled_images for line in found],
            [100 * line.mean for line in found],
            [100 * (line.deviation or 0) for line in found],
            **style,
        )
        gains = [line for line in found if line.difference is not None]
        if gains:
            right.errorbar(
                [aside * line.labelled_images for line in gains],
                [100 * line.difference.mean for line in gains],
                [100 * (line.difference.half_width or 0) for line in gains],
                **style,
            )
    right.axhline(0, color="0.2", linewidth=0.8)
    every = [line for found in lines.values() for line in found]
    counts = sorted({line.labelled_images for line in every})
    accuracy = f"{_ACCURACY[every[0].metric]} (%)"
    baseline = next((line.baseline for line in every if line.difference is not None), "baseline")
    for axis, title in ((left, accuracy), (right, f"recipe − {_escape(baseline)} (points)")):
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.set_xlabel("labelled images")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    _legend(figure, {recipe: looks[recipe] for recipe in lines})
    _save(figure, path, kind)


def draw_pretext_and_downstream(
    path, points: dict, pretext: str, recipes: list, kind: str = "png", metric: str = "top1"
) -> None:
    """Draws accuracy after finetuning over accuracy at the pretext task, one dot per network.

    Args:
      path: A file name, or a file that is open for writing.
      points: {task: {recipe: float `[n, 2]`, both accuracies}}.
      pretext: Name of the accuracy at the pretext task.
      recipes: The recipes of the plan, see `draw_label_fractions`.
      kind: "png" or "svg".
      metric: See `draw_finetuning`.
    """
    columns = min(2, len(points))  # more would be too small on a page
    rows = -(-len(points) // columns)
    figure, axes = _subplots(len(points), 1.2 + 3.4 * columns, 3.4 * rows, columns)
    # A network has no line.
    looks = {recipe: {**look, "linestyle": ""} for recipe, look in _looks(recipes).items()}
    for axis, (task, found) in zip(axes, points.items()):
        for recipe, dots in found.items():
            axis.plot(*100 * dots.T, **looks[recipe])
        axis.set_title(_escape(task), fontsize=10)
        axis.set_xlabel(f"{pretext} (%)", fontsize=9)
        axis.set_ylabel(f"{_ACCURACY[metric]} after finetuning (%)", fontsize=9)
        axis.grid(alpha=0.3)
    drawn = {recipe for found in points.values() for recipe in found}
    _legend(figure, {recipe: look for recipe, look in looks.items() if recipe in drawn})
    _save(figure, path, kind)


def draw_confusion(path, matrix: np.ndarray, names, kind: str = "png") -> None:
    """Draws a confusion matrix, each row as fractions of that class's images.

    Args:
      path: A file name, or a file that is open for writing.
      matrix: int `[K, K]`, the number of images of class i (row) predicted as class j (column).
      names: The K class names. Up to 20 are written out, with the fractions in per cent.
      kind: "png" or "svg".
    """
    count, names = len(names), [_escape(name) for name in names]
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 0.45 * count) if count <= 20 else 8.0
    figure, (axis,) = _subplots(1, side + 1.6, side + 0.8)
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axis, label="fraction of the class's images", shrink=0.8)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if count <= 20:
        axis.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(count), names)
        for i, j in np.argwhere(matrix):
            color = "white" if fractions[i, j] > 0.5 else "black"
            text = f"{100 * fractions[i, j]:.0f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    _save(figure, path, kind)


def draw_sizes(path, sizes: dict, side: int, kind: str = "png") -> None:
    """Draws the widths and heights of images.

    Args:
      path: A file name, or a file that is open for writing.
      sizes: {(width, height): number of images}, in pixels.
      side: Side of the squares that images are made into, drawn as two lines.
      kind: "png" or "svg".
    """
    # Sizes within about 5 % are one dot.
    counts = {}
    for size, count in sizes.items():
        about = tuple(float(x) for x in np.round(1.05 ** np.round(np.log(size) / np.log(1.05)), 1))
        counts[about] = counts.get(about, 0) + count
    points, images = np.array(list(counts)), np.array(list(counts.values()))
    figure, (axis,) = _subplots(1, 4.6, 4.2)
    axis.scatter(*points.T, 12 + 300 * images / images.sum(), alpha=0.6, linewidth=0)
    axis.axvline(side, color="0.4", linestyle="--", linewidth=1)
    axis.axhline(side, color="0.4", linestyle="--", linewidth=1)
    low, high = min(points.min(), side) / 1.4, max(points.max(), side) * 1.4
    for scale, limits in ((axis.set_xscale, axis.set_xlim), (axis.set_yscale, axis.set_ylim)):
        scale("log", base=2)
        limits(low, high)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_aspect("equal")
    axis.set_xlabel("width (pixels)")
    axis.set_ylabel("height (pixels)")
    axis.grid(alpha=0.3)
    _save(figure, path, kind)


def _figure(width, height):
    from matplotlib.figure import Figure  # slow to import, and needs no display this way

    return Figure(figsize=(width, height), dpi=_DPI, layout="none")


def _subplots(panels, width, height, columns=None):
    """A figure and its panels, row by row; all in one row without `columns`."""
    figure = _figure(width, height)
    figure.set_layout_engine("constrained")
    columns = columns or panels
    rows = -(-panels // columns)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def _label_steps(axis, title):
    axis.set_xlabel("step")
    axis.set_ylabel(title)
    axis.grid(alpha=0.3)
    # One tick is enough: for two, an axis with a single point would have fractions of a step.
    axis.locator_params(axis="x", integer=True, min_n_ticks=1)


def _legend(figure, looks):
    """Names the recipes below all panels, where they cover no data; {recipe: its look}."""
    from matplotlib.lines import Line2D  # slow, as in `_figure`

    width, height = figure.get_size_inches()
    entry = 0.9 + 0.085 * max(map(len, looks))  # inches: the line, and the letters
    columns = min(max(1, int(width / entry)), len(looks))
    figure.set_size_inches(width, height + 0.2 * -(-len(looks) // columns))
    figure.legend(
        [Line2D([], [], **look) for look in looks.values()],
        [f" {_escape(recipe)}" for recipe in looks],  # one that begins with _ would not be shown
        loc="outside lower center",
        ncols=columns,
        handlelength=3.2,  # one period of the longest dash
        fontsize=9,
        frameon=False,
    )


def _escape(text):
    return text.replace("$", r"\$")  # which would begin a formula


def _save(figure, path, kind="png"):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of fonts that lack a script
        # Without a date, so that the same data make the same file.
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
