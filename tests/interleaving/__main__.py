"""The long forms: `python -m tests.interleaving nights [COUNT] [--seed N]`, and
`python -m tests.interleaving chaos [--minutes M] [--seed N]`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.interleaving import chaos, night
from tests.interleaving.callers import draw_plan


def main(arguments: list[str]) -> int:
    """Play; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.interleaving")
    parts = parser.add_subparsers(dest="part", required=True)
    nights = parts.add_parser("nights", help="nights of the deterministic scheduler")
    nights.add_argument("count", type=int, nargs="?", default=10_000)
    nights.add_argument("--seed", type=int, default=0, help="of the first night")
    rounds = parts.add_parser("chaos", help="real processes, disturbed at random")
    rounds.add_argument("--minutes", type=float, default=30.0)
    rounds.add_argument("--seed", type=int, default=1, help="of the first round")
    options = parser.parse_args(arguments)
    if options.part == "chaos":
        with tempfile.TemporaryDirectory() as root:
            return chaos.play(options.minutes, options.seed, Path(root))
    return _nights(options.count, options.seed)


def _nights(count: int, first: int) -> int:
    began, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory(dir=night.memory()) as root:
        for seed in range(first, first + count):
            found = play_seed(Path(root) / "home", seed)
            bad += bool(found)
            for fault in found:
                print(f"seed {seed}: {fault}", flush=True)
    seconds = time.monotonic() - began
    print(f"{count} nights in {seconds:.0f} s, {count / seconds:.1f} a second: {bad} with findings")
    return 1 if bad else 0


def play_seed(root: Path, seed: int) -> list[str]:
    """What was wrong with the night of a seed."""
    return night.play(root, draw_plan(random.Random(seed)), random.Random(seed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
