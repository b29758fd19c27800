"""How pictures lie on the page: a board where there are axes, else a grid."""

from __future__ import annotations

from typing import Any

from runner.gallery.page.layout import Board, arrange, axes_of, shots_of
from tests.gallery.samples import sidecar


def board(*sidecars: dict[str, Any], failures: tuple[dict[str, Any], ...] = ()) -> Board:
    shots = shots_of(sidecars, failures)
    return arrange(shots, axes_of(shots))


COLUMNS = ("guidance 1", "guidance 3.5", "guidance 7")


def pack(subjects: int, variables: int, seeds: int) -> list[dict[str, Any]]:
    places = [(s, v, n) for s in range(subjects) for v in range(variables) for n in range(seeds)]
    return [
        sidecar(i, seed=n, prompt=f"s{s} v{v}", result_subject=f"s{s}", result_variable=f"v{v}")
        for i, (s, v, n) in enumerate(places, start=1)
    ]


def test_a_pack_lies_with_subjects_down_variables_across_and_seeds_inside() -> None:
    found = board(*pack(3, 2, 4))
    assert (found.down, found.across, found.columns) == ("subject", "variable", ("v0", "v1"))
    assert list(found.rows) == [("", "s0"), ("", "s1"), ("", "s2")]
    assert [shot.spec["seed"] for shot in found.rows["", "s2"][1]] == [0, 1, 2, 3]
    assert found.seeds == 4 and found.abreast == 4


def test_seeds_wrap_where_there_are_many_columns() -> None:
    assert board(*pack(2, 5, 9)).abreast == 3


def test_a_pack_with_one_variable_has_its_subjects_down() -> None:
    found = board(*pack(3, 1, 2))
    assert (found.down, found.across) == ("subject", "")
    assert [len(row[0]) for row in found.rows.values()] == [2, 2, 2]


def test_a_sweep_of_two_fields_is_a_board_too() -> None:
    cells = [(steps, guidance) for steps in (4, 8) for guidance in (1.0, 3.5, 7.0)]
    found = board(*(sidecar(i, steps=s, guidance=g) for i, (s, g) in enumerate(cells, start=1)))
    assert (found.down, found.across, found.columns) == ("steps", "guidance", COLUMNS)


def test_a_sweep_of_three_fields_has_a_board_for_each_value_of_the_first() -> None:
    places = [(p, s, g) for s in (4, 8) for p in ("fox", "owl") for g in (1.0, 3.5, 7.0)]
    told = [sidecar(i, prompt=p, steps=s, guidance=g) for i, (p, s, g) in enumerate(places, 1)]
    failure = {"index": 12, "reason": "Timeout", "prompt": "owl", "steps": 8, "guidance": 7.0}
    found = board(*told[:11], failures=(failure,))
    assert found.columns == COLUMNS
    assert list(found.rows) == [(p, f"steps {s}") for p in ("fox", "owl") for s in (4, 8)]
    assert [shot.missing for shot in found.rows["owl", "steps 8"][2]] == ["Timeout"]


def test_an_input_is_named_by_its_file() -> None:
    told = [sidecar(n, image=f"outbox/hero/inputs/{'ab'[n % 2]}.png") for n in range(4)]
    assert list(board(*told).rows) == [("", "image a.png"), ("", "image b.png")]


def test_sizes_are_one_axis() -> None:
    sizes = [(64, 64), (64, 64), (128, 64), (128, 64)]
    found = board(
        *(
            sidecar(i, width=w, height=h, result_width=w, result_height=h)
            for i, (w, h) in enumerate(sizes, 1)
        )
    )
    assert list(found.rows) == [("", "size 64×64"), ("", "size 128×64")]


def test_seeds_alone_and_unrelated_pictures_are_a_grid() -> None:
    assert board(*(sidecar(n) for n in range(1, 9))).down == ""
    assert board(*(sidecar(n, prompt=f"p{n}") for n in range(1, 9))).down == ""
    assert board(*(sidecar(n, prompt=f"p{n}", steps=n) for n in range(1, 9))).down == ""
    assert list(board().rows.values()) == [[[]]]


def test_a_missing_picture_has_its_place_and_its_reason() -> None:
    whole = pack(2, 2, 1)
    failure = {
        "index": 3,
        "reason": "OutOfMemory",
        "message": "smaller",
        "subject": "s1",
        "variable": "v0",
    }
    found = board(whole[0], whole[1], whole[3], failures=(failure,))
    (missing,) = found.rows["", "s1"][0]
    assert (missing.missing, missing.message, missing.index) == ("OutOfMemory", "smaller", 3)
    assert found.rows["", "s1"][1][0].file == "hero-0004.png"


def test_a_file_name_never_leaves_the_jobs_folder() -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "C:\\x\\passwd", "..\\passwd"):
        (shot,) = shots_of([sidecar(result_file=name)], ())
        assert shot.file == "passwd"
