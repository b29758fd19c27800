"""The report on a planned bulk run, as JSON and in words: images, disk, time, problems.

Reads the gallery's index and the free space of the disk; needs no GPU and starts nothing.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from composer.plan import Plan
from composer.report import plan_json
from runner.cli.output import counts_text, print_message, show
from runner.daemon.tasks import reuse_counts
from runner.files import is_folder
from runner.gallery.formatting import duration, number_of
from runner.gallery.store import FOLDER, Gallery
from runner.gallery.timing import Like, measured, passes
from runner.settings import Home
from runner.spool.inbox.assess import Assessment
from runner.terminal import size_text

_LISTED = 12
_WIDTH = 100


def plan_report(assessment: Assessment, home: Home) -> dict[str, Any]:
    """The plan of an assessment that has one, as `compose --plan --json` prints it.

    To `composer.report.plan_json` it adds what the models refuse, the time that the gallery
    suggests, the free space of the outbox's disk (`free_bytes`, None where unknown), how many
    images a spec that reuses would copy (`reuse`), and whether weights are `absent`.
    """
    plan = assessment.plan
    assert plan is not None
    report = plan_json(plan)
    report["kind"] = plan.spec["kind"]
    report["warnings"] = [
        text
        for text in (*assessment.warnings, *assessment.absent)
        if text not in plan.left_out  # these are in `skipped`
    ]
    report["errors"] = [{"path": p.path, "message": p.message} for p in assessment.problems]
    report["rejected"] = assessment.reason is not None
    report["absent"] = bool(assessment.absent)
    report["estimate"] |= _time_estimate(plan, home)
    if counts := reuse_counts(assessment, home):
        report["reuse"] = counts
        if seconds := report["estimate"]["seconds"]:
            made = counts["new"] + counts["unknown"]
            report["estimate"]["seconds"] = round(seconds * made / report["count"], 1)
    report["estimate"]["free_bytes"] = _free_bytes(home)
    return report


def _time_estimate(plan: Plan, home: Home) -> dict[str, Any]:
    """Seconds to make all images, from images like them that were made here.

    `seconds` is None unless every planned image is like some that were made; `seconds_per_image` is
    the mean over those that are, `unmeasured` the number of the others. `measured_on` is how many
    made images were used, `exact` whether they have the size and steps of all planned ones.
    """
    kind = str(plan.spec["kind"])
    groups: Counter[Like] = Counter()
    for _, fields in plan.images():
        times = fields.get("upscale", 1)
        sides = {name: fields.get(name) for name in ("width", "height")}
        size = {name: side and side * times for name, side in sides.items()}
        steps = passes({"kind": kind, **fields})
        model = str(fields.get("model"))
        groups[Like(kind, model, **size, steps=steps, upscale=times)] += 1
    gallery = Gallery(home.data / FOLDER)
    measurements = []
    try:
        measurements = [(measured(gallery, like), count) for like, count in groups.items()]
    except OSError as error:
        print_message(f"the time is not estimated, for the gallery cannot be read: {error}")
    known = [(measurement, count) for measurement, count in measurements if measurement is not None]
    seconds = sum(measurement.seconds * count for measurement, count in known)
    counted = sum(count for _, count in known)
    complete = counted == groups.total() > 0
    return {
        "seconds": round(seconds, 1) if complete else None,
        "seconds_per_image": round(seconds / counted, 3) if counted else None,
        "measured_on": sum(measurement.images for measurement, _ in known),
        "exact": complete and all(measurement.exact for measurement, _ in known),
        "unmeasured": groups.total() - counted,
    }


def _free_bytes(home: Home) -> int | None:
    folder = home.outbox if is_folder(home.outbox) else home.root
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report of `plan_report` in words, long lists and long texts shortened."""
    prompts = dict.fromkeys((_name(item), item["prompt"]) for item in report["items"])
    show(f"{report['pack']} {report['version']}: {number_of(report['count'], 'image')} of "
          f"{number_of(len(prompts), 'prompt')}")  # fmt: skip
    if counts := report.get("reuse"):
        show(f"images      {counts_text(counts)}")
    start = _common_start([text for _, text in prompts])
    dots = "… " if start else ""
    _print_list("prompts", [f"{name}: {dots}{text[start:]}" for name, text in prompts])
    _print_list("skipped", [_skipped(entry) for entry in report["skipped"]])
    _print_list(
        "violations",
        [
            f"{_name(v)}: {v['term']!r} in {v['block']}, by {v['rule']}"
            for v in report["violations"]
        ],
        report["violation_count"],
    )
    _print_list(
        "duplicates",
        [f"{_name(d)} is {_name(d['same_as'])} again" for d in report["duplicates"]],
    )
    _print_list(
        "over-long",
        [
            f"{_name(o)}: {o['length']:,} characters, {o['over_by']:,} too many; the longest "
            f"block is {o['longest']} ({o['file']})"
            for o in report["over_long"]
        ],
    )
    _print_list("warnings", report["warnings"])
    for number, text in enumerate(_token_limits(report["tokens"])):
        show(f"{'' if number else 'tokens':<11} {text}")
    # Those of a combination are above.
    errors = [e for e in report["errors"] if not e["path"].startswith("compose:")]
    _print_list("errors", [f"{e['path']}: {e['message']}" for e in errors])
    estimate = report["estimate"]
    free = estimate["free_bytes"]
    of_free = f" of {size_text(free)} that are free" if free is not None else ""
    show(f"disk        about {size_text(estimate['bytes'])}{of_free}")
    show(f"time        {_time_text(estimate)}")
    then = " once the weights are here: the warnings say how" if report["absent"] else ""
    show("this would be rejected" if report["rejected"] else f"this can run{then}")


def _token_limits(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    models = len({row["model"] for row in rows})
    for row in rows:
        model = f"{row['model']}: " if models > 1 else ""
        about = "" if row["counted"] else "about "
        over = f", {row['over']:,} prompts have more" if row["over"] else ""
        yield (
            f"{model}{row['encoder']} sees {row['limit']}, the longest prompt has"
            f" {about}{row['most']}{over} ({'counted' if row['counted'] else 'estimated'})"
        )


def _print_list(name: str, entries: Sequence[str], total: int | None = None) -> None:
    """Print the first entries; `total` is how many there are where `entries` has only some."""
    count = len(entries) if total is None else total
    show(f"{name:<11} {count:,}")
    for entry in entries[:_LISTED]:
        text = "".join(char if char.isprintable() else " " for char in entry)
        show(f"  {text if len(text) <= _WIDTH else text[: _WIDTH - 1] + '…'}")
    if count > _LISTED:
        show(f"  … and {count - min(_LISTED, len(entries)):,} more (all with --json)")


def _common_start(prompts: Sequence[str]) -> int:
    """How many characters to leave out of each prompt because all begin with the same words.

    0 where that would leave out less than a third of the width.
    """
    start = os.path.commonprefix(prompts).rfind(" ") + 1 if len(prompts) > 1 else 0
    return start if start > _WIDTH // 3 else 0


def _name(entry: Mapping[str, Any]) -> str:
    row = [f"row {entry['row']}"] if "row" in entry else []
    pair = " × ".join(filter(None, (entry["subject"], entry["variable"])))
    return ", ".join(filter(None, (*row, pair)))


def _skipped(entry: Mapping[str, Any]) -> str:
    both = entry["subject"] and entry["variable"]
    name = _name(entry) if both else entry["subject"] or entry["variable"] or entry["file"]
    return f"{name}: {entry['reason']}"


def _time_text(estimate: Mapping[str, Any]) -> str:
    per_image, seconds = estimate["seconds_per_image"], estimate["seconds"]
    if per_image is None:
        return "unknown: no image of this model and kind is known to have been made here"
    if seconds is None:
        return f"unknown: {number_of(estimate['unmeasured'], 'image')} of a model not measured yet"
    how = "measured" if estimate["exact"] else "scaled from what was measured"
    images = number_of(estimate["measured_on"], "image")
    return f"about {duration(seconds)} ({per_image:g} s an image, {how} on {images})"
