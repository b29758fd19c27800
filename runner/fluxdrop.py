"""The command `fluxdrop` of an installation: in the wheel this file is `fluxdrop/__init__.py`.

An editable install has a copy of it there too, and the rest in a checkout that is on the path.
Nothing in `runner` imports it.
"""

import os
import sys


def program() -> None:
    """Put the folder that holds our `runner` before all others, and run the command line."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Not any `runner`: other packages have that name too.
    ours = os.path.join("runner", "launch.py")
    folders = (folder for folder in (here, *sys.path) if os.path.isfile(os.path.join(folder, ours)))
    sys.path.insert(0, next(folders, here))
    from runner.cli import program

    program()
