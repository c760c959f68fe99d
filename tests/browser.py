"""Opens pages in a real browser: Debian's chromium and chromium-driver, through Selenium."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def opened(path, width=1200, height=900):
    """A Selenium driver that shows a file, without a network.

    When the context ends, the console must hold no error, and nothing may have been loaded.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    try:
        driver.get(path.resolve().as_uri())
        yield driver
        messages = [m for m in driver.get_log("browser") if m["level"] in ("SEVERE", "WARNING")]
        assert not messages, messages
        loaded = driver.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
            ".filter(name => !name.startsWith('data:'))"
        )
        assert not loaded, loaded
        pictures = driver.execute_script(
            "return [...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0,"
            " i.loading])"
        )
        for alt, shown, loading in pictures:
            assert alt, "a picture without a text alternative"
            assert shown or loading == "lazy", f"picture {alt!r} is broken"
    finally:
        driver.quit()
