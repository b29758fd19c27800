"""What several verbs print alike: JSON, and a job in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def print_line(value: Any) -> None:
    """Print one value of a stream as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def say(text: str) -> None:
    """Print for people, not for programs: to standard error."""
    print(text, file=sys.stderr)


def job_line(job: Mapping[str, Any]) -> str:
    """A job in one line: id, state, images, and why where it matters."""
    images = job.get("images") or {key: job[key] for key in ("total", "done") if key in job}
    parts = [f"{job['id']:<24} {job['state']:<10}"]
    if images:
        parts.append(f"{images['done']}/{images['total']}")
    progress = job.get("progress")
    if progress:
        parts.append(f"{progress['phase']} {progress['fraction']:.0%}")
    why = job.get("message") or job.get("reason")
    if why and job["state"] not in ("running", "succeeded"):
        parts.append(f"{job.get('reason') or ''}: {why}".lstrip(": "))
    return "  ".join(parts)


def size(count: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
