"""HTML pages in one file, which open from disk without a network."""

import base64
import datetime
import io

import jinja2
import numpy as np

import selfie_tf


def render(template: str, title: str, **values) -> str:
    """Makes a page from a template of this package.

    Everything is escaped. The page's own policy lets it load nothing from elsewhere.

    Args:
      template: File name of a template that extends "base.html".
      title: The page's title and heading.
      **values: What the template names.

    Raises:
      jinja2.UndefinedError: If the template names a value that is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selfie_tf", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = "{:,}".format
    environment.filters["percent"] = "{:.1%}".format
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    page = environment.get_template(template)
    return page.render(title=title, version=selfie_tf.__version__, made=made, **values)


def picture(content: bytes, kind: str) -> str:
    """Returns a picture as the URI of an <img>.

    Args:
      content: The picture's file.
      kind: "png", "jpeg" or "svg".
    """
    kind = "svg+xml" if kind == "svg" else kind
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def drawn(draw, *args, **options) -> str:
    """Returns what a function of `figures` draws, as SVG, for an <img>.

    Args:
      draw: Its first parameter is the file, and it takes `kind`.
      *args, **options: Its other parameters.
    """
    content = io.BytesIO()
    draw(content, *args, kind="svg", **options)
    return picture(content.getvalue(), "svg")


def thumbnail(image: np.ndarray, side: int = 96, quality: int = 85) -> str:
    """Returns an image as a small JPEG, for an <img>.

    Args:
      image: uint8 `[H, W, 3]`.
      side: Length of the longer side in pixels, at most.
      quality: Of the JPEG, 1 to 95.
    """
    from PIL import Image  # not needed to render a page

    small, content = Image.fromarray(image), io.BytesIO()
    small.thumbnail((side, side))
    small.save(content, "JPEG", quality=quality)
    return picture(content.getvalue(), "jpeg")
