"""HTML pages: escaped, in one file, and without an error in a browser."""

import base64
import io

import jinja2
import numpy as np
import pytest
from PIL import Image

from selfie_tf import figures
from selfie_tf.pages import page

from browser import opened

EVIL = """<script>document.title = "evil"</script>"' & \n$x"""
TEMPLATE = """
{% extends "base.html" %}
{% from "macros.html" import table, figure, sheet %}
{% block main %}
{{ table(["name", "images"], [[name, 1234|count]], [1]) }}
{{ figure(curves, "curves of " ~ name, name) }}
{{ sheet([{"picture": small, "alt": name, "caption": name}]) }}
{% endblock %}
{% block script %}<script>const names = {{ [name]|tojson }};</script>{% endblock %}
"""


@pytest.fixture
def html(monkeypatch):
    own = jinja2.DictLoader({"test.html": TEMPLATE})
    package = jinja2.PackageLoader("selfie_tf", "pages")
    loader = jinja2.ChoiceLoader([own, package])
    monkeypatch.setattr(jinja2, "PackageLoader", lambda *_: loader)
    points = {"step": 1, "loss": 2.0, "accuracy": 0.5}, {"step": 2, "loss": 1.0, "accuracy": 0.75}
    image = np.zeros([20, 40, 3], np.uint8)
    values = {
        "name": EVIL,
        "small": page.thumbnail(image),
        "curves": page.drawn(figures.draw_curves, points, "accuracy", {}),
    }
    return page.render("test.html", EVIL, **values)


def test_a_page_shows_names_as_they_are_in_a_browser(html, tmp_path):
    path = tmp_path / "page's <1>.html"
    path.write_text(html, encoding="utf-8")
    with opened(path) as driver:
        assert driver.title != "evil"
        words = EVIL.split()
        assert driver.find_element("tag name", "h1").text.split() == words
        assert driver.find_element("css selector", "td").text.split() == words
        assert driver.find_element("css selector", "td.number").text == "1,234"
        assert driver.execute_script("return names[0]") == EVIL
        assert [
            image.get_attribute("alt") for image in driver.find_elements("tag name", "img")
        ] == [
            f"curves of {EVIL}",
            EVIL,
        ]


def test_a_page_has_no_markup_of_names_and_no_address(html):
    assert "<script>document" not in html
    assert "http://" not in html and "https://" not in html


def test_a_value_that_is_missing_is_an_error(html):
    with pytest.raises(jinja2.UndefinedError, match="small"):
        page.render("test.html", "title", name="", curves="")


def test_a_thumbnail_keeps_the_image(tmp_path):
    image = np.zeros([200, 400, 3], np.uint8)
    image[:, :200] = 250, 10, 10
    head, _, content = page.thumbnail(image, 100).partition(",")
    assert head == "data:image/jpeg;base64"
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert small.shape == (50, 100, 3)
    np.testing.assert_allclose(small[25, [20, 80]], [[250, 10, 10], [0, 0, 0]], atol=6)
