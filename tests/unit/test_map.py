"""The map of images: places, neighbours, pairs, and the page in a browser."""

import io

import numpy as np
import pytest
from PIL import Image

from selfie_tf.errors import UserError
from selfie_tf.evaluation import map as maps
from selfie_tf.evaluation.thumbnails import draw_sprites, shrink, thumbnail_side

from browser import opened
from helpers import fails, succeeds

EVIL = """b/<script>document.title="evil"</script>"' &amp; \n$x.png"""


def clusters(rng, count, dim=6):
    """Features near three directions, and the number of the direction of each."""
    of = np.arange(count) % 3
    return (4 * np.eye(dim)[of] + 0.3 * rng.normal(size=[count, dim])).astype(np.float32), of


def embeddings(rng, count=60, class_names=("a", "</script>", "c"), split="train"):
    features, of = clusters(rng, count)
    ids = [f"a/{i}.png" for i in range(count)]
    ids[1] = EVIL
    shades = (40 + 80 * of).astype(np.uint8)
    return {
        "features": features,
        "ids": np.array(ids),
        "labels": of if class_names else np.full(count, -1),
        "split": np.full(count, split),
        "class_names": np.array(class_names, str),
        "model": np.array("runs/x"),
        "fingerprint": np.array("abc"),
        "thumbnails": np.tile(shades[:, None, None, None], [1, 32, 32, 3]),
    }


def test_thumbnails_are_in_order_on_a_sheet(rng):
    images = rng.integers(0, 256, [5, 32, 32, 3], dtype=np.uint8)
    sheet = Image.open(io.BytesIO(draw_sprites(images, 3, "png")))
    pixels = np.asarray(sheet)
    assert pixels.shape == (64, 96, 3)
    for i in range(5):
        row, column = divmod(i, 3)
        part = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        np.testing.assert_array_equal(part, images[i])
    assert (pixels[32:, 64:] == 255).all()


def test_thumbnails_keep_the_image():
    image = np.zeros([1, 64, 64, 3], np.uint8)
    image[:, :, :32] = 250, 10, 10
    for size in (16, 64, 32):
        small = shrink(image[:, :: 64 // size, :: 64 // size], 32)[0]
        np.testing.assert_allclose(small[16, [6, 26]], [[250, 10, 10], [0, 0, 0]], atol=6)
        assert small.shape == (32, 32, 3) and small.dtype == np.uint8
    assert [thumbnail_side(n, s) for n, s in ((10, 32), (10, 224), (20_000, 224))] == [32, 48, 32]


def test_the_nearest_are_those_of_a_loop(rng):
    features = rng.normal(size=[30, 5])
    features[7] = 3 * features[4]
    indices, cosines = maps.nearest(maps.normalize(features), 4)
    for i in range(30):
        found = []
        for j in range(30):
            lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
            if i != j:
                found.append((-(features[i] @ features[j]) / lengths, j))
        expected = sorted(found)[:4]
        assert indices[i].tolist() == [j for _, j in expected]
        np.testing.assert_allclose(cosines[i], [-c for c, _ in expected], atol=1e-6)
    pairs = maps.closest_pairs(indices, cosines, 10)
    assert pairs[0] == (4, 7, pytest.approx(1)) and len({pair[:2] for pair in pairs}) == 10
    assert [c for *_, c in pairs] == sorted((c for *_, c in pairs), reverse=True)
    assert maps.nearest(maps.normalize(features[:3]), 8)[0].shape == (3, 2)


@pytest.mark.parametrize("limit", [60, 30])
def test_similar_images_lie_together(rng, monkeypatch, limit):
    """Also those that t-SNE has not placed."""
    monkeypatch.setattr(maps, "_TSNE_IMAGES", limit)
    features, of = clusters(rng, 60)
    places, placed = maps.layout(maps.normalize(features))
    assert placed == limit and places.dtype == np.float32
    assert places.min() == 0 and places.max() == 1
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(60)
    np.testing.assert_array_equal(of[distance.argmin(1)], of)
    np.testing.assert_array_equal(maps.layout(maps.normalize(features))[0], places)


@pytest.mark.parametrize("count", [2, 4, 7])
def test_few_images_have_a_map(rng, count):
    places, _ = maps.layout(maps.normalize(rng.normal(size=[count, 6])))
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == count


def test_features_without_a_map(rng):
    found = embeddings(rng)
    with pytest.raises(UserError, match="at least two"):
        maps.to_page({**found, "features": found["features"][:1]}, "x")
    with pytest.raises(UserError, match="tells none apart"):
        maps.to_page({**found, "features": np.ones([60, 3], np.float32)}, "x")
    found["features"][5, 2] = np.nan
    with pytest.raises(UserError, match="not finite"):
        maps.to_page(found, "x")


def write(tmp_path, found):
    path = tmp_path / "map.html"
    maps.write_map(str(path), found, "x")
    return path


def move(driver, i):
    """The mouse goes to image i."""
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = driver.find_element("id", "map")
    x, y = driver.execute_script("return position(arguments[0])", i)
    size = canvas.size
    chain = ActionChains(driver)
    chain.move_to_element_with_offset(canvas, x - size["width"] / 2, y - size["height"] / 2)
    return chain


def text_of(driver, selector):
    return driver.find_element("css selector", selector).get_attribute("textContent")


def test_pointing_shows_an_image_and_a_click_its_neighbours(rng, tmp_path):
    found = embeddings(rng)
    indices, cosines = maps.nearest(maps.normalize(found["features"]), 8)
    with opened(write(tmp_path, found)) as driver:
        driver.execute_script("zoom(20, ...position(1))")  # so that no other image is as near
        move(driver, 1).perform()
        assert text_of(driver, "#hover div") == EVIL
        assert text_of(driver, "#hover .faint") == "</script>, train"
        pixel = "const c = document.querySelector('#hover canvas').getContext('2d');"
        pixel += "return [...c.getImageData(20, 20, 1, 1).data]"
        np.testing.assert_allclose(driver.execute_script(pixel), [120, 120, 120, 255], atol=4)
        move(driver, 1).click().perform()
        assert EVIL in text_of(driver, "#chosen p")
        buttons = driver.find_elements("css selector", ".near button")
        assert [int(b.get_attribute("data-index")) for b in buttons] == indices[1].tolist()
        for button, j, cosine in zip(buttons, indices[1], cosines[1]):
            picture = button.find_element("tag name", "canvas")
            assert picture.get_attribute("aria-label") == found["ids"][j]
            assert button.text == f"{cosine:.4f} </script>, train"
        buttons[2].click()
        assert text_of(driver, "#chosen p").startswith(found["ids"][indices[1, 2]])
        assert driver.title == "Map of x"


def test_the_keyboard_goes_from_image_to_image(rng, tmp_path):
    from selenium.webdriver.common.keys import Keys

    found = embeddings(rng)
    with opened(write(tmp_path, found)) as driver:
        canvas = driver.find_element("id", "map")
        chosen = []
        for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT):
            canvas.send_keys(key)
            chosen.append(driver.execute_script("return [chosen, ...position(chosen)]"))
        assert chosen[1][1] > chosen[0][1]
        assert chosen[2][2] > chosen[1][2]
        assert chosen[3][1] < chosen[2][1]
        canvas.send_keys(Keys.ESCAPE)
        assert "None yet" in text_of(driver, "#chosen")
        box = driver.find_element("id", "find")
        box.send_keys("A/42", Keys.ENTER)
        assert text_of(driver, "#chosen p").startswith("a/42.png")


def test_zooming_in_keeps_the_selected_image_in_view(rng, tmp_path):
    from selenium.webdriver.common.keys import Keys

    with opened(write(tmp_path, embeddings(rng))) as driver:
        driver.find_element("id", "find").send_keys("a/42", Keys.ENTER)
        before = driver.execute_script("return [...position(42), scale]")
        for _ in range(4):
            driver.find_element("id", "in").click()
        after = driver.execute_script("return [...position(42), scale]")
        np.testing.assert_allclose(after[:2], before[:2], atol=0.1)
        assert after[2] > 4 * before[2]


def test_colours_have_a_legend_and_each_can_be_shown_alone(rng, tmp_path):
    with opened(write(tmp_path, embeddings(rng))) as driver:

        def legend():
            return [b.text for b in driver.find_elements("css selector", "#legend button")]

        def coloured():
            """The number of pixels of the map that are coloured, not grey."""
            return driver.execute_script(
                "draw(); const copy = document.createElement('canvas');"
                "copy.width = map.width; copy.height = map.height;"
                "const pen = copy.getContext('2d', {willReadFrequently: true});"
                "pen.drawImage(map, 0, 0);"
                "const d = pen.getImageData(0, 0, map.width, map.height).data; let n = 0;"
                "for (let i = 0; i < d.length; i += 4) n += Math.abs(d[i] - d[i + 2]) > 30;"
                "return n"
            )

        driver.find_element("id", "pictures").click()
        assert legend() == ["a (20)", "</script> (20)", "c (20)"]
        all_of_them = coloured()
        driver.find_elements("css selector", "#legend button")[1].click()
        assert 0 < coloured() < 0.6 * all_of_them
        select = driver.find_element("id", "colours")
        assert [o.text for o in select.find_elements("tag name", "option")] == [
            "class",
            "split",
            "none",
        ]
        select.send_keys("split")
        assert legend() == ["train (60)"]


def test_many_classes_share_a_grey_and_none_need_no_colours(rng, tmp_path):
    found = embeddings(rng, class_names=[f"class {i}" for i in range(50)])
    found["labels"] = np.minimum(np.arange(60), 49)
    with opened(write(tmp_path, found)) as driver:
        entries = driver.find_elements("css selector", "#legend button")
        assert len(entries) == 41 and entries[-1].text == "all others (10)"
        assert entries[-2].text == "class 49 (11)"
    with opened(write(tmp_path, embeddings(rng, class_names=(), split=""))) as driver:
        assert not driver.find_element("id", "by").is_displayed()
        assert not driver.find_elements("css selector", "#legend button")


def test_duplicates_and_outliers_are_listed_in_words(rng, tmp_path):
    found = embeddings(rng)
    found["features"][50] = 2 * found["features"][20]
    found["features"][33] = -found["features"][33]
    with opened(write(tmp_path, found)) as driver:
        pair = driver.find_element("css selector", ".pairs li")
        assert pair.text.split("\n")[:2] == ["cosine 1.0000", "a/20.png"]
        assert "a/50.png" in pair.text
        outlier = driver.find_element("css selector", ".sheet li")
        assert "a/33.png" in outlier.text
        outlier.find_element("tag name", "button").click()
        assert text_of(driver, "#chosen p").startswith("a/33.png")


def test_the_command_writes_the_map(means, tmp_path, rng):
    (tmp_path / "images").mkdir()
    for i in range(12):
        noise = rng.integers(0, 256, [16, 16, 3], dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{i}.png")
    flags = ["--workdir=run", f"--images={tmp_path}/images", f"--output={tmp_path}/x.npz"]
    out = succeeds("embed", *flags, f"--map={tmp_path}/new/map.html")
    assert f"{tmp_path}/new/map.html: 12 images, " in out
    html = (tmp_path / "new" / "map.html").read_text(encoding="utf-8")
    assert "<title>Map of " in html and "https://" not in html
    with np.load(tmp_path / "x.npz") as file:
        assert "thumbnails" not in file
    assert "is a folder" in fails("embed", *flags, f"--map={tmp_path}")
