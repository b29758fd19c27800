"""Files in the layouts of BFL's quantiser: computed with as they are, whatever the device is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.engine import resolved_task
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory.plans import Machine, PlanSpace, in_words
from runner.engine.models import Model, Weights
from runner.engine.resolved_task import TaskResolver, explain_plan
from runner.engine.speed import Speed
from runner.engine.weights import bfl, checkpoints, lora_layers, loras, quantise
from runner.errors import InputBad, ModelMissing
from runner.executor import Failed, Rendered
from tests import random_twin
from tests.engine.lora_files import tensors_for, written
from tests.engine.painting import painted, pipe_of
from tests.engine.weight_files import by_bfl, original
from tests.fakes import TwinLibrary
from tests.walks.test_contract_kinds import leaves_nothing_when_stopped, lives

SCHEMES = ("fp8r", "nvfp4")
PIPES = {"flux2": "Flux2KleinPipeline", "zimage": "ZImagePipeline"}
MODELS = {"flux2": "klein", "zimage": "z-image-turbo"}
Written = Callable[..., Path]


@pytest.fixture
def file_of(tmp_path: Path) -> Written:
    """Writes the transformer of a family's twin in a scheme, after a change of its tensors."""

    def make(part: str, scheme: str, change: Callable[[Any], Any] = lambda state: state) -> Path:
        from safetensors.torch import save_file

        state = change(by_bfl(original(pipe_of(PIPES[part]).transformer), scheme))
        file = tmp_path / f"{part}-{scheme}.safetensors"
        save_file({name: each.contiguous() for name, each in state.items()}, file)
        return file

    return make


def loaded(part: str, file: Path, data: Path, precision: str = "stored") -> Any:
    """The transformer of a file, settled on the CPU."""
    import torch

    folder, cpu = random_twin.folder(part, data) / "transformer", torch.device("cpu")
    cls = type(random_twin.build(part).transformer)
    return quantise.load_transformer(cls, folder, precision, cpu, data / "q", "a" * 64, file)


def pipe_with(part: str, transformer: Any) -> Any:
    import torch

    pipe = pipe_of(PIPES[part])
    pipe.transformer = transformer
    for name in ("vae", "text_encoder"):
        getattr(pipe, name).to(torch.bfloat16)
    return pipe


def unpacked(model: Any) -> dict[str, Any]:
    """The weights of a model's packed layers, as diffusers unpacks them, in bf16."""
    import torch
    from diffusers.quantizers.bfl.utils import BFLNVFP4Linear, dequantize_fp8r, dequantize_nvfp4

    made = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BFLNVFP4Linear):
            made[name] = dequantize_nvfp4(layer.weight, layer.weight_scale, layer.weight_scale_2)
        elif hasattr(layer, "weight_scale"):
            made[name] = dequantize_fp8r(layer.weight, layer.weight_scale)
    return {name: each.to(torch.bfloat16) for name, each in made.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", PIPES)
def test_a_file_paints_as_its_numbers_in_bf16_do_and_stays_small(
    part: str, scheme: str, data: Path, file_of: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with diffusers' own layers, which unpack a whole weight to floats at once."""
    import torch
    from diffusers.quantizers.bfl import utils

    monkeypatch.setattr(bfl, "ROWS", 24)  # so that weights are unpacked in several parts here too
    model = loaded(part, file_of(part, scheme), data)
    pipe = pipe_with(part, model)
    assert quantise.facts(pipe) == {"scheme": scheme, "rounds_inputs": False}
    assert quantise.warnings(pipe) == ()
    weights = unpacked(model)
    bits = {"fp8r": torch.float8_e4m3fn, "nvfp4": torch.uint8}[scheme]
    assert weights and {model.get_submodule(name).weight.dtype for name in weights} == {bits}
    plain = pipe_with(part, pipe_of(PIPES[part]).transformer.to(torch.bfloat16))
    before = painted(plain)
    for name, weight in weights.items():
        plain.transformer.get_submodule(name).weight.data = weight
    right, heights = painted(plain), set()

    def watched(unpack: Any, packed: Any, *scales: Any) -> Any:
        heights.add(len(packed))
        return unpack(packed, *scales)

    for name in ("dequantize_fp8r", "dequantize_nvfp4"):
        own = getattr(utils, name)
        monkeypatch.setattr(utils, name, functools.partial(watched, own))
    assert painted(pipe) == painted(pipe) == right != before
    assert heights and max(heights) <= 24


def test_other_spellings_and_shapes_of_scales_are_the_same_numbers(
    data: Path, file_of: Written
) -> None:
    import torch

    def respelt(state: dict[str, Any]) -> dict[str, Any]:
        scales = {name: each for name, each in state.items() if name.endswith("weight_scale")}
        others = {name: each for name, each in state.items() if name not in scales}
        named = (name.replace("weight_scale", "scale_weight") for name in scales)
        columns = dict(zip(named, (each[:, None] for each in scales.values()), strict=True))
        everything = {**others, **columns, "text_encoders.x": torch.zeros(2)}
        return {f"model.diffusion_model.{name}": each for name, each in everything.items()}

    def without_others(state: dict[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in respelt(state).items() if "text_encoders" not in name}

    usual = loaded("flux2", file_of("flux2", "fp8r"), data).state_dict()
    respelled = loaded("flux2", file_of("flux2", "fp8r", without_others), data).state_dict()
    assert usual.keys() == respelled.keys()
    assert all(usual[name].float().equal(each.float()) for name, each in respelled.items())


def test_layers_in_fp8_with_one_scale_beside_others_in_nvfp4_are_cut_into_their_parts(
    data: Path, file_of: Written
) -> None:
    """Seen red: torch cannot cut one number into the three of queries, keys and values."""
    import torch

    right = original(pipe_of(PIPES["flux2"]).transformer)
    stem = "double_blocks.0.img_attn.qkv"

    def mixed(state: dict[str, Any]) -> dict[str, Any]:
        weight = right[f"{stem}.weight"].float()
        scale = weight.abs().max() / 448
        others = {name: each for name, each in state.items() if not name.startswith(stem)}
        as_fp8 = (weight / scale).to(torch.float8_e4m3fn)
        return {**others, f"{stem}.weight": as_fp8, f"{stem}.weight_scale": scale}

    model = loaded("flux2", file_of("flux2", "nvfp4", mixed), data)
    weights = unpacked(model)
    parts = [weights[f"transformer_blocks.0.attn.to_{each}"] for each in "qkv"]
    whole = right[f"{stem}.weight"].float()
    assert (torch.cat(parts).float() - whole).norm() <= 0.05 * whole.norm()
    assert painted(pipe_with("flux2", model))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tensor_that_such_a_file_lacks_is_named(
    scheme: str, data: Path, file_of: Written
) -> None:
    def less(state: dict[str, Any]) -> dict[str, Any]:
        lost = next(name for name in state if name.endswith("query_norm.scale"))
        return {name: each for name, each in state.items() if name != lost}

    with pytest.raises(ModelMissing, match="1 of its tensors are missing, like "):
        loaded("flux2", file_of("flux2", scheme, less), data)


def test_a_file_in_fp8r_is_in_any_precision(data: Path, file_of: Written) -> None:
    file = file_of("flux2", "fp8r")
    for precision in ("fp32", "bf16", "fp8", "int8"):
        model = loaded("flux2", file, data, precision)
        assert quantise.facts(SimpleNamespace(transformer=model)) == {}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", PIPES)
def test_loras_act_over_a_file_of_bfls_and_leave_it_as_it_was(
    part: str, scheme: str, data: Path, tmp_path: Path, file_of: Written
) -> None:
    import torch

    pipe = pipe_with(part, loaded(part, file_of(part, scheme), data))
    plain, weights = painted(pipe), unpacked(pipe.transformer)
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe_of(PIPES[part]).transformer))
    assert loras.apply(pipe, [lora]) == ()
    styled = painted(pipe)
    changes = {
        change.factor0.dtype for change in pipe.transformer.modules() if hasattr(change, "factor0")
    }
    assert changes == {torch.bfloat16}
    loras.remove(pipe)
    assert painted(pipe) == plain != styled
    loras.apply(pipe, [lora])
    assert painted(pipe) == styled
    loras.remove(pipe)
    for name, weight in weights.items():  # by which a DoRA measures it
        held = lora_layers.weight_of(pipe.transformer.get_submodule(name))
        assert (held - weight.float()).norm() <= 0.005 * weight.float().norm(), name


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.timeout(240)
def test_a_file_of_bfls_can_be_compiled(
    scheme: str, data: Path, file_of: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    pipe = pipe_with("flux2", loaded("flux2", file_of("flux2", scheme), data))
    plain = painted(pipe)
    Speed(compile=True).apply(pipe)
    assert painted(pipe) == plain


@pytest.mark.parametrize(
    ("kind", "capability", "flashinfer", "tried"),
    [
        ("BFLFP8RLinear", (8, 9), False, True),
        ("BFLFP8RLinear", (8, 6), True, False),
        ("BFLNVFP4Linear", (12, 0), True, True),
        ("BFLNVFP4Linear", (12, 0), False, False),
        ("BFLNVFP4Linear", (9, 0), True, False),
    ],
)
def test_inputs_are_rounded_where_a_trial_on_the_device_shows_that_it_works(
    kind: str,
    capability: tuple[int, int],
    flashinfer: bool,
    tried: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from diffusers.quantizers.bfl import utils

    asked: list[object] = []

    class Layer(torch.nn.Module):
        """A layer on a GPU, as far as it is looked at."""

        in_features, answer = 32, 1.0
        fault = RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        weight = SimpleNamespace(device=SimpleNamespace(type="cuda"))

        def forward(self, inputs: Any) -> Any:
            asked.append(inputs)
            if self.answer == 0:
                raise self.fault
            return torch.full((2,), self.answer)

    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device, dtype: ones(*shape, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(utils, "is_flashinfer_available", lambda: flashinfer)
    layer = Layer()
    for answer, works in ((1.0, True), (float("nan"), False), (0.0, False)):
        layer.answer = answer
        found = bfl._multiplies(getattr(utils, kind), layer, torch, utils)
        assert found == (works and tried)
    assert len(asked) == 3 * tried
    layer.fault = RuntimeError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="out of memory") if tried else nullcontext():
        bfl._multiplies(getattr(utils, kind), layer, torch, utils)


def test_layers_whose_inputs_are_rounded_stay_diffusers_own(
    data: Path, file_of: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.quantizers.bfl.utils import BFLFP8RLinear

    monkeypatch.setattr(bfl, "_multiplies", lambda *given: True)
    model = loaded("flux2", file_of("flux2", "fp8r"), data)
    facts = quantise.facts(SimpleNamespace(transformer=model))
    assert facts == {"scheme": "fp8r", "rounds_inputs": True}
    packed = {type(layer) for layer in model.modules() if hasattr(layer, "weight_scale")}
    assert packed == {BFLFP8RLinear}


class WithFile(TwinLibrary):
    """A library whose transformer is in one file."""

    def __init__(self, data: Path, file: Path) -> None:
        super().__init__(data)
        self._file = file

    def single(self, model: Model) -> Path | None:
        return self._file


@pytest.mark.parametrize(
    ("scheme", "device", "precision"),
    [
        ("fp8r", "cuda", "stored"),
        ("nvfp4", "cuda", "stored"),
        ("nvfp4", "cpu", "stored"),
        ("fp8r", "cpu", "fp32"),
        ("fp8r", "mps", "bf16"),
    ],
)
def test_such_a_file_is_planned_as_it_is_with_its_size_where_that_gains(
    scheme: str, device: str, precision: str, data: Path, task_of: Any, file_of: Written
) -> None:
    file = file_of("flux2", scheme)
    library = WithFile(data, file)
    weights = Weights(file.stat().st_size, 0, 2_000)
    entry = replace(library.models["klein"], weights=weights, bytes=2 * weights.others)
    library.models = {**library.models, "klein": entry}
    resolver = TaskResolver(library, Machine(device, 2**40, 2**40), device=device)
    plan = resolver.resolve(task_of("text2img", "klein")).plan
    assert plan.precision == precision
    if precision == "stored":
        smaller = replace(entry, native=precision, bytes=entry.bytes + file.stat().st_size - 64)
        less = resolver._plan(PlanSpace(smaller, resolver.machine, 64 * 64, kind="text2img"))
        assert plan.bytes - less.bytes == 64
    said = explain_plan(library, entry, resolver.machine)
    assert said[0].startswith(f"klein runs {in_words(precision)}, ")
    refused = pytest.raises(InputBad, match="published quantised; leave `precision` out$")
    with refused if scheme == "nvfp4" else nullcontext():
        named = resolver.resolve(task_of("text2img", "klein", precision="bf16")).plan
        assert named.precision == "bf16"


def test_apples_gpu_is_said_not_to_know_the_scales_of_nvfp4(
    data: Path, task_of: Any, file_of: Written
) -> None:
    library = WithFile(data, file_of("flux2", "nvfp4"))
    machine = Machine("mps", 0, 2**40)
    with pytest.raises(InputBad, match="scales in fp8, which Apple's GPU does not know") as found:
        TaskResolver(library, machine, device="mps").resolve(task_of("text2img", "klein"))
    assert explain_plan(library, library.models["klein"], machine) == [str(found.value)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", PIPES)
def test_a_stop_at_five_moments_leaves_a_pipeline_of_a_file_that_paints_the_same(
    part: str,
    scheme: str,
    data: Path,
    task_of: Any,
    file_of: Written,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if scheme == "fp8r":
        kept = lambda library, model, *given: replace(model, native="stored")  # noqa: E731
        monkeypatch.setattr(resolved_task, "as_published", kept)
    task = task_of("text2img", MODELS[part])
    executor = GpuThread(data, library=WithFile(data, file_of(part, scheme)), device="cpu")
    try:
        plain = lives(executor, task)[-1]
        assert isinstance(plain, Rendered)
        facts = {"scheme": scheme, "rounds_inputs": False, "precision": "auto"}
        assert facts.items() <= plain.facts.items()
        leaves_nothing_when_stopped(executor, task, plain)
        if scheme == "nvfp4":
            other = lives(executor, task_of("text2img", MODELS[part], precision="bf16"))[-1]
            assert isinstance(other, Failed) and other.reason == "InputBad"
    finally:
        executor.close()


def test_a_scheme_is_read_from_the_header_alone(file_of: Written) -> None:
    file = file_of("flux2", "nvfp4")
    assert checkpoints.scheme(file) == "nvfp4"
    assert checkpoints.scheme(file.with_suffix(".gguf")) == "", "whose names tell their bits"
