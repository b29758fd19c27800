"""`submit` and `check`: specs from the command line into the inbox, or only looked at.

A picture stands for the spec that made it, as far as its metadata tell.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from runner import client
from runner.cli.output import job_line, print_json, say
from runner.errors import RunnerNeeded, UsageProblem
from runner.job import FINAL_STATES
from runner.settings import Home, Settings, find_home, load_settings

# An idle runner answers in milliseconds; one that copies a long inbox may take a while.
_RECEIPT_SECONDS = 15.0
_LOOK_SECONDS = 2.0
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    submit = verbs.add_parser("submit", parents=[shared], help="drop specs into the inbox")
    what = "a spec, or a picture to make again; `-` is standard input"
    submit.add_argument("files", nargs="+", metavar="FILE", help=what)
    submit.add_argument("--wait", action="store_true", help="wait until the jobs are over")
    submit.set_defaults(run=run_submit)
    check = verbs.add_parser("check", parents=[shared], help="say what is wrong with specs")
    check.add_argument("files", nargs="+", metavar="FILE", help="a spec; `-` is standard input")
    check.set_defaults(run=run_check)


def run_submit(options: argparse.Namespace) -> int:
    """Drop the files; print the job ids once they are known, else the names of the drops."""
    home = find_home(options.home)
    home.prepare()
    if options.wait and client.runner_health(home) is None:
        raise RunnerNeeded("nothing is running that could be waited for: start `fluxdrop run`")
    specs = [(file, _bytes(file)) for file in options.files]
    drops = []
    for file, data in specs:
        if file != "-":
            for copied in client.bring_images(home, Path(file), data):
                say(f"copied {copied} into the inbox")
        drops.append(client.submit(home, data, _name(file, data)))
    return tell(home, drops, options)


def tell(home: Home, drops: list[str], options: argparse.Namespace) -> int:
    """Print what became of the drops: job ids once they are known, else the names of the drops."""
    if client.runner_health(home) is None:
        return _say_not_running(options, drops)
    receipts = [_receipt(home, drop, patient=options.wait) for drop in drops]
    jobs = [receipt["job"] for receipt in receipts if receipt]
    late = [drop for drop, receipt in zip(drops, receipts, strict=True) if not receipt]
    if options.wait:
        statuses = [_until_over(home, job) for job in jobs]
    else:
        statuses = [client.status(home, job) for job in jobs]
    if options.json:
        print_json({"jobs": jobs} | ({"drops": late} if late else {}))
    else:
        for status in statuses:
            print(job_line(status) if options.wait or _is_bad(status) else status["id"])
        for name in late:
            say(f"{name} is in the inbox and not yet taken")
    return 1 if any(_is_bad(status) for status in statuses) else 0


def _say_not_running(options: argparse.Namespace, names: list[str]) -> int:
    if options.json:
        print_json({"jobs": [], "drops": names})
    else:
        for name in names:
            print(name)
        say("no runner is running: `fluxdrop run` or `fluxdrop drain` will take them")
    return 0


def _receipt(home: Home, drop: str, *, patient: bool) -> dict[str, Any] | None:
    if not patient:
        return client.wait_for_receipt(home, drop, _RECEIPT_SECONDS)
    while (found := client.wait_for_receipt(home, drop, _LOOK_SECONDS)) is None:
        _require_runner(home)
    return found


def _until_over(home: Home, job: str) -> dict[str, Any]:
    while True:
        found = client.wait_until_over(home, job, _LOOK_SECONDS)
        if found["state"] in FINAL_STATES:
            return found
        _require_runner(home)


def _require_runner(home: Home) -> None:
    if client.runner_health(home) is None:
        raise RunnerNeeded(
            "the runner has stopped; what was submitted waits for the next `fluxdrop run`"
        )


def _is_bad(status: dict[str, Any]) -> bool:
    return status["state"] in ("failed", "rejected", "cancelled")


def run_check(options: argparse.Namespace) -> int:
    """Print every problem as `file:line:column: message`."""
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.assess import check

    home = _home_or_here(options.home)
    catalogue = RegistryCatalogue(home.settings, home.data)
    files = []
    for file in options.files:
        data = _bytes(file)
        problems = check(data, _name(file, data), home, catalogue)
        files.append({
            "file": file,
            "errors": [
                {"line": p.line, "column": p.column, "path": p.path, "message": p.message}
                for p in problems
            ],
        })  # fmt: skip
    wrong = sum(len(each["errors"]) for each in files)
    if options.json:
        print_json({"ok": not wrong, "files": files})
    else:
        for each in files:
            for error in each["errors"]:
                named = f"{error['path']}: " if error["path"] else ""
                print(
                    f"{each['file']}:{error['line']}:{error['column']}: {named}{error['message']}"
                )
        if not wrong:
            say("all well")
    return 1 if wrong else 0


def _home_or_here(given: str | None) -> Home:
    """The home, or the current folder with all defaults: a check needs no home."""
    try:
        return find_home(given)
    except UsageProblem:
        if given:
            raise
        return Home(Path.cwd(), load_settings(Path("fluxdrop.yaml")) or Settings())


def _name(file: str, data: bytes) -> str:
    """The name a file is dropped under; what comes by standard input has none of its own."""
    if file.lower().endswith(_PICTURES):
        return f"{Path(file).stem}.yaml"
    if file != "-":
        return Path(file).name
    from specs.read import is_whole_json_object

    return "stdin.json" if is_whole_json_object(data) else "stdin.yaml"


def _bytes(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    if file.lower().endswith(_PICTURES):
        return _spec_in(Path(file))
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageProblem(f"cannot read {file}: {error.strerror}") from error


def _spec_in(picture: Path) -> bytes:
    """The spec that a picture says it was made by, ours or another program's."""
    from runner.gallery.metadata import read
    from specs.write import to_yaml

    return to_yaml({key: value for key, value in read(picture).items() if key != "result"})
