"""How long an image takes, told from images like it."""

from __future__ import annotations

from runner.gallery.rebuild import row_of
from runner.gallery.store import Gallery
from runner.gallery.timing import Like, Measured, measured, passes
from tests.gallery.samples import sidecar


def test_a_negative_prompt_costs_each_step_twice_and_a_picture_to_start_from_saves_some(
    gallery: Gallery,
) -> None:
    plain, started = sidecar(1), sidecar(2, strength=0.5, image="a.png", result_seconds=0.8)
    negative = {**plain, "negative_prompt": "text"}
    gallery.add(row_of(plain), row_of(started))

    def told(spec: dict[str, object]) -> Measured | None:
        return measured(gallery, Like("text2img", "dev", 64, 64, passes(spec)))

    assert told(plain) == Measured(1.5, 1, True)
    assert told(started) == Measured(0.8, 1, True)
    guessed = told(negative)
    assert guessed is not None and not guessed.exact
    assert 3.0 <= guessed.seconds <= 3.2


def test_how_much_a_map_counts_takes_no_time_and_saves_none() -> None:
    assert passes({"kind": "control", "steps": 8, "strength": 0.5}) == 8
    assert passes({"kind": "fill", "steps": 8, "strength": 0.5}) == 4
