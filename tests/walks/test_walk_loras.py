"""The whole way of a LoRA: from a spec to pixels and a sidecar, and from the sidecar back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.engine.gpu_thread import GpuThread
from runner.engine.hub import library as hub
from runner.settings import Home
from tests.engine.lora_files import tensors_for, written
from tests.engine.painting import pipe_of
from tests.fakes import TwinLibrary
from tests.spool.conftest import Spool

DEV = "kind: text2img\nmodel: dev\nprompt: a fox\nseed: 7\nsteps: 2\nwidth: 64\nheight: 64\n"


def painter(home: Home) -> GpuThread:
    return GpuThread(home.data, library=TwinLibrary(home.data), device="cpu")


Start = Callable[..., Spool]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a runner on a home with `loras/`, which paints with random twins of the models."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    started: list[Spool] = []

    def starting() -> Spool:
        spool = Spool(tmp_path / "home", lora_roots=("loras",))
        spool.device = painter  # type: ignore[assignment]
        spool.start()
        started.append(spool)
        return spool

    yield starting
    for spool in started:
        spool.stop()


def file_in(spool: Spool, name: str = "ink.safetensors", **settings: Any) -> str:
    """A LoRA for the twin in the home's root; its hash."""
    lora = written(
        spool.home.root / "loras" / name,
        tensors_for(pipe_of("FluxPipeline").transformer, **settings),
    )
    return hashlib.sha256(lora.path.read_bytes()).hexdigest()


def made(spool: Spool, job: str) -> bytes:
    """The pixels of a job's one picture."""
    status = spool.end(job)
    assert status["state"] == "succeeded", status
    with Image.open(spool.home.job(job) / f"{job}-0001.png") as image:
        return image.tobytes()


def sidecar(spool: Spool, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((spool.home.job(job) / f"{job}-0001.json").read_bytes())
    return found


def test_a_lora_acts_is_recorded_and_leaves_the_next_job_alone(start: Start) -> None:
    spool = start()
    sha = file_in(spool)
    spool.drop("plain.yaml", DEV)
    spool.drop("styled.yaml", DEV + "loras: [{path: ink.safetensors, weight: 0.8}]\n")
    spool.drop("again.yaml", DEV)
    plain, styled, again = (made(spool, job) for job in ("plain", "styled", "again"))
    assert plain == again != styled
    assert sidecar(spool, "styled")["loras"] == [
        {"path": "ink.safetensors", "weight": 0.8, "sha256": sha}
    ]


def test_a_sidecar_dropped_again_makes_the_same_pixels_or_says_why_not(start: Start) -> None:
    spool = start()
    file_in(spool)
    spool.drop("styled.yaml", DEV + "loras: [{path: ink.safetensors}]\n")
    first = made(spool, "styled")
    text = json.dumps(sidecar(spool, "styled"))
    spool.drop("copy.json", text)
    assert made(spool, "copy") == first
    file_in(spool, seed=9)
    os.utime(spool.home.root / "loras/ink.safetensors", ns=(1, 1))
    spool.drop("changed.json", text)
    status = spool.end("changed")
    assert (status["state"], status["reason"]) == ("rejected", "InputBad")
    assert "is not the file that is asked for" in status["message"]
    assert "sha256" in status["errors"][0]["path"]


def test_a_pulled_repository_is_pinned_by_its_commit(start: Start) -> None:
    spool = start()
    folder = hub.repo_folder("someone/ink", spool.home.data)
    sha = file_in(spool)
    snapshot = folder / "snapshots/c0ffee"
    snapshot.mkdir(parents=True)
    (spool.home.root / "loras/ink.safetensors").rename(snapshot / "ink.safetensors")
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("c0ffee", encoding="utf-8")
    spool.drop("styled.yaml", DEV + "loras: [{repo: someone/ink}]\n")
    made(spool, "styled")
    assert sidecar(spool, "styled")["loras"] == [
        {
            "repo": "someone/ink",
            "weight": 1.0,
            "revision": "c0ffee",
            "file": "ink.safetensors",
            "sha256": sha,
        }
    ]


def test_what_is_wrong_with_loras_is_told_at_once_with_its_place(start: Start) -> None:
    spool = start()
    (spool.home.root / "loras").mkdir()
    (spool.home.root / "loras/cut.safetensors").write_bytes(b"no tensors")
    spool.drop("bad.yaml", DEV + "loras:\n- path: cut.safetensors\n- path: ../up.safetensors\n")
    status = spool.end("bad")
    assert (status["state"], status["reason"]) == ("rejected", "InputBad")
    assert [error["line"] for error in status["errors"]] == [9, 10]
    assert "'..'" in status["errors"][1]["message"]


def test_a_lora_that_is_not_there_fails_its_job_and_says_how_to_get_it(start: Start) -> None:
    spool = start()
    spool.drop("bad.yaml", DEV + "loras: [{repo: no/such}]\n")
    status = spool.end("bad")
    assert (status["state"], status["reason"]) == ("failed", "ModelMissing")
    assert "fluxdrop models pull no/such" in status["message"]


def test_a_file_that_goes_while_its_job_waits_fails_that_job_only(start: Start) -> None:
    spool = start()
    file_in(spool)
    (spool.home.inbox / "runner.pause").touch()
    spool.drop("styled.yaml", DEV + "loras: [{path: ink.safetensors}]\n")
    spool.drop("plain.yaml", DEV)
    spool.until(lambda: spool.status("plain").get("state") == "queued")
    (spool.home.root / "loras/ink.safetensors").unlink()
    (spool.home.inbox / "runner.pause").unlink()
    status = spool.end("styled")
    assert (status["state"], status["reason"]) == ("failed", "ModelMissing")
    made(spool, "plain")


def test_a_lora_for_another_model_fails_its_image_and_the_next_is_plain(start: Start) -> None:
    spool = start()
    file_in(spool)
    written(
        spool.home.root / "loras/other.safetensors",
        tensors_for(pipe_of("ZImagePipeline").transformer),
    )
    spool.drop("plain.yaml", DEV)
    spool.drop("bad.yaml", DEV + "loras: [{path: ink.safetensors}, {path: other.safetensors}]\n")
    spool.drop("again.yaml", DEV)
    plain, again = made(spool, "plain"), made(spool, "again")
    assert plain == again
    status = spool.end("bad")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert "other.safetensors" in status["message"]
    assert "made for another" in status["message"]
