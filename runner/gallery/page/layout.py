"""Arranges a job's pictures for its page: on a board of its axes, or in a plain grid.

    job                    rows                 columns               cells
    a pack                 subjects             variables             seeds
    a matrix of 2 fields   first field          second field          seeds
    one of more fields     all but the last two, and in each the next to last, the last, seeds
    one field varies       its values           one                   seeds
    anything else          one grid, in order

A picture that was not made (failed, skipped, cancelled) keeps its place, with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from runner.gallery.formatting import mapping, number_text, printable

# Pictures with sides up to this many pixels are enlarged with hard edges, as pixel art.
CRISP_UP_TO = 128
_NOT_AXES = frozenset(
    "schema $schema id seed seeds count notes tags priority format quality metadata result".split()
)
# These say what they are.
_UNNAMED = ("subject", "variable", "prompt")
_MOST_ROWS, _MOST_COLUMNS = 400, 40


@dataclass(frozen=True)
class Shot:
    """One image of the job.

    `result` is the `result` of its sidecar. For an image that was not made it is the failure
    instead, `missing` is the reason word and `file` is empty.
    """

    index: int
    file: str
    spec: Mapping[str, Any]
    result: Mapping[str, Any]
    missing: str = ""
    message: str = ""

    @property
    def name(self) -> str:
        """The stem of its files' names, which is also its id in the gallery."""
        return PurePosixPath(self.file).stem or f"image-{self.index}"

    @property
    def prompt(self) -> str:
        return str(self.spec.get("prompt") or "")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, each 1 if unknown."""
        sides = (self.result.get(k) or self.spec.get(k) or 1 for k in ("width", "height"))
        width, height = (side if isinstance(side, int) else 1 for side in sides)
        return width, height


@dataclass(frozen=True)
class Board:
    """The arrangement of shots; a plain grid is one row and one column, with `down` empty.

    `down` and `across` are the names of the last two axes. `rows` has the cells of each row, one
    for each column, by its headings: the values of the axes before these, and its own. `seeds` is
    the most shots in one cell (1 in a grid).
    """

    down: str
    across: str
    columns: tuple[str, ...]
    rows: Mapping[tuple[str, str], Sequence[Sequence[Shot]]]
    seeds: int

    @property
    def abreast(self) -> int:
        """How many shots of a cell are side by side: all of them if there are few columns."""
        if len(self.columns) * self.seeds <= 8:
            return self.seeds
        return max(1, ceil(sqrt(self.seeds)))


def shots_of(
    sidecars: Iterable[Mapping[str, Any]], failures: Iterable[Mapping[str, Any]]
) -> list[Shot]:
    """Every image of the job in order: those made from the sidecars, the others from `failures`."""
    shots: dict[int, Shot] = {}
    for place, failure in enumerate(failures, start=1):
        index = _index(failure, place)
        spec = {k: v for k, v in failure.items() if k not in ("index", "reason", "message")}
        shots[index] = Shot(
            index=index,
            file="",
            spec=spec,
            result=failure,
            missing=str(failure.get("reason") or "Internal"),
            message=str(failure.get("message") or ""),
        )
    for place, sidecar in enumerate(sidecars, start=1):
        result = mapping(sidecar.get("result"))
        index = _index(result, place)
        spec = {k: v for k, v in sidecar.items() if k != "result"}
        file = leaf(result.get("file")) or f"{result.get('job', 'image')}-{index:04}.png"
        shots[index] = Shot(index=index, file=file, spec=spec, result=result)
    return [shots[index] for index in sorted(shots)]


def axes_of(
    shots: Sequence[Shot], before: Sequence[str] = (), *, in_part: bool = False
) -> tuple[str, ...]:
    """The fields along which the shots are placed; none for a grid.

    Those on a page that shows a job `in_part` may be of one subject, whose name it needs. Where
    nothing varies, it is as on the page `before`.
    """
    return tuple(_axes(shots, in_part) or (before if shots and _fits(shots, before) else ()))


def arrange(shots: Sequence[Shot], axes: Sequence[str]) -> Board:
    """Place the shots along the axes."""
    if not axes or not shots:
        return Board("", "", ("",), {("", ""): [shots]}, seeds=1)
    *outer, down, across = axes if len(axes) > 1 else (*axes, "")
    cells: dict[tuple[tuple[str, str], str], list[Shot]] = {}
    for shot in shots:
        row = " · ".join(_heading(shot, axis) for axis in outer), _heading(shot, down)
        cells.setdefault((row, _heading(shot, across) if across else ""), []).append(shot)
    groups = list(dict.fromkeys(group for (group, _), _ in cells))
    rows = sorted(dict.fromkeys(row for row, _ in cells), key=lambda row: groups.index(row[0]))
    columns = tuple(dict.fromkeys(column for _, column in cells))
    return Board(
        down=down,
        across=across,
        columns=columns,
        rows={row: [cells.get((row, column), []) for column in columns] for row in rows},
        seeds=max(map(len, cells.values())),
    )


def label(shot: Shot, axis: str) -> str:
    """The shot's value on one axis."""
    if axis in ("subject", "variable"):
        return str(shot.result.get(axis) or "–")
    if axis == "size":
        return "{}×{}".format(*shot.size)
    value = shot.spec.get(axis)
    return _words(value) if value is not None else "–"


def leaf(name: object) -> str:
    """The last part of a POSIX or Windows path: a page links only to files in its own folder."""
    return printable(PurePosixPath(PureWindowsPath(str(name or "")).name).name)


def _heading(shot: Shot, axis: str) -> str:
    return label(shot, axis) if axis in _UNNAMED else f"{axis} {label(shot, axis)}"


def _words(value: Any) -> str:
    """A setting as text; an input by its file's name."""
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    value = value.get("path", value) if isinstance(value, Mapping) else value
    return leaf(value) if str(value).startswith("outbox/") else number_text(value)


def _axes(shots: Sequence[Shot], in_part: bool) -> list[str]:
    """The fields that vary and fit a board, or none."""
    if any(shot.result.get("subject") for shot in shots):
        # These are the axes of a pack, whatever else varies.
        fewest = {"subject": 1 if in_part else 2, "variable": 2}
        axes = [axis for axis, few in fewest.items() if len(_values(shots, axis)) >= few]
        return axes if _fits(shots, axes) else []
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
    return varying if _fits(made, varying) else []


def _fits(shots: Sequence[Shot], axes: Sequence[str]) -> bool:
    """Whether a board with these axes has few enough rows, columns and empty cells."""
    if not axes:
        return False
    counts = [len(_values(shots, axis)) for axis in axes]
    if len(axes) == 1:
        # With a row for each picture, a grid shows more at once.
        return counts[0] * 2 <= len(shots) and counts[0] <= _MOST_ROWS
    # Axes that vary together leave most cells of the board empty.
    filled = prod(counts) <= 2 * len(shots)
    return filled and prod(counts[:-1]) <= _MOST_ROWS and counts[-1] <= _MOST_COLUMNS


def _values(shots: Iterable[Shot], axis: str) -> list[str]:
    return list(dict.fromkeys(label(shot, axis) for shot in shots))


def _index(result: Mapping[str, Any], otherwise: int) -> int:
    index = result.get("index")
    return index if isinstance(index, int) else otherwise
