"""The text of --help."""

import inspect
import itertools
import textwrap

import selfie_tf
from selfie_tf.cli import config_files
from selfie_tf.config import keys

_LONGEST = 34  # characters of the left column; what is longer gets a line of its own


def overview(commands, width: int) -> str:
    """The help of `selfie-tf` itself.

    Args:
      commands: `common.Command`s, in order.
      width: Characters per line.
    """
    rows = [(command.name, command.text.partition("\n")[0]) for command in commands]
    return "\n".join(
        [
            selfie_tf.__doc__.partition("\n")[0],
            "",
            "    selfie-tf COMMAND --FLAG=VALUE ...",
            "    selfie-tf COMMAND --help",
            "",
            "Commands:",
            *_table(rows, width),
        ]
    )


def command_help(command, arguments, width: int) -> str:
    """The help of a command: what it does, its flags, and the keys of its config.

    Args:
      command: The `common.Command`.
      arguments: The parsed `common.Arguments`.
      width: Characters per line.
    """
    values = arguments.flags
    rows = [] if arguments.config is None else [_config_row(command)]
    for name in values:
        of_config = arguments.config is not None and name.startswith("config")
        if name == values[name].name and not of_config:  # no short names
            rows.append((_with_default(values[name]), values[name].help))
    lines = [*_paragraphs(command.text, width), "", "Flags, with their defaults:"]
    lines += _table(rows, width)
    if arguments.config is not None:
        words = f"Config keys, given as --config.KEY=VALUE, in {arguments.config_name}:"
        lines += ["", *textwrap.wrap(words, width)]
        lines += _config_table(arguments.config, width)
    return "\n".join(lines)


def _config_row(command):
    names = ", ".join(config_files.known(command.kind))
    words = f"Path of a config file, or the name of one that comes with the package: {names}."
    return f"--config={command.config}", words


def _with_default(flag):
    if flag.boolean and not flag.default:
        return f"--{flag.name}"
    default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    return f"--{flag.name}={'' if default is None else default}"


def _config_table(config, width):
    """The keys, with an empty line between two sections."""
    rows = {}
    for key in keys(config):
        value = f"{key.value:g}" if key.type is float else key.value
        words = key.help
        if not all(choice in words for choice in key.choices):
            words += f" One of {', '.join(key.choices)}."
        rows.setdefault(key.name.rpartition(".")[0], []).append((f"{key.name}={value}", words))
    column = _column(list(itertools.chain(*rows.values())), width)
    lines = []
    for section in rows.values():
        lines += [*_table(section, width, column), ""]
    return lines[:-1]


def _column(rows, width):
    """Where the right column begins."""
    return 4 + min(max(len(left) for left, _ in rows), _LONGEST, width // 2 - 4)


def _table(rows, width, column=None):
    """Two aligned columns, of which the right one is wrapped."""
    column = column or _column(rows, width)
    lines = []
    for left, right in rows:
        words = textwrap.wrap(right, max(width - column, 20)) or [""]
        if len(left) + 4 > column:
            lines.append(f"  {left}")
            lines += [" " * column + line for line in words]
        else:
            lines.append(f"  {left}".ljust(column) + words[0])
            lines += [" " * column + line for line in words[1:]]
    return [line.rstrip() for line in lines]


def _paragraphs(text, width):
    """Wraps what is not indented."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ""
        if paragraph.startswith(" "):
            yield from paragraph.splitlines()
        else:
            yield from textwrap.wrap(paragraph, width)
