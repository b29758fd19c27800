"""Starts this copy of fluxdrop, with its own packages before any others of the same names.

Run as a file, it runs the module that its first argument names. Imports nothing of ours before
`program` has put our folder on the path.
"""

import importlib
import os
import sys

_FILE = os.path.abspath(__file__)


def command(module: str = "runner.cli") -> list[str]:
    """The command line that runs a module's `program` in a process of its own; arguments follow.

    Neither the current folder nor what is installed decides which copy of fluxdrop that is.
    """
    # -P: a `torch.py` in the current folder, or our own `job.py`, is not what others import.
    return [sys.executable, "-P", _FILE, module]


def program(module: str = "runner.cli") -> None:
    """Run a module's `program`, with the folder that holds `runner` first on the path."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(_FILE)))
    importlib.import_module(module).program()


if __name__ == "__main__":
    program(sys.argv.pop(1))
