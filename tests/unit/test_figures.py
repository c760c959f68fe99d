import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from selfie_tf import figures
from selfie_tf.experiments.statistics import Difference
from selfie_tf.experiments.tables import Line

from helpers import make_batch

GRID, SIZE = 4, 6


@pytest.fixture
def batch(rng):
    return make_batch(rng, batch=2, grid=GRID, context=12, size=SIZE)


def cell(image, position):
    row, column = divmod(int(position), GRID)
    return image[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]


def test_the_original_has_every_patch_at_its_position(batch):
    images = figures.original(batch, GRID)
    assert images.shape == (2, 24, 24, 3)
    for b in range(2):
        for kind in ("context", "target"):
            for patch, position in zip(batch[f"{kind}_patches"][b], batch[f"{kind}_positions"][b]):
                np.testing.assert_array_equal(cell(images[b], position), patch)


def test_hidden_positions_are_grey_without_choices(batch):
    images = figures.arrange(batch, None, GRID)
    for b in range(2):
        for position in batch["target_positions"][b]:
            assert (cell(images[b], position) == figures.HIDDEN).all()


def test_choices_are_put_in_place_white_if_right_and_red_if_wrong(batch):
    choices = np.array([[0, 0, 3, 2], [3, 1, 2, 3]])
    images = figures.arrange(batch, choices, GRID)
    for b in range(2):
        for t, position in enumerate(batch["target_positions"][b]):
            found = cell(images[b], position)
            chosen = batch["target_patches"][b, choices[b, t]]
            np.testing.assert_array_equal(found[1:-1, 1:-1], chosen[1:-1, 1:-1])
            border = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
            assert (border == (figures.WHITE if choices[b, t] == t else figures.RED)).all()


def test_the_jigsaw_shows_every_pixel_of_every_image(batch):
    file = io.BytesIO()
    choices = np.array([[0, 1, 2, 3], [3, 1, 2, 3]])
    figures.draw_jigsaw(file, batch, {10: choices}, GRID)
    picture = np.asarray(Image.open(file).convert("RGB"))
    columns = [figures.original(batch, GRID)]
    columns += [figures.arrange(batch, c, GRID) for c in (None, choices)]
    width = picture.shape[1] // 3
    for i, images in enumerate(columns):
        column = picture[:, i * width : (i + 1) * width].astype(int)
        rows = []
        for image in images:
            large = image.repeat(8, axis=0).repeat(8, axis=1).astype(int)  # 24 pixels to 192
            margin = (width - 192) // 2
            tops = [
                y
                for y in range(len(column) - 191)
                if (column[y : y + 192, margin : margin + 192] == large).all()
            ]
            assert len(tops) == 1
            rows += tops
        assert rows[1] - rows[0] > 192  # in this order, and apart


def test_pictures_are_pngs_with_a_column_per_step(batch):
    widths = []
    for steps in (1, 3):
        file = io.BytesIO()
        figures.draw_jigsaw(file, batch, {s: np.zeros([2, 4], int) for s in range(steps)}, GRID)
        picture = Image.open(file)
        assert picture.format == "PNG"
        widths.append(picture.width)
    assert widths[1] == pytest.approx(widths[0] * 5 / 3, rel=0.02)


def test_neighbours_stand_beside_their_image_one_row_each(rng):
    images = rng.integers(0, 256, [5, 40, 40, 3], dtype=np.uint8)
    file = io.BytesIO()
    steps = {0: np.array([[3, 1], [4, 0]]), 9: np.array([[2, 4], [3, 2]])}
    figures.draw_neighbours(file, images, steps)
    picture = np.asarray(Image.open(file).convert("RGB"))
    width = picture.shape[1] // 5
    for column, expected in enumerate([(0, 1), (3, 4), (1, 0), (2, 3), (4, 2)]):
        shown = picture[:, column * width : (column + 1) * width]
        tops = [
            [y for y in range(len(shown) - 199) if (shown[y : y + 200, 7:207] == large).all()]
            for large in (images[k].repeat(5, axis=0).repeat(5, axis=1) for k in expected)
        ]
        assert [len(found) for found in tops] == [1, 1] and tops[0] < tops[1]


def test_a_contact_sheet_has_every_image_in_its_place_with_its_caption(rng, monkeypatch):
    texts = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.text", lambda _, x, y, text, **__: texts.append((x, y, text))
    )
    images = rng.integers(0, 256, [7, 40, 40, 3], dtype=np.uint8)
    file = io.BytesIO()
    captions = [f"{i} of $5$\n50%" for i in range(6)] + ["x" * 99]
    figures.draw_sheet(file, images, captions, columns=3)
    picture = np.asarray(Image.open(file).convert("RGB"))
    height, width = picture.shape[:2]
    tops = {}
    for i, image in enumerate(images):
        left = i % 3 * width // 3 + (width // 3 - 160) // 2
        large = image.repeat(4, axis=0).repeat(4, axis=1)
        found = [
            y
            for y in range(height - 159)
            if (picture[y : y + 160, left : left + 160] == large).all()
        ]
        assert len(found) == 1
        tops[i] = found[0]
        x, y, text = texts[i]
        assert x * width == pytest.approx(left + 80, abs=1)
        assert 0 < (1 - y) * height - (found[0] + 160) < 10
        if i < 6:
            assert text == f"{i} of \\$5\\$\n50%"
    assert tops[0] == tops[2] < tops[3] - 190 and tops[6] == tops[3] + tops[3] - tops[0]
    assert len(texts[6][2]) < 25 and texts[6][2].endswith("…")


def make_reconstruction(rng, target_size):
    batch = make_batch(rng, batch=2, grid=GRID, context=10, size=SIZE)
    del batch["target_patches"]
    batch["target_levels"] = rng.integers(0, 4, [2, 6, target_size, target_size])
    batch["original"] = rng.integers(0, 256, [2, 24, 24, 3], dtype=np.uint8)
    return batch


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_levels_fill_the_hidden_positions_as_greys(size, rng):
    batch = make_reconstruction(rng, size)
    images = figures.put_levels(batch, batch["target_levels"], GRID, 4)
    for b in range(2):
        for patch, position in zip(batch["context_patches"][b], batch["context_positions"][b]):
            np.testing.assert_array_equal(cell(images[b], position), patch)
        for levels, position in zip(batch["target_levels"][b], batch["target_positions"][b]):
            found = cell(images[b], position)
            for row, column, channel in np.ndindex(SIZE, SIZE, 3):
                expected = 85 * levels[row * size // SIZE, column * size // SIZE]
                assert found[row, column, channel] == expected


def test_reconstructions_have_a_column_per_step_and_three_more(rng):
    batch, widths = make_reconstruction(rng, 2), []
    for steps in (1, 3):
        file = io.BytesIO()
        predicted = {s: np.zeros([2, 6, 2, 2], int) for s in range(steps)}
        figures.draw_reconstruction(file, batch, predicted, GRID, 4)
        picture = Image.open(file)
        assert picture.format == "PNG"
        widths.append(picture.width)
    assert widths[1] == pytest.approx(widths[0] * 6 / 4, rel=0.02)


def test_curves_are_drawn():
    file = io.BytesIO()
    points = [{"step": s, "loss": 2.0 / s, "patch_accuracy": 0.1 * s} for s in range(1, 5)]
    baselines = {"loss": {"chance": 1.4}, "patch_accuracy": {"chance": 0.25, "another": 0.3}}
    figures.draw_curves(file, points, "patch_accuracy", baselines)
    pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20


def test_every_baseline_is_drawn_in_a_style_of_its_own(monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    points = [{"step": 1, "loss": 2.0, "accuracy": 0.1}]
    baselines = {"a": 0.1, "b": 0.2, "c": 0.3}
    figures.draw_curves(None, points, "accuracy", {"accuracy": baselines})
    _, *lines = saved[0].axes[1].lines
    assert {line.get_label(): line.get_ydata()[0] for line in lines} == baselines
    assert len({line.get_linestyle() for line in lines}) == 3


def test_more_curves_take_a_panel_each():
    points = [{"step": s, "loss": 2.0, "patch_accuracy": 0.1, "a_loss": 1.0} for s in (1, 2)]
    widths = []
    for more in ((), ("a_loss",)):
        file = io.BytesIO()
        figures.draw_curves(file, points, "patch_accuracy", {}, more)
        widths.append(Image.open(file).width)
    assert widths[1] == pytest.approx(widths[0] * 3 / 2, rel=0.02)


def test_probes_take_a_panel_with_the_accuracies_of_step_0(monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    points = [{"step": s, "loss": 2.0, "patch_accuracy": 0.1} for s in (1, 2)]
    probes = [
        {"step": 0, "knn_top1": 0.3, "linear_probe_top1": 0.4},
        {"step": 2, "knn_top1": 0.5, "linear_probe_top1": 0.6},
    ]
    figures.draw_curves(None, points, "patch_accuracy", {}, (), probes)
    figures.draw_curves(None, points, "patch_accuracy", {}, (), probes[1:])
    assert [len(figure.axes) for figure in saved] == [3, 3]
    drawn = [[list(line.get_ydata()) for line in figure.axes[2].lines] for figure in saved]
    assert drawn == [[[0.3, 0.5], [0.3, 0.3], [0.4, 0.6], [0.4, 0.4]], [[0.5], [0.6]]]
    assert len(saved[0].axes[1].lines) == 1


def legend_of(figure):
    """{name: (colour, marker, dash)}, as a reader finds it."""
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    return dict(zip(names, map(look, legend.get_lines()), strict=True))


def look(line):
    return line.get_color(), line.get_marker(), str(line._unscaled_dash_pattern)


def test_finetuning_curves_have_a_style_per_label_and_the_baseline_is_grey(monkeypatch):
    points = [{"step": s, "loss": 2.0 / s, "top1": 0.1} for s in range(1, 5)]
    tests = [{"step": s, "test_loss": 1.0 / s, "test_top1": 0.1 * s} for s in range(1, 5)]
    runs = [("$a^$", points, tests), ("_b", points[2:], tests), ("$a^$", points[1:], [])]
    file = io.BytesIO()
    figures.draw_finetuning(file, runs)
    Image.open(file).verify()

    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    for recipes in ((), ["$a^$", "_b"]):
        figures.draw_finetuning(None, runs, recipes=recipes)
    styles = [
        [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[:3]]
        for figure in saved
    ]
    for a, b, again in styles:
        assert a == again and a[0] != b[0] and a[1] != b[1]
    assert [found[0][0] == "0.45" for found in styles] == [False, True]
    for figure in saved:
        looks = [look(line) for line in figure.axes[1].lines[:2]]
        assert legend_of(figure) == dict(zip([r" \$a^\$", " _b"], looks, strict=True))


def test_one_recipe_is_named_and_a_run_without_a_label_needs_no_legend(monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    for label in ("scratch", ""):
        figures.draw_finetuning(None, [(label, [{"step": 1, "loss": 2.0}], [])])
    assert list(legend_of(saved[0])) == [" scratch"] and not saved[1].legends


@pytest.mark.parametrize("steps", [(2, 4), (4,), (1, 7), (250, 500, 12_500)])
def test_ticks_are_whole_steps(steps, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    points = [{"step": s, "loss": 2.0, "top1": 0.1} for s in steps]
    tests = [{"step": s, "test_loss": 1.0, "test_top1": 0.1} for s in steps]
    figures.draw_finetuning(None, [("", points, tests)])
    probes = [{"step": s, "knn_top1": 0.5, "linear_probe_top1": 0.6} for s in steps]
    figures.draw_curves(None, points, "top1", {}, (), probes)
    for axis in (axis for figure in saved for axis in figure.axes):
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks)


def test_finetuning_curves_show_the_accuracy_that_recipes_are_compared_by(monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    tests = [{"step": 3, "validation_top1": 0.5, "validation_balanced_accuracy": 0.2}]
    for metric in ("top1", "balanced_accuracy"):
        figures.draw_finetuning(None, [("", [], tests)], "validation", metric=metric)
    axes = [figure.axes[2] for figure in saved]
    assert [list(axis.lines[0].get_ydata()) for axis in axes] == [[50], [20]]
    names = ["validation accuracy (%)", "validation balanced accuracy (%)"]
    assert [axis.get_ylabel() for axis in axes] == names


def test_recipes_differ_in_greyscale_too_and_many_have_looks_of_their_own(monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    runs = [(str(i), [], [{"step": 1, "test_top1": 0.5}]) for i in range(30)]
    figures.draw_finetuning(None, runs)
    figures.draw_finetuning(None, runs, recipes=[label for label, *_ in runs])
    for figure in saved:
        looks = [look(line) for line in figure.axes[2].lines]
        assert len(set(looks)) == 30
        # The lightness of the first six, as a grey print shows it.
        colors = [to_rgb(color) for color, *_ in looks]
        greys = sorted(255 * np.dot(color, [0.299, 0.587, 0.114]) for color in colors[:6])
        assert min(np.diff(greys)) > 15 and greys[-1] < 200
    # Of the last figure, that of a plan: no other recipe is taken for the baseline.
    assert [len(set(color)) == 1 for color in colors] == [True] + 29 * [False]


def lines_of(recipe, difference=None):
    counts = (3, 3, 0)  # of pretrainings, finetunings, and those that diverged
    return [Line(recipe, "", 0.5, 0.02, *counts, images, "a", difference) for images in (500, 2500)]


def test_a_recipe_looks_the_same_in_all_figures_of_a_summary(rng, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    recipes, found = ["a", "b", "c", "d"], {}
    for shown in (recipes, ["b", "d"], ["d"]):
        runs = [(recipe, [{"step": 1, "loss": 2.0}], []) for recipe in shown]
        figures.draw_finetuning(None, runs, recipes=recipes)
        figures.draw_label_fractions(None, {r: lines_of(r) for r in shown}, recipes)
        dots = {"1%": {recipe: rng.random([3, 2]) for recipe in shown}}
        figures.draw_pretext_and_downstream(None, dots, "patch accuracy", recipes)
        for figure in saved[-3:]:
            legend = legend_of(figure)
            assert list(legend) == [f" {recipe}" for recipe in shown]
            caps = ("_", "|")  # of error bars
            lines = [line for line in figure.axes[0].lines if line.get_marker() not in caps]
            assert [line.get_color() for line in lines] == [color for color, *_ in legend.values()]
            for name, (color, marker, _) in legend.items():
                found.setdefault(name, set()).add((color, marker))
    assert [len(looks) for looks in found.values()] == [1, 1, 1, 1]
    assert len(set.union(*found.values())) == 4


@pytest.mark.parametrize(
    "panels, rows, columns", [(1, 1, 1), (2, 1, 2), (3, 2, 2), (4, 2, 2), (5, 3, 2)]
)
def test_the_legend_of_the_dots_covers_nothing(panels, rows, columns, rng, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    recipes = ["scratch", *(f"located-enlarge-instance-{i}" for i in range(7))]
    points = {
        f"{i}%": {recipe: rng.random([20, 2]) for recipe in recipes[1:]} for i in range(panels)
    }
    figures.draw_pretext_and_downstream(None, points, "patch accuracy", recipes)
    (figure,) = saved
    figure.draw_without_rendering()
    assert len(figure.axes) == panels and figure.get_size_inches()[0] <= 8
    places = [axis.get_position() for axis in figure.axes]
    assert len({round(p.x0, 3) for p in places}) == columns
    assert len({round(p.y0, 3) for p in places}) == rows
    assert list(legend_of(figure)) == [f" {recipe}" for recipe in recipes[1:]]
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0
    for axis in figure.axes:
        assert axis.get_legend() is None
        assert not box.overlaps(axis.get_tightbbox())  # with its labels
        for line in axis.lines:
            dots = axis.transData.transform(line.get_xydata())
            assert axis.bbox.count_contains(dots) == 20 and box.count_contains(dots) == 0


def test_differences_name_their_baseline_with_a_minus_sign(monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    gain = Difference(0.05, 0.01, None, 3, 3)
    figures.draw_label_fractions(None, {"a": lines_of("a"), "b": lines_of("b", gain)}, ["a", "b"])
    left, right = saved[0].axes
    assert left.get_ylabel() == "accuracy (%)"
    assert right.get_ylabel() == "recipe \N{MINUS SIGN} a (points)"
    (drawn,) = (line for line in right.lines if line.get_marker() == "o")
    assert list(drawn.get_ydata()) == [5, 5]


@pytest.mark.parametrize("count", [3, 40])
def test_a_confusion_matrix_is_drawn_row_by_row(count):
    matrix = np.zeros([count, count], int)
    matrix[0, 1], matrix[1, 1] = 5, 9  # every other class without an image
    file = io.BytesIO()
    figures.draw_confusion(file, matrix, [f"$a^{i}$" for i in range(count)])  # no formulas
    pixels = np.asarray(Image.open(file).convert("RGB"))
    dark = (pixels == [8, 48, 107]).all(-1)  # all of a class's images
    rows, columns = np.nonzero(dark[:, : pixels.shape[1] * 3 // 4])
    assert rows.min() < rows.max() and len(rows) > 20


def test_sizes_that_are_almost_the_same_are_one_dot():
    content = io.BytesIO()
    figures.draw_sizes(content, {(1, 4000): 1, (300, 200): 900, (301, 200): 99}, 64, kind="svg")
    dots = content.getvalue().decode().partition("PathCollection_1")[2].partition("<g id=")[0]
    assert dots.count("<path") == 2
