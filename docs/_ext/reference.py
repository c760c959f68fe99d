"""A Sphinx extension: pages that are made from the code, and links from `code` in docstrings.

Before the sources are read it writes docs/reference: every config key, the help of every command,
and a page of the API per package; and copies the pages of the root that are part of the site.
"""

import contextlib
import importlib
import io
import os
import pkgutil
import re

from docutils import nodes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
API = {  # page: packages and modules whose docstrings are on it
    "selfie_tf": "The package: pretrain, finetune, load and export from a script.",
    "selfie_tf.config": "Every value of a run, as dataclasses.",
    "selfie_tf.methods": "The pretext tasks.",
    "selfie_tf.training": "Runs: the loop, building models, loading them, their pages.",
    "selfie_tf.data": "Sources of images, preparing datasets, crops, augmentation, batches.",
    "selfie_tf.models": "The Keras models.",
    "selfie_tf.layers": "The Keras layers.",
    "selfie_tf.patches": "Cutting images into patches.",
    "selfie_tf.losses": "Losses and accuracies.",
    "selfie_tf.optimizers": "Optimizers and the learning-rate schedule.",
    "selfie_tf.evaluation": "Evaluating, comparing, exporting runs; predictions, features, maps.",
    "selfie_tf.inspection": "Looking at images before training.",
    "selfie_tf.experiments": "Plans of many runs, and what they found.",
    "selfie_tf.errors": "What is raised for a user to mend.",
}


def write_pages(app, _=None) -> None:
    """Writes the pages that are made; one whose text is the same keeps its time."""
    pages = {
        "contributing.md": root_page("CONTRIBUTING.md"),
        "changelog.md": root_page("CHANGELOG.md"),
        "reference/config.md": config_page(),
        "reference/commands.md": commands_page(),
        "reference/api.rst": api_index(),
        **{f"reference/{name}.rst": api_page(name) for name in API},
    }
    os.makedirs(os.path.join(app.srcdir, "reference"), exist_ok=True)
    for name in os.listdir(os.path.join(app.srcdir, "reference")):
        if f"reference/{name}" not in pages:
            os.remove(os.path.join(app.srcdir, "reference", name))
    for name, text in pages.items():
        path = os.path.join(app.srcdir, name)
        if os.path.exists(path):
            with open(path) as file:
                if file.read() == text:
                    continue
        with open(path, "w") as file:
            file.write(text)


# Pages outside of docs/, whose links are right where they are

_OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def root_page(name: str) -> str:
    """A page of the repository's root as one of docs/."""
    with open(os.path.join(ROOT, name)) as file:
        text = file.read().replace("](docs/", "](")
    for outside, inside in _OUTSIDE.items():
        text = text.replace(f"]({outside}", f"]({inside}")
    return text


def mend_source(app, docname, source) -> None:
    """Lets links to pages of the root find their copies, and keeps "77 %" on one line."""
    source[0] = re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", source[0])
    for outside, inside in _OUTSIDE.items():
        source[0] = source[0].replace(f"](../{outside}", f"]({inside}")


# Config keys


def config_page() -> str:
    """Every key of every kind of config: its defaults, bounds and meaning."""
    from selfie_tf import config

    kinds = {
        "Selfie": config.SelfieConfig(),
        "PatchFormer": config.PatchFormerConfig(),
        "finetuning": config.FinetuneConfig(),
    }
    sections = {}  # {section: {(key, meaning): {kind: Key}}}
    for kind, values in kinds.items():
        for key in config.keys(values):
            section = sections.setdefault(key.name.rpartition(".")[0], {})
            section.setdefault((key.name, key.help), {})[kind] = key
    lines = [
        "# Configuration keys",
        "",
        "Every value of a run. The defaults are the papers' numbers. A config file changes some of",
        "them, and `--config.SECTION.KEY=VALUE` changes one. A key that only some kinds of runs",
        "have is followed by their names, and so is a default that differs between them.",
        "",
        "`selfie-tf pretrain --config=NAME --help` prints the list with the values of a config.",
        "",
    ]
    for section, keys in sections.items():
        lines += [f"## {section}" if section else "## The run", ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        names = [name for name, _ in keys]
        for (name, meaning), found in sorted(keys.items(), key=lambda x: names.index(x[0][0])):
            only = "" if len(found) == len(kinds) else f"<br>{', '.join(found)}"
            about = f"{_cell(meaning)} {_allowed(next(iter(found.values())))}"
            lines.append(f"| `{name}`{only} | {_defaults(found)} | {about.strip()} |")
        lines.append("")
    return "\n".join(lines)


def _defaults(found: dict) -> str:
    """The defaults of a key: one, or that of each kind of run."""
    values = {}
    for kind, key in found.items():
        values.setdefault(f"`{key.value}`" if key.value != "" else "empty", []).append(kind)
    if len(values) == 1:
        return next(iter(values))
    return "<br>".join(f"{value} ({', '.join(kinds)})" for value, kinds in values.items())


def _allowed(key) -> str:
    if key.choices:
        named = all(choice in key.help for choice in key.choices)
        return "" if named else f"*{', '.join(key.choices)}.*"
    if key.low is None:
        return ""
    high = key.high is not None and key.high != float("inf")
    return f"*{key.low:,} to {key.high:,}.*" if high else f"*At least {key.low:,}.*"


def _cell(text: str) -> str:
    return text.replace("*", "\\*").replace("|", "\\|").replace("\n", " ")


# Commands


def commands_page() -> str:
    """The help of every command, as the command line prints it, without the config's keys."""
    from selfie_tf import cli

    os.environ["COLUMNS"] = "84"  # not as wide as the terminal happens to be
    lines = [
        "# Commands",
        "",
        "What `--help` prints, but for the keys of the config, which are on",
        "[a page of their own](config.md).",
        "",
    ]
    for name in cli.COMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            cli.main([name, "--help"])
        text = printed.getvalue().partition("\nConfig keys, given as")[0]
        lines += [f"## selfie-tf {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


# API


def api_index() -> str:
    lines = ["API", "===", "", ".. toctree::", "   :hidden:", ""]
    lines += [f"   {name}" for name in API]
    lines += ["", ".. list-table::", "   :widths: 30 70", ""]
    for name, about in API.items():
        lines += [f"   * - :doc:`{name}`", f"     - {about}"]
    return "\n".join([*lines, ""])


def api_page(name: str) -> str:
    """A page with the docstrings of a module, or of a package's modules."""
    package = importlib.import_module(name)
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", ""]
    if name == "selfie_tf":
        functions = [f for f in package.__all__ if callable(getattr(package, f))]
        return "\n".join([*lines, *(f".. autofunction:: selfie_tf.{f}" for f in functions), ""])
    if not hasattr(package, "__path__"):
        return "\n".join([*lines[:-1], "   :members:", ""])
    lines += [f".. autofunction:: {name}.{f}" for f in _own_functions(package)] + [""]
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        full = f"{name}.{module.name}"
        lines += [full, "-" * len(full), "", f".. automodule:: {full}", "   :members:", ""]
    return "\n".join(lines)


def _own_functions(package):
    """Functions that a package defines in its own __init__."""
    return [
        name
        for name, value in vars(package).items()
        if callable(value) and getattr(value, "__module__", "") == package.__name__
        if not name.startswith("_")
    ]


# Docstrings

_NAME = re.compile(r"[A-Za-z_][\w.]*")


def code_or_link(name, rawtext, text, lineno, inliner, options=None, content=()):
    """The role of `text`: code, and a link where it is the name of something documented."""
    node = nodes.literal(rawtext, text, classes=["code"])
    node["reftext"] = text
    return [node], []


def link_names(app, doctree, docname) -> None:
    """Turns literals that name something documented into links to it."""
    for node in list(doctree.findall(nodes.literal)):
        text = node.get("reftext", "")
        # A plain word is an argument, not a name to be looked up.
        if _NAME.fullmatch(text) and ("." in text or text[0].isupper()):
            link = _link(app, docname, text)
            if link is not None:
                node.replace_self(link)
                link += node


def find_type(app, env, node, content):
    """Finds a type that a docstring names by its last part, as in `Raises: UserError`."""
    if node.get("refdomain") != "py":
        return None
    link = _link(app, node.get("refdoc", ""), node["reftarget"])
    if link is not None:
        link += content
    return link


def _link(app, docname, text):
    """A link to the only thing documented whose name ends in `text`, else None."""
    found = {
        full
        for full in app.env.domains["py"].objects
        if full == text or full.endswith(f".{text}") or _shortened(full).endswith(f".{text}")
    }
    if len(found) != 1:
        return None
    full = found.pop()
    entry = app.env.domains["py"].objects[full]
    uri = app.builder.get_relative_uri(docname, entry.docname) + "#" + entry.node_id
    return nodes.reference("", "", internal=True, refuri=uri, reftitle=full)


def _shortened(full):
    """selfie_tf.config.base.SelfieConfig as docstrings say it: .config.SelfieConfig."""
    parts = full.split(".")
    return ".".join(["", parts[1], *parts[3:]]) if len(parts) > 3 else ""


# Names of arguments that fill more than a line.
_NAMES = re.compile(r"^(  \w+(?:, \w+)*),\n  (?=\w+(?:, \w+)*[,:])", re.M)
_ATTRIBUTES = re.compile(r"^Attributes:\n(?:  .*\n?)+", re.M)


def _split_names(section) -> str:
    """An entry "a, b: ..." as two, which napoleon does for arguments but not for attributes."""

    def split(entry):
        return "\n".join(f"  {name}: {entry[2]}" for name in entry[1].split(", "))

    return re.sub(r"^  (\w+(?:, \w+)+): (.*(?:\n    .*)*)", split, section[0], flags=re.M)


_plain = {}  # docstrings of properties, which napoleon would take for "type: meaning"


def mend(app, what, name, obj, options, lines) -> None:
    """Turns what our docstrings mean into what reStructuredText can read; runs before napoleon."""
    text, before = [], ""
    for line in lines:
        # An indented block after a blank line is code: a command, or Python.
        if line.startswith("    ") and not text[-1] and before[:1].strip() and before[-2:] != "::":
            command = line.strip().startswith(("python ", "selfie-tf "))
            text += [f".. code-block:: {'sh' if command else 'python'}", ""]
        # `Hook`s: a role must end at the end of a word, and "\\ " is such an end.
        text.append(re.sub(r"(?<!`)(`[^`]+`)(?!`)", r"\1\\ ", line))
        before = line or before
    text = _NAMES.sub(r"\1, ", "\n".join(text))
    lines[:] = _ATTRIBUTES.sub(_split_names, text).split("\n")
    if what in ("property", "attribute") and "Returns:" not in text:
        _plain[name] = list(lines)


def restore(app, what, name, obj, options, lines) -> None:
    """After napoleon: properties as they were."""
    if name in _plain:
        lines[:] = _plain.pop(name)


def setup(app) -> dict:
    app.add_role("code_or_link", code_or_link)
    app.connect("config-inited", write_pages)
    app.connect("source-read", mend_source)
    app.connect("autodoc-process-docstring", mend, priority=100)
    app.connect("autodoc-process-docstring", restore, priority=900)
    app.connect("missing-reference", find_type)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
