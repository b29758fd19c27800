"""Measures whether the built-in model's pictures mean what was asked, kind by kind.

`python -m tests.bench meaning` prints the table; `--json` prints the figures alone. The ceilings
come first: what the judge says of true pictures, and of pictures that only went through the codec.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.engine.tiny.evaluate import (
    GUIDANCE,
    STEPS,
    Pipelines,
    measure_ceiling,
    measure_kontext,
    measure_negative,
    measure_strength,
    measure_text2img,
    measure_upscale,
)
from tests.engine.tiny.evaluate_hints import measure_control, measure_fill, measure_redux

Measure = Callable[[Pipelines, int, int], dict[str, dict[str, float]]]
MEASURES: dict[str, Measure] = {
    "ceiling": measure_ceiling,
    "text2img": measure_text2img,
    "negative": measure_negative,
    "strength": measure_strength,
    "kontext": measure_kontext,
    "fill": measure_fill,
    "control": measure_control,
    "redux": measure_redux,
    "upscale": measure_upscale,
}
_PARTS_OF_ONE = 100


def main(argv: list[str]) -> int:
    """Measure the kinds asked for, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench meaning", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*MEASURES, []], help="default: all")
    parser.add_argument("--pictures", type=int, default=200, help="unseen prompts a kind")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="a folder of weights other than the shipped")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as data:
        pipelines = Pipelines(Path(data), given.weights)
        for kind in given.kinds or MEASURES:
            found = MEASURES[kind](pipelines, given.pictures, given.seed)
            table.update(found)
            if not given.json:
                for name, figures in found.items():
                    print(_line(name, figures), flush=True)
    conditions = {"steps": STEPS, "guidance": GUIDANCE, "seed": given.seed, "table": table}
    if given.json:
        print(json.dumps(conditions, indent=2))
    else:
        print(f"steps {STEPS}\nguidance {GUIDANCE}\nseed {given.seed}")
    return 0


def _line(name: str, figures: dict[str, float]) -> str:
    shown = []
    for key, value in figures.items():
        if key == "pictures":
            shown.append(f"n {value:.0f}")
        elif key == "seconds":
            shown.append(f"{value:.2f} s each")
        elif key.endswith("decibels"):
            shown.append(f"{key.removesuffix('_decibels')} {value:.2f} dB")
        elif key.endswith("error"):
            shown.append(f"{key.replace('_', ' ')} {value:.2f} of 255")
        else:
            shown.append(f"{key.replace('_', ' ')} {value * _PARTS_OF_ONE:.1f} %")
    return f"{name:32} " + ", ".join(shown)
