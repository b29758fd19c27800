"""A night of kills: real runners killed at random moments, and whether every job is there at last.

The kills fall once a runner has started: in the import of the frameworks, in the built-in model's
images and in the writing of them. No image is in flight at three of them but by a rare chance, so
no job fails.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runner.launch import command
from tests.crash.scenario import Point

_START_SECONDS = 60.0
_SPEC = "kind: text2img\nmodel: tiny\nprompt: a red circle on a blue background\nsteps: 8\n"


def points(root: Path, *, most: int | None) -> Iterator[Point]:
    """One night: forty kills over eighty jobs, or three over six."""
    jobs, images, kills = (80, 10, 40) if most is None else (6, 10, 3)
    yield Point(f"{kills} kills over {jobs} jobs", play, (jobs, images, kills))


def play(folder: Path, jobs: int, images: int, kills: int) -> list[str]:
    """What was wrong after so many kills over so many jobs."""
    root = folder / "home"
    draw = random.Random(17)
    subprocess.run([*command(), "init", str(root)], check=True, capture_output=True)
    drain = [*command(), "--home", str(root), "drain", "--one-process"]
    for n in range(jobs):
        spec = f"{_SPEC}seeds: {{start: {n * images}, count: {images}}}\n"
        (root / "inbox" / f"job{n:02}.yaml").write_text(spec, encoding="utf-8")
    for _ in range(kills):
        with subprocess.Popen(drain, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            _until_running(root, run.pid)
            time.sleep(draw.uniform(0.0, 2.0))
            if run.poll() is not None:
                return ["wrong: the jobs were over before the last kill: give it more images"]
            run.kill()
    ended = subprocess.run(drain, capture_output=True, text=True, encoding="utf-8")
    statuses = [json.loads((root / "outbox" / f"job{n:02}" / "status.json").read_bytes())
                for n in range(jobs)]  # fmt: skip
    states = Counter(status["state"] for status in statuses)
    done = sum(status["images"]["done"] for status in statuses)
    attempts = sum(status["attempt"] - 1 for status in statuses)
    print(f"{kills} kills over {jobs} jobs of {images} images: {dict(states)}, {done} pictures, "
          f"{attempts} attempts more")  # fmt: skip
    found = [
        f"wrong: {status['id']} is {status['state']} ({status['reason']}: {status['message']})"
        for status in statuses
        if status["state"] != "succeeded" or status["images"]["done"] != images
    ]
    if ended.returncode != 0:
        found.append(f"wrong: the last drain ended with {ended.returncode}: {ended.stderr[-500:]}")
    return found


def _until_running(root: Path, pid: int) -> None:
    """Wait until this runner has written its health file, or has ended."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if json.loads((root / "outbox" / "runner.json").read_bytes())["pid"] == pid:
                return
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.01)
    raise TimeoutError("the runner did not start")
