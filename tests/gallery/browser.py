"""A real headless Chromium, and the few things that the page tests do with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--lang=en-GB",
)


class Browser:
    """One window; `driver` is Selenium's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file, also where it is the one that is open already."""
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script's `return`."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def texts(self, selector: str) -> list[str]:
        """What a person reads there; nothing of what is hidden."""
        return [element.text for element in self.all(selector) if element.is_displayed()]

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def pasted(self) -> str:
        """What a person would get by pasting now."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        self.run(
            "const area = document.createElement('textarea'); area.id = 'pasted';"
            "(document.querySelector('dialog[open]') || document.body).append(area); area.focus()"
        )
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys("v").key_up(
            Keys.CONTROL
        ).perform()
        text = self.run("return document.querySelector('#pasted').value")
        self.run("document.querySelector('#pasted').remove()")
        return str(text)

    def wait(self, script: str) -> None:
        """Until the script returns something true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 15, poll_frequency=0.02).until(lambda _: self.run(script))

    def complaints(self) -> list[str]:
        """Errors of the page since the last call: script faults and what the policy refused."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    @contextmanager
    def emulating(self, **media: str) -> Iterator[None]:
        """Media features of a person's device, such as a dark colour scheme."""
        features = [{"name": name.replace("_", "-"), "value": v} for name, v in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    @contextmanager
    def sized(self, width: int, height: int) -> Iterator[None]:
        """A screen of that size, as a phone would have it."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a profile of its own, or skip with the reason."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver_file = shutil.which("chromedriver")
    needed = {
        "chromium": binary,
        "chromedriver (Debian: chromium-driver)": driver_file,
        "selenium (pip)": find_spec("selenium"),
    }
    absent = ", ".join(name for name, found in needed.items() if not found)
    if absent:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {absent}")
        pytest.skip(f"needs {absent}")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(binary)
    for flag in (*_FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(driver_file)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
