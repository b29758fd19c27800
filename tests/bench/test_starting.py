"""The benchmarks of starting measure what they say: the same pictures, and time that was used."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from runner.engine.tiny.folders import folder as builtin_folder
from runner.executor import Rendered
from tests.bench import cold, startup
from tests.harness import ROOT

PROMPTS = ROOT / "prompts"


@pytest.mark.parametrize("size", cold._SIZES)
def test_both_sides_make_so_many_different_pictures(size: int) -> None:
    wanted = cold.pictures(cold._SIZES[size], PROMPTS)
    assert len(wanted) == len(set(wanted)) == size
    assert all("a" in prompt.split() and seed in (1, 2) for prompt, seed in wanted)


def test_the_careful_script_makes_the_pictures_that_the_runner_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: with four steps in the script."""
    import torch

    from runner.engine.gpu_thread import GpuThread
    from runner.engine.registry import realise

    wanted = cold.pictures(cold._SIZES[1], PROMPTS)
    (tmp_path / "list.json").write_text(json.dumps(wanted), encoding="utf-8")
    weights = builtin_folder("text2img", tmp_path)
    arguments = [str(weights), str(tmp_path / "list.json"), str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["careful_script.py", *arguments])
    threads = torch.get_num_threads()
    runpy.run_path(str(cold.SCRIPT))
    torch.set_num_threads(threads)
    executor = GpuThread(tmp_path, device="cpu")
    try:
        spec = dict(cold._SIZES[1][0])
        task = realise(spec, job="job", index=0, inputs={})
        executor.start(executor.slots()[0].name, [task])
        while not isinstance(event := executor.events.get(timeout=50), Rendered):
            assert "Failed" not in type(event).__name__, event
    finally:
        executor.close()
    with Image.open(tmp_path / "0000.png") as by_hand:
        assert ImageChops.difference(by_hand.convert("RGB"), event.image).getbbox() is None


def test_the_time_of_a_command_is_that_of_its_process_and_no_other() -> None:
    busy = "import time; began = time.process_time()\nwhile time.process_time() - began < 0.3: pass"
    wall, cpu = cold._timed([sys.executable, "-c", busy], ROOT)
    assert 0.3 < cpu <= wall + 0.1
    idle: Callable[[Path], startup.Cost] = startup.CONTESTANTS["python -c pass"]
    assert 0 < idle(ROOT).cpu < cpu


def test_a_command_that_fails_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed"):
        cold._timed([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_imports_are_listed_with_their_times() -> None:
    found = startup.imports(["--version"])
    assert found == sorted(found, reverse=True)
    assert {"argparse", "runner.errors"} <= {name for _, name in found}
