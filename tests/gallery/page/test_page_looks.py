"""How the pages look and live in a real Chromium: states, thousands, colours, phones, all jobs."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

from runner.gallery.page.sheet import outbox_page
from runner.wire import PREVIEW
from tests.gallery.browser import Browser
from tests.gallery.samples import (
    HOSTILE,
    job_page,
    pack,
    picture,
    put_job,
    put_page,
    sidecar,
    status,
)

FOCUSED = "return document.activeElement.id"


def test_missing_pictures_say_why(tmp_path: Path, browser: Browser) -> None:
    failures = [
        {"index": 2, "reason": "OutOfMemory", "message": "Choose a smaller size.", "seed": 8}
    ]
    page = put_page(tmp_path, [sidecar(1), sidecar(3)], failures=failures, state="failed",
                    reason="OutOfMemory", message="1 of 3 images failed.")  # fmt: skip
    browser.open(page)
    assert browser.texts(".missing") == ["OutOfMemory\nChoose a smaller size.\nseed 8"]
    assert browser.texts(".notice") == ["OutOfMemory 1 of 3 images failed."]
    order = "return [...document.querySelector('.grid').children].map(e => e.id || e.className)"
    assert browser.run(order) == ["hero-0001", "missing", "hero-0003"]


def test_a_running_jobs_page_reloads_itself_but_not_under_a_reader(
    tmp_path: Path, browser: Browser
) -> None:
    page = put_page(tmp_path, [sidecar(1)], state="running")
    page.write_text(_quick(page.read_text(encoding="utf-8")), encoding="utf-8")
    browser.open(page)
    browser.run("window.same = true")
    browser.wait("return document.readyState === 'complete' && window.same === undefined")
    browser.run("window.same = true; showPicture(0)")
    done = "const done = arguments[0]; setTimeout(() => done(window.same), 900)"
    assert browser.driver.execute_async_script(done) is True
    page.write_text(job_page(status(), [sidecar(1)]), encoding="utf-8")
    browser.run("document.querySelector('.viewer').close()")
    browser.wait("return document.querySelector('.pill').textContent === 'succeeded'")


def test_one_page_of_thousands_loads_as_it_is_looked_at(tmp_path: Path, browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(put_page(tmp_path, pack(20, 10, 10)))
    ready = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    assert 0 < browser.run(ready) < 6000
    loaded = (
        "return document.images.length && [...document.images].filter(i => i.naturalWidth).length"
    )
    assert browser.run(loaded) < 500
    assert browser.run("return document.querySelectorAll('.shot').length") == 500
    typed = (
        "filter.value = 'animal4'; const t = performance.now(); narrow();"
        "document.body.offsetHeight; return performance.now() - t"
    )
    assert browser.run(typed) < 2000
    assert browser.find("[data-shown]").text == "100 of 500 on this page"
    browser.run("filter.value = ''; narrow(); shots[0].focus()")
    browser.press(Keys.END)
    assert browser.run(FOCUSED) == "hero-0500"
    browser.wait("return document.querySelector('#hero-0500 img').naturalWidth > 0")


def test_a_page_that_was_copied_elsewhere_works_the_same(tmp_path: Path, browser: Browser) -> None:
    page = put_page(tmp_path / "here", pack(2, 1, 1))
    elsewhere = tmp_path / "else where#1"
    shutil.move(page.parent, elsewhere)
    browser.open(elsewhere / "index.html")
    browser.wait("return document.querySelector('.shot img').naturalWidth > 0")
    links = "return [...document.querySelectorAll('[src], [href]')].map(e => e.src || e.href)"
    assert all(link.startswith(("file:", "data:")) for link in browser.run(links))


def test_a_phone_sees_the_page_without_scrolling_sideways(tmp_path: Path, browser: Browser) -> None:
    page = put_page(tmp_path, pack(3, 6, 4), warnings=["w" * 300])
    with browser.sized(390, 844):
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") == 390
        assert "variable 0" in browser.run(
            "return getComputedStyle(document.querySelector('.cell'), '::before').content"
        )


def test_a_phone_sees_the_picture_above_a_long_prompt_and_buttons_that_stay(
    tmp_path: Path, browser: Browser
) -> None:
    """Seen red: the prompt had the focus, and the picture was scrolled out of sight."""
    page = put_page(tmp_path, [sidecar(n, prompt="a red fox " * 200) for n in (1, 2)])
    box = """
    const box = document.querySelector(arguments[0]).getBoundingClientRect();
    return [box.top, box.bottom, box.left, box.right]"""
    with browser.sized(390, 844):
        browser.open(page)
        browser.find(".shot").click()
        browser.wait("return document.querySelector('[data-full]').naturalWidth")
        assert browser.run("return viewer.scrollTop") == 0
        assert browser.run("return document.activeElement === one('stage')")
        top, bottom, left, right = browser.run(box, "[data-full]")
        assert 0 < top < bottom < 500 and 0 <= left < right <= 390
        assert browser.run(box, "[data-more]")[1] < 844
        browser.find("[data-more]").click()
        assert browser.run(box, "[data-prompt]")[1] > 844
        browser.run("viewer.scrollTop = 900")
        assert browser.run(box, ".bar")[0] == 0
        browser.find("[data-go='1']").click()
        assert browser.run("return viewer.scrollTop") == 0
        assert browser.run(box, "[data-more]")[1] < 844


def test_the_page_of_all_jobs_is_arranged_by_day_or_pack_and_filtered(
    tmp_path: Path, browser: Browser
) -> None:
    jobs = []
    for number, name in enumerate(("lamps run", "owls", HOSTILE[0]), start=1):
        outputs = [{"thumbnail": "thumbs/x.webp", "width": 64, "height": 64}]
        (tmp_path / f"j{number}" / "thumbs").mkdir(parents=True)
        put = put_job(tmp_path / "made", [sidecar()], job=f"j{number}")
        shutil.copy(
            put / "thumbs" / "hero-0001.webp", tmp_path / f"j{number}" / "thumbs" / "x.webp"
        )
        moment = f"2026-11-0{number}T12:00:00.000Z"
        changes = {"kind": name, "accepted_at": moment, "tags": [f"tag{number}"]}
        jobs.append(status(job=f"j{number}", outputs=outputs, **changes))
    page = tmp_path / "index.html"
    packs, prompts = {"j1": "lamps", "j3": HOSTILE[0]}, {"j1": "a brass lamp", "j2": HOSTILE[1]}
    page.write_text(outbox_page(jobs, packs, prompts), encoding="utf-8")
    browser.open(page)
    assert browser.texts(".card strong") == ["j3", "j2", "j1"]
    browser.find("[data-by=pack]").click()
    assert browser.texts(".day h2") == [HOSTILE[0], "lamps", "without a pack"]
    browser.find("[data-filter]").send_keys("owls")
    assert browser.texts(".card strong") == ["j2"]
    assert browser.find("[data-shown]").text == "1 of 3"
    for words, found in (("brass", ["j1"]), ("#tag3", ["j3"]), ("zebra", [])):
        browser.run("filter.value = arguments[0]; narrow()", words)
        assert browser.texts(".card strong") == found
    assert browser.texts("[data-none]") == ["No job matches."]
    assert browser.run("return window.pwned === undefined")


def test_print_leaves_tools_out_and_no_card_is_cut(tmp_path: Path, browser: Browser) -> None:
    page = put_page(tmp_path, [sidecar(1)]).parents[1] / "index.html"
    page.write_text(outbox_page([status()]), encoding="utf-8")
    browser.open(page)
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.run(style, ".tools", "display") == "none"
        assert browser.run(style, ".card", "breakInside") == "avoid"
        assert browser.run(style, ".day", "contentVisibility") == "visible"
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_live_page_of_all_jobs_loads_itself_again(tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "index.html"
    (tmp_path / "now").mkdir()
    picture().save(tmp_path / "now" / PREVIEW, "WEBP")
    html = outbox_page([status(job="now", state="running")])
    page.write_text(_quick(html), encoding="utf-8")
    browser.open(page)
    browser.run("window.same = true; filter.focus()")
    done = "const done = arguments[0]; setTimeout(() => done(window.same), 700)"
    assert browser.driver.execute_async_script(done) is True
    page.write_text(outbox_page([status(job="now")]), encoding="utf-8")
    browser.run("filter.blur()")
    browser.wait("return document.querySelector('.pill').textContent === 'succeeded'")
    assert not browser.all("[data-live]")


def _quick(html: str) -> str:
    """The page with a shorter wait before it loads itself again, and a policy that fits."""
    quick = html.replace("}, 5000);", "}, 500);")
    policy = html[html.index("script-src '") + 12 :].split("'")[0]
    script = quick[quick.rindex("<script>") + 8 : quick.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return quick.replace(policy, f"sha256-{digest}")
