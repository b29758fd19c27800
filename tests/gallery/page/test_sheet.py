"""The pages as text: everything escaped, nothing from the network, a policy that fits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest

from runner.gallery.page.sheet import outbox_page
from tests.gallery.samples import HOSTILE, job_page, job_pages, sidecar, status

_ELEMENT = re.compile(r"<(script|style)([^>]*)>(.*?)</\1>", re.DOTALL)


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def pages(word: str) -> list[str]:
    """Both pages with the same words in every place that a caller can write to."""
    told = sidecar(
        prompt=word,
        tags=[word],
        notes=word,
        result_subject=word,
        result_variable=word,
        result_file=word,
    )
    other = sidecar(2, prompt=word, result_subject="s", result_variable="v")
    failure = {"index": 3, "reason": word, "message": word, "seed": word, "subject": word}
    state = status(
        3,
        model=word,
        reason=word,
        message=word,
        tags=[word],
        warnings=[word],
        errors=[{"line": 1, "column": 2, "path": word, "message": word}],
        state="running",
        progress={"phase": word, "image": 1, "step": 1, "steps": 3, "fraction": 0.5},
    )
    listed = status(job=word, message=word, outputs=[{"thumbnail": word, "width": 1, "height": 1}])
    return [
        job_page(state, [told, other], failures=[failure]),
        outbox_page([listed], {word: word}),
    ]


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_make_no_element_and_no_attribute(word: str) -> None:
    for hostile, plain in zip(pages(word), pages("plain"), strict=True):
        strange, usual = Tags(hostile), Tags(plain)
        assert [tag for tag, _ in strange.tags] == [tag for tag, _ in usual.tags]
        names = [sorted(attributes) for _, attributes in strange.tags]
        assert names == [sorted(attributes) for _, attributes in usual.tags]
        for _, attributes in strange.tags:
            link = attributes.get("href") or attributes.get("src") or ""
            assert not re.match(
                r"[a-z]+:(?!image/svg)|/", link.removeprefix("data:"), re.IGNORECASE
            )


@pytest.mark.parametrize("word", HOSTILE)
def test_the_data_of_the_script_cannot_end_it(word: str) -> None:
    page = pages(word)[0]
    found = [content for _, attributes, content in _ELEMENT.findall(page) if "json" in attributes]
    (data,) = found
    assert word in json.loads(data)["prompts"]
    assert not set("<>&\u2028\u2029") & set(data) and data.isascii()


def test_the_policy_allows_exactly_what_stands_in_the_page() -> None:
    for page in pages("plain"):
        (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
        allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
        inside = {
            "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            for _, attributes, content in _ELEMENT.findall(page)
            if "json" not in attributes
        }
        assert allowed == inside
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert page.index("Content-Security-Policy") < page.index("<style")


def test_nothing_comes_from_the_network_and_nothing_is_inline() -> None:
    for page in pages("plain"):
        for tag, attributes in Tags(page).tags:
            assert not {name for name in attributes if name.startswith("on") or name == "style"}
            for name in ("src", "href"):
                link = attributes.get(name) or ""
                # The name of the SVG namespace is no address: nobody asks for it.
                assert "//" not in link.replace("xmlns='http://www.w3.org/2000/svg'", ""), tag


def test_a_running_job_refreshes_itself_and_a_finished_one_does_not() -> None:
    running = job_page(status(state="running"), [])
    assert 'http-equiv="refresh"' in running and 'data-final="false"' in running
    done = job_page(status(), [])
    assert "refresh" not in done.split("<style>")[0] and 'data-final="true"' in done


def test_the_head_tells_totals_time_and_estimate() -> None:
    state = status(
        8,
        state="running",
        finished_at=None,
        images={"total": 8, "done": 2, "failed": 1, "skipped": 1},
        progress={
            "phase": "denoising",
            "image": 5,
            "step": 3,
            "steps": 28,
            "fraction": 0.4,
            "eta_seconds": None,
        },
    )
    text = " ".join(Tags(job_page(state, [sidecar(1), sidecar(2)])).text.split())
    for said in ("2 of 8", "failed 1", "skipped 1", "per picture 1.5 s"):
        assert said.replace(" ", "") in text.replace(" ", "")
    assert "picture 5 of 8: denoising · step 3 of 28 · about 6.0 s to go" in text
    assert "4to come" in text


def test_a_rejected_spec_shows_its_errors_with_line_and_column() -> None:
    errors = [{"line": 3, "column": 8, "path": "steps", "message": "500 is too many"}]
    state = status(
        0, state="rejected", kind=None, model=None, reason="SchemaInvalid", errors=errors
    )
    text = Tags(job_page(state, [])).text
    assert "line 3, column 8: steps: 500 is too many" in text and "No pictures" in text


def test_alt_texts_are_the_prompts() -> None:
    page = Tags(job_page(status(), [sidecar(prompt='a "red" fox')]))
    assert [a["alt"] for tag, a in page.tags if tag == "img"][0] == 'a "red" fox'


def test_the_page_of_all_jobs_lists_the_newest_first_by_day() -> None:
    jobs = [
        status(job=f"j{day}", accepted_at=f"2026-11-{day:02}T09:30:00.000Z") for day in (3, 9, 5)
    ]
    page = outbox_page([*jobs, {"id": None}, {"id": "bare"}])
    assert re.findall(r'href="([^"]*)/(?:index.html|status.json)"', page) == [
        "j9", "j5", "j3", "bare",
    ]  # fmt: skip
    assert re.findall(r"<h2>([^<]*)</h2>", page) == [
        "2026-11-09",
        "2026-11-05",
        "2026-11-03",
        "without a date",
    ]
    assert "No jobs yet" in outbox_page([])


def test_pages_of_two_thousand_pictures_are_made_in_no_time() -> None:
    sidecars = [
        sidecar(n, result_subject=f"s{n % 20}", result_variable=f"v{n % 7}") for n in range(1, 2001)
    ]
    started = time.perf_counter()
    pages = job_pages(status(2000), sidecars)
    assert time.perf_counter() - started < 3
    assert len(pages) == 4 and all(len(page) < 500_000 for page in pages.values())


@pytest.mark.parametrize(
    "odd",
    [
        {"result": None},
        {"result": {"index": "x", "width": "wide", "seconds": "long", "model": 5}},
        {"prompt": 5, "result": {"file": 7}},
        {},
    ],
)
def test_odd_sidecars_make_a_page_all_the_same(odd: dict[str, Any]) -> None:
    assert "</html>" in job_page(status(images=None, tags=None, outputs=None), [odd])
