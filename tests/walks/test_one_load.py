"""A night of mixed jobs loads each heavy part once: the encoders for all, each transformer too.

A real daemon and real pipelines; the shelf is told that only one stage fits the device at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.daemon.daemon import Daemon
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory.plans import MemoryPlan
from runner.engine.weights import assembly
from runner.settings import Home, Settings
from tests.fakes import PlannedCache, TwinLibrary

IN_TURN = MemoryPlan("fp32", "fp32", "in turn", "resident", tiling=False, bytes=0)
KINDS = {"text2img": "krea", "fill": "fill-dev", "control": "canny"}
JOBS = 60


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded from disk, in order."""
    seen: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        load = getattr(assembly, name)

        def wrapped(resolved: Any, *given: Any) -> Any:
            seen.append("text encoders" if name == "text_stage" else resolved.model.name)
            return load(resolved, *given)

        return wrapped

    for name in ("text_stage", "paint_stage"):
        monkeypatch.setattr(assembly, name, counted(name))
    return seen


def spec(number: int) -> str:
    kind = list(KINDS)[number % len(KINDS)]
    fields: dict[str, Any] = {"kind": kind, "model": KINDS[kind], "prompt": f"number {number}"}
    fields |= {"seed": number, "steps": 1}
    if kind == "text2img":
        fields |= {"width": 64, "height": 64}
    else:
        fields |= {"image": "picture.png"} | ({"mask": "mask.png"} if kind == "fill" else {})
    return json.dumps(fields)


def night(home: Home, data: Path) -> list[str]:
    """Drop the jobs while the runner is paused, let it go, and see them all succeed."""
    pipelines = PlannedCache(TwinLibrary(data), IN_TURN, room=1)
    pause = home.inbox / "runner.pause"
    pause.touch()
    with Daemon(
        home, lambda home: GpuThread(home.data, pipelines=pipelines, prompt_cache=2**30)
    ) as daemon:
        for number in range(JOBS):
            aside = home.inbox / ".tmp" / "spec"
            aside.write_text(spec(number))
            aside.rename(home.inbox / f"job-{number:02}.json")
        deadline = time.monotonic() + 100

        def until(states: set[str]) -> list[dict[str, Any]]:
            while True:
                daemon.step(0.02)
                files = list(home.outbox.glob("job-*/status.json"))
                found = [json.loads(file.read_bytes()) for file in files]
                if len(found) >= JOBS and {each["state"] for each in found} <= states:
                    return found
                assert time.monotonic() < deadline, found

        until({"queued"})
        pause.unlink()
        ended = until({"succeeded", "failed", "rejected"})
    return [each["state"] for each in ended]


@pytest.mark.timeout(240)
def test_sixty_jobs_of_three_kinds_load_the_encoders_once_and_each_transformer_once(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, loads: list[str]
) -> None:
    from PIL import Image

    home = Home(tmp_path, Settings(settle_seconds=0.0))
    home.prepare()
    Image.new("RGB", (64, 64), "red").save(home.inbox / "picture.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 40, 40))
    mask.save(home.inbox / "mask.png")
    data = tmp_path_factory.mktemp("twins")
    assert night(home, data) == ["succeeded"] * JOBS
    assert loads == ["text encoders", "krea", "fill-dev", "canny"]
