"""The command line: one file per group of verbs, this one parses and translates errors.

Light by rule: nothing here, nor at the top of a verb's file, imports torch, numpy, rich or
jsonschema, so that `--help` and `status` answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from runner.cli import (
    clean,
    compose,
    control,
    doctor,
    gallery,
    look,
    mcp,
    models,
    service,
    setup,
    submit,
    verify,
    work,
)
from runner.errors import FluxdropError, RunnerBusy, RunnerNeeded, SpecInvalid, UsageProblem

_EXIT_CODES: tuple[tuple[type[FluxdropError], int], ...] = (
    (UsageProblem, 2),
    (RunnerNeeded, 69),
    (RunnerBusy, 75),
    (SpecInvalid, 1),
    (FluxdropError, 1),
)
_EPILOG = """\
exit codes: 0 done; 1 a job failed or was rejected, or a check found something;
2 wrong usage; 69 needs a running runner; 75 another runner holds this home or GPU"""


class _Parser(argparse.ArgumentParser):
    """argparse with a suggestion for a misspelt command."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message:
            import difflib

            wrong = message.split("'")[1]
            known = list(_commands(self))
            near = difflib.get_close_matches(wrong, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f"; choose from {', '.join(known)}"
            message = f"no command {wrong!r}{hint}"
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def _commands(parser: argparse.ArgumentParser) -> Sequence[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices)
    return []


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    shared = argparse.ArgumentParser(add_help=False)
    where = "the home folder (default: $FLUXDROP_HOME, else this folder)"
    for name, settings in {
        "--home": {"metavar": "DIR", "help": where},
        "--json": {"action": "store_true", "help": "print JSON for programs"},
    }.items():
        # Before or after the verb: a default in one place would undo what the other one read.
        shared.add_argument(name, default=argparse.SUPPRESS, **settings)  # type: ignore[arg-type]
    parser = _Parser(
        prog="fluxdrop",
        description="Drop a YAML file into a folder, get a picture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", parser_class=_Parser)
    for module in (
        work, setup, submit, look, control, compose, gallery, verify, models, mcp, service, clean,
        doctor,
    ):  # fmt: skip
        module.add(verbs, shared)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter of a path or a prompt is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone (`fluxdrop status | head`): nothing to say to it, and
        # what is left in the buffer must not be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _main(arguments: Sequence[str] | None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.home = getattr(options, "home", None)
    options.json = getattr(options, "json", False)
    if options.version:
        from importlib.metadata import version

        print(f"fluxdrop {version('fluxdrop')}")
        return 0
    if options.verb is None:
        parser.print_help()
        return 2
    try:
        return int(options.run(options))
    except FluxdropError as error:
        if options.json:
            print(json.dumps({"error": str(error)}, ensure_ascii=False))
        else:
            print(f"fluxdrop: {error}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
