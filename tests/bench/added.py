"""Measures what the runner adds to an image, over calling the pipeline in a bare loop.

`python -m tests.bench added [--quick] [--json]`. Both make the same pictures of the built-in model,
with one thread of arithmetic, taking turns in one process. The bare loop reuses the prompt's
embeddings, as the runner does, and keeps nothing. For the runner an image lasts from one rendered
image to the next, while settling, statuses, saving and thumbnails go on beside it. Time is given by
the clock, and as CPU time of the thread that renders, which other work on the machine disturbs
less. It ends with 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from queue import SimpleQueue
from statistics import median, quantiles
from typing import Any

import torch

from runner import client
from runner.cli.init import make_home
from runner.daemon.daemon import Daemon
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory import devices
from runner.engine.tiny.folders import folder as builtin_folder
from runner.executor import Event, Rendered
from runner.job import FINAL_STATES
from runner.settings import Home
from tests.bench.figures import Goal, shown

GOAL_MS = 10.0
PROMPT = "a red circle on a blue background"
STEPS, GUIDANCE, SIZE = 8, 3.5, 64


Moment = tuple[float, float]
"""By the clock, and by the CPU time of the thread that renders; in seconds."""


def _now() -> Moment:
    return time.perf_counter(), time.thread_time()


class Clocked(SimpleQueue[Event]):
    """The executor's queue of events, noting when each picture was ready."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[Moment] = []

    def put(self, item: Event, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item, Rendered):
            self.moments.append(_now())
        super().put(item)


class Bare:
    """The pipeline in a loop, and nothing else."""

    def __init__(self, data: Path) -> None:
        folder = builtin_folder("text2img", data)
        self._pipe = devices.frameworks().FluxPipeline.from_pretrained(folder, dtype=torch.float32)
        self._pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            words, pooled, _ = self._pipe.encode_prompt(PROMPT, None, max_sequence_length=64)
        self._words = {"prompt_embeds": words, "pooled_prompt_embeds": pooled}

    def times(self, images: int) -> list[Moment]:
        """What each image took."""
        torch.set_num_threads(1)  # for this thread; as the runner does for so small a model
        moments = []
        for seed in range(images + 1):
            self._pipe(
                **self._words, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                width=SIZE, height=SIZE, generator=torch.Generator("cpu").manual_seed(seed),
            )  # fmt: skip
            moments.append(_now())
        return _between(moments)


class Whole:
    """The runner, from a spec in the inbox to pictures in the outbox."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._clock = Clocked()
        self.daemon = Daemon(home, self._executor)

    def _executor(self, home: Home) -> GpuThread:
        executor = GpuThread(home.data, device="cpu")
        executor.events = self._clock
        return executor

    def times(self, images: int) -> list[Moment]:
        """What each image of one job took."""
        # An image with a timeout is made alone: a batch would hide what is measured.
        spec = {"kind": "text2img", "model": "tiny", "prompt": PROMPT, "steps": STEPS,
                "guidance": GUIDANCE, "seed": 0, "count": images + 1,
                "timeout": 600}  # fmt: skip
        self._clock.moments.clear()
        drop = client.submit(self._home, json.dumps(spec).encode(), "round.json")
        receipt = None
        look = 0.0
        while True:
            self.daemon.step(0.1)
            # Looking at every event would itself be what is measured.
            if time.monotonic() - look < 0.2:
                continue
            look = time.monotonic()
            receipt = receipt or client.receipt(self._home, drop)
            status = client.status(self._home, receipt["job"]) if receipt else {}
            if status.get("state") in FINAL_STATES:
                assert status["state"] == "succeeded", status
                return _between(self._clock.moments)


def _between(moments: list[Moment]) -> list[Moment]:
    pairs = zip(moments, moments[1:], strict=False)
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairs]


def _figures(times: list[Moment]) -> dict[str, float]:
    low, middle, high = (round(value * 1000, 2) for value in quantiles([t[0] for t in times], n=4))
    cpu = round(median(t[1] for t in times) * 1000, 2)
    return {"median_ms": middle, "quartile1_ms": low, "quartile3_ms": high, "cpu_ms": cpu}


def _added(bare: list[Moment], whole: list[Moment], clock: int) -> float:
    return (median(t[clock] for t in whole) - median(t[clock] for t in bare)) * 1000


def measure(rounds: int, images: int) -> dict[str, Any]:
    """Let both make `images` pictures in turn, `rounds` times; the first round warms up."""
    with tempfile.TemporaryDirectory() as folder:
        make_home(Path(folder))
        home = Home(Path(folder))
        bare, whole = Bare(home.data), Whole(home)
        times: dict[str, list[Moment]] = {"bare": [], "runner": []}
        added: list[Moment] = []
        with whole.daemon:
            for number in range(rounds + 1):
                one, other = bare.times(images), whole.times(images)
                if number:
                    times["bare"] += one
                    times["runner"] += other
                    added.append((_added(one, other, 0), _added(one, other, 1)))
    figures = {name: _figures(values) for name, values in times.items()}
    low, middle, high = (round(value, 2) for value in quantiles([t[0] for t in added], n=4))
    return {
        "images": rounds * images,
        **figures,
        "added_ms": middle,
        "added_quartiles_ms": [low, high],
        "added_cpu_ms": round(median(t[1] for t in added), 2),
        "ratio": round(figures["runner"]["median_ms"] / figures["bare"]["median_ms"], 3),
        "cpu_ratio": round(figures["runner"]["cpu_ms"] / figures["bare"]["cpu_ms"], 3),
    }


def main(argv: list[str]) -> int:
    """Measure and say whether the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench added", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    found = measure(3 if asked.quick else asked.rounds, asked.images)
    lines = []
    for name in ("bare", "runner"):
        row = found[name]
        lines.append(
            f"{name:<8} {row['median_ms']:8.2f} ms an image, half of them"
            f" {row['quartile1_ms']:.2f} to {row['quartile3_ms']:.2f}; CPU {row['cpu_ms']:.2f}"
        )
    low, high = found["added_quartiles_ms"]
    lines.append(
        f"added    {found['added_ms']:8.2f} ms an image, half of the rounds"
        f" {low:.2f} to {high:.2f}; CPU {found['added_cpu_ms']:.2f}"
    )
    lines.append(f"ratio    {found['ratio']:8.3f}; CPU {found['cpu_ratio']:.3f}")
    goal = Goal("added to an image", found["added_ms"], GOAL_MS, at_least=False, unit=" ms")
    return shown(lines, [goal], found, as_json=asked.json)
