"""`python -m tests.soak [--minutes 30] [--seed N]`, and `python -m tests.soak month [--jobs N]`.

Prints what tests/bench/RESULTS.md has; 1 if anything was lost, wrong or grew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.interleaving.night import memory
from tests.soak import month, stream


def main(arguments: list[str]) -> int:
    """Play one of the two."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("part", nargs="?", choices=("stream", "month"), default="stream")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=memory()) as root:
        home = Path(root) / "home"
        if options.part == "month":
            with month.in_zone():
                found = month.Month(home, options.jobs, month.moments()).play()
        else:
            found = stream.Stream(home, 60 * options.minutes, options.seed).play()
    for fault in found:
        print(fault)
    print(f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
