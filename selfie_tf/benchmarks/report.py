"""The results of a benchmark as a table, and beside those of another time."""

import json

from selfie_tf.errors import UserError


def read(path: str) -> dict:
    """Reads what an earlier benchmark printed as JSON.

    Raises:
      UserError: If it is not that.
    """
    try:
        with open(path) as file:
            result = json.load(file)
    except OSError as error:
        raise UserError(f"--compare={path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--compare={path}: not JSON ({error})") from error
    if not isinstance(result, dict) or "batch_size" not in result:
        raise UserError(f"--compare={path}: not what selfie-tf benchmark --json prints")
    return result


def compare(new: dict, old: dict) -> dict:
    """Divides all numbers of a result by those of an older one.

    Args:
      new, old: Results of a benchmark.

    Returns:
      {"float32.step_images_per_second": new / old, ...} of all numbers that both have; those that
      are 0 in the older one are left out.
    """
    new, old = _flat(new), _flat(old)
    return {
        name: value / old[name]
        for name, value in new.items()
        if _is_number(value) and _is_number(old.get(name)) and old[name]
    }


def table(result: dict, ratios: dict | None = None) -> str:
    """Draws a result for reading.

    Args:
      result: A benchmark's.
      ratios: See `compare`; they follow the numbers in brackets.

    Returns:
      Lines. Dicts are sections, and rows of a table where they are alike.
    """
    return "\n".join(_section(result, ratios or {}, "", ""))


def _section(values, ratios, prefix, indent):
    names = [_words(name) for name, value in values.items() if not _is_nested(value)]
    width = max(map(len, names), default=0)
    for name, value in values.items():
        key = f"{prefix}{name}"
        if not _is_nested(value):
            yield f"{indent}{_words(name):{width}}  {_cell(value, ratios.get(key))}"
    for name, value in values.items():
        if not _is_nested(value) or not value:
            continue
        yield f"{indent}{_words(name)}"
        children = _children(value)
        rows = list(children.values())
        if all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
            yield from _rows(children, ratios, f"{prefix}{name}.", indent + "  ")
        else:
            yield from _section(children, ratios, f"{prefix}{name}.", indent + "  ")


def _rows(rows, ratios, prefix, indent):
    columns = list(next(iter(rows.values())))
    lines = [["", *map(_words, columns)]]
    for name, row in rows.items():
        cells = [_cell(row[c], ratios.get(f"{prefix}{name}.{c}")) for c in columns]
        lines.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *cells in lines:
        right = "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True))
        yield f"{indent}{first:{widths[0]}}  {right}"


def _flat(values, prefix=""):
    found = {}
    for name, value in values.items():
        if _is_nested(value):
            found |= _flat(_children(value), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _children(value):
    """The entries of a dict or list by name; those with a number of replicas by that number."""
    if isinstance(value, dict):
        return value
    return {str(v.get("replicas", i) if isinstance(v, dict) else i): v for i, v in enumerate(value)}


def _is_nested(value):
    return isinstance(value, dict | list)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(name):
    return name.replace("_", " ")


def _cell(value, ratio):
    if not _is_number(value):
        return str(value)
    shown = f"{value:,}" if isinstance(value, int) else _short(value)
    return shown if ratio is None else f"{shown} ({ratio:.2f})"


def _short(value):
    """Four digits, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
