"""Bulk jobs: counted by arithmetic, realised by index, in the promised order."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from specs.document import Document
from specs.errors import SpecInvalid
from specs.expand import count, draw_base, for_sidecar, image, needs_base
from specs.validate import validate

PLAIN = {"kind": "text2img", "prompt": "a"}


def every(spec: dict[str, Any], base: int = 100, **more: Any) -> list[dict[str, Any]]:
    number = len(more["prompts"]) if "prompts" in more else 1
    return [image(spec, index, base, **more) for index in range(count(spec, number))]


def test_a_plain_spec_is_one_image_with_the_drawn_seed() -> None:
    assert every(PLAIN) == [{**PLAIN, "seed": 100}]
    assert needs_base(PLAIN) and needs_base({**PLAIN, "count": 4})
    assert not needs_base({**PLAIN, "seed": 1}) and not needs_base({**PLAIN, "seeds": [1]})


@pytest.mark.parametrize(
    "fields, seeds",
    [
        ({"seed": 7}, [7]),
        ({"seed": 7, "count": 3}, [7, 8, 9]),
        ({"seeds": [5, 1, 9]}, [5, 1, 9]),
        ({"seeds": {"start": 20, "count": 2}}, [20, 21]),
        ({"count": 3}, [100, 101, 102]),
    ],
)
def test_seeds_follow_the_spec(fields: dict[str, Any], seeds: list[int]) -> None:
    spec = {**PLAIN, **fields}
    assert [one["seed"] for one in every(spec)] == seeds
    assert all(set(one) == {"kind", "prompt", "seed"} for one in every(spec))


def test_seeds_vary_fastest_then_the_last_field_of_the_matrix() -> None:
    matrix = {"guidance": [1, 2], "steps": [4, 8, 12]}
    found = every({**PLAIN, "steps": 99, "seeds": [7, 3], "matrix": matrix})
    assert [(one["guidance"], one["steps"], one["seed"]) for one in found] == list(
        itertools.product([1, 2], [4, 8, 12], [7, 3])
    )


def test_without_a_seed_every_image_of_the_job_gets_its_own() -> None:
    found = every({**PLAIN, "count": 2, "matrix": {"steps": [4, 8]}})
    assert [one["seed"] for one in found] == [100, 101, 102, 103]


def test_a_realised_image_is_a_valid_spec_of_one_image() -> None:
    spec = {**PLAIN, "id": "a", "tags": ["t"], "count": 2, "matrix": {"prompt": ["x", "y"]}}
    spec |= {"priority": 3, "window": "22:00-07:00", "timeout": 5, "x_mine": 1, "result": {}}
    for one in every(spec):
        assert validate(Document(one)) == one
        assert count(one) == 1 and image(one, 0, 0) == one
    assert for_sidecar(every(spec)[3]) == {
        "kind": "text2img", "prompt": "y", "tags": ["t"], "x_mine": 1, "seed": 103,
    }  # fmt: skip


def test_composed_prompts_vary_slowest_and_bring_fields_that_the_spec_wins_over() -> None:
    spec = {
        "kind": "text2img",
        "compose": {"pack": "p", "subjects": "all"},
        "matrix": {"guidance": [1, 2]},
        "steps": 4,
    }
    prompts: list[Any] = ["a", {"prompt": "b", "steps": 9, "width": 64, "seed": 5, "guidance": 7}]
    found = every(spec, prompts=prompts)
    assert [(one["prompt"], one["guidance"], one["steps"], one["seed"]) for one in found] == [
        ("a", 1, 4, 100), ("a", 2, 4, 101), ("b", 1, 4, 5), ("b", 2, 4, 5),
    ]  # fmt: skip
    assert [one.get("width") for one in found] == [None, None, 64, 64]
    assert all("compose" not in one for one in found)


def test_the_spec_itself_is_never_changed() -> None:
    spec = {**PLAIN, "matrix": {"steps": [1, 2]}, "count": 2}
    before = repr(spec)
    every(spec)
    assert repr(spec) == before


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_an_index_that_the_spec_does_not_have_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        image({**PLAIN, "count": 2, "matrix": {"steps": [1, 2]}}, index, 0)


def test_ten_thousand_images_are_allowed_and_one_more_is_not() -> None:
    spec = {**PLAIN, "seed": 0, "count": 2_500, "matrix": {"steps": [1, 2], "guidance": [1, 2]}}
    assert count(spec) == 10_000
    assert count({**PLAIN}, prompts=10_000) == 10_000
    with pytest.raises(SpecInvalid, match="10,001 images") as caught:
        count({**PLAIN}, prompts=10_001)
    assert caught.value.reason == "TooManyImages"


def test_counting_an_astronomical_product_takes_no_time() -> None:
    fields = ("prompt", "model", "steps", "guidance", "width", "height")
    spec = {**PLAIN, "count": 10_000, "matrix": {field: list(range(1_000)) for field in fields}}
    start = time.process_time()
    with pytest.raises(SpecInvalid, match="TooManyImages|a job may have"):
        count(spec)
    assert time.process_time() - start < 0.05


def test_no_images_at_all_count_as_none() -> None:
    assert count(PLAIN, prompts=0) == 0


def test_a_drawn_base_leaves_room_for_every_image() -> None:
    assert all(0 <= draw_base(10_000) <= 2**32 - 10_000 for _ in range(200))
    assert draw_base(2**32) == 0
    assert len({draw_base(1) for _ in range(20)}) > 1
