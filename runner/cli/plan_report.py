"""A bulk run worked out beforehand, for people and for programs: how much, how long, what not.

Reads the pack, the gallery's index and the disk's free room; needs no GPU and starts nothing.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.cli.output import size
from runner.settings import Home

if TYPE_CHECKING:
    from composer.plan import Plan
    from runner.spool.inbox.preview import Preview

_LISTED = 12
_WIDE = 100


def told_of(ahead: Preview, home: Home) -> dict[str, Any]:
    """The plan as other programs read it, with what this machine has measured and has room for."""
    from composer.report import plan_json

    told = plan_json(ahead.plan)
    told["kind"] = ahead.plan.spec["kind"]
    told["warnings"] = list(ahead.warnings)
    told["errors"] = [{"path": p.path, "message": p.message} for p in ahead.problems]
    told["rejected"] = bool(told["rejected"] or ahead.problems or not told["count"])
    told["estimate"] |= _time(ahead.plan, home)
    told["estimate"]["free_bytes"] = _free(home)
    return told


def _time(plan: Plan, home: Home) -> dict[str, Any]:
    """Seconds for all images, by what images like them took; None where some were never made."""
    from runner.gallery.store import FOLDER, Gallery
    from runner.gallery.timing import Like, measured

    kind = str(plan.spec["kind"])
    groups: Counter[Like] = Counter()
    for item in plan.items():
        given = item.parameters
        groups[
            Like(
                kind,
                str(given.get("model")),
                given.get("width"),
                given.get("height"),
                given.get("steps"),
            )
        ] += 1
    gallery = Gallery(home.data / FOLDER)
    found = {like: measured(gallery, like) for like in groups}
    known = [(each, groups[like]) for like, each in found.items() if each is not None]
    seconds = sum(each.seconds * count for each, count in known)
    counted = sum(count for _, count in known)
    whole = counted == groups.total() > 0
    return {
        "seconds": round(seconds, 1) if whole else None,
        "seconds_per_image": round(seconds / counted, 3) if counted else None,
        "measured_on": sum(each.images for each, _ in known),
        "exact": whole and all(each.exact for each, _ in known),
        "unmeasured": groups.total() - counted,
    }


def _free(home: Home) -> int | None:
    folder = home.outbox if home.outbox.is_dir() else home.root
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def tokens_text(tokens: Mapping[str, Any]) -> str:
    """The tokens of one prompt in words: "about 17 CLIP and 16 T5 tokens, estimated"."""
    names = {"clip": "CLIP", "t5": "T5", "qwen3": "Qwen3"}
    each = [f"{count} {names.get(n, n)}" for n, count in tokens.items() if n != "estimated"]
    if tokens["estimated"]:
        return f"about {' and '.join(each)} tokens (estimated)"
    return f"{' and '.join(each)} tokens (counted)"


def print_plan(told: Mapping[str, Any]) -> None:
    """The plan in words, the long lists shortened."""
    prompts = {(item["subject"], item["variable"]): item["prompt"] for item in told["items"]}
    print(f"{told['pack']} {told['version']}: {_many(told['count'], 'image')} of "
          f"{_many(len(prompts), 'prompt')}")  # fmt: skip
    alike = _alike(list(prompts.values()))
    _list("prompts", [f"{_named(*names)}: {_rest(t, alike)}" for names, t in prompts.items()])
    _list("skipped", [_skipped(each) for each in told["skipped"]])
    _list(
        "violations",
        [f"{_where(v)}: {v['term']!r} in {v['block']}, by {v['rule']}" for v in told["violations"]],
        told["violation_count"],
    )
    same = [f"{_where(d)} is {_where(d['same_as'] or d)} again" for d in told["duplicates"]]
    _list("duplicates", same)
    _list(
        "over-long",
        [
            f"{_where(o)}: {o['length']:,} characters, {o['over_by']:,} too many; the longest "
            f"block is {o['longest']} ({o['file']})"
            for o in told["over_long"]
        ],
    )
    _list("warnings", told["warnings"])
    for number, line in enumerate(_tokens(told["tokens"])):
        print(f"{'' if number else 'tokens':<11} {line}")
    _list("errors", [f"{e['path']}: {e['message']}" for e in told["errors"]])
    estimate = told["estimate"]
    free = estimate["free_bytes"]
    of_free = f" of {size(free)} that are free" if free is not None else ""
    print(f"disk        about {size(estimate['bytes'])}{of_free}")
    print(f"time        {_duration(estimate)}")
    print("this would be rejected" if told["rejected"] else "this can run")


def _tokens(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    models = len({row["model"] for row in rows})
    for row in rows:
        of = f"{row['model']}: " if models > 1 else ""
        how = "" if row["counted"] else "about "
        over = f", {row['over']:,} prompts have more" if row["over"] else ""
        yield (
            f"{of}{row['encoder']} sees {row['limit']}, the longest prompt has {how}{row['most']}"
            f"{over} ({'counted' if row['counted'] else 'estimated'})"
        )


def _list(name: str, lines: Sequence[str], total: int | None = None) -> None:
    count = len(lines) if total is None else total
    print(f"{name:<11} {count:,}")
    for line in lines[:_LISTED]:
        shown = "".join(char if char.isprintable() else " " for char in line)
        print(f"  {shown if len(shown) <= _WIDE else shown[: _WIDE - 1] + '…'}")
    if count > _LISTED:
        print(f"  … and {count - min(_LISTED, len(lines)):,} more (all with --json)")


def _alike(prompts: Sequence[str]) -> int:
    """How many characters all prompts begin with alike, whole words only."""
    if len(prompts) < 2:
        return 0
    return os.path.commonprefix(prompts).rfind(" ") + 1


def _rest(prompt: str, alike: int) -> str:
    return f"… {prompt[alike:]}" if alike > _WIDE // 3 else prompt


def _named(subject: str, variable: str | None) -> str:
    return f"{subject} × {variable}" if variable else subject


def _where(entry: Mapping[str, Any]) -> str:
    return _named(entry["subject"], entry["variable"])


def _skipped(entry: Mapping[str, Any]) -> str:
    named = _named(entry["subject"] or entry["variable"] or entry["file"], None)
    both = entry["subject"] and entry["variable"]
    return f"{_where(entry) if both else named}: {entry['reason']}"


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _duration(estimate: Mapping[str, Any]) -> str:
    each, seconds = estimate["seconds_per_image"], estimate["seconds"]
    if each is None:
        return "unknown: no image of this model and kind has been made here yet"
    if seconds is None:
        return f"unknown: {_many(estimate['unmeasured'], 'image')} of a model not measured yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    words = words if hours or minutes else f"{seconds:.1f} s"
    how = "measured" if estimate["exact"] else "scaled from what was measured"
    images = _many(estimate["measured_on"], "image")
    return f"about {words} ({each:g} s an image, {how} on {images})"
