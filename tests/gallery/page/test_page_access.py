"""What axe-core finds on the pages, in both colour schemes, with each of their dialogs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from runner.gallery.page.sheet import outbox_page
from runner.wire import PREVIEW
from tests.gallery.browser import Browser
from tests.gallery.samples import pack, put_page, sidecar, status

_FOUND = """
const done = arguments[0];
axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations.map(
  (each) => `${each.id}: ${each.nodes.map((node) => node.target.join(' ')).join(', ')}`)))
"""


@cache
def _axe() -> str:
    # Its MPL-2.0 file is read by tests only, and is no part of the package.
    spec = find_spec("axe_core_python")
    if spec is None or not spec.origin:
        if os.environ.get("CI"):
            pytest.fail("CI must have axe-core-python (pip)")
        pytest.skip("needs axe-core-python (pip)")
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")


def violations(browser: Browser) -> list[str]:
    """The rules that the page breaks as it stands, and where."""
    browser.run(_axe())
    return list(browser.driver.execute_async_script(_FOUND))


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Any]:
    with browser.emulating(prefers_color_scheme=request.param):
        yield request.param


def test_a_jobs_page_and_its_dialogs_break_no_rule(
    tmp_path: Path, browser: Browser, scheme: str
) -> None:
    told = [
        sidecar(n, steps=s, guidance=g, strength=t, image="outbox/hero/inputs/a.png")
        for n, (s, g, t) in enumerate(
            ((s, g, t) for s in (4, 8) for g in (1.0, 3.5) for t in (0.5, 0.9)), start=1
        )
    ]
    failed = {**told[-1], "index": 8, "reason": "Timeout", "message": "Too slow."}
    page = put_page(tmp_path, told[:7], failures=[failed], state="failed", reason="Timeout",
                    message="Too slow.", warnings=["odd"], beside=["results.csv"])  # fmt: skip
    (page.parent / "inputs").mkdir()
    shutil.copy(page.parent / "hero-0001.png", page.parent / "inputs" / "a.png")
    browser.open(page)
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 19, 18)") == (scheme == "dark")
    browser.press("f", "3", "s")
    assert violations(browser) == []
    for opens in ("showPicture(1)", "actions.export()", "actions.help()"):
        browser.run(f"document.querySelector('dialog[open]')?.close(); {opens}")
        assert (opens, violations(browser)) == (opens, [])


def test_the_page_of_all_jobs_breaks_no_rule(tmp_path: Path, browser: Browser, scheme: str) -> None:
    page = put_page(tmp_path, pack(1, 1, 1)).parents[1] / "index.html"
    doing = {"phase": "denoising", "image": 1, "step": 1, "steps": 8, "fraction": 0.5}
    jobs = [
        status(tags=["poster"]),
        status(4, job="now", state="running", progress=doing, images={"total": 4, "done": 1}),
        status(2, job="next", state="queued", images={"total": 2, "done": 0}),
        status(job="bad", state="rejected", message="no such model"),
    ]
    page.write_text(outbox_page(jobs, {"hero": "pets"}, months=["2026-10.001.html"]), "utf-8")
    (page.parent / "now").mkdir()
    shutil.copy(page.parent / "hero/thumbs/hero-0001.webp", page.parent / "now" / PREVIEW)
    browser.open(page)
    browser.wait("return one('preview').naturalWidth")
    assert browser.texts(".now progress + p") == ["picture 1 of 4: denoising · step 1 of 8"]
    assert browser.texts(".now > p") == ["1 more job in the queue: 2 pictures"]
    assert violations(browser) == []
