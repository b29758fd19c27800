"""`doctor`: what this machine can run, and what to mend."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from runner import client
from runner.cli.text import print_json
from runner.settings import Home, find_home

_LITTLE_DISK = 2 * 1024**3
_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "pillow", "watchdog")


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do where `ok` is false."""

    name: str
    ok: bool
    found: str
    remedy: str | None = None


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    doctor = verbs.add_parser("doctor", parents=[shared], help="what this machine can run")
    doctor.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Look at everything that a night's work depends on."""
    home = find_home(options.home)
    home.prepare()
    findings = list(_findings(home))
    if options.json:
        ok = all(finding.ok for finding in findings)
        print_json({"ok": ok, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<14} {finding.found}")
            if finding.remedy:
                print(f"     {'':<14} → {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(home: Home) -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0])
    yield Finding("packages", True, ", ".join(_versions()))
    yield _disk(home)
    yield _writers(home)
    yield _runner(home)
    yield _device(home)
    yield _weights(home)


def _versions() -> Iterator[str]:
    import importlib.metadata

    for name in _PACKAGES:
        yield f"{name} {importlib.metadata.version(name)}"


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.outbox).free
    found = f"{free / 1024**3:.1f} GiB free in {home.outbox}"
    return Finding("disk", free > _LITTLE_DISK, found, None if free > _LITTLE_DISK else "free some")


def _writers(home: Home) -> Finding:
    from runner.spool.platform import can_probe_writers

    seconds = home.settings.settle_seconds
    if can_probe_writers(home.inbox):
        return Finding("inbox", True, f"specs are taken {seconds} s after their writer closed them")
    unknown = home.settings.settle_seconds_unknown
    return Finding(
        "inbox", True, f"specs are taken after {unknown} s without change; write aside and rename "
        "to be quicker",
    )  # fmt: skip


def _runner(home: Home) -> Finding:
    health = client.runner_health(home)
    if health is None:
        return Finding("runner", True, "none is running")
    return Finding(
        "runner", True, f"pid {health['pid']} is {health['state']}, by {health['watch']}"
    )


def _device(home: Home) -> Finding:
    from runner.engine import machine

    device = machine.device(home.settings.device)
    return Finding("device", device.remedy is None, device.found, device.remedy)


def _weights(home: Home) -> Finding:
    from runner.engine.hub import present
    from runner.engine.registry import MODEL_REGISTRY

    here = [m.name for m in MODEL_REGISTRY.values() if present(m, home.data)]
    lacking = [name for name in MODEL_REGISTRY if name not in here]
    place = os.environ.get("HF_HOME", "")
    found = f"here: {', '.join(here)}; not here: {', '.join(lacking)} (looked in {place})"
    return Finding("models", True, found)
