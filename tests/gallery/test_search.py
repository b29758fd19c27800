"""Questions to the gallery and their answers, newest first."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UsageProblem
from runner.gallery.rebuild import row_of
from runner.gallery.search import search
from runner.gallery.store import Gallery
from runner.gallery.terms import words
from tests.gallery.samples import sidecar


def ids(gallery: Gallery, text: str = "", **filters: Any) -> list[str]:
    return [row["id"] for row in search(gallery, text, **filters)["rows"]]


@pytest.fixture
def four(gallery: Gallery) -> Gallery:
    """Four pictures, the oldest first."""
    gallery.add(
        row_of(sidecar(1, prompt="a red fox in the snow", tags=["a", "b"])),
        row_of(sidecar(2, prompt="Snow on a RED roof", model="tiny", seed=0, tags=["b"])),
        row_of(sidecar(3, prompt="foxglove", kind="fill", result_pack="lamps", width=96)),
        row_of(sidecar(4, prompt="猫と犬", result_width=1024, result_height=768)),
    )
    return gallery


def test_every_word_must_be_there_in_any_order_and_case(four: Gallery) -> None:
    assert ids(four, "SNOW red") == ["hero-0002", "hero-0001"]
    assert ids(four, "red snow fox") == ["hero-0001"]
    assert ids(four, "red dog") == []


def test_a_word_is_found_by_its_beginning_and_in_quotes_as_a_whole(four: Gallery) -> None:
    assert ids(four, "fox") == ["hero-0003", "hero-0001"]
    assert ids(four, '"fox"') == ["hero-0001"]
    assert ids(four, 'sn "a"') == ["hero-0002", "hero-0001"]
    assert ids(four, "ox") == []


def test_accents_may_be_left_out_or_written(gallery: Gallery) -> None:
    gallery.add(row_of(sidecar(1, prompt="a café")), row_of(sidecar(2, prompt="a cafe\u0301")))
    gallery.add(row_of(sidecar(3, prompt="CAFE")))
    for text in ("cafe", "café", "Cafe\u0301", '"café"'):
        assert ids(gallery, text) == ["hero-0003", "hero-0002", "hero-0001"]


@pytest.mark.parametrize("text", ["🚫", " !? ", '"☂"'])
def test_signs_that_are_in_no_word_find_nothing_rather_than_everything(
    four: Gallery, text: str
) -> None:
    assert ids(four, text) == [] and len(ids(four, f"snow {text}")) == 2


def test_scripts_without_spaces_are_found_by_any_letter(four: Gallery) -> None:
    assert ids(four, "犬") == ["hero-0004"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"kind": "fill"}, [3]),
        ({"model": "tiny"}, [2]),
        ({"model": "Tiny"}, [2]),
        ({"pack": "lamps"}, [3]),
        ({"tag": "b"}, [2, 1]),
        ({"tag": ["a", "b"]}, [1]),
        ({"seed": 0}, [2]),
        ({"size": "1024x768"}, [4]),
        ({"size": "1024 × 768"}, [4]),
        ({"job": "hero"}, [4, 3, 2, 1]),
        ({"job": "her"}, []),
        ({"kind": "fill", "model": "tiny"}, []),
        ({"since": "2026-11-23T08:00:03Z"}, [4, 3]),
        ({"until": "2026-11-23T08:00:03Z"}, [2, 1]),
        ({"since": "2026-11-23T08:00:02Z", "until": "2026-11-23T08:00:03Z"}, [2]),
        ({"since": "2026-11-22", "until": "2026-11-24"}, [4, 3, 2, 1]),
        ({"since": "2026-11-25"}, []),
    ],
)
def test_filters(four: Gallery, filters: dict[str, Any], expected: list[int]) -> None:
    assert ids(four, **filters) == [f"hero-{number:04}" for number in expected]


def test_a_date_without_an_offset_is_the_callers_own_time_and_until_includes_its_day(
    four: Gallery,
) -> None:
    day = datetime.fromisoformat("2026-11-23T08:00:01Z").astimezone().date()
    assert len(ids(four, since=str(day), until=str(day))) == 4
    assert ids(four, since="1h") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": "big"},
        {"since": "yesterday"},
        {"until": "2026-13-01"},
        {"since": "0001-01-01"},
        {"until": "9999-12-31"},
        {"since": "9999-12-31T23:59:59-14:00"},
        {"since": "999999d"},
        {"since": "99999999999w"},
    ],
)
def test_a_filter_that_means_nothing_is_wrong_usage(four: Gallery, wrong: dict[str, Any]) -> None:
    """Seen red: of dates at the ends of the calendar, an OverflowError."""
    with pytest.raises(UsageProblem, match="is written like"):
        search(four, **wrong)


def test_pages_follow_each_other_and_the_total_stays(gallery: Gallery) -> None:
    gallery.add(*(row_of(sidecar(n)) for n in range(1, 2501)))
    seen: list[str] = []
    for offset in range(0, 2600, 100):
        page = search(gallery, "fox", limit=100, offset=offset)
        assert page["total"] == 2500
        seen += [row["id"] for row in page["rows"]]
    assert seen == [f"hero-{n:04}" for n in range(2500, 0, -1)]


def test_an_empty_question_to_an_empty_gallery_is_an_empty_page(tmp_path: Path) -> None:
    assert search(Gallery(tmp_path / "none")) == {"total": 0, "rows": []}
    assert not (tmp_path / "none").exists()


def test_the_answers_are_those_of_a_plain_scan(gallery: Gallery) -> None:
    """Random rows, some replaced, some removed; every answer by brute force."""
    chance = random.Random(5)
    vocabulary = ["red", "redder", "fox", "foxes", "snow", "käse", "猫", "a"]
    rows: dict[str, dict[str, Any]] = {}
    for number in range(2600):
        index = chance.randrange(1, 2200) if number > 1500 else number + 1
        prompt = " ".join(chance.choices(vocabulary, k=4))
        kind, seed = chance.choice(["fill", "redux"]), chance.randrange(50)
        row = row_of(sidecar(index, prompt=prompt, kind=kind, seed=seed))
        gallery.add(row)
        if rows.get(row["id"]) != row:
            # The last of those of a second is the newest.
            rows.pop(row["id"], None)
            rows[row["id"]] = row
    gone = chance.sample(sorted(rows), 200)
    assert gallery.remove(*gone) == 200
    for row_id in gone:
        del rows[row_id]
    newest = sorted(rows.values(), key=lambda row: str(row["created_at"]))[::-1]
    for reader in (gallery, Gallery(gallery.folder)):
        for text, kind, seed in [("red", None, None), ("fox re", "fill", None), ("k 猫", None, 7)]:
            expected = [
                row
                for row in newest
                if all(any(w.startswith(q) for w in words(row["prompt"])) for q in words(text))
                and kind in (None, row["kind"])
                and seed in (None, row["seed"])
            ]
            page = search(reader, text, kind=kind, seed=seed, limit=10_000)
            assert page["total"] == len(expected) > 0
            assert page["rows"] == expected
        assert len(reader) == len(rows)
