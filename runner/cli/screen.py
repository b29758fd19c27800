"""What a terminal shows of a runner: lines of one row each, made of its health file and statuses.

`watch` shows all of it; `run`, `drain`, `demo` and `submit --wait` show what is in hand. Columns
that find no room are dropped, and texts cut: nothing wraps.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from runner.cli.output import counted, ending, runner_line, shown_slots
from runner.gallery.formatting import duration
from runner.job import FINAL_STATES
from runner.terminal import on_one_line

_MARKS = {"succeeded": ("✓", "green"), "cancelled": ("■", "yellow")}
_FAILED = ("✗", "red")
_ASCII = str.maketrans("━─✓✗■…", "#-+x=~")
Json = Mapping[str, Any]
_LEAST_TEXT = 16
_MOST_FAULTS = 3


def is_plain(encoding: str) -> bool:
    """Whether a terminal is to get ASCII alone: by its encoding, or by a locale that says so."""
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return not encoding.lower().startswith("utf") or locale in ("C", "POSIX")


def lines(
    size: tuple[int, int], health: Json, jobs: Sequence[Json], ended: Sequence[Json] = (),
    *, whole: bool = False, footer: str = "", plain: bool = False,
) -> list[Text]:  # fmt: skip
    """At most as many rows and columns as `size` has; with `plain` in ASCII alone.

    `jobs` are the statuses with bars, `ended` the last results; only a `whole` page has the
    runner's own line, and every slot.
    """
    width, height = size
    bar = min(max(width // 6, 8), 30)
    head = [_cell(health["note"], "yellow")] if health.get("note") else []
    faults = health.get("faults", ())[:_MOST_FAULTS]
    head += [_cell(f"set aside: {each['file']}: {each['message']}", "red") for each in faults]
    if whole and health:
        head.insert(0, _cell(runner_line({**health, "job": None}), "bold"))
    slots = health.get("slots", []) if whole else shown_slots(health)
    if is_one := len(slots) < 2:
        # What it makes stands below the job.
        slots = [{**slot, "job": None} for slot in slots]
    rows = [row for job in jobs for row in _job_rows(job, bar, width, has_picture=is_one)]
    parts = [
        head,
        _fitted(rows, width, drop=(4, 2, 3)),
        _fitted([_slot_row(slot, bar, width) for slot in slots], width, drop=(3, 2)),
    ]
    if health.get("queued"):
        # The health file is older than the statuses.
        begun = {job["id"] for job in (*jobs, *ended)}
        named = [job for job in dict.fromkeys(health["next"]) if job not in begun]
        parts.append([_cell(f"{health['queued']:,} queued: {', '.join(named)}".rstrip(": "))])
    parts = [part for part in parts if part]
    foot = [_cell(footer, "dim")] if footer else []
    room = height - len(foot) - sum(len(part) + whole for part in parts)
    parts.append(_fitted([_ended_row(e, width) for e in ended[: max(room, 0)]], width))
    spaced = whole and sum(map(len, parts)) + len(parts) + len(foot) <= height
    shown = [line for part in parts if part for line in [*part, *[Text()] * spaced]]
    shown = [*shown[: max(height - len(foot), 0)], *foot]
    for line in shown:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
        if plain:
            _in_ascii(line)
    return shown


def above(line: str, ended: Json | None, *, plain: bool = False) -> Text:
    """A line that stays, above what changes; that of a job that ended begins with its mark."""
    mark = _MARKS.get(ended["state"], _FAILED) if ended else (" ", "")
    text = Text.assemble(mark, " ", _cell(line))
    return _in_ascii(text) if plain else text


def _job_rows(job: Json, bar: int, width: int, *, has_picture: bool) -> Iterable[tuple[Text, ...]]:
    """The row of a job, and one of the picture in hand."""
    if job["state"] != "running":
        mark, name, count, why = _ended_row(job, width)
        yield mark, name, count, Text(), Text(), why
        return
    images, progress = job["images"], job["progress"] or {}
    over = sum(images[key] for key in ("done", "failed", "skipped")) / max(images["total"], 1)
    fraction = min(max(progress.get("fraction", 0.0), over), 1.0)
    left = progress.get("eta_seconds")
    text = f"{fraction:.0%}" if left is None else f"{duration(max(left, 0))} left"
    name, model = _named(job["id"], width, "bold"), _cell(job["model"] or "", "dim")
    yield Text(" "), name, _cell(counted(job)), _bar(fraction, bar), model, _cell(text)
    if has_picture and progress:
        done = progress["step"] / (progress["steps"] or 1)
        steps = f"{progress['step']}/{progress['steps']}" if progress["steps"] else ""
        image = _cell(f"image {progress['image']}")
        yield Text(), image, _cell(steps), _bar(done, bar), Text(), _cell(progress["phase"])


def _slot_row(slot: Json, bar: int, width: int) -> tuple[Text, ...]:
    what = f"image {slot['image']} of {slot['job']}" if slot["job"] else slot["state"]
    text = "  ".join(filter(None, (what, slot["model"], slot["note"])))
    has_steps = slot["job"] and slot["steps"]
    steps = f"{slot['step']}/{slot['steps']}" if has_steps else ""
    drawn = _bar(slot["step"] / slot["steps"], bar) if has_steps else Text()
    memory = f"{slot['memory'] / 2**30:.1f} GiB" if slot["memory"] else ""
    style = "" if slot["state"] in ("working", "idle") else "red"
    return _named(slot["name"], width), _cell(steps), drawn, _cell(memory), _cell(text, style)


def _ended_row(job: Json, width: int) -> tuple[Text, Text, Text, Text]:
    mark = _MARKS.get(job["state"], _FAILED) if job["state"] in FINAL_STATES else (" ", "")
    return Text(*mark), _named(job["id"], width), _cell(counted(job)), _cell(ending(job))


def _in_ascii(text: Text) -> Text:
    text.plain = text.plain.translate(_ASCII).encode("ascii", "replace").decode()
    return text


def _cell(text: object, style: str = "") -> Text:
    return Text(on_one_line(str(text)).replace("\t", " "), style)


def _named(name: str, width: int, style: str = "") -> Text:
    """A name, cut where it would take the room of all else."""
    cell = _cell(name, style)
    cell.truncate(max(width // 3, 10), overflow="ellipsis")
    return cell


def _bar(fraction: float, width: int) -> Text:
    done = round(min(max(fraction, 0.0), 1.0) * width)
    return Text.assemble(("━" * done, "cyan"), ("─" * (width - done), "dim"))


def _fitted(rows: Sequence[tuple[Text, ...]], width: int, drop: Iterable[int] = ()) -> list[Text]:
    """Rows as lines of columns; those of `drop` go in turn until the last one has room."""
    needed = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    kept, gap = [column for column, most in enumerate(needed) if most], 2 if width >= 80 else 1
    for column in drop:
        *others, last = [needed[each] for each in kept] or [0]
        if sum(others) + gap * len(others) + min(last, _LEAST_TEXT) > width:
            kept = [each for each in kept if each != column]
    for row in rows:
        for column in kept[:-1]:
            row[column].truncate(needed[column], pad=True)
    return [Text(" " * gap).join(row[column] for column in kept) for row in rows]
