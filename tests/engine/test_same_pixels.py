"""A seed makes a picture repeatable: in one process, in another, after a release."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import KINDS
from runner.executor import Rendered
from runner.task import ImageTask
from tests.fakes import life

ExecutorOf = Callable[..., GpuThread]
TaskOf = Callable[..., ImageTask]
OTHERS = {
    model.family: model.name
    for model in reversed(MODEL_REGISTRY.values())
    if model.family != MODEL_REGISTRY["tiny"].family
}.values()
"""One model of each family that the built-in one is not of."""


def digest(answer: Any) -> str:
    assert isinstance(answer, Rendered), answer
    return hashlib.sha256(answer.image.tobytes()).hexdigest()


def outcome(executor: GpuThread, task: ImageTask) -> Any:
    executor.start("gpu0", [task])
    return life(executor)[-1]


def test_a_seed_gives_the_same_pixels_twice_and_another_seed_others(
    executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    executor = executor_of()
    first, again, other = (
        digest(outcome(executor, task_of("text2img", seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_another_process_makes_the_same_pixels(
    data: Path, executor_of: ExecutorOf, task_of: TaskOf, tmp_path: Path
) -> None:
    executor = executor_of()
    tasks = [task_of(kind) for kind in KINDS]
    tasks += [task_of(kind, model=name) for name in OTHERS for kind in MODEL_REGISTRY[name].serves]
    here = [digest(outcome(executor, task)) for task in tasks]
    (tmp_path / "tasks").write_bytes(pickle.dumps((data, tasks)))
    code = (
        "import hashlib, pickle, sys\n"
        "from runner.engine.gpu_thread import GpuThread\n"
        "from tests.fakes import TwinLibrary, life\n"
        "data, tasks = pickle.load(open(sys.argv[1], 'rb'))\n"
        "executor = GpuThread(data, library=TwinLibrary(data), device='cpu')\n"
        "for task in tasks:\n"
        "    executor.start('gpu0', [task])\n"
        "    print(hashlib.sha256(life(executor)[-1].image.tobytes()).hexdigest())\n"
        "executor.close()\n"
    )
    done = subprocess.run(
        # What diffusers means to rename is nothing that a user sees go wrong.
        [sys.executable, "-W", "ignore::FutureWarning", "-c", code, str(tmp_path / "tasks")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == here
    assert done.stderr == ""
