"""A whole night beside a careful script: files in, pictures saved with metadata, one kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from runner.launch import command
from runner.settings import Home
from tests.bench.loop import prompts

SCRIPT = Path(__file__).with_name("careful_script.py")
_SEEDS = 40
"""Pictures of each prompt, each prompt a job."""
_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 7200.0


def measure(images: int, folder: Path | None, devices: str | None) -> dict[str, Any]:
    """Have both make the same pictures, one after the other; what each took."""
    from runner.engine.tiny.folders import folder as builtin_folder

    seeds = min(_SEEDS, images)
    texts = prompts(-(-images // seeds))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        weights = builtin_folder("text2img", root)
        loop = _loop(root, weights, [(text, seed) for text in texts for seed in range(seeds)])
        runner = _runner(root / "home", texts, seeds, devices)
    count = len(texts) * seeds
    return {
        "images": count,
        "devices": devices or "one slot",
        "loop_seconds": loop,
        **runner,
        "images_an_hour": count / runner["seconds"] * 3600,
        "share": loop / runner["seconds"],
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """The night, to be read by people."""
    return [
        f"a night of {found['images']} pictures, {found['devices']}, killed once at picture"
        f" {found['killed_at']}: {found['seconds']:.1f} s, {found['images_an_hour']:.0f} an hour;"
        f" the loop alone {found['loop_seconds']:.1f} s: {found['share']:.1%} of it;"
        f" {found['attempts']} attempts more, {found['again_seconds']:.1f} s from the kill to the"
        f" next picture"
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _loop(root: Path, weights: Path, pairs: Sequence[tuple[str, int]]) -> float:
    """The seconds of the careful script, from its start to its end."""
    (root / "list.json").write_text(json.dumps(pairs), encoding="utf-8")
    out = root / "by-hand"
    out.mkdir()
    began = time.perf_counter()
    arguments = [str(SCRIPT), str(weights), str(root / "list.json"), str(out)]
    subprocess.run([command()[0], *arguments], check=True, env=_environment(), capture_output=True)
    seconds = time.perf_counter() - began
    assert len(list(out.iterdir())) == len(pairs)
    return seconds


def _runner(root: Path, texts: Sequence[str], seeds: int, devices: str | None) -> dict[str, Any]:
    """Drop every spec, run, kill the runner once, and wait for the last picture."""
    subprocess.run([*command(), "init", str(root)], check=True, capture_output=True)
    home, images = Home(root), len(texts) * seeds
    if devices:
        text = json.dumps({"devices": devices.split(",")})
        (root / "fluxdrop.yaml").write_text(text, encoding="ascii")
    for number, text in enumerate(texts):
        spec = {"kind": "text2img", "model": "tiny", "prompt": text, "steps": 8, "width": 64,
                "height": 64, "seeds": {"start": 0, "count": seeds}}  # fmt: skip
        (home.inbox / f"job{number:03}.json").write_text(json.dumps(spec), encoding="utf-8")
    began = time.perf_counter()
    with (root / "log").open("wb") as log:
        run = subprocess.Popen(
            [*command(), "--home", str(root), "run"], stdout=log, stderr=log, env=_environment()
        )
        try:
            _wait(lambda: _done(home) >= images // 2, run)
            killed_at, killed = _done(home), time.perf_counter()
            (runner,) = psutil.Process(run.pid).children()
            runner.kill()
            _wait(lambda: _done(home) > killed_at, run)
            again = time.perf_counter() - killed
            _wait(lambda: len(_over(home)) == len(texts), run)
            seconds = time.perf_counter() - began
        finally:
            run.terminate()
            run.wait(60)
    statuses = _over(home)
    assert all(status["state"] == "succeeded" for status in statuses), statuses
    pictures = sorted(home.outbox.glob("job*/job*.png"))
    assert len(pictures) == images == sum(status["images"]["done"] for status in statuses)
    for picture in pictures:
        assert picture.with_suffix(".json").is_file(), picture
    with Image.open(pictures[-1]) as image:
        assert "parameters" in image.info, "no metadata"
    return {
        "seconds": seconds,
        "killed_at": killed_at,
        "again_seconds": again,
        "attempts": sum(status["attempt"] - 1 for status in statuses),
    }


def _done(home: Home) -> int:
    return sum(1 for _ in home.outbox.glob("job*/job*-[0-9]*.json"))


def _over(home: Home) -> list[dict[str, Any]]:
    """The statuses of the jobs that are over."""
    found = []
    for file in home.outbox.glob("job*/status.json"):
        status = json.loads(file.read_bytes())
        if status["finished_at"]:
            found.append(status)
    return found


def _wait(condition: Any, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert run.poll() is None, f"the runner ended with {run.returncode}"
        assert time.monotonic() < deadline, "the night does not end"
        time.sleep(_LOOK_SECONDS)
