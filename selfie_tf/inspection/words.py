"""What an inspection found, in sentences and as a table for the terminal."""

import json

_LOOK = " Similar ones may be different images: look at them before you remove any."
_GROUPS = 5  # groups of copies in the terminal


def findings(report: dict) -> tuple:
    """What matters before training, as two lists of sentences: warnings, and the rest.

    Args:
      report: See `report.Inspection`.
    """
    warnings, facts = [], []
    total, config, copies = report["images"], report["config"], report["duplicates"]
    if report["looked_at"] < total:
        warnings.append(
            f"Only {report['looked_at']:,} of {total:,} images were looked at, evenly spread: "
            "copies of the others were not found."
        )
    count = report["unreadable"]["count"]
    if count:
        budget = report["suggestion"]["values"].get("data.corrupt_budget")
        end = "Training leaves them out."
        if budget:
            end = (
                "Training would stop at them: repair or remove them, or let it leave them out "
                f"with --config.data.corrupt_budget={budget}."
            )
        warnings.append(
            f"{count:,} of {report['looked_at']:,} files ({count / report['looked_at']:.2%}) "
            f"cannot be read. {end}"
        )
    leaked = copies["held_out_with_copy_in_training"]
    if leaked:
        warnings.append(
            f"Held-out images with a copy or a similar image among the training images: "
            f"{leaked:,} of {report['held_out']:,}. Copies fake accuracy: a network that has seen "
            "an image recognises its copy. Look at them, and remove one of each two copies."
        )
    if copies["groups_with_different_classes"]:
        warnings.append(
            f"Groups of copies with images of different classes: "
            f"{copies['groups_with_different_classes']:,}. Some of these labels must be wrong."
        )
    superfluous = sum(kind["superfluous_images"] for kind in copies["kinds"].values())
    if superfluous:
        facts.append(
            f"Images that are copies of another one: {superfluous:,} ("
            + ", ".join(
                f"{kind['superfluous_images']:,} {name}"
                for name, kind in copies["kinds"].items()
                if kind["superfluous_images"]
            )
            + ")."
            + _LOOK * bool(copies["kinds"]["similar"]["superfluous_images"])
        )
    else:
        facts.append("No copies were found.")
    if config["too_small"]:
        readable = report["looked_at"] - count
        sentence = (
            f"{config['too_small']:,} of {readable:,} images are smaller than the "
            f"{config['image_size']} pixels of the config, and would be enlarged."
        )
        (warnings if config["too_small"] > readable / 2 else facts).append(sentence)
    classes = report["classes"]
    if classes:
        counts = [row["training"] for row in classes]
        span = f"{min(counts):,} to " if min(counts) < max(counts) else ""
        facts.append(f"{len(classes):,} classes with {span}{max(counts):,} training images each.")
        empty = [row["class"] for row in classes if not row["held_out"]]
        if empty:
            facts.append(
                f"Classes without a held-out image: {len(empty):,}, such as {_quoted(empty[0])}."
            )
        if max(counts) > 10 * max(min(counts), 1):
            least = min(classes, key=lambda row: row["training"])
            warnings.append(
                f"The classes are out of balance: {_quoted(least['class'])} has "
                f"{least['training']:,} training images, the largest {max(counts):,}."
            )
    else:
        facts.append(f"There are no labels: {report['no_labels']}. Pretraining needs none.")
    facts.append(
        f"Training with {config['name']} would take {hours(config['hours'])} on this machine "
        f"({config['steps']:,} steps of {config['batch_size']:,} images, "
        f"{config['seconds_per_step']:.3g} s each; reading the images not counted)."
    )
    return warnings, facts


def hours(value: float) -> str:
    """A duration in a unit that suits it."""
    if value < 1:
        return f"{60 * value:.0f} minutes"
    return f"{value:.1f} hours" if value < 72 else f"{value / 24:,.0f} days"


def table(report: dict) -> str:
    """The inspection for the terminal."""
    lines = [
        f"{report['data']}: {report['images']:,} images, {report['training']:,} to train on, "
        f"{report['held_out']:,} held out",
        "",
    ]
    quantiles = report["sizes"]["quantiles"]
    names = list(next(iter(quantiles.values())))
    lines.append(f"{'':27}" + "".join(f"{name:>11}" for name in names))
    for name, values in quantiles.items():
        lines.append(f"{name:27}" + "".join(f"{number(x):>11}" for x in values.values()))
    kinds = [name for name in ("formats", "modes", "notes") if report[name]]
    lines += [""] if kinds else []
    for name in kinds:
        found = ", ".join(f"{count:,} {kind}" for kind, count in report[name].items())
        lines.append(f"{name + ':':10}{found}")
    if report["classes"]:
        rows = sorted(report["classes"], key=lambda row: row["training"])
        shown = rows if len(rows) <= 20 else [*rows[:5], None, *rows[-5:]]
        width = max(len(_quoted(row["class"])) for row in shown if row)
        lines += ["", f"{'class':{width}}  training  held out"]
        for row in shown:
            if row is None:
                lines.append(f"... and {len(rows) - 10:,} classes between")
                continue
            lines.append(
                f"{_quoted(row['class']):{width}}  {row['training']:8,}  {row['held_out']:8,}"
            )
    lines.append("")
    for reason, count in report["unreadable"]["reasons"].items():
        lines.append(f"unreadable: {count:,} ({reason})")
    for group in report["duplicates"]["groups"][:_GROUPS]:
        where = [
            f"{_quoted(image['path'])} ({'held out' if image['held_out'] else 'training'})"
            for image in group["images"][:3]
        ]
        more = ", ..." if len(group["images"]) > 3 else ""
        lines.append(f"copies, {group['kind']}: {', '.join(where)}{more}")
    more = len(report["duplicates"]["groups"]) - _GROUPS
    if more > 0:
        lines.append(f"... and groups of copies that are not shown here: {more:,}")
    warnings, facts = findings(report)
    lines += [] if lines[-1] == "" else [""]
    lines += [*(f"Warning: {sentence}" for sentence in warnings), *facts]
    lines += ["", "A config to begin with:", f"  {report['suggestion']['command']}"]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _quoted(name):
    """A name on one line, in quotes where it needs them."""
    return name if name.isprintable() and name == name.strip() else json.dumps(name)
