"""Pipelines are loaded from this machine only, kept while there is room, and shared."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine import gpu
from runner.engine.memory import devices
from runner.engine.memory.plans import Machine, MemoryPlan
from runner.engine.registry import KINDS
from runner.engine.weights.fingerprint import Hashes
from runner.engine.weights.loading import OnLoading
from runner.engine.weights.pipeline_cache import PipelineCache, _keys, _Stage
from runner.task import ImageTask
from tests.fakes import PlannedCache, TwinLibrary

TaskOf = Callable[..., ImageTask]


def loaded(pipelines: PipelineCache, task: ImageTask) -> gpu.Stages:
    resolved = pipelines.resolve(task)
    pipelines.text(resolved, lambda *_: None)
    return pipelines.paint(resolved, lambda *_: None)


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


def test_the_cache_releases_what_was_used_longest_ago(
    data: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = PipelineCache(TwinLibrary(data), device="cpu")

    def paint(kind: str, on_loading: OnLoading) -> None:
        small.paint(small.resolve(task_of(kind)), on_loading)

    for kind in ("text2img", "fill"):
        paint(kind, lambda *_: None)
    both = small._held([stage.pipe for stage in small._stages.values()])
    monkeypatch.setattr(small, "_room", lambda resolved: both - 1)
    for kind in ("text2img", "control"):
        paint(kind, lambda *_: None)
    loads: list[str] = []
    for kind in ("control", "text2img", "fill"):
        paint(kind, lambda *_, kind=kind: loads.append(kind))  # type: ignore[misc]
    assert set(loads) == {"fill"}
    small.clear()
    assert small.loaded == ()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_of_parts_that_are_loaded_in_turn_no_file_stays_mapped_beside_the_others(
    data: Path, task_of: TaskOf, tmp_path: Path
) -> None:
    """Weights of the dtype that is wanted are the pages of their file, as long as one is held."""

    def mapped() -> set[str]:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        files = (Path(line.split(maxsplit=5)[-1]) for line in lines if str(tmp_path) in line)
        return {file.parent.name for file in files if file.suffix == ".safetensors"}

    def plan(*asked: object) -> MemoryPlan:
        return MemoryPlan("fp32", "fp32", "in turn", "resident", False, 1)

    library = TwinLibrary(data)
    task = task_of("text2img", "klein")
    folder = shutil.copytree(library.main(library.models["klein"], "text2img"), tmp_path / "own")
    library.main = lambda model, kind: folder  # type: ignore[method-assign]
    pipelines = PlannedCache(library, plan, room=2**40)
    resolved = pipelines.resolve(task)
    for _ in range(2):
        embeddings = resolved.family.encode(pipelines.text(resolved, lambda *_: None), "a cat", 64)
        assert mapped() == {"text_encoder"}
        pipelines.paint(resolved, lambda *_: None)
        assert mapped() == {"transformer", "vae"}
    assert embeddings
    pipelines.clear()
    assert mapped() == set()


def test_weights_that_are_replaced_under_their_own_name_are_loaded_at_the_next_task(
    data: Path, task_of: TaskOf, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    library = TwinLibrary(data)
    task = task_of("text2img", "klein")
    folder = shutil.copytree(library.main(library.models["klein"], "text2img"), tmp_path / "own")
    library.main = lambda model, kind: folder  # type: ignore[method-assign]
    pipelines = PipelineCache(library, device="cpu")
    first, again = loaded(pipelines, task), loaded(pipelines, task)
    assert again.main is first.main
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["proj_out.weight"] = torch.zeros_like(state["proj_out.weight"])
    save_file(state, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
    merged = loaded(pipelines, task)
    assert not merged.main.transformer.proj_out.weight.any()
    assert merged.main.vae is first.main.vae, "nobody has touched it"
    hashes = [each.facts["model"]["hash"] for each in (first, again, merged)]
    assert hashes[0] == hashes[1] != hashes[2] and hashes[0].startswith("sha256:")


@pytest.mark.parametrize("first", ["klein", "base"])
def test_entries_that_differ_in_guidance_alone_have_each_their_own_pipeline(
    first: str, data: Path, task_of: TaskOf
) -> None:
    library = TwinLibrary(data)
    klein = library.models["klein"]
    serves = {kind: replace(each, guided=True) for kind, each in klein.serves.items()}
    library.models = {**library.models, "base": replace(klein, name="base", serves=serves)}
    pipelines, task = PipelineCache(library, device="cpu"), task_of("text2img", "klein")
    for name in (first, "klein", "base"):
        pipe = loaded(pipelines, replace(task, model=name)).main
        assert pipe.config.is_distilled == (name == "klein")


def test_weights_that_are_replaced_while_they_are_hashed_are_hashed_again_for_the_next_task(
    data: Path, task_of: TaskOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = TwinLibrary(data)
    task = task_of("text2img", "klein")
    folder = shutil.copytree(library.main(library.models["klein"], "text2img"), tmp_path / "own")
    library.main = lambda model, kind: folder  # type: ignore[method-assign]
    pipelines, real = PipelineCache(library, device="cpu"), Hashes.parts

    def replaced_meanwhile(self: Hashes, *given: Any) -> dict[str, str]:
        hashes = real(self, *given)
        file = folder / "vae" / "config.json"
        file.write_text(file.read_text(encoding="utf-8") + " ", encoding="utf-8")
        return hashes

    monkeypatch.setattr(Hashes, "parts", replaced_meanwhile)
    first = pipelines.resolve(task).hash
    monkeypatch.setattr(Hashes, "parts", real)
    second = pipelines.resolve(task).hash
    assert second != first
    assert pipelines.resolve(task).hash == second


def test_a_prior_that_is_replaced_under_its_own_name_is_loaded_at_the_next_task(
    data: Path, task_of: TaskOf, tmp_path: Path
) -> None:
    """Seen red: it went on with the old weights, and so did the hash in the sidecar."""
    import torch
    from safetensors.torch import load_file, save_file

    library = TwinLibrary(data)
    task = task_of("redux", "dev")
    of_redux = library.prior(library.models["dev"], "redux")
    folder = shutil.copytree(of_redux, tmp_path / "own")
    library.prior = lambda model, kind: folder  # type: ignore[method-assign]
    pipelines = PipelineCache(library, device="cpu")
    first = loaded(pipelines, task)
    file = folder / "image_embedder" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: torch.zeros_like(each) for name, each in state.items()}, f"{file}.new")
    Path(f"{file}.new").replace(file)
    merged = loaded(pipelines, task)
    assert merged.main is first.main, "nobody has touched it"
    assert not any(each.any() for each in merged.prior.image_embedder.parameters())
    assert first.facts["model"]["hash"] != merged.facts["model"]["hash"]


def test_a_small_model_uses_one_thread_and_a_large_one_what_torch_chose() -> None:
    import torch

    cpu, before = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(2)
    devices._default_threads.cache_clear()
    try:
        devices.use_threads(cpu, 34_000_000_000)
        chosen = torch.get_num_threads()
        devices.use_threads(cpu, 25_000_000)
        assert torch.get_num_threads() == 1
        devices.use_threads(cpu, 34_000_000_000)
        assert torch.get_num_threads() == chosen == 2
    finally:
        torch.set_num_threads(before)
        devices._default_threads.cache_clear()


def test_what_others_hold_is_seen_before_each_load_and_changes_no_model_that_is_loaded(
    data: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 12 << 30
    monkeypatch.setattr(
        "runner.engine.memory.machine.measure", lambda *given: Machine("cuda", free, 8 << 30)
    )
    cache = PipelineCache(TwinLibrary(data), device="cpu")
    first = cache.resolve(task_of("text2img"))
    assert first.space.machine.room == 12 << 30
    free = 9 << 30
    assert cache.resolve(task_of("text2img")).space.machine.room == 9 << 30
    free -= 900 << 20
    assert cache.resolve(task_of("text2img")).space.machine.room == 9 << 30, "libraries take it"
    cache._stages[_keys(first)["paint"]] = _Stage(None, "tiny")
    free = 2 << 30
    assert cache.resolve(task_of("text2img")).space.machine.room == 9 << 30, "it is loaded"
    assert cache.resolve(task_of("fill")).space.machine.room == 2 << 30
