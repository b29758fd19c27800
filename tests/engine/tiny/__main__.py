"""Trains the built-in model from scratch: `python -m tests.engine.tiny --out weights`.

Stages run one after another; run again, the command continues from their checkpoints. `--only`
runs one stage, so that two processes can share two cores.
"""

import argparse
import sys
from pathlib import Path

import torch

from tests.engine.tiny.recipe import STAGES, STEPS, Recipe


def main(argv: list[str]) -> int:
    """Run all stages, or one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine.tiny", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished weights")
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoints (default: OUT/../tiny-work)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--effort", type=float, default=1.0, help="scales every stage's steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for one process")
    parser.add_argument("--only", choices=list(STAGES), help="one stage")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    work = options.work or options.out.parent / "tiny-work"
    recipe = Recipe(work, options.out, torch.device(options.device), options.effort, options.seed)
    for stage, run in STAGES.items():
        if options.only in (None, stage):
            print(f"stage {stage}: {STEPS.get(stage, 0) * options.effort:.0f} steps", flush=True)
            run(recipe)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
