"""Weights in 8-bit integers: exact sums, rows that do not know of each other, every device.

What holds for fp8 too is in test_quantise and test_quantise_files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from runner.engine.gpu_thread import GpuThread
from runner.engine.memory.footprint import ROWS
from runner.engine.speed import Speed
from runner.engine.weights import fp8, int8, quantise
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.executor import Rendered
from tests.engine.painting import SERVED, painted, pipe_of
from tests.engine.quantising import far, forward, load, published, put_into_int8
from tests.fakes import TwinLibrary
from tests.walks.test_contract_kinds import leaves_nothing_when_stopped, lives

FAMILIES = {model.family: (model.name, kind) for model, kind in SERVED.values()}


def layer(inputs: int = 96, outputs: int = 160, *, one_row: bool = False) -> Any:
    """A layer of random numbers as a model in int8 has it."""
    import torch

    held, multiplied = int8._classes()
    made = torch.nn.Linear(inputs, outputs, dtype=torch.bfloat16).requires_grad_(False)
    state = dict(
        fp8.cast(
            {f"it.{n}": t for n, t in made.state_dict().items()}.items(), ["it"], (), int8.rounded
        )
    )
    made.__class__ = held if one_row else multiplied
    made.register_buffer("weight_scale", state["it.weight_scale"])
    made.weight = torch.nn.Parameter(state["it.weight"], requires_grad=False)
    return made


def rows(*shape: int) -> Any:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


def test_the_matrices_of_the_blocks_are_integers_beside_a_scale_for_each_output(
    transformer: Path, tmp_path: Path
) -> None:
    import torch

    model = load(transformer, "int8", tmp_path)
    state = model.state_dict()
    held = {name for name, each in state.items() if each.dtype == torch.int8}
    assert held == {f"{name}.weight" for name in fp8.matrices(model)}
    for name in held:
        scale = state[name.replace(".weight", ".weight_scale")]
        assert scale.dtype == torch.float32 and scale.shape == state[name].shape[:1]
        assert state[name].abs().amax(1).eq(127).all(), "a part of the range lies idle"
    others = {each.dtype for name, each in model.named_parameters() if name not in held}
    assert others == {torch.bfloat16} and model.dtype == torch.bfloat16
    assert not any(each.requires_grad for each in model.parameters()) and not model.training
    right = forward(published(transformer))
    in_fp8 = forward(load(transformer, "fp8", tmp_path))
    assert 0 < far(forward(model), right) < far(in_fp8, right) < 0.05


def test_sums_are_exact_and_only_the_scales_are_rounded() -> None:
    import torch

    it, given = layer(), rows(2, 40, 96)
    scale = given.double().abs().amax(-1, keepdim=True).float() / 127
    whole = (given.float() / scale).round().long()
    sums = (whole[..., None, :] * it.weight.long()).sum(-1)
    wanted = sums.float() * scale * it.weight_scale + it.bias
    assert torch.equal(it(given), wanted.to(torch.bfloat16))


@pytest.mark.parametrize("count", [1, 16, ROWS - 1, ROWS + 1, 2 * ROWS + 40])
def test_a_row_gives_the_same_bits_alone_and_among_others(count: int) -> None:
    import torch

    it, many = layer(), rows(4, count, 96)
    whole = it(many)
    for number in range(4):
        assert torch.equal(it(many[number : number + 1])[0], whole[number])
    assert torch.equal(it(many[0, :1]), whole[0, :1])


def test_a_vector_of_each_image_gives_the_same_bits_alone_and_among_others() -> None:
    import torch
    from torch.overrides import TorchFunctionMode

    shapes = []

    class Watching(TorchFunctionMode):
        """Notes what each product reads: the kernels of this machine may hide more than a row."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.nn.functional.linear:
                shapes.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    it, many = layer(one_row=True), rows(4, 96)
    with Watching():
        together = it(many)
    assert shapes == [(1, 96)] * 4
    assert torch.equal(torch.cat([it(row) for row in many.split(1)]), together)
    right = many.float() @ (it.weight * it.weight_scale[:, None]).T + it.bias
    assert far(it(many).float(), right) < 0.01


@pytest.mark.parametrize("name", SERVED)
def test_the_layers_that_see_one_row_an_image_are_not_multiplied_as_integers(name: str) -> None:
    """By their names, for every pipeline: seen red without `adaLN` and without `norm`."""
    pipe = pipe_of(name)
    shapes: dict[str, set[int]] = {}
    for each, module in fp8.matrices(pipe.transformer).items():
        module.register_forward_pre_hook(
            lambda _, given, each=each: shapes.setdefault(each, set()).add(given[0].ndim)
        )
    painted(pipe)
    see_one = {each for each, dimensions in shapes.items() if dimensions == {2}}
    put_into_int8(pipe.transformer)
    multiplied = int8._classes()[1]
    for each, module in fp8.matrices(pipe.transformer).items():
        fits = module.in_features % 8 == module.out_features % 8 == 0
        assert (type(module) is multiplied) == (each not in see_one and fits), each


def test_a_product_of_few_rows_is_filled_up_for_devices_that_refuse_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen red without: a picture of 64 × 64 has 16 tokens, of which CUDA wants 17."""
    import torch

    it, given, own = layer(), rows(1, 16, 96), torch._int_mm

    def as_on_cuda(left: Any, right: Any) -> Any:
        if len(left) <= 16 or left.shape[1] % 8 or right.shape[1] % 8:
            raise RuntimeError("self.size(0) needs to be greater than 16")
        return own(left, right)

    usual = it(given)
    monkeypatch.setattr(torch, "_int_mm", as_on_cuda)
    assert torch.equal(it(given), usual)


def test_weights_published_in_more_bits_give_the_same_integers() -> None:
    import torch

    fine = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    rounded = fine.to(torch.bfloat16)
    one, other = (
        dict(fp8.cast([("a.weight", each)], ["a"], (), int8.rounded)) for each in (fine, rounded)
    )
    assert all(torch.equal(one[name], other[name]) for name in ("a.weight", "a.weight_scale"))


def test_numbers_that_are_none_stay_none_and_rows_of_zeros_are_the_bias() -> None:
    import torch

    it, given = layer(), rows(1, 4, 96)
    given[0, 0, 5], given[0, 1, 5], given[0, 2] = float("nan"), float("inf"), 0
    made = it(given)[0]
    assert int8._rounded(given[0, 2:3])[1] > 0, "nothing is divided by zero"
    assert made[0].isnan().all() and not made[1].isfinite().any()
    assert torch.equal(made[2], it.bias) and made[3].isfinite().all()


def test_a_device_without_these_products_gets_the_weights_alone_which_is_said(
    transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model = load(transformer, "int8", tmp_path)
    right = forward(published(transformer))
    usual, pipe = forward(model), type("Pipe", (), {"transformer": model})
    assert quantise.facts(pipe) == {} and quantise.warnings(pipe) == ()

    def refuse(*given: Any) -> Any:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    for fault in (refuse, lambda left, right: torch.zeros(32, 32, dtype=torch.int32)):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "_int_mm", fault)
            model = pipe.transformer = load(transformer, "int8", tmp_path)
            made = forward(model)
        assert quantise.facts(pipe) == {"weight_only": True}
        assert "only the weights are in 8 bits" in quantise.warnings(pipe)[0]
        assert not made.equal(usual) and far(made, right) < 0.02


@pytest.mark.parametrize("fault", ["out of memory", "misaligned address"])
def test_a_full_or_a_lost_device_says_nothing_about_its_products(
    fault: str, cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "_int_mm", Mock(side_effect=RuntimeError(f"CUDA error: {fault}")))
    with pytest.raises(RuntimeError, match=fault):
        int8._multiplies(cpu)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.timeout(240)
def test_a_compiled_block_has_no_break_and_paints_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's graph capture, which `fullgraph` refuses to leave; once then of another size."""
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    (*_, name) = (each for each, (model, _) in SERVED.items() if model.family == family)
    pipe = pipe_of(name).to(torch.bfloat16)
    put_into_int8(pipe.transformer)
    # The layers of all families are the same, and with them what another size changes.
    sizes = (64, 96) if family == "flux1" else (64,)
    plain = [painted(pipe, size=size) for size in sizes]
    Speed(compile=True).apply(pipe)
    assert [painted(pipe, size=size) for size in sizes] == plain


def test_what_a_layer_holds_is_streamed_with_it(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what is not on the device has zeros in the place of its numbers."""
    import torch
    from diffusers.hooks.group_offloading import ModuleGroup

    kept: dict[int, tuple[Any, Any]] = {}

    def tensors(group: Any) -> Iterator[Any]:
        for module in group.modules:
            yield from (*module.parameters(), *module.buffers())
        yield from (*(group.parameters or ()), *(group.buffers or ()))

    def offload(group: Any) -> None:
        for tensor in tensors(group):
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor, tensor.data
                tensor.data = torch.zeros_like(tensor)

    def onload(group: Any) -> None:
        for tensor in tensors(group):
            if id(tensor) in kept:
                tensor.data = kept.pop(id(tensor))[1]

    pipe = pipe_of("FluxPipeline").to(torch.bfloat16)
    put_into_int8(pipe.transformer)
    plain = painted(pipe)
    monkeypatch.setattr(ModuleGroup, "offload_", offload)
    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    pipe.transformer.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
    held = pipe.transformer.transformer_blocks[0].attn.to_q
    assert not held.weight.any() and not held.weight_scale.any()
    assert painted(pipe) == plain


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> PipelineCache:
    """One for all of this file's images."""
    return PipelineCache(TwinLibrary(tmp_path_factory.mktemp("data")), device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stop_at_five_moments_leaves_a_pipeline_that_paints_the_same(
    family: str, pipelines: PipelineCache, task_of: Any
) -> None:
    model, kind = FAMILIES[family]
    task = task_of(kind, model, precision="int8")
    executor = GpuThread(pipelines.library.data, pipelines=pipelines)
    try:
        plain = lives(executor, task)[-1]
        assert isinstance(plain, Rendered)
        assert plain.facts["precision"] == "int8" and plain.facts["dtype"] == "bfloat16"
        assert "weight_only" not in plain.facts
        leaves_nothing_when_stopped(executor, task, plain)
    finally:
        executor.close()


def test_weights_alone_are_a_fact_and_a_warning_of_the_picture(
    data: Path, task_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_multiplies", lambda device: False)
    executor = GpuThread(data, library=TwinLibrary(data), device="cpu")
    try:
        made = lives(executor, task_of("text2img", "klein", precision="int8"))[-1]
    finally:
        executor.close()
    assert isinstance(made, Rendered) and made.facts["weight_only"] is True
    assert any("did not multiply 8-bit integers" in each for each in made.warnings)
