"""What the runner adds to an image must not grow unnoticed: the processor's time, and the disk's.

Time is CPU time of every thread, as a multiple of what a plain function takes that publishes the
same files in the same run, so that neither the machine nor what else it does changes it much. What
the GPU thread does beyond the pipeline's own work is far less than that varies, so there the calls
are counted, and so is all that is done to the disk. What stands here was measured when it last
changed: whoever makes the runner leaner lowers it, whoever has to raise it says why.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import pytest

from runner.daemon.daemon import Daemon
from runner.engine.gpu_thread import GpuThread
from runner.executor import Event, Rendered
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk
from runner.spool.store.outbox import to_json
from runner.task import ImageTask
from tests.bench.overhead import publish
from tests.fakes import TwinLibrary, Watched, life
from tests.harness import eventually
from tests.spool.device import FlatColours

TOO_MUCH = 1.5

# 1.65 before every file was opened as one that others may have planted, and threads were watched.
CPU = 2.25
"""The runner's CPU time for an image whose pipeline does nothing, as a multiple of `publish`'s."""

CALLS = 213
"""Calls in the GPU thread for an image of one step, those of diffusers left out."""

IMAGE = {"write": 3.2, "sync": 3.2, "rename": 3.2, "sync_folder": 3, "commit": 1.5}
"""Changes to the disk for each further image of a job."""

JOB = {"write": 6, "sync": 6, "rename": 7, "sync_folder": 5, "commit": 4, "durable commit": 3}
"""Changes to the disk for a job of one image, beyond that image's."""

IMAGES, ROUNDS = 5, 16
PROMPT = "a red circle on a blue background"
SPEC = {"kind": "text2img", "model": "dev", "prompt": PROMPT, "steps": 1, "width": 64,
        "height": 64, "seed": 1}  # fmt: skip


class Drawing:
    """A runner in this process that draws one job after another."""

    def __init__(self, daemon: Daemon, home: Home) -> None:
        self._daemon = daemon
        self._home = home
        self._jobs = 0

    def __call__(self, images: int) -> None:
        """One job of so many images, from the rename of its spec to its final status."""
        self._jobs += 1
        name = f"job-{self._jobs}"
        aside = self._home.inbox / ".tmp" / name
        aside.write_text(json.dumps({**SPEC, "count": images}), encoding="utf-8")
        os.replace(aside, self._home.inbox / f"{name}.json")
        status = self._home.job(name) / "status.json"

        def ended() -> Any:
            self._daemon.step(1.0)  # every picture that is saved wakes it
            found = json.loads(status.read_bytes()) if status.exists() else {}
            return found if found.get("state") in ("succeeded", "failed") else None

        assert eventually(ended, name)["images"]["done"] == images


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", Settings())
    home.prepare()
    return home


def cpu_ms(act: Callable[[int], object]) -> float:
    began = time.process_time()
    act(IMAGES)
    return (time.process_time() - began) / IMAGES * 1000


def test_the_runner_takes_no_more_of_the_processor_for_an_image_than_was_recorded(
    home: Home, tmp_path: Path
) -> None:
    plain = Home(tmp_path / "plain", Settings())
    plain.prepare()
    published = 0

    def by_hand(images: int) -> None:
        nonlocal published
        for _ in range(images):
            published += 1
            job = f"job{published}"
            plain.job(job).mkdir()
            status = {"id": job, "kind": "text2img", "state": "queued", "attempt": 0}
            (plain.job(job) / "status.json").write_bytes(to_json(status))
            publish(job, SPEC, plain)

    with Daemon(home, FlatColours()) as daemon:
        draw = Drawing(daemon, home)
        by_hand(1)
        draw(1)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(cpu_ms(by_hand))
            ours.append(cpu_ms(draw))
    ratio = median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"CPU ms an image: {median(ours):.2f} beside {median(theirs):.2f}: {ratio:.3f}")
    assert ratio < TOO_MUCH * CPU, "`python -m tests.bench overhead` measures it thoroughly"


def test_the_gpu_thread_does_no_more_around_the_pipeline_than_was_recorded(tmp_path: Path) -> None:
    calls = Calls()
    executor = GpuThread(tmp_path, library=TwinLibrary(tmp_path), device="cpu")
    executor.events = calls  # type: ignore[assignment]  # a queue to whoever puts into it
    try:
        for number in range(5):
            task = ImageTask("job", number, **{**SPEC, "seed": number}, guidance=3.5)
            executor.start("gpu0", [task])
            assert life(executor)[-1].image.size == (64, 64)
    finally:
        executor.close()
    print(f"calls for an image: {calls.each}")
    # Now and then one image pays for clearing away what others left.
    assert min(calls.each[1:]) < TOO_MUCH * CALLS


class Calls(Watched):
    """An executor's queue that counts the calls in its thread from one picture to the next.

    What is written in Python counts, diffusers and all that it calls left out; and only from the
    first picture on, because loading is slow enough.
    """

    _theirs = str(Path(diffusers.__file__).parent)

    def __init__(self) -> None:
        super().__init__(self._see)
        self.each: list[int] = []
        self._count = 0
        self._deep = 0

    def _see(self, event: Event) -> None:
        if isinstance(event, Rendered):
            self.each.append(self._count)
            self._count = 0
            sys.setprofile(self._note)

    def _note(self, frame: Any, what: str, argument: Any) -> None:
        if what == "call":
            if self._deep or frame.f_code.co_filename.startswith(self._theirs):
                self._deep += 1
            else:
                self._count += 1
        elif what == "return" and self._deep:
            self._deep -= 1


def test_the_runner_writes_no_more_for_an_image_or_a_job_than_was_recorded(home: Home) -> None:
    operations: Counter[str] = Counter()

    class Counting(Disk):
        def before(self, operation: str, path: str | Path, **details: Any) -> None:
            # What the clock makes counts for no job; the gallery is written beside it.
            file = Path(details.get("target", path))
            ours = not file.is_relative_to(home.data) and "runner.json" not in file.name
            if ours or operation == "commit":
                operations["durable commit" if details.get("durable") else operation] += 1

    def drawn(images: int) -> Counter[str]:
        operations.clear()
        draw(images)
        return Counter(operations)

    with Daemon(home, FlatColours(), disk=Counting()) as daemon:
        draw = Drawing(daemon, home)
        draw(1)
        single, several = drawn(1), drawn(1 + IMAGES)
    image = {name: (several[name] - single[name]) / IMAGES for name in IMAGE}
    job = {name: single[name] - image.get(name, 0.0) for name in JOB}
    print(f"an image: {image}; a job: {job}")
    for name, most in IMAGE.items():
        assert image[name] < TOO_MUCH * most, f"{name} for each image"
    for name, most in JOB.items():
        assert job[name] < TOO_MUCH * most, f"{name} for each job"
