"""The command line: parses arguments, runs one command, and turns errors into exit codes.

Each module named in `VERBS` adds the verbs of one group by its `add`. Neither this module nor the
top of one of those imports torch, numpy, rich or jsonschema, and only the module of the given
command is imported, so that `status` answers at once.
"""

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from runner import exit_codes
from runner.cli.output import give_up, print_line, print_message, show
from runner.errors import RunnerBusy, RunnerNeeded, UsageProblem
from runner.terminal import escaped
from specs.errors import FluxdropError
from specs.suggest import did_you_mean

VERBS: Mapping[str, tuple[str, ...]] = {
    "run": ("demo", "run", "drain"),
    "init": ("init",),
    "submit": ("submit", "check"),
    "status": ("status",),
    "watch": ("watch",),
    "logs": ("logs",),
    "control": ("cancel", "retry", "keep", "pause", "resume"),
    "lend": ("lend",),
    "compose": ("compose", "audit"),
    "gallery": ("gallery",),
    "verify": ("verify",),
    "models": ("models",),
    "mcp": ("mcp",),
    "service": ("service",),
    "clean": ("clean",),
    "doctor": ("doctor", "tell"),
}
"""The verbs of each module, in the order in which `--help` lists them."""

_EXIT_CODES: tuple[tuple[type[FluxdropError], int], ...] = (
    (UsageProblem, exit_codes.WRONG_USAGE),
    (RunnerNeeded, exit_codes.RUNNER_NEEDED),
    (RunnerBusy, exit_codes.RUNNER_BUSY),
    (FluxdropError, exit_codes.FAILED),
)
_WRITABLE = "make it writable, or make room, and try again"
_OF_A_DISK = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN)
_ADVICE = {
    **dict.fromkeys((errno.EROFS, errno.ENOSPC), _WRITABLE),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let this user read and write it, and try again"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "let more files be open (`ulimit -n 4096`)"),
    **dict.fromkeys(_OF_A_DISK, "see whether its disk works, or its share answers, and try again"),
}
_EPILOG = """\
exit codes: 0 done; 1 a job failed or was rejected, or a check found something;
2 wrong usage; 69 needs a running runner; 70 a part of the runner ended by a mistake;
75 another runner holds this home or GPU; 130 Ctrl-C"""


class _Parser(argparse.ArgumentParser):
    """argparse with a suggestion for a misspelt command."""

    def error(self, message: str) -> NoReturn:
        verbs = [each for each in self._actions if isinstance(each, argparse._SubParsersAction)]
        if verbs and "invalid choice" in message:
            wrong = message.split("'")[1]
            known = list(verbs[0].choices)
            hint = did_you_mean(wrong, known, f"choose from {', '.join(known)}")
            message = f"no command {wrong!r}: {hint}"
        text = escaped(f"{self.prog}: {message} (see `{self.prog} --help`)\n")
        self.exit(exit_codes.WRONG_USAGE, text)


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The argument parser of every verb, or of those that share a module with `verb`."""
    shared = argparse.ArgumentParser(add_help=False)
    home_help = "the home folder (default: $FLUXDROP_HOME, else this folder)"
    # These may stand before or after the verb; a default in one place would overwrite the value
    # that was read in the other.
    absent = argparse.SUPPRESS
    shared.add_argument("--home", metavar="DIR", default=absent, help=home_help)
    shared.add_argument(
        "--json", action="store_true", default=absent, help="print JSON for programs"
    )
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
    for module, names in VERBS.items():
        if verb is None or verb in names:
            importlib.import_module(f"{__name__}.{module}").add(verbs, shared)
    return parser


def _verb_of(arguments: Sequence[str]) -> str | None:
    """The verb of a command line; None where it has no known one, so that all must be loaded."""
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--home":
            next(remaining, None)
        elif not argument.startswith("-"):
            return argument if any(argument in names for names in VERBS.values()) else None
        elif argument != "--json" and not argument.startswith("--home="):
            return None
    return None


def program() -> NoReturn:
    """The entry point of `fluxdrop`: run one command and end the process with its exit code."""
    code = main()
    if "torch" not in sys.modules:
        sys.exit(code)
    # All files are written and closed; a normal exit would take two seconds to unload torch and
    # the packages that it brought.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed: a file that is opened later must not get its number, and be printed into.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character of a path or a prompt must not end the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has ended (`fluxdrop status | head`).
        give_up(sys.stdout)
        return 0
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    return code


def _main(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    absent = argparse.Namespace(home=None, json=False)
    parser = build_parser(_verb_of(arguments))
    options, unknown = parser.parse_known_args(arguments, absent)
    if unknown:
        vars(options).get("parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.version:
        from importlib.metadata import version

        show(f"fluxdrop {version('fluxdrop')}")
        return 0
    if options.verb is None:
        from runner.cli.status import run_overview

        options.run = run_overview
    try:
        return int(options.run(options))
    except FluxdropError as error:
        _tell(options, *map(str, error.args or ("",)))
        return next(code for error_type, code in _EXIT_CODES if isinstance(error, error_type))
    except OSError as error:
        # Of a disk or a folder of the user's; any other is a mistake of ours.
        advice = _ADVICE.get(error.errno or 0)
        if advice is None or error.filename is None:
            raise
        _tell(options, f"{os.fsdecode(error.filename)}: {error.strerror}: {advice}")
        return exit_codes.FAILED


def _tell(options: argparse.Namespace, *lines: str) -> None:
    if options.json:
        print_line({"error": "\n".join(lines)})
    else:
        for line in (f"fluxdrop: {lines[0]}", *lines[1:]):
            print_message(line)
