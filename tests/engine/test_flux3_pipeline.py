"""FLUX.3's pipeline is diffusers' blocks: the same pictures, and what a pipeline does besides."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.flux3_pipeline import NAME
from runner.engine.hub.sources import Source, components, read_index, wanted
from runner.engine.memory import devices
from runner.engine.registry import KINDS, realise
from runner.engine.speed import Speed
from runner.engine.weights.assembly import _load, class_of
from runner.errors import JobFailed
from runner.task import InputImage
from tests import random_twin

STEPS = 5
Pipes = Callable[[str], Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    devices.use_threads(torch.device("cpu"), 1)


@pytest.fixture(scope="module")
def pipes() -> Pipes:
    """The pipeline of a part."""
    made: dict[str, Any] = {}
    return lambda part: made.setdefault(part, random_twin.build(part))


def references(count: int) -> list[Image.Image]:
    gradient = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    return [gradient.rotate(90 * number) for number in range(count)]


def arguments(**others: Any) -> dict[str, Any]:
    import torch

    return {
        "prompt": "a red circle",
        "width": 64,
        "height": 80,
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "generator": torch.Generator().manual_seed(3),
        **others,
    }


def of_diffusers(pipe: Any, guidance: float = 1.0, **others: Any) -> bytes:
    """The picture of diffusers' own blocks, in one call of all but the upsampler."""
    import diffusers

    distilled = pipe.transformer.config.flow_map
    blocks = diffusers.Flux3DistilledAutoBlocks() if distilled else diffusers.Flux3AutoBlocks()
    blocks = copy.deepcopy(blocks)
    blocks.sub_blocks.pop("prompt_upsampler")
    own = blocks.init_pipeline()
    reader = SimpleNamespace(
        tokenizer=pipe.tokenizer, apply_chat_template=pipe.tokenizer.apply_chat_template
    )
    own.update_components(
        transformer=pipe.transformer, vae=pipe.vae, text_encoder=pipe.text_encoder
    )
    own.tokenizer = reader
    if not distilled:
        own.update_components(guider=diffusers.ClassifierFreeGuidance(guidance))
    given = arguments(**others)
    del given["guidance_scale"]
    picture: bytes = own(**given, output="images")[0].tobytes()
    return picture


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_picture_is_that_of_diffusers_own_blocks(pipes: Pipes, count: int) -> None:
    pipe, given = pipes("flux3"), {"image": references(count)} if count else {}
    ours = pipe(**arguments(**given)).images[0]
    assert ours.tobytes() == of_diffusers(pipe, **given)


def test_the_base_is_guided_away_from_the_negative_prompt(pipes: Pipes) -> None:
    pipe, given = pipes("flux3-base"), {"negative_prompt": "a green square"}
    ours = pipe(**arguments(**given, guidance_scale=4.0)).images[0].tobytes()
    assert ours == of_diffusers(pipe, 4.0, **given)
    assert ours != pipe(**arguments(guidance_scale=4.0)).images[0].tobytes()
    plain = pipe(**arguments()).images[0].tobytes()
    for guidance in (0.0, 1.0):
        other = pipe(**arguments(**given, guidance_scale=guidance)).images[0].tobytes()
        assert plain == other, "which computes none"


@pytest.mark.parametrize("stop", range(STEPS))
def test_what_the_callback_raises_ends_the_run_unlogged_and_the_next_is_as_ever(
    pipes: Pipes, stop: int, caplog: pytest.LogCaptureFixture
) -> None:
    pipe, seen = pipes("flux3"), []

    def on_step_end(given: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> None:
        assert given is pipe and set(tensors) == {"latents"}
        seen.append(step)
        if step == stop:
            raise ArithmeticError("stopped")

    watch = {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": ["latents"]}
    with pytest.raises(ArithmeticError, match="stopped"):
        pipe(**arguments(**watch, image=references(1)))
    assert seen == list(range(stop + 1)) and caplog.text == ""
    assert pipe(**arguments()).images[0].tobytes() == of_diffusers(pipe)


def test_a_stop_leaves_no_tensor_alive(pipes: Pipes) -> None:
    """Seen red: what was raised and what brought it past the blocks kept each other."""
    kept: list[weakref.ref[Any]] = []

    def on_step_end(given: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> None:
        kept.append(weakref.ref(tensors["latents"]))
        raise ArithmeticError("stopped")

    watch = {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": ["latents"]}
    gc.collect()
    gc.disable()
    try:
        with suppress(ArithmeticError):
            pipes("flux3")(**arguments(**watch))
        assert [each() for each in kept] == [None]
    finally:
        gc.enable()


def test_an_error_inside_a_step_is_told_once_by_whom_it_reaches(
    pipes: Pipes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes("flux3")

    def fail(*given: Any, **named: Any) -> None:
        raise MemoryError("full")

    monkeypatch.setattr(pipe.transformer, "forward", fail)
    with pytest.raises(MemoryError):
        pipe(**arguments())
    assert caplog.text == ""


def test_diffusers_own_blocks_are_as_before(pipes: Pipes) -> None:
    import diffusers

    pipes("flux3")(**arguments())
    for blocks in (diffusers.Flux3DistilledAutoBlocks(), diffusers.Flux3AutoBlocks()):
        assert set(blocks.sub_blocks) >= {"prompt_upsampler", "text_encoder", "decode"}
        for branch in blocks.sub_blocks["denoise"].sub_blocks.values():
            assert list(branch.sub_blocks["denoise"].sub_blocks) == ["denoiser", "after_denoiser"]


def test_what_the_pipeline_does_not_know_is_an_error(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes("flux3")
    with pytest.raises(TypeError, match="strength"):
        pipe(**arguments(strength=0.5))
    with pytest.raises(ValueError, match="at least one"):
        pipe(**arguments(num_inference_steps=0))
    embeds, _ = pipe.encode_prompt("a", 64)
    with pytest.raises(JobFailed, match="distilled"):
        pipe(**arguments(negative_prompt_embeds=embeds))
    # Of a later diffusers, whose blocks call it otherwise.
    known = type(pipe)._denoised
    monkeypatch.setattr(
        type(pipe), "_denoised", lambda self, given, *more: known(self, {**given, "size": 1}, *more)
    )
    with pytest.raises(TypeError, match="the blocks take no size"):
        pipe(**arguments())


@pytest.mark.parametrize("kind", ["kontext", "redux"])
@pytest.mark.parametrize("size", [(3000, 2000), (1008, 1000), (90, 1300), (40, 30)])
def test_references_come_to_the_blocks_as_they_leave_them(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """At most a megapixel each, on their grid: nothing is shrunk, cut or padded once more."""
    from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor

    Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "a.png")
    spec = {"kind": kind, "model": "flux3-klein", "prompt": "a", "seed": 1}
    inputs = {"image": (InputImage(tmp_path / "a.png"),) * 2}
    task = realise({**spec, "width": 2048, "height": 1024}, job="job", index=1, inputs=inputs)
    ready = KINDS[kind].prepare(task, MODEL_REGISTRY["flux3-klein"].sizes)
    given = KINDS[kind].arguments["flux3"](task, ready)
    assert (given["width"], given["height"]) == (2048, 1024)
    for picture in given["image"]:
        assert picture.width * picture.height <= 1024**2
        for mode in ("fill", "crop"):
            tensor, _ = Flux3ImageProcessor().preprocess(picture, resize_mode=mode)
            if min(picture.size) >= 64 or mode == "crop":  # smaller ones are mirrored
                assert tuple(tensor.shape[2:]) == (picture.height, picture.width)


def test_a_folder_is_read_without_its_upsampler_and_without_the_processors_torchvision(
    tmp_path: Path,
) -> None:
    folder = random_twin.folder("flux3", tmp_path)
    index = read_index(folder)
    assert "prompt_upsampler" in index
    assert components(index) == {
        "transformer": ("diffusers", "Flux3Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKLFlux2"),
        "text_encoder": ("transformers", "Qwen3VLForConditionalGeneration"),
        "tokenizer": ("transformers", "AutoProcessor"),
    }
    here = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    upsampler = ["prompt_upsampler/config.json", "prompt_upsampler/model.safetensors"]
    assert sorted(wanted(Source("someone/twin"), here + upsampler, index)) == sorted(here)
    pipe = _load(NAME, folder, "fp32", {})
    assert pipe(**arguments()).images[0].tobytes() == of_diffusers(pipe)


def test_the_prompt_is_wrapped_as_the_true_processor_wraps_it(pipes: Pipes) -> None:
    """Of the processor, which torchvision would be needed to build, only this one function."""
    from transformers import Qwen3VLProcessor

    tokenizer = pipes("flux3").tokenizer
    asked = [{"role": "user", "content": "a red circle"}]
    processor = object.__new__(Qwen3VLProcessor)
    processor.tokenizer, processor.chat_template = tokenizer, tokenizer.chat_template
    theirs = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ours = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert ours == theirs and "a red circle" in ours


@pytest.mark.parametrize("words", [1, 20])
def test_an_embedding_is_a_number_of_whole_windows_of_eighty_tokens(
    pipes: Pipes, words: int
) -> None:
    pipe, prompt = pipes("flux3"), "circle " * words
    asked = [{"role": "user", "content": prompt}]
    tokens = pipe.tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    embeds, _ = pipe.encode_prompt(prompt, 1040)
    assert tuple(embeds.shape) == (1, -(-len(tokens) // 80) * 80, 128)
    assert pipe.encode_prompt(prompt, 32)[0].shape[1] == 32


def test_it_has_no_step_cache_and_says_so(pipes: Pipes) -> None:
    pipe, speed = pipes("flux3"), Speed(step_cache=0.1)
    (told,) = speed.warnings(pipe, 16)
    assert "no step cache" in told and speed.facts(pipe) == {}


def test_layers_that_are_streamed_give_the_same_picture(pipes: Pipes) -> None:
    import torch

    pipe = class_of("diffusers", NAME)(**random_twin.build("flux3").components)
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
    ours = pipe(**arguments(image=references(2))).images[0].tobytes()
    assert ours == pipes("flux3")(**arguments(image=references(2))).images[0].tobytes()
