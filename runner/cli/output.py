"""What the commands share: adding a verb, JSON, messages, a job in one line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from runner.executor import OWN_SLOT
from runner.terminal import escaped, on_one_line


def add_verb(
    verbs: Any,
    shared: argparse.ArgumentParser,
    name: str,
    run: Callable[[argparse.Namespace], int],
    meaning: str,
) -> argparse.ArgumentParser:
    """Add a verb, with the options of every verb; `run` does it and returns the exit code."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, parents=[shared], help=meaning)
    parser.set_defaults(run=run)
    return parser


def show(text: str = "", *, flush: bool = False, many_lines: bool = False) -> None:
    """Print a text: the one place that writes to standard output, whatever the text contains.

    It is one line, unless `many_lines` says that all of it may be more.
    """
    print(escaped(text) if many_lines else on_one_line(text), flush=flush)


def print_answer(options: argparse.Namespace, value: Any, *lines: str) -> None:
    """Print a result: as JSON with `--json`, else as these lines."""
    if options.json:
        print_json(value)
        return
    for line in lines:
        show(line)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    show(json.dumps(value, ensure_ascii=False, indent=1), many_lines=True)


def print_line(value: Any) -> None:
    """Print one value of a stream as one line of JSON."""
    show(json.dumps(value, ensure_ascii=False), flush=True)


def print_message(text: str, *, end: str = "\n") -> None:
    """Print a message for people to standard error; standard output has results only."""
    try:
        print(on_one_line(text), end=end, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Let what is printed go nowhere: nobody reads it, and Python would flush the rest at exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def shown_slots(health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slots in a health file; none where there is only the runner's own, and all is well."""
    slots: list[dict[str, Any]] = health.get("slots", [])
    own = all(slot["name"] == OWN_SLOT and slot["state"] in ("idle", "working") for slot in slots)
    return [] if own else slots


def slot_line(slot: Mapping[str, Any]) -> str:
    """A slot in one line: what it makes, the model it has loaded, and its memory."""
    return f"slot {slot['name']:<19} {slot['state']:<10}  {slot_note(slot)}".rstrip()


def slot_note(slot: Mapping[str, Any]) -> str:
    """What a slot makes, in words."""
    parts = [slot[key] for key in ("model", "note") if slot[key]]
    if slot["job"]:
        parts.insert(0, f"{slot['job']} image {slot['image']} {slot['step']}/{slot['steps']}")
    if slot["memory"]:
        parts.append(f"{slot['memory'] / 2**30:.1f} GiB")
    return "  ".join(parts)


def counts_text(counts: Mapping[str, int]) -> str:
    """Numbers by their names: "3 new, 9 reused, 0 unknown"."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def job_line(job: Mapping[str, Any]) -> str:
    """A job in one line: id, state, images, progress, and why it waits or has failed.

    `job` is a status, or an entry of `recent` in the health file.
    """
    images = job.get("images") or {k: job[k] for k in ("total", "done", "reused") if k in job}
    parts = [f"{job['id']:<24} {job['state']:<10}"]
    if images:
        reused = f" ({images['reused']:,} reused)" if images.get("reused") else ""
        parts.append(f"{images['done']}/{images['total']}{reused}")
    progress = job.get("progress")
    if progress:
        parts.append(f"{progress['phase']} {progress['fraction']:.0%}")
    why = job.get("message") or job.get("reason")
    if why and job["state"] not in ("running", "succeeded"):
        parts.append(f"{job.get('reason') or ''}: {why}".lstrip(": "))
    return "  ".join(parts)
