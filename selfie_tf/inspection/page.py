"""The page of an inspection."""

import collections
import os

import numpy as np

from selfie_tf import figures
from selfie_tf.inspection import words
from selfie_tf.inspection.report import Inspection
from selfie_tf.pages import page

_SHEET = 40  # images on the contact sheet
_GROUPS = 24  # groups of copies with pictures
_MEMBERS = 8  # pictures per group
_LISTED = 50  # rows of a list; inspect.json has all
_SIDE = 160  # pixels that a picture of patches has at least


def make_page(inspection: Inspection) -> str:
    """Makes the HTML page."""
    report, seen = inspection.report, inspection.seen
    names = [row["class"] for row in report["classes"]]
    sheet = contact_sheet(seen, _SHEET)
    groups = [group.images[:_MEMBERS] for group in inspection.groups[:_GROUPS]]
    wanted = {*sheet, *(i for members in groups for i in members)}
    thumbnails = {
        i: page.thumbnail(image) for i, image in inspection.images.read(sorted(wanted)).items()
    }

    def label(i):
        return names[seen[i].label] if seen[i].label >= 0 else ""

    def item(i, caption):
        image = seen[i]
        alt = f"{image.id}, {image.width} by {image.height} pixels"
        return {"picture": thumbnails[i], "alt": alt, "caption": caption}

    def copy(i):
        about = ["held out" if seen[i].held_out else "training", label(i)]
        return item(i, f"{', '.join(filter(None, about))}: {seen[i].id}")

    sizes = collections.Counter((i.width, i.height) for i in seen if not i.error)
    warnings, facts = words.findings(report)
    return page.render(
        "inspect.html",
        f"Images of {report['data']}",
        report=report,
        warnings=warnings,
        facts=facts,
        megabytes=words.number(report["bytes"] / 1e6),
        step=words.number(report["config"]["seconds_per_step"]),
        hours=words.hours(report["config"]["hours"]),
        contact=[item(i, label(i) or os.path.basename(seen[i].id)) for i in sheet],
        patches=patch_rows(inspection.batch, inspection.config.grid),
        sizes=page.drawn(figures.draw_sizes, sizes, report["config"]["image_size"]),
        tables=_tables(report),
        classes=sorted(report["classes"], key=lambda row: -row["training"])[:_LISTED],
        most=max((row["training"] + row["held_out"] for row in report["classes"]), default=0),
        groups=[
            {**found, "items": [copy(i) for i in shown], "more": len(found["images"]) - len(shown)}
            for found, shown in zip(report["duplicates"]["groups"], groups)
        ],
    )


def _tables(report):
    """{name: rows of cells}."""
    sizes, config = report["sizes"], report["config"]
    return {
        "quantile_names": ["", *next(iter(sizes["quantiles"].values()))],
        "quantiles": [
            [name, *map(words.number, values.values())]
            for name, values in sizes["quantiles"].items()
        ],
        "frequent": [
            [f"{row['width']}×{row['height']}", f"{row['images']:,}"] for row in sizes["frequent"]
        ],
        "kinds": [
            [title, [[name, f"{count:,}"] for name, count in report[key].items()]]
            for key, title in (("formats", "format"), ("modes", "mode"), ("notes", "with"))
            if report[key]
        ],
        "smallest": [
            [row["path"], f"{row['width']}×{row['height']}"] for row in config["smallest"]
        ],
        "copies": [
            [name, f"{kind['groups']:,}", f"{kind['superfluous_images']:,}"]
            for name, kind in report["duplicates"]["kinds"].items()
        ],
        "unreadable": [
            [file["path"], file["reason"]] for file in report["unreadable"]["files"][:_LISTED]
        ],
    }


def contact_sheet(seen: list, count: int) -> list:
    """Chooses readable images at random, of as many classes as possible: their positions."""
    order = [int(i) for i in np.random.default_rng(0).permutation(len(seen))]
    order = [i for i in order if not seen[i].error]
    met, ranks = collections.Counter(), {}
    for i in order:
        ranks[i] = met[seen[i].label]
        met[seen[i].label] += 1
    chosen = sorted(order, key=ranks.get)[:count]
    return sorted(chosen, key=lambda i: (seen[i].label, i))


def patch_rows(batch: dict, grid: int) -> list:
    """Pictures of a model's input, as dicts with a title and items of a sheet.

    Args:
      batch: See `methods.Method.make_input` and `make_views`, with a batch dimension.
      grid: Patches per side.
    """
    rows = {}
    if "target_patches" in batch:
        rows["cut into patches"] = _apart(figures.original(batch, grid), grid)
        rows["hidden patches in grey"] = _apart(figures.arrange(batch, None, grid), grid)
    else:
        hidden = batch["target_positions"].shape
        blank = np.zeros([*hidden, *batch["context_patches"].shape[2:]], np.uint8)
        visible = figures.arrange({**batch, "target_patches": blank}, None, grid)
        rows["hidden patches in grey"] = _apart(visible, grid)
        levels = batch["target_levels"]
        filled = figures.put_levels(batch, levels, grid, int(levels.max()) + 1)
        rows["with the grey levels to predict"] = _apart(filled, grid)
    for k in range(batch["views"].shape[1] if "views" in batch else 0):
        rows[f"view {k + 1}, for the instance loss"] = _apart(batch["views"][:, k], 1)
    return [
        {
            "title": title[0].upper() + title[1:],
            "items": [
                {
                    "picture": page.thumbnail(image, len(image)),
                    "alt": f"training image {i}, {title}",
                    "caption": "",
                }
                for i, image in enumerate(images, 1)
            ],
        }
        for title, images in rows.items()
    ]


def _apart(images, grid):
    """Enlarges small images `[B, S, S, 3]` by a whole factor, with white lines between patches."""
    scale = -(-_SIDE // images.shape[1])
    images = images.repeat(scale, 1).repeat(scale, 2)
    size = images.shape[1] // grid
    for k in range(size, images.shape[1], size):
        images[:, k - 1 : k + 1] = 255
        images[:, :, k - 1 : k + 1] = 255
    return images
