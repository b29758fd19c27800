"""The command line: one file per group of verbs, this one parses and translates errors.

Light by rule: nothing here, nor at the top of a verb's file, imports torch, numpy, rich or
jsonschema, and a command imports its own verb's file alone, so that `status` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from runner.errors import RunnerBusy, RunnerNeeded, UsageProblem
from specs.errors import FluxdropError, SpecInvalid
from specs.suggest import did_you_mean

VERBS: Mapping[str, tuple[str, ...]] = {
    "run": ("demo", "run", "drain"),
    "init": ("init",),
    "submit": ("submit", "check"),
    "status": ("status", "watch"),
    "control": ("cancel", "retry", "pause", "resume"),
    "compose": ("compose", "audit"),
    "gallery": ("gallery",),
    "verify": ("verify",),
    "models": ("models",),
    "mcp": ("mcp",),
    "service": ("service",),
    "clean": ("clean",),
    "doctor": ("doctor",),
}
"""The verbs of each file, in the order in which `--help` lists them."""

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
            wrong = message.split("'")[1]
            known = list(_commands(self))
            hint = did_you_mean(wrong, known, f"choose from {', '.join(known)}")
            message = f"no command {wrong!r}{hint}"
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def _commands(parser: argparse.ArgumentParser) -> Sequence[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices)
    return []


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command line: of one verb and its neighbours, or the whole."""
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
    for name, own in VERBS.items():
        if verb is None or verb in own:
            importlib.import_module(f"{__name__}.{name}").add(verbs, shared)
    return parser


def _verb_of(arguments: Sequence[str]) -> str | None:
    """The verb that a command line names first, where it is one; None where all must be known."""
    given = iter(arguments)
    for argument in given:
        if argument == "--home":
            next(given, None)
        elif not argument.startswith("-"):
            return argument if any(argument in own for own in VERBS.values()) else None
        elif argument != "--json" and not argument.startswith("--home="):
            return None
    return None


def program() -> NoReturn:
    """`fluxdrop` as a process of its own: run one command, and leave."""
    code = main()
    if "torch" not in sys.modules:
        sys.exit(code)
    # All that matters is written and closed; taking torch and its kin apart, module by module,
    # would keep whoever waits for this process waiting for two seconds more.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


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
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(_verb_of(arguments)).parse_args(arguments)
    options.home = getattr(options, "home", None)
    options.json = getattr(options, "json", False)
    if options.version:
        from importlib.metadata import version

        print(f"fluxdrop {version('fluxdrop')}")
        return 0
    if options.verb is None:
        build_parser().print_help()
        return 2
    try:
        return int(options.run(options))
    except FluxdropError as error:
        if options.json:
            print(json.dumps({"error": str(error)}, ensure_ascii=False))
        else:
            print(f"fluxdrop: {error}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
