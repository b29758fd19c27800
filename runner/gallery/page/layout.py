"""How a job's pictures lie on its page: a board of two axes where there are two, else a grid.

    a pack ran             subjects down, variables across, seeds inside
    a sweep of two fields  the first down, the second across, seeds inside
    one thing varies       its values down, seeds beside each other
    anything else          one grid, in order

A missing picture (failed, skipped, cancelled) has its place among the others, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from runner.gallery.formatting import mapping, number_text

# Up to this many pixels a picture is enlarged with hard edges: it is pixel art to the eye.
CRISP_UP_TO = 128
_NOT_AXES = frozenset(
    "schema $schema id seed seeds count notes tags priority format quality metadata result".split()
)
_MOST_ROWS, _MOST_COLUMNS = 400, 40


@dataclass(frozen=True)
class Shot:
    """One image of the job, made or not; `missing` is the reason word of one that was not."""

    index: int
    file: str
    spec: Mapping[str, Any]
    facts: Mapping[str, Any]
    missing: str = ""
    message: str = ""

    @property
    def name(self) -> str:
        """The stem that its files share, which is also its id in the gallery."""
        return PurePosixPath(self.file).stem or f"image-{self.index}"

    @property
    def prompt(self) -> str:
        return str(self.spec.get("prompt") or "")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, or 1 by 1 where nobody knows."""
        sides = (self.facts.get(k) or self.spec.get(k) or 1 for k in ("width", "height"))
        width, height = (side if isinstance(side, int) else 1 for side in sides)
        return width, height

    @property
    def crisp(self) -> bool:
        return max(self.size) <= CRISP_UP_TO


@dataclass(frozen=True)
class Row:
    """One line of a board: its label, and the shots of each column."""

    label: str
    cells: tuple[tuple[Shot, ...], ...]


@dataclass(frozen=True)
class Board:
    """The arrangement: without rows' labels it is one plain grid."""

    down: str
    across: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: int = field(default=1)

    @property
    def abreast(self) -> int:
        """How many seeds stand side by side in a cell: few columns leave room for all of them."""
        if len(self.columns) * self.seeds <= 8:
            return self.seeds
        return max(1, ceil(sqrt(self.seeds)))


def shots_of(
    sidecars: Iterable[Mapping[str, Any]], failures: Iterable[Mapping[str, Any]]
) -> list[Shot]:
    """Every image of the job in its order: the made ones from sidecars, the others as told."""
    shots: dict[int, Shot] = {}
    for place, failure in enumerate(failures, start=1):
        index = _index(failure, place)
        spec = {k: v for k, v in failure.items() if k not in ("index", "reason", "message")}
        shots[index] = Shot(
            index=index,
            file="",
            spec=spec,
            facts=failure,
            missing=str(failure.get("reason") or "Internal"),
            message=str(failure.get("message") or ""),
        )
    for place, sidecar in enumerate(sidecars, start=1):
        facts = mapping(sidecar.get("result"))
        index = _index(facts, place)
        spec = {k: v for k, v in sidecar.items() if k != "result"}
        file = leaf(facts.get("file")) or f"{facts.get('job', 'image')}-{index:04}.png"
        shots[index] = Shot(index=index, file=file, spec=spec, facts=facts)
    return [shots[index] for index in sorted(shots)]


def arrange(shots: Sequence[Shot]) -> Board:
    """Find the axes and lay the shots out along them."""
    axes = _axes(shots)
    if not axes:
        return Board("", "", ("",), (Row("", (tuple(shots),)),), seeds=1)
    down, across = (*axes, "")[:2]
    rows = _values(shots, down)
    columns = _values(shots, across) if across else [""]
    cells: dict[tuple[str, str], list[Shot]] = {}
    for shot in shots:
        at = (label(shot, down), label(shot, across) if across else "")
        cells.setdefault(at, []).append(shot)
    return Board(
        down=down,
        across=across,
        columns=tuple(columns),
        rows=tuple(
            Row(row, tuple(tuple(cells.get((row, column), ())) for column in columns))
            for row in rows
        ),
        seeds=max(len(cell) for cell in cells.values()),
    )


def label(shot: Shot, axis: str) -> str:
    """The shot's value on one axis, as its heading says it."""
    if axis in ("subject", "variable"):
        return str(shot.facts.get(axis) or "–")
    if axis == "size":
        return "{}×{}".format(*shot.size)
    value = shot.spec.get(axis)
    return number_text(value) if value is not None else "–"


def leaf(name: object) -> str:
    """A file's bare name, whoever's path it is in: a page links only what lies beside it."""
    return PurePosixPath(PureWindowsPath(str(name or "")).name).name


def _axes(shots: Sequence[Shot]) -> list[str]:
    """At most two fields that vary and divide the shots into fewer places than there are shots."""
    if any(shot.facts.get("subject") for shot in shots):
        # Down and across stay what they are even where one of them has a single value.
        both = [axis for axis in ("subject", "variable") if len(_values(shots, axis)) > 1]
        return both if _fits(shots, both) else []
    made = [shot for shot in shots if not shot.missing]
    fields = dict.fromkeys(key for shot in made for key in shot.spec)
    varying = [
        key
        for key in fields
        if key not in _NOT_AXES
        and key not in ("width", "height")
        and not key.startswith("x_")
        and len(_values(made, key)) > 1
    ]
    if len(_values(made, "size")) > 1:
        varying.append("size")
    return varying if 1 <= len(varying) <= 2 and _fits(made, varying) else []


def _fits(shots: Sequence[Shot], axes: Sequence[str]) -> bool:
    if not axes:
        return False
    counts = [len(_values(shots, axis)) for axis in axes]
    if len(axes) == 1:
        # One row each for pictures that have nothing in common would only be a slower grid.
        return counts[0] * 2 <= len(shots) and counts[0] <= _MOST_ROWS
    # Two axes that never cross (file by file) would be a board of holes.
    crossing = counts[0] * counts[1] <= 2 * len(shots)
    return crossing and counts[0] <= _MOST_ROWS and counts[1] <= _MOST_COLUMNS


def _values(shots: Iterable[Shot], axis: str) -> list[str]:
    return list(dict.fromkeys(label(shot, axis) for shot in shots))


def _index(facts: Mapping[str, Any], otherwise: int) -> int:
    index = facts.get("index")
    return index if isinstance(index, int) else otherwise
