"""Measures how many large pictures a second are saved, encoded beside the writer and by it.

`python -m tests.bench saving [--images N] [--side N] [--quick] [--folder F] [--json]`. The device
has its pictures ready, as noisy as photographs; all else is this runner, whole, with one job of so
many images: it is over when that has succeeded. Contestants take turns of a second. On one core, or
where the disk is the limit, there is nothing to win.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from runner.cli.init import make_home
from runner.daemon import saving
from runner.executor import Rendered
from runner.settings import Home, Settings
from tests.bench.figures import Goal, shown
from tests.bench.turns import Contestant, Stage, take_turns
from tests.spool.device import FlatColours

GOAL = 1.5
BESIDE, ALONE = "beside the writer", "by the writer"
_DIFFERENT = 4


def photograph(seed: int, side: int) -> Image.Image:
    """Large and small blots and a little noise: a PNG of it is half as large as its pixels."""
    import numpy as np

    draw = np.random.default_rng(seed)
    light = draw.normal(128.0, 3.0, (side, side, 3))
    for cells, strength in ((4, 120), (16, 60), (64, 30)):
        few = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        blots = np.asarray(few.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
        light += (blots / 255 - 0.5) * strength
    return Image.fromarray(light.clip(0, 255).astype(np.uint8))


class _Ready(FlatColours):
    """Answers each task at once with a picture that was there before, larger than was asked for."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self._pictures = [photograph(seed, side) for seed in range(_DIFFERENT)]

    def finish(self) -> None:
        task = self._answered()
        image = self._pictures[task.index % _DIFFERENT]
        self.events.put(Rendered("gpu0", task, image, 0.01, {"device": "none"}))


def fluxdrop(stage: Stage, *, root: Path, images: int, side: int, beside: bool) -> dict[str, Any]:
    """This runner, with threads that encode or without."""
    from runner.daemon.daemon import Daemon

    if not beside:
        saving._LARGE_PIXELS = math.inf  # type: ignore[assignment]
    make_home(root)
    home = Home(root, Settings())
    (home.inbox / "night.yaml").write_text(
        f"kind: text2img\nmodel: tiny\nprompt: a red circle\nseeds: {{start: 1, count: {images}}}\n"
        "...\n",
        encoding="ascii",
    )
    device = _Ready(side)
    stage.ready()
    with Daemon(home, device) as daemon:
        outcome = daemon.drain()
        stage.done()
    assert outcome.counts["succeeded"] == 1, outcome
    pictures = list(home.job("night").glob("*.png"))
    return {"pictures": len(pictures), "bytes": sum(file.stat().st_size for file in pictures)}


def measure(images: int, side: int, folder: Path | None) -> dict[str, Any]:
    """Let both save as many; what each took."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        given = {"images": images, "side": side}
        contestants = {}
        for each in (BESIDE, ALONE):
            own = {"root": Path(name) / each, "beside": each == BESIDE}
            contestants[each] = Contestant(f"{__name__}:fluxdrop", {**given, **own})
        runs = take_turns(contestants)
    rows = []
    for each, run in runs.items():
        assert run.said["pictures"] == images, run.said
        row = {"contestant": each, "rate": images / run.seconds, "cpu_s": run.cpu / images}
        rows.append({**row, "mb": run.said["bytes"] / images / 1e6})
    return {
        "images": images,
        "side": side,
        "cores": os.cpu_count(),
        "rows": rows,
        "ratio": round(rows[0]["rate"] / rows[1]["rate"], 3),
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """The rows, to be read by people."""
    lines = [
        f"{found['images']} pictures of {found['side']}², {found['cores']} cores",
        f"{'encoded':<20}{'pictures/s':>11}{'CPU s':>8}{'MB':>7}",
    ]
    for row in found["rows"]:
        figures = f"{row['rate']:>11.2f}{row['cpu_s']:>8.3f}{row['mb']:>7.2f}"
        lines += [f"{row['contestant']:<20}{figures}"]
    return lines


def main(argv: list[str]) -> int:
    """Measure and say whether the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench saving", description=__doc__)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--quick", action="store_true", help="20 pictures")
    parser.add_argument("--folder", type=Path, help="where the homes are made: on a real disk")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    found = measure(20 if asked.quick else asked.images, asked.side, asked.folder)
    goal = Goal("pictures a second, beside the writer over by it", found["ratio"], GOAL)
    return shown(table(found), [goal], found, as_json=asked.json)
