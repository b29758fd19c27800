"""A ControlNet beside a transformer: its own file, and layers that are the transformer's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from runner.engine import gpu
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.gpu import Piece, StopSign
from runner.engine.memory.plans import MemoryPlan
from runner.engine.prompts.embeddings import Encoded
from runner.engine.registry import KINDS
from runner.engine.weights import checkpoints, fp8, quantise
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import ModelMissing, Stopped
from runner.task import ImageTask
from tests.engine.lora_files import tensors_for, written
from tests.fakes import PlannedCache, TwinLibrary
from tests.twins import zimage

TaskOf = Callable[..., ImageTask]
NAME = "z-image-control"


def plan(placement: str = "resident", precision: str = "fp32") -> MemoryPlan:
    return MemoryPlan(precision, "fp32", "stays", placement, False, 1)


def painted(
    pipelines: PipelineCache, task: ImageTask, on_step: Callable[[int], None] = lambda step: None
) -> bytes:
    """The pixels of a task by the engine's own call."""
    resolved = pipelines.resolve(task)
    text = pipelines.text(resolved, lambda *_: None)
    encoded = Encoded(resolved.family.encode(text, task.prompt, 64), ())
    stages = pipelines.paint(resolved, lambda *_: None)
    prepared = KINDS[task.kind].prepare(task, resolved.model.sizes_for(task.kind))
    piece = Piece(task, prepared, encoded)
    seen = lambda phase, step, steps: on_step(step)  # noqa: E731
    (image,) = gpu.run_batch(stages, [piece], StopSign(), seen)
    pixels: bytes = image.tobytes()
    return pixels


def main(pipelines: PipelineCache, task: ImageTask) -> Any:
    return pipelines.paint(pipelines.resolve(task), lambda *_: None).main


@pytest.fixture
def pipelines(data: Path) -> PipelineCache:
    return PipelineCache(TwinLibrary(data), device="cpu")


def test_the_configuration_is_our_own_and_that_of_the_published_file() -> None:
    """Its bytes in bf16 are the file's on the hub: 6.71 GB."""
    from diffusers import ZImageControlNetModel

    (serving,) = MODEL_REGISTRY[NAME].serves.values()
    assert serving.controlnet is not None
    folder = Path(quantise.__file__).parent.parent / "controlnets" / serving.controlnet.config
    model = checkpoints.empty(ZImageControlNetModel, folder)
    own = sum(each.numel() for each in model.parameters())
    assert own == MODEL_REGISTRY[NAME].weights.controlnet == serving.controlnet.bytes // 2
    assert round(serving.controlnet.bytes / 1e9, 2) == 6.71


def test_where_the_map_does_not_count_the_picture_is_that_of_the_words_alone(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    asked = {"steps": 4, "width": 64, "height": 64}
    words = painted(pipelines, task_of("text2img", "z-image-turbo", **asked))
    scaled = [
        painted(pipelines, task_of("control", NAME, strength=strength, **asked))
        for strength in (0, 0.3, 1)
    ]
    assert scaled[0] == words and len({*scaled}) == 3
    assert task_of("control", NAME, strength=0.5, steps=4).steps_made == 4, "none is left out"
    usual = painted(pipelines, task_of("control", NAME, **asked))
    assert usual == painted(pipelines, task_of("control", NAME, strength=0.75, **asked))


def test_the_sort_of_the_map_and_the_map_change_the_picture(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    drawn = painted(pipelines, task_of("control", NAME))
    ready = painted(pipelines, task_of("control", NAME, preprocessed=True))
    assert drawn != ready


def test_a_sidecar_says_which_file_it_was_made_with(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    task = task_of("control", NAME)
    resolved = pipelines.resolve(task)
    model = pipelines.paint(resolved, lambda *_: None).facts["model"]
    said = model["controlnet"]
    serving = resolved.serving
    assert serving.controlnet is not None and resolved.controlnet is not None
    assert said["repo"] == serving.controlnet.repo and said["file"] == resolved.controlnet[1].name
    assert said["hash"] == f"sha256:{resolved.marks['controlnet']}"
    assert task.options["strength"] == serving.controlnet.scale
    plain = pipelines.paint(
        pipelines.resolve(task_of("text2img", "z-image-turbo")), lambda *_: None
    ).facts["model"]
    assert "controlnet" not in plain and plain["hash"] != model["hash"]


def test_its_own_layers_count_once_and_those_of_the_transformer_not_again(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    pipe = main(pipelines, task_of("control", NAME))
    own = sum(each.numel() for each in zimage.controlnet().parameters())
    assert sum(each.numel() for each in pipe.controlnet.parameters()) > own
    alone = [pipe.transformer, pipe.vae]
    others = sum(each.nbytes for m in alone for each in (*m.parameters(), *m.buffers()))
    assert pipelines._held([pipe]) == others + 4 * own


def test_the_transformer_is_that_of_text2img_and_both_go_on_as_they_were(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    words, control = task_of("text2img", "z-image-turbo"), task_of("control", NAME)
    before = painted(pipelines, words)
    made = painted(pipelines, control)
    assert main(pipelines, words).transformer is main(pipelines, control).transformer
    assert painted(pipelines, words) == before and painted(pipelines, control) == made


def test_a_controlnet_has_the_layers_of_its_own_transformer_whatever_else_is_loaded(
    data: Path, tmp_path: Path, task_of: TaskOf
) -> None:
    """Seen red: shared by its hash, it went on with the layers of the other one."""
    from safetensors.torch import load_file, save_file

    library = TwinLibrary(data)
    entry, plain = library.models[NAME], library.main
    library.models = {**library.models, "tuned": replace(entry, name="tuned")}
    folder = shutil.copytree(plain(entry, "control"), tmp_path / "tuned")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: each * 1.25 for name, each in load_file(file).items()}, f"{file}.new")
    Path(f"{file}.new").replace(file)
    library.main = lambda model, kind: (  # type: ignore[method-assign]
        folder if model.name == "tuned" else plain(model, kind)
    )
    pipelines = PipelineCache(library, device="cpu")
    task = task_of("control", NAME)
    tuned = replace(task, model="tuned")
    first, other = painted(pipelines, task), painted(pipelines, tuned)
    assert first != other
    assert painted(pipelines, task) == first and painted(pipelines, tuned) == other
    for each in (task, tuned):
        pipe = main(pipelines, each)
        assert pipe.controlnet.noise_refiner is pipe.transformer.noise_refiner


def test_a_lora_acts_on_the_shared_layers_and_comes_off_all_of_them(
    pipelines: PipelineCache, task_of: TaskOf, tmp_path: Path
) -> None:
    from runner.engine.weights import loras

    task = task_of("control", NAME)
    plain, pipe = painted(pipelines, task), main(pipelines, task)
    kept, shared = pipe.controlnet.state_dict().keys(), "noise_refiner.0.attention.to_q"
    tensors = tensors_for(pipe.transformer, only=(shared,))
    loras.apply(pipe, [written(tmp_path / "x.safetensors", tensors, weight=3.0)])
    layer = pipe.transformer.get_submodule(shared)
    assert pipe.controlnet.get_submodule(shared) is layer
    assert pipe.controlnet.state_dict().keys() != kept
    assert painted(pipelines, task) != plain
    loras.apply(pipe, [])
    assert pipe.controlnet.state_dict().keys() == kept
    assert painted(pipelines, task) == plain


def test_a_stop_while_the_parts_are_moved_leaves_them_as_they_were(
    data: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU nothing is moved, but every hook is there and is made anew after each image."""
    task = task_of("control", NAME, steps=3)
    plain = painted(PlannedCache(TwinLibrary(data), plan()), task)
    moved = PlannedCache(TwinLibrary(data), plan("offload"))

    def stopping(step: int) -> None:
        if step == 2:
            raise Stopped("here")

    with pytest.raises(Stopped):
        painted(moved, task, stopping)
    pipe = main(moved, task)
    hooked = {name for name, each in pipe.components.items() if hasattr(each, "_hf_hook")}
    assert hooked == {"transformer", "vae", "controlnet"}
    assert painted(moved, task) == plain


def test_fp8_holds_the_matrices_of_its_own_blocks_and_the_second_start_is_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: diffusers names no repeated blocks of this class, and nothing was cast."""
    import torch

    config, file = zimage.controlnet_files(tmp_path)
    cls = type(zimage.controlnet())

    def load() -> Any:
        return quantise.load_transformer(
            cls, config, "fp8", torch.device("cpu"), tmp_path / "store", "a" * 64, file
        )

    first = load()
    names = fp8.matrices(first)
    assert names and all(name.startswith(("control_layers", "control_noise")) for name in names)
    assert {each.weight.dtype for each in names.values()} == {torch.float8_e4m3fn}
    monkeypatch.setattr(checkpoints, "tensors", lambda *given: 1 / 0)
    second = load()
    for (name, one), other in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(one.float(), other.float()), name


@pytest.mark.parametrize("precision", ["bf16", "fp8", "int8"])
def test_in_fewer_bits_it_is_placed_like_the_transformer_and_near_to_it(
    precision: str, data: Path, tmp_path: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a device that does not multiply 8-bit integers."""
    import torch

    refuse = Mock(side_effect=RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED"))
    monkeypatch.setattr(torch, "_int_mm", refuse)
    library = TwinLibrary(data)
    task = task_of("control", NAME)
    made = PlannedCache(library, plan(precision=precision))
    made._store = tmp_path / "store"
    pixels, pipe = painted(made, task), main(made, task)
    assert pipe.controlnet.dtype == pipe.transformer.dtype
    exact = painted(PlannedCache(library, plan()), task)
    assert sum(abs(a - b) for a, b in zip(pixels, exact, strict=True)) / len(exact) < 8


@pytest.mark.usefixtures("without_gpu")
def test_in_four_bits_only_its_blocks_are(tmp_path: Path) -> None:
    import torch
    from diffusers import ZImageControlNetModel
    from safetensors.torch import save_file

    small = ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=33,
        add_control_noise_refiner="control_noise_refiner", dim=128, n_refiner_layers=1,
        n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    small.save_config(tmp_path / "config")
    save_file(small.to(torch.bfloat16).state_dict(), tmp_path / "it.safetensors")
    model = quantise.load_transformer(
        ZImageControlNetModel, tmp_path / "config", "nf4", torch.device("cpu"),
        tmp_path / "store", "a" * 64, tmp_path / "it.safetensors",
    )  # fmt: skip
    kinds = {name: type(each).__name__ for name, each in model.named_modules()}
    assert kinds["control_layers.0.after_proj"] == "Linear4bit"
    assert kinds["control_all_x_embedder.2-1"] == "Linear"


def test_another_file_of_its_name_is_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    config, _ = zimage.controlnet_files(tmp_path)
    file = tmp_path / "lite.safetensors"
    save_file({"control_layers.0.after_proj.bias": torch.zeros(32)}, file)
    with pytest.raises(ModelMissing, match=r"lite.safetensors does not fit .* are missing"):
        quantise.load_transformer(
            type(zimage.controlnet()), config, "fp32", "cpu", tmp_path, "a" * 64, file
        )


def test_prompts_of_all_kinds_are_encoded_by_a_class_that_needs_no_transformer(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    """The class that paints with a ControlNet takes layers of the transformer when it is made."""
    words, control = task_of("text2img", "z-image-turbo"), task_of("control", NAME)
    stages = [pipelines.text(pipelines.resolve(each), lambda *_: None) for each in (words, control)]
    assert stages[0] is stages[1] and type(stages[0]).__name__ == "ZImagePipeline"
