"""`submit` and `check`: drop specs into the inbox, or only say what is wrong with them.

A picture may be given in place of a spec: its metadata have the spec that made it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import client
from runner.cli.output import (
    add_verb,
    counts_text,
    file_lines,
    job_line,
    print_answer,
    print_message,
    saying_what_goes_on,
)
from runner.errors import RunnerNeeded, UsageProblem
from runner.files import is_there, read_file
from runner.settings import SETTINGS_FILE, Home, find_home, load_settings

if TYPE_CHECKING:
    from runner.spool.inbox.assess import Assessment

_BAD = ("failed", "rejected", "cancelled", "unknown")
_OF_AN_END = ("id", "state", "reason", "message", "warnings")
# An idle runner takes a drop within milliseconds; one with a long inbox may need longer.
_RECEIPT_SECONDS = 15.0
# Of a spec too large to be one, enough to say how large it is.
_MOST_BYTES = 16 << 20
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    submit = add_verb(verbs, shared, "submit", run_submit, "drop specs into the inbox")
    files_help = "a spec, or a picture to make again; `-` is standard input"
    submit.add_argument("files", nargs="+", metavar="FILE", help=files_help)
    submit.add_argument("--wait", action="store_true", help="wait until the jobs are over")
    check = add_verb(verbs, shared, "check", run_check, "say what is wrong with specs")
    check.add_argument("files", nargs="+", metavar="FILE", help="a spec; `-` is standard input")


def run_submit(options: argparse.Namespace) -> int:
    """Say what is wrong with the files, drop them all the same, and print what they become.

    Every drop is answered: one that is wrong becomes a job that is rejected.
    """
    home = find_home(options.home)
    home.prepare()
    if options.wait and client.runner_health(home) is None:
        raise RunnerNeeded("nothing is running that could be waited for: start `fluxdrop run`")
    specs = [(file, _spec_bytes(file)) for file in options.files]
    checked = _assessed(specs, home)
    for line in _problem_lines(checked):
        print_message(line)
    drops = {}
    for (file, data), (_, assessment) in zip(specs, checked, strict=True):
        if file != "-":
            for copied in client.bring_images(home, Path(file), data, _named(assessment)):
                print_message(f"copied {copied} into the inbox")
        drops[client.submit(home, data, _name(file, data))] = data
    code = report_drops(home, drops, options, {w for _, each in checked for w in each.warnings})
    return 1 if any(assessment.reason for _, assessment in checked) else code


def report_drops(
    home: Home, drops: dict[str, bytes], options: argparse.Namespace, said: Collection[str] = ()
) -> int:
    """Print the id of each drop's job, or the drop's name where no runner has taken it.

    `drops` has their bytes by name, `said` warnings that were printed. 1 where a drop was rejected.
    With `options.wait` the jobs are waited for, and 1 also where one failed or was cancelled.
    """
    if client.runner_health(home) is None:
        print_answer(options, {"jobs": [], "drops": [*drops]}, *drops)
        if not options.json:
            print_message("no runner is running: `fluxdrop run` or `fluxdrop drain` will take them")
        return 0
    check = partial(_require_runner, home) if options.wait else None
    jobs: list[str] = []
    late: list[str] = []
    with _shown(home, jobs) if options.wait and not options.json else nullcontext():
        for drop, data in drops.items():
            receipt = _receipt(home, drop, data, options)
            (jobs if receipt else late).append(receipt["job"] if receipt else drop)
        if options.wait:
            statuses = [client.wait_until_over(home, job, None, check) for job in jobs]
        else:
            statuses = [client.status(home, job) for job in jobs]
    bad = [s["state"] in (_BAD if options.wait else ("rejected",)) for s in statuses]
    lines = []
    for status, is_bad in zip(statuses, bad, strict=True):
        lines.append(job_line(status) if options.wait or is_bad else status["id"])
        warned = status.get("warnings", ()) if options.wait else ()
        lines += [f"  warning: {text}" for text in warned if text not in said]
        lines += file_lines(home, status) if options.wait else ()
    ends = [{key: s.get(key) for key in _OF_AN_END} for s in statuses if options.wait]
    answer = {"jobs": jobs} | ({"drops": late} if late else {}) | ({"ends": ends} if ends else {})
    print_answer(options, answer, *lines)
    for name in () if options.json else late:
        print_message(f"{name} is in the inbox and not yet taken")
    return 1 if any(bad) or (options.wait and late) else 0


@contextmanager
def _shown(home: Home, jobs: list[str]) -> Iterator[None]:
    """Show the jobs on a terminal while they are waited for."""
    from runner.cli.progress import Board, is_drawable

    with ExitStack() as stack:
        sentence = "no longer waiting: {}; `fluxdrop watch` shows it"
        stack.enter_context(saying_what_goes_on(home, jobs, sentence))
        if is_drawable():
            board = Board(home, lambda: [*jobs], named=True)
            stack.enter_context(board).follow_in_thread()
        yield


def _receipt(
    home: Home, drop: str, data: bytes, options: argparse.Namespace
) -> dict[str, Any] | None:
    """The receipt of a drop; None where it has not come in time, or cannot come any more."""

    def check() -> None:
        if options.wait:
            _require_runner(home)
        fault = client.fault(home, drop)
        is_gone = not is_there(home.inbox / drop)
        if (fault is None and not is_gone) or client.receipt(home, drop, data) is not None:
            return
        if fault is not None:
            said = fault["message"]
            raise UsageProblem(f"inbox/{drop} is set aside: {said}; `fluxdrop doctor` names more")
        raise UsageProblem(f"somebody took inbox/{drop} away before it was read: submit it again")

    try:
        return client.wait_for_receipt(
            home, drop, None if options.wait else _RECEIPT_SECONDS, check, data=data
        )
    except UsageProblem as problem:
        print_message(str(problem))
        return None


def _require_runner(home: Home) -> None:
    if client.runner_health(home) is None:
        raise RunnerNeeded(
            "the runner has stopped; what was submitted waits for the next `fluxdrop run`"
        )


def run_check(options: argparse.Namespace) -> int:
    """Print every problem as `file:line:column: message`."""
    from runner.daemon.tasks import reuse_counts

    home = _home_or_here(options.home)
    specs = [(file, _spec_bytes(file)) for file in options.files]
    checked = _assessed(specs, home)
    ok = not any(assessment.reason for _, assessment in checked)
    counts = {file: counts for file, each in checked if (counts := reuse_counts(each, home))}
    for file, count in counts.items():
        print_message(f"{file}: {counts_text(count)}")
    files = [
        {"file": file, "errors": [asdict(problem) for problem in assessment.problems]}
        | ({"warnings": warned} if (warned := _warnings(assessment)) else {})
        | ({"reuse": counts[file]} if file in counts else {})
        for file, assessment in checked
    ]
    print_answer(options, {"ok": ok, "files": files}, *_problem_lines(checked))
    if ok and not options.json:
        print_message("all well")
    return 0 if ok else 1


def _assessed(specs: list[tuple[str, bytes]], home: Home) -> list[tuple[str, Assessment]]:
    """The assessment of each file; warns on stderr, of weights that are not here among others."""
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.assess import assess

    if outdated := client.outdated_runner(home):
        print_message(f"warning: {outdated}")
    catalogue = RegistryCatalogue(home.settings, home.data)
    checked = []
    for file, data in specs:
        name = _name(file, data)
        beside = None if file == "-" else partial(client.beside, Path(file))
        checked.append((file, assess(data, name, home, catalogue, weights=True, beside=beside)))
    for file, assessment in checked:
        for text in [*_warnings(assessment), *_absent_pictures(Path(file), assessment, home)]:
            print_message(f"{file}: warning: {text}")
    return checked


def _absent_pictures(file: Path, assessment: Assessment, home: Home) -> Iterator[str]:
    """A sentence for each picture of a spec that is neither in the inbox nor beside the file."""
    from runner.spool.inbox import inputs

    folders = inputs.Folders(home)
    for name in _named(assessment):
        place, near = folders.find(inputs.place_of(name, home))
        is_here = any(map(os.path.exists, (place, client.beside(file, name))))
        if not is_here and inputs.maker_of(inputs.relative(name, home)) is None:
            yield f"{name} is not there{inputs.hint_of(near)}: it is waited for"


def _named(assessment: Assessment) -> list[str]:
    """The images that a spec and the rows of its table name."""
    from runner.spool.inbox.inputs import TABLE, paths_of

    named = paths_of(assessment.realised, assessment.composed)
    return list(dict.fromkeys(text for field, text in named if field != TABLE))


def _warnings(assessment: Assessment) -> list[str]:
    return [*assessment.absent, *assessment.warnings]


def _problem_lines(checked: list[tuple[str, Assessment]]) -> Iterator[str]:
    for file, assessment in checked:
        for problem in assessment.problems:
            yield f"{file}:{problem.line}:{problem.column}: {problem}"


def _home_or_here(folder: str | None) -> Home:
    """The home, or the current folder with its settings or the defaults: a check needs no home.

    Raises UsageProblem where `folder` is given and is no home.
    """
    try:
        return find_home(folder)
    except UsageProblem:
        if folder:
            raise
        return Home(Path.cwd(), load_settings(Path(SETTINGS_FILE)))


def _name(file: str, data: bytes) -> str:
    """The name under which a file is dropped; standard input gets one by its format."""
    if file.lower().endswith(_PICTURES):
        return f"{Path(file).stem}.yaml"
    if file != "-":
        return Path(file).name
    from specs.read import is_whole_json_object

    return "stdin.json" if is_whole_json_object(data) else "stdin.yaml"


def _spec_bytes(file: str) -> bytes:
    """The spec in a file, on standard input, or in a picture's metadata."""
    if file == "-":
        return sys.stdin.buffer.read(_MOST_BYTES)
    if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
        raise UsageProblem(f"{file} is no plain file: to read a pipe or a device, name `-`")
    if file.lower().endswith(_PICTURES):
        from runner.gallery.metadata import read
        from specs.write import to_yaml

        # The metadata of fluxdrop's own pictures, or of another program's as far as they can be
        # read as a spec.
        spec = read(Path(file))
        noted = [key[2:] for key in spec if key.startswith("x_") and key != "x_made_with"]
        if noted and "result" not in spec:
            print_message(f"{file}: warning: of its settings only noted: {', '.join(noted)}")
        return to_yaml({key: value for key, value in spec.items() if key != "result"})
    try:
        return read_file(Path(file), _MOST_BYTES, follow=True)
    except OSError as error:
        raise UsageProblem(f"cannot read {file}: {error.strerror or error}") from error
