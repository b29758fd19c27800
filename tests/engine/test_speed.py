"""What is faster when asked for: it works on every pipeline, says so, and leaves nothing behind."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from runner.engine import speed as speeds
from runner.engine.speed import Speed
from runner.errors import JobFailed, UsageProblem
from runner.settings import Settings, load_settings
from tests.engine.painting import FLUX1, SERVED, attention, furthest, painted, pipe_of
from tests.harness import ROOT

SLOW = "FLUXDROP_SLOW_TESTS"


def fast(pipe: Any, speed: Speed, **how: Any) -> bytes:
    speed.apply(pipe)
    with speed.around(pipe):
        return painted(pipe, **how)


def test_by_default_nothing_is_changed_and_nothing_recorded() -> None:
    speed = Speed.of(Settings())
    pipe = pipe_of("FluxPipeline")
    plain = painted(pipe)
    assert fast(pipe, speed) == plain
    assert not hasattr(pipe.transformer, speeds._APPLIED)
    assert speed.facts(pipe) == {}
    assert speed.warnings(pipe, 4) == ()


def test_the_settings_file_says_what_is_on(tmp_path: Path) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text("compile: true\nattention: auto\nstep_cache: 0.1\n", encoding="utf-8")
    assert Speed.of(load_settings(file)) == Speed(True, "auto", 0.1)
    file.write_text("attention: flahs\nstep_cache: 2\n", encoding="utf-8")
    with pytest.raises(UsageProblem) as refused:
        load_settings(file)
    assert "fluxdrop.yaml:1:12" in str(refused.value)
    assert "fluxdrop.yaml:2:13" in str(refused.value)


def test_the_schema_lists_the_kernels_that_are_known() -> None:
    schema = json.loads((ROOT / "specs/settings.schema.json").read_bytes())
    assert schema["properties"]["attention"]["enum"] == list(speeds.BACKENDS)


@pytest.mark.parametrize("name", SERVED)
def test_the_step_cache_is_used_wherever_it_works_and_elsewhere_a_warning_says_so(
    name: str,
) -> None:
    """Red for a transformer that could be named in `_CACHING` and is not, or cannot be and is."""
    from diffusers import FirstBlockCacheConfig

    pipe, speed = pipe_of(name, layers=3), Speed(step_cache=1e-9)
    plain = painted(pipe, steps=4)
    assert fast(pipe, speed, steps=4) == plain
    pipe = pipe_of(name, layers=3)
    try:
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
        with pipe.transformer.cache_context("cond"):
            works = painted(pipe, steps=4) == plain
    except (AttributeError, TypeError, ValueError):
        works = False
    nothing = "this model has no step cache: `step_cache` does nothing for it"
    assert speed.facts(pipe) == ({"speed": {"step_cache": 1e-9}} if works else {})
    assert speed.warnings(pipe, 28) == (() if works else (nothing,))


@pytest.mark.parametrize("name", SERVED)
def test_auto_may_choose_a_kernel_for_the_transformers_that_use_no_masks(name: str) -> None:
    """Two prompts of different lengths in one call: some transformers then need a mask."""
    pipe = pipe_of(name)
    with attention() as calls:
        painted(pipe, prompt=["a red circle", "a red circle " * 9], length=128)
    assert calls
    masked = any(mask for _, mask in calls)
    assert masked == (type(pipe.transformer).__name__ not in speeds._WITHOUT_MASKS)


@pytest.mark.parametrize("name", FLUX1)
def test_a_step_cache_spares_blocks_and_the_next_image_starts_without_it(name: str) -> None:
    pipe, speed = pipe_of(name, layers=3), Speed(step_cache=0.9)
    plain = painted(pipe, steps=6)
    tail = _Counter(pipe.transformer.single_transformer_blocks[-1].attn)
    first = fast(pipe, speed, steps=6)
    assert 1 <= tail.calls < 6
    assert fast(pipe, speed, steps=6) == first != plain
    assert speed.facts(pipe) == {"speed": {"step_cache": 0.9}}


@pytest.mark.parametrize("name", FLUX1)
def test_an_image_that_breaks_off_leaves_nothing_in_the_step_cache(name: str) -> None:
    """Seen red without the reset in `around`: the next image began with the last one's blocks."""
    pipe, speed = pipe_of(name, layers=3), Speed(step_cache=0.9)
    whole = fast(pipe, speed, steps=6, seed=2)

    def break_off(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast(pipe, speed, steps=6, seed=1, on_step=break_off)
    assert fast(pipe, speed, steps=6, seed=2) == whole


@pytest.mark.parametrize("name", ["FluxPipeline", "FluxKontextPipeline", "FluxImg2ImgPipeline"])
def test_a_prompt_and_its_negative_prompt_each_have_a_step_cache_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with one context for both: each would be compared with, and reuse, the other's."""
    from diffusers.hooks import hooks

    seen: list[str] = []
    entered = hooks._set_cache_context

    def note(module: Any, context: Any) -> None:
        seen.extend([context.name] if context and (not seen or seen[-1] != context.name) else [])
        entered(module, context)

    monkeypatch.setattr(hooks, "_set_cache_context", note)
    pipe, speed = pipe_of(name, layers=3), Speed(step_cache=0.9)
    speed.apply(pipe)
    with speed.around(pipe, twice=True):
        painted(pipe, steps=4, negative="a star")
    assert seen == ["cond", "uncond"] * (3 if name == "FluxImg2ImgPipeline" else 4)


def test_few_steps_gain_nothing_from_the_step_cache_and_a_warning_says_so() -> None:
    pipe, speed = pipe_of("FluxPipeline"), Speed(step_cache=0.1)
    assert "gains nothing in 4 steps" in speed.warnings(pipe, 4)[0]
    assert speed.warnings(pipe, 28) == ()


def test_applying_twice_is_applying_once() -> None:
    pipe, speed = pipe_of("FluxPipeline", layers=3), Speed(attention="_native_math", step_cache=0.5)
    once = fast(pipe, speed, steps=4)
    assert fast(pipe, speed, steps=4) == once


def test_another_kernel_paints_nearly_the_same_and_only_where_it_was_set() -> None:
    from diffusers.models import attention_dispatch

    pipe, other = pipe_of("FluxPipeline"), pipe_of("FluxKontextPipeline")
    plain, default = painted(pipe), attention_dispatch._AttentionBackendRegistry._active_backend
    speed = Speed(attention="_native_math")
    assert furthest(fast(pipe, speed), plain) <= 2
    kernels = {processor._attention_backend for processor in _processors(pipe)}
    assert kernels == {attention_dispatch.AttentionBackendName._NATIVE_MATH}
    assert {processor._attention_backend for processor in _processors(other)} == {None}
    assert attention_dispatch._AttentionBackendRegistry._active_backend == default
    assert speed.facts(pipe) == {"speed": {"attention": "_native_math"}}


def test_a_call_with_a_mask_gets_torchs_own_attention_and_only_that_call() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    pipe, speed = pipe_of("FluxPipeline"), Speed(attention="_native_math")
    speed.apply(pipe)
    for masked, kernel in ((True, "NATIVE"), (False, "_NATIVE_MATH")):
        with speed.around(pipe, masked=masked):
            kernels = {processor._attention_backend for processor in _processors(pipe)}
            assert kernels == {AttentionBackendName[kernel]}
        kernels = {processor._attention_backend for processor in _processors(pipe)}
        assert kernels == {AttentionBackendName._NATIVE_MATH}


def test_auto_takes_what_torch_has_where_there_is_nothing_better() -> None:
    pipe, speed = pipe_of("FluxPipeline"), Speed(attention="auto")
    plain = painted(pipe)
    assert fast(pipe, speed) == plain
    assert speed.facts(pipe) == {}


@pytest.mark.parametrize(
    ("precision", "capability", "installed", "chosen"),
    [
        ("bfloat16", (9, 0), ("flash", "_flash_3", "sage"), "_flash_3"),
        ("bfloat16", (8, 9), ("flash", "_flash_3", "sage"), "flash"),
        ("bfloat16", (12, 0), ("sage",), "native"),
        ("bfloat16", (7, 5), ("flash",), "native"),
        ("float32", (9, 0), ("flash", "_flash_3"), "native"),
    ],
)
def test_auto_takes_the_best_exact_kernel_that_this_gpu_runs(
    precision: str,
    capability: tuple[int, int],
    installed: tuple[str, ...],
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    pipe = pipe_of("FluxPipeline")
    pipe.transformer.to(getattr(torch, precision))
    monkeypatch.setattr(
        speeds, "_attention_problem", lambda name: "" if name in installed else "absent"
    )
    monkeypatch.setattr(speeds, "_capability", lambda: capability)
    assert Speed(attention="auto")._kernel(pipe.transformer) == chosen
    assert Speed(attention="auto")._kernel(pipe_of("ZImagePipeline").transformer) == "native"


def test_a_kernel_that_is_unknown_or_not_installed_is_a_problem_at_the_start() -> None:
    for name, says in {
        "flahs": "is not known: use one of native, auto",
        "flash_hub": "would fetch its code from the hub in the middle of a job",
        "sage": "needs a package that is not installed: install sageattention 2.1.1 or newer",
        "_flash_3": "needs a package that is not installed: install flash-attn-3",
    }.items():
        with pytest.raises(UsageProblem, match="attention: ") as refused:
            Speed(attention=name).check()
        assert says in str(refused.value)
    Speed(attention="auto").check()


def test_a_package_that_is_too_old_is_a_problem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"json": speeds.Backend("safetensors", "safetensors", (99, 0))}
    monkeypatch.setattr(speeds, "BACKENDS", old)
    with pytest.raises(UsageProblem, match="newer package than is installed: install safetensors"):
        Speed(attention="json").check()


def test_a_kernel_for_another_gpu_fails_the_image_with_a_sentence() -> None:
    pipe = pipe_of("FluxPipeline")
    plain = painted(pipe)
    if speeds._capability() >= (8, 0):
        pytest.skip("this machine has a GPU on which the kernel works")
    with pytest.raises(JobFailed, match=r"needs an NVIDIA GPU of compute capability 8\.0"):
        Speed(attention="_native_flash").apply(pipe)
    assert painted(pipe) == plain


@pytest.mark.parametrize("name", ["FluxPipeline", "Flux2KleinPipeline", "ZImagePipeline"])
def test_compiled_blocks_are_whole_graphs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's graph capture and without its code generator, which takes minutes."""
    import torch

    compiled: list[bool] = []

    def compile_eagerly(call: Any, *, fullgraph: bool) -> Any:
        compiled.append(fullgraph)
        return real(call, backend="eager", fullgraph=fullgraph)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    pipe = pipe_of(name)
    plain = painted(pipe)
    assert furthest(fast(pipe, Speed(compile=True)), plain) <= 2
    assert compiled
    assert all(compiled)
    assert Speed(compile=True).facts(pipe) == {"speed": {"compile": True}}


def test_compiling_and_caching_steps_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    pipe = pipe_of("FluxPipeline", layers=2)
    cached = fast(pipe, Speed(step_cache=0.5), steps=6)
    both = Speed(compile=True, step_cache=0.5)
    assert furthest(fast(pipe_of("FluxPipeline", layers=2), both, steps=6), cached) <= 2


def test_what_the_compiler_cannot_do_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError("no such instruction")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=refuse))
    pipe = pipe_of("FluxPipeline")
    with pytest.raises(JobFailed, match="set `compile: false` in fluxdrop.yaml"):
        fast(pipe, Speed(compile=True))


def test_an_error_that_is_not_the_compilers_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), Speed(compile=True).around(object()):
        raise ZeroDivisionError


def test_a_machine_without_a_compiler_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speeds.shutil, "which", lambda name: None)
    with pytest.raises(UsageProblem, match="`compile: true` needs a C compiler"):
        Speed(compile=True).check()
    assert any(line.startswith("compile: needs a C compiler") for line in speeds.available())


def test_doctor_is_told_what_there_is_without_loading_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from runner.engine import speed; print(*speed.available(), sep='\\n');"
        "speed.Speed(attention='auto').check(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "attention kernels installed:" in done.stdout
    assert "step_cache: possible" in done.stdout


@pytest.mark.skipif(not os.environ.get(SLOW), reason=f"takes minutes: {SLOW}=1 runs it")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.timeout(600)
def test_the_code_generator_gives_close_pixels() -> None:
    if not any(map(speeds.shutil.which, speeds._COMPILERS)):
        pytest.skip("this machine has no C compiler")
    pipe = pipe_of("FluxPipeline")
    plain = painted(pipe)
    speed = Speed(compile=True)
    assert furthest(fast(pipe, speed), plain) <= 2
    assert furthest(fast(pipe, speed, size=96), painted(pipe_of("FluxPipeline"), size=96)) <= 2


class _Counter:
    """Counts the calls of a module."""

    def __init__(self, module: Any) -> None:
        self.calls = 0
        module.register_forward_hook(self._count)

    def _count(self, module: Any, given: Any, result: Any) -> None:
        self.calls += 1


def _processors(pipe: Any) -> list[Any]:
    found = (getattr(module, "processor", None) for module in pipe.transformer.modules())
    return [processor for processor in found if hasattr(processor, "_attention_backend")]
