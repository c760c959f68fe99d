"""The documentation as a site: `make docs` builds it into build/docs."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(HERE, "_ext")]

import selfie_tf  # noqa: E402

project = "selfie_tf"
author = "The selfie_tf authors"
project_copyright = author
version = release = selfie_tf.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "reference",  # _ext/reference.py
]
exclude_patterns = ["_ext"]

# Markdown
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3

highlight_language = "sh"

# Docstrings: the Google style, with `single backticks` around code.
default_role = "code_or_link"
add_module_names = False
autodoc_inherit_docstrings = False  # else Keras's own docstrings, in a markup of their own
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpick_ignore_regex = [
    # Types of other packages, and what napoleon takes for a type. No inventory is fetched.
    (r"py:.*", r"(tf|tensorflow|keras|tf_keras|np|numpy)\..*"),
    (r"py:.*", r"(collections|concurrent|typing|types|PIL|abc)\..*"),
    (r"py:class", r"(optional|sequence|array|callable|file)"),
]

# Pages
html_theme = "furo"
html_title = f"selfie_tf {version}"
html_static_path = ["_static"]
html_css_files = ["selfie.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#8a2be2",
        "color-brand-content": "#6d28d9",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
    },
    "dark_css_variables": {
        "color-brand-primary": "#c4a1ff",
        "color-brand-content": "#c4a1ff",
    },
}
