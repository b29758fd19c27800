"""Pipelines are loaded from this machine only, kept while there is room, and shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.engine.memory import devices
from runner.engine.registry import KINDS
from runner.engine.weights.pipeline_cache import Loaded, PipelineCache
from runner.task import ImageTask
from tests.fakes import TwinLibrary

TaskOf = Callable[..., ImageTask]


def loaded(pipelines: PipelineCache, task: ImageTask) -> Loaded:
    resolved = pipelines.resolve(task)
    pipelines.text(resolved, lambda: None)
    return pipelines.paint(resolved, lambda: None)


def test_loading_asks_nothing_of_the_network(
    data: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*args: object, **settings: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    fresh = PipelineCache(TwinLibrary(data), device="cpu")
    for kind in KINDS:
        loaded(fresh, task_of(kind))


def test_the_shelf_lets_go_of_what_was_used_longest_ago(data: Path, task_of: TaskOf) -> None:
    small = PipelineCache(
        TwinLibrary(data), device="cpu", room=16
    )  # a twin's paint stage counts as eight

    def paint(kind: str, on_loading: Callable[[], None]) -> None:
        small.paint(small.resolve(task_of(kind)), on_loading)

    for kind in ("text2img", "fill", "text2img", "control"):
        paint(kind, lambda: None)
    loads: list[str] = []
    for kind in ("control", "text2img", "fill"):
        paint(kind, lambda kind=kind: loads.append(kind))  # type: ignore[misc]
    assert loads == ["fill"]
    small.clear()
    assert small.loaded == ()


def test_a_small_model_uses_one_thread_and_a_large_one_what_torch_chose() -> None:
    import torch

    cpu = torch.device("cpu")
    devices.use_threads(cpu, 34_000_000_000)
    chosen = torch.get_num_threads()
    devices.use_threads(cpu, 25_000_000)
    assert torch.get_num_threads() == 1
    devices.use_threads(cpu, 34_000_000_000)
    assert torch.get_num_threads() == chosen
