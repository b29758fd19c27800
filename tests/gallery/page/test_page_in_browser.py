"""The job's page in a real Chromium: looking, keys, filter, copying, favourites, hostile words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.gallery.page import paging
from runner.wire import PREVIEW
from specs.read import read
from specs.validate import validate
from tests.gallery.browser import Browser
from tests.gallery.samples import HOSTILE, pack, put_page, sidecar

FOCUSED = "return document.activeElement.id"
VIEWER = "return document.querySelector('.viewer').open"


@pytest.fixture
def board(tmp_path: Path, browser: Browser) -> Browser:
    """A page of three subjects, two variables, two seeds."""
    browser.open(put_page(tmp_path, pack(3, 2, 2)))
    return browser


def checked(text: str) -> dict[str, Any]:
    return validate(read(text.encode()))


def test_a_board_shows_subjects_down_and_variables_across(board: Browser) -> None:
    assert board.texts(".heads .column") == ["variable 0", "variable 1"]
    assert board.texts(".row h2") == ["subject 0", "subject 1", "subject 2"]
    board.wait(
        "return [...document.images].filter(i => i.closest('.shot')).every(i => i.naturalWidth)"
    )
    crisp = "return getComputedStyle(document.querySelector('.shot img')).imageRendering"
    assert board.run(crisp) == "pixelated"


def test_a_click_opens_the_picture_with_its_prompt_and_settings(board: Browser) -> None:
    board.find("#hero-0007").click()
    assert board.run(VIEWER)
    assert board.find("[data-prompt]").text == "an animal1 in light1"
    board.wait("return document.querySelector('[data-full]').naturalWidth === 64")
    settings = board.find(".viewer .settings").text
    for said in (
        "hero-0007.png",
        "subject 1",
        "variable 1",
        "64 × 64",
        "28",
        "NVIDIA H200",
        "1.5 s",
    ):
        assert said in settings
    assert board.find("[data-file]").get_attribute("href").endswith("/hero/hero-0007.png")


def test_the_keyboard_alone_is_enough(board: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    board.press(Keys.ARROW_RIGHT)
    assert board.run(FOCUSED) == "hero-0002"
    board.press(Keys.ARROW_DOWN)
    assert board.run(FOCUSED) == "hero-0006"
    board.press(Keys.ARROW_UP, Keys.END)
    assert board.run(FOCUSED) == "hero-0012"
    board.press(Keys.HOME, Keys.ENTER)
    assert board.run(VIEWER) and board.find("[data-prompt]").text.startswith("an animal0")
    board.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "hero-0003.png" in board.find(".viewer .settings").text
    board.press("f", Keys.ESCAPE)
    assert not board.run(VIEWER)
    assert board.find("#hero-0003").accessible_name == "seed 0 ★"
    board.wait("return document.activeElement.id === 'hero-0003'")
    assert board.run("return document.activeElement.hasAttribute('data-favourite')")
    board.press("?")
    assert board.find("[data-keys]").is_displayed()
    board.press(Keys.ESCAPE, "/")
    assert board.run("return document.activeElement.matches('[data-filter]')")
    board.press("fox", Keys.ESCAPE)
    assert board.run("return document.querySelector('[data-filter]').value") == ""


def test_the_tab_key_meets_one_picture_not_thousands(board: Browser) -> None:
    assert board.run("return document.querySelectorAll('.shot[tabindex=\"0\"]').length") == 1


def test_a_picture_has_an_address_of_its_own(tmp_path: Path, browser: Browser) -> None:
    page = put_page(tmp_path, pack(2, 2, 1))
    browser.open(page, "#hero-0003")
    assert browser.run(VIEWER) and "hero-0003.png" in browser.find(".viewer .settings").text


def test_copy_as_spec_gives_a_valid_spec_of_the_same_picture(board: Browser) -> None:
    board.find("#hero-0004").click()
    board.find("[data-copy=spec]").click()
    board.wait("return document.querySelector('[data-toast]').textContent === 'Spec copied'")
    spec = checked(board.pasted())
    told = {k: v for k, v in pack(3, 2, 2)[3].items() if k not in ("result", "schema")}
    assert spec == told


def test_a_copied_spec_survives_every_hostile_prompt(tmp_path: Path, browser: Browser) -> None:
    # What no spec can hold: schemas refuse control characters, YAML has no NUL.
    prompts = [
        p for p in (*HOSTILE, "colon: dash - #x", "'", "no", "1e3", "\ta\t") if "\0" not in p
    ]
    told = [sidecar(n, prompt=p, model="tiny", notes=p) for n, p in enumerate(prompts, start=1)]
    browser.open(put_page(tmp_path, told))
    specs = browser.run("return images.map((image) => yaml(specOf(image)))")
    for spec, prompt in zip(specs, prompts, strict=True):
        assert read(spec.encode()).value["prompt"] == read(spec.encode()).value["notes"] == prompt


def test_hostile_words_are_shown_as_text_and_never_run(tmp_path: Path, browser: Browser) -> None:
    told = [
        sidecar(n, prompt=p, result_subject=p, result_variable="v", tags=[p], image=[None, p])
        for n, p in enumerate([*HOSTILE, *HOSTILE], start=1)
    ]
    failures = [{"index": 99, "reason": p, "message": p, "subject": p} for p in HOSTILE[:1]]
    page = put_page(tmp_path, told, warnings=list(HOSTILE), message=HOSTILE[0], failures=failures)
    browser.open(page)
    for index in range(len(HOSTILE)):
        browser.run("showPicture(arguments[0])", index)
        browser.run("copy(yaml(specOf(images[0])), 'Spec')")
    shown = browser.run(
        "showPicture(0); return document.querySelector('[data-prompt]').textContent"
    )
    assert shown == HOSTILE[0]
    assert HOSTILE[0] in browser.texts(".row h2")
    assert browser.run(
        "return window.pwned === undefined && !document.querySelector('main script')"
    )
    assert browser.run("return getComputedStyle(document.body).display") == "block"


def test_the_policy_stops_a_script_that_got_in(tmp_path: Path, chromium: Browser) -> None:
    page = put_page(tmp_path, pack(1, 1, 1))
    html = page.read_text(encoding="utf-8")
    page.write_text(
        html.replace("<main>", "<main><script>window.pwned = 1</script>"), encoding="utf-8"
    )
    chromium.open(page)
    assert chromium.run("return window.pwned === undefined")
    assert any("Content Security Policy" in text for text in chromium.complaints())


def test_the_filter_narrows_pictures_and_rows_and_says_how_many(board: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    board.press("/", "ANIMAL1 light0")
    assert board.texts(".row h2") == ["subject 1"]
    assert board.find("[data-shown]").text == "2 of 12"
    board.press(Keys.TAB)
    board.run("document.querySelector('.shot:not([hidden])').focus()")
    board.press(Keys.END)
    assert board.run(FOCUSED) == "hero-0006"
    board.press("/", Keys.ESCAPE)
    assert len(board.texts(".row h2")) == 3 and board.find("[data-shown]").text == ""


def test_favourites_stay_in_the_browser_and_come_out_as_list_or_specs(
    board: Browser, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    board.press(Keys.HOME, "f", Keys.END, "f")
    board.driver.refresh()
    assert board.find("[data-favourites]").text == "2"
    board.find("[data-export]").click()
    (spec,) = board.run(
        "return [...document.querySelectorAll('[data-exports] textarea')].map(a => a.value)"
    )
    assert checked(spec)["matrix"] == {"prompt": ["an animal0 in light0", "an animal2 in light1"]}
    assert checked(spec)["count"] == 4 and "seed" not in checked(spec)
    board.find("[name=as][value=same]").click()
    specs = board.run(
        "return [...document.querySelectorAll('[data-exports] textarea')].map(a => a.value)"
    )
    assert [checked(spec)["seeds"] for spec in specs] == [[0], [1]]
    board.find("[name=as][value=list]").click()
    area = board.find("[data-exports] textarea")
    assert area.get_attribute("value") == "outbox/hero/hero-0001.png\noutbox/hero/hero-0012.png\n"
    assert board.find("[data-exports] a").get_attribute("download") == "hero-favourites.txt"
    board.find("[name=as][value=keep]").click()
    assert board.find("[data-exports] a").get_attribute("download") == "hero.keep"
    board.find("[data-exporter] [data-close]").click()
    board.find("[data-only]").click()
    assert len([shot for shot in board.all(".shot") if shot.is_displayed()]) == 2


def test_the_pointer_finds_a_star_on_every_picture(board: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(board.driver).move_to_element(board.find("#hero-0005")).perform()
    board.find("#hero-0005 .star").click()
    assert not board.run(VIEWER)
    assert board.find("[data-favourites]").text == "1"


@pytest.fixture
def many(tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """The first of three pages, each of one subject with four pictures."""
    monkeypatch.setattr(paging, "MOST_IMAGES", 6)
    browser.open(put_page(tmp_path, pack(3, 2, 2)))
    return browser


def at(browser: Browser) -> str:
    """The page and the picture of the address, once it is there."""
    browser.wait("return document.readyState === 'complete'")
    return str(browser.run("return location.href.split('/').pop()"))


def test_the_keys_of_the_viewer_go_on_to_the_next_page_and_back(many: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    many.press(Keys.END, Keys.ENTER, Keys.ARROW_RIGHT)
    many.wait("return location.href.endsWith('/page-2.html#hero-0005')")
    assert many.run(VIEWER) and many.texts(".row h2") == ["subject 1"]
    many.press(Keys.ARROW_LEFT)
    many.wait("return location.href.endsWith('/index.html#hero-0004')")
    assert many.run(VIEWER)
    many.press(Keys.ESCAPE)
    many.wait("return document.activeElement.id === 'hero-0004'")
    many.press(Keys.HOME, Keys.ENTER, Keys.ARROW_LEFT)
    assert at(many) == "index.html#hero-0001"


def test_the_address_of_a_picture_leads_to_its_page(many: Browser, tmp_path: Path) -> None:
    many.open(tmp_path / "hero" / "index.html", "#hero-0011")
    many.wait("return location.href.endsWith('/page-3.html#hero-0011')")
    many.wait("return document.readyState === 'complete'")
    assert many.run(VIEWER) and "hero-0011.png" in many.find(".viewer .settings").text
    many.open(tmp_path / "hero" / "index.html", "#hero-9")
    many.wait("return location.href.endsWith('/page-3.html#hero-9')")
    assert not many.run(VIEWER)


def test_favourites_of_all_pages_are_exported_from_any_of_them(many: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    many.press(Keys.HOME, "f")
    many.find("main ~ .pages [rel=next]").click()
    many.wait("return location.href.endsWith('/page-2.html')")
    many.press(Keys.HOME, "f")
    assert many.find("[data-favourites]").text == "2"
    many.find("[data-export]").click()
    areas = "return [...document.querySelectorAll('[data-exports] textarea')].map(a => a.value)"
    (spec,) = many.run(areas)
    assert checked(spec)["matrix"] == {"prompt": ["an animal0 in light0", "an animal1 in light0"]}
    many.find("[name=as][value=list]").click()
    assert many.run(areas) == ["outbox/hero/hero-0001.png\noutbox/hero/hero-0005.png\n"]


def test_a_click_opens_the_picture_that_was_clicked_on_a_board_whose_rows_mix(
    tmp_path: Path, browser: Browser
) -> None:
    """Seen red: the viewer went by the order of the images, the board by its rows."""
    cells = [(steps, guidance) for guidance in (1.0, 3.5) for steps in (4, 8)]
    told = [sidecar(n, steps=s, guidance=g) for n, (s, g) in enumerate(cells, start=1)]
    browser.open(put_page(tmp_path, told))
    for number in (1, 2, 3, 4):
        browser.find(f"#hero-000{number}").click()
        browser.wait(VIEWER)
        assert f"hero-000{number}.png" in browser.find(".viewer .settings").text
        browser.find(".viewer [data-close]").click()


def in_viewer(browser: Browser) -> str:
    """The file of the picture that is looked at, once the address agrees; empty if none is."""
    if not browser.run(VIEWER):
        return ""
    file = str(browser.find("[data-at]").text).split(" · ")[1]
    assert browser.run("return location.hash") == f"#{Path(file).stem}"
    return file


def test_back_closes_the_viewer_and_addresses_lead_into_it(board: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    entries = board.run("return history.length")
    board.find("#hero-0004").click()
    assert in_viewer(board) == "hero-0004.png"
    board.press(Keys.END, Keys.HOME, Keys.ARROW_RIGHT)
    assert in_viewer(board) == "hero-0002.png"
    board.driver.back()
    board.wait("return !viewer.open && document.activeElement.id === 'hero-0002'")
    assert board.run("return location.hash") == ""
    board.driver.forward()
    board.wait(VIEWER)
    board.run("location.hash = '#hero-0007'")
    board.wait("return images[current].file === 'hero-0007.png'")
    board.find(".viewer [data-close]").click()
    board.wait("return !viewer.open && !location.hash")
    assert board.run("return history.length") <= entries + 2


def test_a_swipe_goes_to_the_next_picture(board: Browser) -> None:
    swipe = """
    for (const [type, clientX] of [["pointerdown", 300], ["pointerup", 300 + arguments[0]]])
      one("frame").dispatchEvent(new PointerEvent(type, { pointerType: "touch", clientX, clientY: 200 }));
    """  # noqa: E501
    board.find("#hero-0004").click()
    board.run(swipe, -120)
    assert in_viewer(board) == "hero-0005.png"
    board.run(swipe, 120)
    board.run(swipe, 20)
    assert in_viewer(board) == "hero-0004.png"


def test_what_an_edit_changed_is_seen_by_holding_a_key_or_with_a_slider(
    tmp_path: Path, browser: Browser
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    inputs = {"image": [{"path": "outbox/hero/inputs/a b.png", "weight": 0.5}],
              "mask": "outbox/hero/inputs/mask.png"}  # fmt: skip
    page = put_page(tmp_path, [sidecar(1, kind="fill", **inputs), sidecar(2)])
    (page.parent / "inputs").mkdir()
    for name in ("a b.png", "mask.png"):
        Image.new("RGB", (32, 32), "red").save(page.parent / "inputs" / name)
    covered = "return getComputedStyle(one('before')).clipPath"
    browser.open(page, "#hero-0001")
    links = browser.run("return [...document.querySelectorAll('[data-strip] a')].map(a => a.href)")
    assert [link.rpartition("/")[2] for link in links] == ["a%20b.png", "mask.png"]
    browser.wait("return one('before').naturalWidth === 32")
    assert browser.texts("[data-inputs] button") == ["image", "mask"]
    assert browser.run(covered) == "inset(0px 100% 0px 0px)"
    ActionChains(browser.driver).key_down("b").perform()
    assert browser.run(covered) == "inset(0px 0% 0px 0px)"
    ActionChains(browser.driver).key_up("b").perform()
    assert browser.run(covered) == "inset(0px 100% 0px 0px)"
    mask = browser.all("[data-inputs] button")[1]
    ActionChains(browser.driver).click_and_hold(mask).perform()
    assert browser.run(covered) == "inset(0px 0% 0px 0px)"
    assert browser.run("return one('before').src").endswith("/hero/inputs/mask.png")
    ActionChains(browser.driver).release().perform()
    browser.find("[data-cut]").send_keys(Keys.ARROW_RIGHT * 3)
    assert browser.run(covered) == "inset(0px 97% 0px 0px)"
    browser.press(Keys.TAB)
    browser.run("go(1)")
    assert not browser.find("[data-before]").is_displayed()
    assert not browser.find("[data-slider]").is_displayed()


def test_pictures_are_selected_by_range_compared_rated_and_sorted(
    tmp_path: Path, browser: Browser
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(put_page(tmp_path, [sidecar(n, steps=40 - n, guidance=4.0) for n in range(1, 6)]))
    seen = "return [...document.querySelectorAll('.shot:not([hidden])')].map(s => s.id.slice(-1))"
    chain = ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).key_down(Keys.SHIFT)
    chain.click(browser.find("#hero-0004")).key_up(Keys.SHIFT).perform()
    assert browser.find("[data-picked]").text == "3 selected" and not browser.run(VIEWER)
    browser.find("[data-reject]").click()
    browser.press("s")
    assert browser.run("return [...picks].sort()") == [1, 2]
    browser.find("[data-download]").click()
    # What lies on this disk already is listed.
    area = "return document.querySelector('[data-exports] textarea').value"
    assert browser.run(area) == "outbox/hero/hero-0002.png\noutbox/hero/hero-0003.png\n"
    browser.press(Keys.ESCAPE)
    browser.find("[data-compare]").click()
    assert in_viewer(browser) == "hero-0003.png"
    assert browser.texts(".differs") == ["9 other: 8", "37 other: 38"]
    browser.press(Keys.ESCAPE)
    browser.wait("return !viewer.open && !leaving")
    browser.press(Keys.ESCAPE, Keys.END, "3")
    assert not browser.find("[data-picks]").is_displayed()
    for words, found in (("-rejected", "15"), ("rating=3", "5"), ("steps=38", "2"),
                         ("steps=3", ""), ("guidance:4", "12345")):  # fmt: skip
        browser.run("filter.value = arguments[0]; narrow()", words)
        assert "".join(browser.run(seen)) == found
    browser.run("filter.value = ''; one('sort').value = 'rating'; sortPictures()")
    assert browser.run(seen) == ["5", "1", "2", "3", "4"]
    browser.press(Keys.HOME, Keys.ARROW_RIGHT)
    assert browser.run(FOCUSED) == "hero-0001"
    browser.run("one('sort').value = ''; sortPictures()")
    assert browser.run(seen) == ["1", "2", "3", "4", "5"]
    browser.driver.refresh()
    assert (
        browser.run("return images.map(marksOf).join()")
        == " , rejected , rejected , rejected , rating 3 "
    )


def test_jobs_of_one_name_in_two_homes_share_no_favourites(
    tmp_path: Path, browser: Browser
) -> None:
    for home, sha256 in (("a", "1" * 64), ("b", "2" * 64)):
        browser.open(put_page(tmp_path / home, pack(1, 1, 2), source={"sha256": sha256}))
        assert browser.find("[data-favourites]").text == "0"
        browser.press("f")
        assert browser.find("[data-favourites]").text == "1"


def test_a_preview_is_shown_as_often_as_there_is_one(tmp_path: Path, browser: Browser) -> None:
    page = put_page(tmp_path, pack(1, 1, 1), state="running", beside=[PREVIEW])
    file, aside = page.with_name(PREVIEW), page.with_name("aside")
    Image.new("RGB", (16, 16), "red").save(file, "WEBP")
    at = "document.querySelector('[data-preview]')"
    browser.open(page)
    browser.wait(f"return {at}.naturalWidth && !{at}.hidden")
    file.rename(aside)
    browser.wait(f"return {at}.hidden")
    aside.rename(file)
    browser.wait(f"return {at}.naturalWidth && !{at}.hidden")
    assert all(PREVIEW in each for each in browser.complaints())
    over = put_page(tmp_path / "over", pack(1, 1, 1), beside=[PREVIEW])
    assert PREVIEW not in over.read_text("utf-8").partition("<script")[0]
