"""Measures what several slots bring, how many one head can feed, and a whole night with one kill.

`python -m tests.bench slots [--part PART…] [--quick] [--profile] [--json] [--folder F]`. The parts:

    dispatch  stub slots that answer at once, through the whole runner but for the engine: images a
              second, and the head's memory, with 10, 100 and 200 of them; once with every picture
              saved, and once with none written (each is still claimed, counted and shown in the
              status), so that encoding and the disk are not the limit
    sleep     slots that sleep for each step in processes of their own: 1 and 2 of them
    tiny      the built-in model on `devices: [cpu, cpu]` beside one runner with one thread for its
              arithmetic; where Ray is installed, one and two slots of a local cluster, too
    night     files in to pictures saved with their metadata, by `fluxdrop run`, with one kill -9 on
              the way, in images an hour and as a share of a careful script's loop

A rate is taken from the first step of the first image to the last picture of the job, made or
saved; models are loaded and slots are there by then, but for the night, where all is counted.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import multiprocessing
import os
import pstats
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any
from unittest import mock

from PIL import Image

from runner.cli.init import make_home
from runner.executor import Event, Executor, Progressed, Rendered, Slot
from runner.job import Phase
from runner.settings import Home, Settings
from runner.task import ImageTask
from tests.bench import slots_night
from tests.bench.figures import Goal, shown
from tests.bench.overhead import peak_memory
from tests.bench.turns import Contestant, Stage, take_turns
from tests.spool.device import FlatColours

GOAL_DISPATCH, GOAL_RATIO, LEAST_RATIO = 500.0, 1.8, 1.5
SLOTS = (10, 100, 200)
PARTS = ("dispatch", "sleep", "tiny", "night")
SAVED, COUNTED = "every picture saved", "none written"
_SIDE = 16
_STEP_SECONDS, _STEPS = 0.05, 4
_LONG = 36_000.0
_JOB = "night"
_SHOWN_LINES = 24
_IMAGES = {"dispatch": (4000, 600), "sleep": (60, 8), "tiny": (200, 12), "night": (2400, 40)}
"""Of each part, and so many where it must be quick."""


class Noting(SimpleQueue[Event]):
    """An executor's queue of events that notes when steps and pictures come of the job."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0.0
        self.made: list[float] = []

    def put(self, item: Event, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item, Progressed | Rendered) and item.task.job == _JOB:
            self.first = self.first or time.perf_counter()
            if isinstance(item, Rendered):
                self.made.append(time.perf_counter())
        super().put(item)


# -- a job through a whole runner --------------------------------------------------------------


def spec(images: int, *, name: str = _JOB, steps: int = 8) -> str:
    """A job of so many images of one prompt."""
    return (
        f"kind: text2img\nid: {name}\nmodel: tiny\nprompt: a red circle on a blue background\n"
        f"steps: {steps}\nseeds: {{start: 1, count: {images}}}\n...\n"
    )


def run_job(
    home: Home, executor: Executor, images: int, *, slots: int, warm_up: int = 0,
    profile: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Drop a job once so many slots are there, and have it made; what was measured."""
    from runner.daemon.daemon import Daemon

    events = Noting()
    for each in [executor, *getattr(executor, "_executors", ())]:
        each.events = events
    with Daemon(home, lambda home: executor) as daemon:
        _step_until(daemon, lambda: sum(slot.is_free for slot in executor.slots()) == slots)
        if warm_up:
            _drop(home, "warm-up", spec(warm_up, name="warm-up"))
            _step_until(daemon, lambda: _is_over(home, "warm-up"))
        cpu = time.process_time()
        _drop(home, _JOB, spec(images))
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        _step_until(daemon, lambda: len(events.made) == images and daemon.writer.is_idle)
        profiler.disable()
        saved = time.perf_counter()
        cpu = time.process_time() - cpu
        assert _is_over(home, _JOB)
    assert len(events.made) == images, f"{len(events.made)} pictures"
    said: dict[str, Any] = {
        "made_rate": images / (events.made[-1] - events.first),
        "saved_rate": images / (saved - events.first),
        "cpu_ms": cpu / images * 1000,
        **peak_memory(),
    }
    if profile:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(_SHOWN_LINES)
        said["profile"] = text.getvalue()
    return said


def _step_until(daemon: Any, condition: Callable[[], bool]) -> None:
    """Turn the runner as `serve` does."""
    while not condition():
        daemon.step(0.1)
        assert daemon.worker.exit_code is None, daemon.home.threads.broken


def _drop(home: Home, name: str, text: str) -> None:
    aside = home.inbox / ".tmp" / name
    aside.parent.mkdir(exist_ok=True)
    aside.write_text(text, encoding="ascii")
    os.replace(aside, home.inbox / f"{name}.yaml")


def _is_over(home: Home, name: str) -> bool:
    from runner.wire import read_json

    status = read_json(home.job(name) / "status.json") or {}
    assert status.get("state") not in ("failed", "rejected"), status
    return status.get("state") == "succeeded"


# -- dispatch ----------------------------------------------------------------------------------


class Stubs:
    """So many slots in this process that answer at once; what it takes to tell of them is small."""

    def __init__(self, count: int) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._slots = [Slot(f"stub-{number:03}", False, ("tiny",)) for number in range(count)]
        self._picture = Image.new("RGB", (_SIDE, _SIDE), "red")

    def slots(self) -> Sequence[Slot]:
        return self._slots

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        for task in tasks:
            self.events.put(Progressed(slot, task, Phase.DENOISING, 1, task.steps))
            self.events.put(Rendered(slot, task, self._picture, 0.01, {"device": "none"}))

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        pass

    def stop(self, slot: str) -> None:
        pass

    def abandon(self, slot: str, why: str) -> bool:
        return False

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def dispatch(
    stage: Stage, *, root: Path, slots: int, images: int, saved: bool, profile: bool = False
) -> dict[str, Any]:
    """Stub slots that answer at once."""
    make_home(root)
    home = Home(root, Settings())
    stage.ready()
    if saved:
        return run_job(home, Stubs(slots), images, slots=slots, profile=profile)
    from runner.daemon import saving

    known: dict[str, Any] = {}

    def encoded(image: Any) -> Any:
        """The files of the first picture, under the name of this one."""
        if not known:
            known["files"] = true(image)
        return known["files"]

    true = saving._encoded
    with (
        mock.patch.object(saving, "_encoded", encoded),
        mock.patch("runner.spool.store.outbox.Outbox.publish_images", lambda self, images: None),
        mock.patch.object(saving, "state_of", lambda picture: None),
        mock.patch("runner.daemon.pages.Pages.add", lambda self, sidecars: None),
        mock.patch("runner.daemon.pages.Pages.refresh_job", lambda self, record: None),
    ):
        return run_job(home, Stubs(slots), images, slots=slots, profile=profile)


# -- slots that sleep --------------------------------------------------------------------------


class Sleeping(FlatColours):
    """One slot whose thread sleeps for each step."""

    def __init__(self, name: str) -> None:
        super().__init__(side=_SIDE, by_hand=True, slot=name)
        self._orders: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        super().start(slot, tasks)
        self._orders.put(True)

    def _run(self) -> None:
        while self._orders.get():
            for step in range(1, _STEPS + 1):
                time.sleep(_STEP_SECONDS)
                self.step(step)
            self.finish()

    def close(self) -> None:
        self._orders.put(False)


def sleeping(stage: Stage, *, root: Path, slots: int, images: int) -> dict[str, Any]:
    """Slots that sleep, each in a process of its own."""
    from runner.slots.process import ProcessExecutor
    from runner.slots.several import Several

    _let_start_processes()
    make_home(root)
    home = Home(root, Settings())
    events: SimpleQueue[Event] = SimpleQueue()
    children = [
        ProcessExecutor(Sleeping, (name,), name=name, events=events, threads=home.threads)
        for name in (f"sleeping-{number}" for number in range(slots))
    ]
    stage.ready()
    return run_job(home, Several(children, events), images, slots=slots, warm_up=slots)


# -- the built-in model ------------------------------------------------------------------------


def tiny(stage: Stage, *, root: Path, slots: int, images: int, ray: bool = False) -> dict[str, Any]:
    """The built-in model on so many slots of one thread each; one is a thread of the runner."""
    _let_start_processes()
    make_home(root)
    if ray:
        home = Home(root, Settings(ray={"address": "local", "cpu_slots": slots}))
        executor = _on_ray(home)
    else:
        from runner.slots.local import LocalSlots

        home = Home(root, Settings(devices=("cpu",) * slots) if slots > 1 else Settings())
        executor = LocalSlots(home).executor(home)
    stage.ready()
    return run_job(home, executor, images, slots=slots, warm_up=4 * slots)


def _on_ray(home: Home) -> Executor:
    """The executor of a Ray cluster on this machine, which ends with it."""
    from runner.slots.ray_cluster import cluster_of
    from runner.slots.ray_slots import of_cluster

    return of_cluster(cluster_of(home), home.threads)


def _let_start_processes() -> None:
    """A contestant's process may have no children, but these need some."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


# -- the whole -----------------------------------------------------------------------------------


def measure_dispatch(
    images: int, folder: Path | None, *, quick: bool, profile: bool
) -> list[dict[str, Any]]:
    """A row for each number of slots, with pictures saved and without."""
    return [
        {"slots": slots, "case": SAVED if saved else COUNTED}
        | _alone("dispatch", folder, slots=slots, images=images, saved=saved, profile=profile)
        for saved in (True, False)
        for slots in (SLOTS[-1:] if quick else SLOTS)
    ]


def measure_ratio(
    part: str, images: int, rounds: int, folder: Path | None, **more: Any
) -> list[dict[str, Any]]:
    """A row for one slot and one for two: the best of so many rounds, which take turns."""
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(rounds):
        for slots, found in runs.items():
            found.append(_alone(part, folder, slots=slots, images=images, **more))
    return [
        {
            "slots": slots,
            "best": max(run["made_rate"] for run in found),
            "median": median(run["made_rate"] for run in found),
            "saved": max(run["saved_rate"] for run in found),
        }
        for slots, found in runs.items()
    ]


def _alone(function: str, folder: Path | None, **given: Any) -> dict[str, Any]:
    """What one contestant said, in a process and a home of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        given["root"] = Path(name) / "home"
        runs = take_turns({function: Contestant(f"{__name__}:{function}", given)}, _LONG)
    return dict(runs[function].said)


def _dispatch_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{'dispatch':<22}{'slots':>6}{'made/s':>9}{'saved/s':>9}{'CPU ms':>8}{'peak MiB':>10}"
    ]
    for row in rows:
        lines.append(
            f"{row['case']:<22}{row['slots']:>6}{row['made_rate']:>9.1f}{row['saved_rate']:>9.1f}"
            f"{row['cpu_ms']:>8.2f}{row['peak_mib']:>10}"
        )
        lines += [row["profile"]] if "profile" in row else []
    return lines


def _ratio_table(part: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{part:<22}{'slots':>6}{'best/s':>9}{'median':>9}{'saved/s':>9}"]
    lines += [
        f"{'':<22}{row['slots']:>6}{row['best']:>9.2f}{row['median']:>9.2f}{row['saved']:>9.2f}"
        for row in rows
    ]
    return lines


def _ratio_goals(part: str, rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    ratio = rows[1]["best"] / rows[0]["best"]
    name = f"{part}: two slots over one"
    return [Goal(name, ratio, GOAL_RATIO), Goal(f"{name}, at least", ratio, LEAST_RATIO)]


def main(argv: list[str]) -> int:
    """Measure and say which goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench slots", description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, help="for `dispatch` 4,000, else 60, 200 and 2,400")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", help="of the night: as the setting, by commas")
    parser.add_argument("--profile", action="store_true", help="where `dispatch` spends its time")
    parser.add_argument("--quick", action="store_true", help="few images and one round")
    parser.add_argument("--folder", type=Path, help="where the homes are made: on a real disk")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    rounds = 1 if asked.quick else asked.rounds
    lines: list[str] = []
    goals: list[Goal] = []
    figures: dict[str, Any] = {}
    for part in asked.part:
        usual, few = _IMAGES[part]
        images = asked.images or (few if asked.quick else usual)
        if part == "dispatch":
            rows = measure_dispatch(images, asked.folder, quick=asked.quick, profile=asked.profile)
            lines += _dispatch_table(rows)
            goals += [
                Goal(f"dispatch with {row['slots']} slots, {row['case']}", row["made_rate"],
                     GOAL_DISPATCH)
                for row in rows if row["slots"] == SLOTS[-1]
            ]  # fmt: skip
        elif part == "night":
            rows = [slots_night.measure(images, asked.folder, asked.devices)]
            lines += slots_night.table(rows[0])
        else:
            name = "sleeping" if part == "sleep" else part
            rows = measure_ratio(name, images, rounds, asked.folder)
            lines += _ratio_table(part, rows)
            goals += _ratio_goals(part, rows)
            if part == "tiny" and find_spec("ray") and find_spec("runner.slots.ray_slots"):
                on_ray = measure_ratio(name, images, rounds, asked.folder, ray=True)
                lines += _ratio_table("tiny, Ray", on_ray)
                figures["ray"] = on_ray
        figures[part] = rows
    return shown(lines, goals, figures, as_json=asked.json)
