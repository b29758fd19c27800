"""How a job's pictures are divided among its pages, while it runs and when it is over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from runner.gallery.page import paging
from runner.gallery.page.layout import Shot, shots_of
from runner.gallery.page.paging import Closed, pages_of
from tests.gallery.samples import job_pages, pack, sidecar, status


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_IMAGES", 6)


class Job:
    """A job whose images are over one after another; `asked` are those that were asked for."""

    def __init__(self, sidecars: list[dict[str, Any]]) -> None:
        self.shots = {shot.index: shot for shot in shots_of(sidecars, ())}
        self.asked: list[int] = []
        self.closed = Closed()
        self.written: dict[str, str] = {}

    def refresh(self, over: Sequence[int], state: str = "running") -> dict[str, str]:
        """The pages that are made when these images are over."""
        left = [number for number in over if number >= self.closed.starts[-1]]
        pages, self.closed = pages_of(
            status(len(self.shots), state=state), left, self._some, self.closed
        )
        self.written |= pages
        return pages

    def _some(self, numbers: Sequence[int]) -> list[Shot]:
        self.asked += numbers
        return [self.shots[number] for number in numbers if number in self.shots]


def grid(count: int) -> list[dict[str, Any]]:
    return [sidecar(number) for number in range(1, count + 1)]


def pictures(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'class="shot[^"]*" id="hero-(\d+)"', page)]


def rows(page: str) -> list[str]:
    return re.findall(r'<h2 class="label"><bdi>([^<]*)</bdi></h2>', page)


def links(page: str) -> list[str]:
    return re.findall(r'href="((?:index|page-\d+)\.html)" data-start', page)


def test_a_job_that_fits_has_one_page_and_no_links() -> None:
    (page,) = job_pages(status(6), grid(6)).values()
    assert len(pictures(page)) == 6 and links(page) == []


def test_many_pictures_have_pages_that_link_to_each_other() -> None:
    pages = job_pages(status(14), grid(14))
    assert list(pages) == ["page-3.html", "page-2.html", "index.html"]
    assert [pictures(pages[name]) for name in reversed(pages)] == [
        [1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10, 11, 12],
        [13, 14],
    ]
    assert links(pages["index.html"])[:2] == ["index.html", "page-2.html"]
    assert 'href="page-2.html" data-start="7" rel="next"' in pages["index.html"]
    assert 'href="page-2.html" data-start="7" rel="prev"' in pages["page-3.html"]


def test_rows_that_vary_slowly_are_kept_whole() -> None:
    pages = job_pages(status(20), pack(5, 2, 2))
    assert [rows(page) for page in reversed(pages.values())] == [[f"subject {n}"] for n in range(5)]
    assert [len(pictures(page)) for page in pages.values()] == [4] * 5


def test_a_page_that_whole_rows_fill_is_filled() -> None:
    pages = job_pages(status(15), pack(5, 1, 3))
    assert [rows(page) for page in reversed(pages.values())] == [
        ["subject 0", "subject 1"],
        ["subject 2", "subject 3"],
        ["subject 4"],
    ]


def test_a_row_that_no_page_holds_is_divided_and_named_on_each() -> None:
    pages = job_pages(status(32), pack(2, 2, 8))
    assert [len(pictures(page)) for page in reversed(pages.values())] == [6, 6, 4, 6, 6, 4]
    assert [rows(page) for page in reversed(pages.values())] == [["subject 0"]] * 3 + [
        ["subject 1"]
    ] * 3


def test_a_page_where_nothing_varies_is_as_the_one_before() -> None:
    told = [sidecar(n, steps=4 + (n - 1) // 4) for n in range(1, 13)]
    pages = job_pages(status(12), told)
    assert [rows(page) for page in reversed(pages.values())] == [
        ["steps 4"],
        ["steps 5"],
        ["steps 6"],
    ]


def test_where_rows_mix_pages_are_filled() -> None:
    mixed = [4, 8, 8, 4, 4, 8, 8, 4, 4, 8, 8, 4]
    told = [sidecar(n, steps=steps) for n, steps in enumerate(mixed, start=1)]
    assert [len(pictures(page)) for page in job_pages(status(12), told).values()] == [6, 6]


def test_the_first_page_alone_has_the_head() -> None:
    pages = job_pages(status(8, warnings=["W"], message="M", reason="Timeout"), grid(8))
    for said in ('class="pill"', "<dt>pictures</dt>", 'class="notice"', 'class="notes"'):
        assert said in pages["index.html"] and said not in pages["page-2.html"]
    assert "<dd>1.5 s</dd>" in pages["index.html"] and "<dd>8</dd>" in pages["index.html"]


def test_while_a_job_runs_a_closed_page_is_made_once_and_its_pictures_are_asked_for_once() -> None:
    """Seen red: at each refresh every page was made anew, from every sidecar."""
    job = Job(grid(40))
    made: list[str] = []
    for done in range(1, 41):
        job.asked.clear()
        made += job.refresh(range(1, done + 1))
        assert len(set(job.asked)) <= 7 + 1, f"asked for {job.asked} when {done} were over"
    closed = [name for name in made if name != "index.html"]
    # Each has been open while its six pictures came, and closed by the first of the next page.
    assert max(map(closed.count, closed)) == 7
    assert made.count("index.html") == 40


def test_no_page_links_to_one_that_is_not_there_yet() -> None:
    job = Job(pack(9, 2, 2))
    for done in range(1, 37):
        there = {*job.written}
        for name, page in job.refresh(range(1, done + 1)).items():
            there.add(name)
            assert {*links(page)} <= there, f"{name} when {done} were over"
    job.refresh(range(1, 37), "succeeded")
    shown = [number for page in job.written.values() for number in pictures(page)]
    assert sorted(shown) == list(range(1, 37))


def test_pages_made_while_a_job_ran_are_those_made_of_it_later() -> None:
    job = Job(pack(9, 2, 2))
    for done in range(1, 37):
        job.refresh(range(1, done + 1))
    job.refresh(range(1, 37), "succeeded")
    later = job_pages(status(36), pack(9, 2, 2))
    assert {name: pictures(page) for name, page in job.written.items()} == {
        name: pictures(page) for name, page in later.items()
    }


def test_a_page_with_a_picture_to_come_stays_open_until_the_job_is_over() -> None:
    job = Job(grid(14))
    with_a_gap = [number for number in range(1, 15) if number != 3]
    assert list(job.refresh(with_a_gap)) == ["index.html"]
    assert pictures(job.written["index.html"]) == [1, 2, 4, 5, 6, 7]
    job.refresh(with_a_gap, "cancelled")
    shown = [pictures(page) for page in reversed(job.written.values())]
    assert sorted(sum(shown, [])) == with_a_gap


def test_the_open_page_has_the_place_of_those_to_come_and_reloads() -> None:
    job = Job(grid(40))
    pages = job.refresh(range(1, 9))
    assert "<strong>32</strong>" in pages["page-2.html"] and "to-come" not in re.sub(
        r"<style>.*?</style>|<script.*?</script>", "", pages["index.html"], flags=re.DOTALL
    )
    job.refresh(range(1, 15))
    assert 'data-final="true"' in job.written["page-2.html"]
    assert 'data-final="false"' in job.written["page-3.html"]
    assert 'data-final="false"' in job.written["index.html"]


def test_pictures_whose_sidecars_are_gone_hold_up_no_page() -> None:
    job = Job(grid(20))
    for number in range(7, 13):
        del job.shots[number]
    job.refresh(range(1, 21))
    assert [pictures(job.written[f"page-{n}.html"]) for n in (2, 3)] == [
        [],
        [13, 14, 15, 16, 17, 18],
    ]


def test_sidecars_that_claim_other_numbers_end_no_run() -> None:
    told = [sidecar(n, result_index=1 if n % 2 else 10**6) for n in range(1, 30)]
    pages, _ = pages_of(status(29), range(1, 30), lambda some: shots_of(told[:7], ()))
    assert list(pages)[-1] == "index.html"
