"""The one call site: same pixels as the bare pipeline, always stoppable, nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from runner.engine import gpu
from runner.engine.batch_layers import row_by_row
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.errors import Bug, NotFinite
from runner.engine.families import FLUX1
from runner.engine.gpu import StopSign
from runner.engine.kinds.base import Prepared
from runner.engine.prompts.embeddings import Encoded, PromptCache
from runner.engine.prompts.encoding import Prompts
from runner.engine.registry import KINDS
from runner.engine.weights.assembly import _load, class_of
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import OutOfMemory, Stopped, TimedOut
from runner.job import Phase
from runner.task import ImageTask, InputImage
from tests.engine.painting import beside, furthest
from tests.fakes import FakeClock, FakePipe, TwinLibrary

TaskOf = Callable[..., ImageTask]
SERVED = [
    pytest.param(model.name, kind, id=f"{model.name}-{kind}")
    for model in MODEL_REGISTRY.values()
    for kind in model.serves
]


def _run(
    stages: gpu.Stages, task: Any, prepared: Prepared, encoded: Any, stop: StopSign, report: Any
) -> Any:
    """The picture of one task."""
    return gpu.run_batch(stages, [gpu.Piece(task, prepared, encoded)], stop, report)[0]


def quiet(phase: Phase, step: int, steps: int) -> None:
    pass


def fake_stages(pipe: Any, **extra: Any) -> gpu.Stages:
    return gpu.Stages(
        family=FLUX1,
        main=pipe,
        arguments=extra.pop("arguments", KINDS["text2img"].arguments["flux1"]),
        **extra,
    )


def words(pipe: Any) -> Encoded:
    return Encoded(FLUX1.encode(pipe, "a", 16))


@pytest.fixture(scope="module")
def pipelines(data: Path) -> PipelineCache:
    return PipelineCache(TwinLibrary(data), device="cpu")


def loaded(pipelines: PipelineCache, task: ImageTask) -> gpu.Stages:
    return pipelines.paint(pipelines.resolve(task), lambda *_: None)


def encoded(pipelines: PipelineCache, task: ImageTask) -> Encoded:
    return Prompts(pipelines, PromptCache(), {}).encoded(
        pipelines.resolve(task), task, StopSign(), quiet
    )


def task_tokens(prepared: Prepared) -> int:
    """The tokens of the picture that is made."""
    return prepared.width * prepared.height // 16**2


def bare(pipelines: PipelineCache, task: ImageTask, prepared: Prepared) -> Image.Image:
    """The picture as a plain script makes it: whole pipelines, prompt in, picture out."""
    import diffusers
    import torch

    resolved = pipelines.resolve(task)
    name = resolved.serving.pipeline
    if hasattr(diffusers, name):
        said = {"is_distilled": not resolved.serving.guided} if "Klein" in name else {}
        main = getattr(diffusers, name).from_pretrained(resolved.folder, **said, **beside(name))
    else:  # a pipeline of ours reads no weights
        main = _load(name, resolved.folder, "fp32", {})
    arguments = resolved.kind.build(resolved.model.family, resolved.serving)(task, prepared)
    given: dict[str, Any] = {"prompt": task.prompt, "max_sequence_length": resolved.length}
    if resolved.serving.prior is not None:
        text = {part: getattr(main, part) for part in resolved.family.text_parts}
        prior = diffusers.FluxPriorReduxPipeline.from_pretrained(resolved.prior_folder, **text)
        given = dict(prior(**resolved.kind.prior["flux1"](task, prepared), prompt=task.prompt))
        strength, *more = (image.weight for image in task.inputs["image"])
        if not more:
            tokens = given["prompt_embeds"].shape[1]
            share = torch.ones(tokens + task_tokens(prepared))
            share[512:tokens] = strength
            given["joint_attention_kwargs"] = {"attention_mask": share.log()[None, None, None]}
    seeded = torch.Generator("cpu").manual_seed(task.seed)
    image: Image.Image = main(**arguments, **given, generator=seeded).images[0]
    return image


@pytest.mark.parametrize(("model", "kind"), SERVED)
def test_pixels_are_those_of_a_plain_script_and_the_same_again(
    model: str, kind: str, pipelines: PipelineCache, task_of: TaskOf
) -> None:
    task = task_of(kind, model=model, **({"composite": False} if kind == "fill" else {}))
    stages, prompt = loaded(pipelines, task), encoded(pipelines, task)
    prepared = KINDS[kind].prepare(task, MODEL_REGISTRY[model].sizes_for(kind))
    expected = bare(pipelines, task, prepared).tobytes()
    for _ in range(2):
        image = _run(stages, task, prepared, prompt, StopSign(), quiet)
        assert image.tobytes() == expected


@pytest.mark.parametrize("weights", [(0.5,), (1.0, 3.0)])
def test_weighed_pictures_are_mixed_as_a_plain_script_would_and_the_cache_stays_clean(
    weights: tuple[float, ...], pipelines: PipelineCache, task_of: TaskOf, pictures: Any
) -> None:
    names = ("image", "mask")
    given = tuple(InputImage(pictures[n].path, w) for n, w in zip(names, weights, strict=False))
    task = task_of("redux", inputs={"image": given})
    stages, prompt = loaded(pipelines, task), encoded(pipelines, task)
    prepared = KINDS["redux"].prepare(task, MODEL_REGISTRY["tiny"].sizes)
    expected = bare(pipelines, task, prepared).tobytes()
    for _ in range(2):  # the prior scales in place: the cached prompt must not feel it
        image = _run(stages, task, prepared, prompt, StopSign(), quiet)
        assert image.tobytes() == expected


def test_several_references_of_kontext_dev_are_painted_from_as_a_plain_script_would(
    pipelines: PipelineCache, task_of: TaskOf, pictures: Any
) -> None:
    given = (pictures["image"], pictures["mask"])
    made = []
    for inputs in (given, given[::-1], given[:1]):
        task = task_of("kontext", model="kontext-dev", inputs={"image": inputs})
        stages, prompt = loaded(pipelines, task), encoded(pipelines, task)
        prepared = KINDS["kontext"].prepare(task, MODEL_REGISTRY["kontext-dev"].sizes)
        made.append(_run(stages, task, prepared, prompt, StopSign(), quiet).tobytes())
        assert made[-1] == bare(pipelines, task, prepared).tobytes()
    assert len(set(made)) == 3


def test_with_a_weight_of_nought_the_words_alone_are_painted(
    pipelines: PipelineCache, task_of: TaskOf, pictures: Any
) -> None:
    """As FluxPipeline paints the words of the same length without any prior."""
    import torch

    task = task_of("redux", inputs={"image": (InputImage(pictures["image"].path, 0.0),)})
    stages, prompt = loaded(pipelines, task), encoded(pipelines, task)
    prepared = KINDS["redux"].prepare(task, MODEL_REGISTRY["tiny"].sizes)
    image = _run(stages, task, prepared, prompt, StopSign(), quiet)
    seeded = torch.Generator("cpu").manual_seed(task.seed)
    arguments = KINDS["redux"].arguments["flux1"](task, prepared)
    words = {name: tensor.clone() for name, tensor in prompt.embeddings.items()}
    alone = stages.main(**arguments, **words, generator=seeded).images[0]
    assert furthest(image.tobytes(), alone.tobytes()) <= 1


def test_pictures_of_one_call_are_decoded_one_at_a_time_and_come_in_their_order(
    pipelines: PipelineCache, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    tasks = [task_of("text2img", prompt=f"a {colour} circle", seed=seed)
             for seed, colour in enumerate(("red", "blue"))]  # fmt: skip
    stages = loaded(pipelines, tasks[0])
    prepared = KINDS["text2img"].prepare(tasks[0], MODEL_REGISTRY["tiny"].sizes)
    pieces = [gpu.Piece(task, prepared, encoded(pipelines, task)) for task in tasks]
    rows: list[int] = []

    def decode(pipe: Any, latents: Any, *size: int) -> Image.Image:
        rows.append(len(latents))
        return stages.family.decode(pipe, latents, *size)

    def each_row(transformer: Any) -> Any:
        batches.append(transformer)
        return row_by_row(transformer)

    batches: list[Any] = []
    monkeypatch.setattr(gpu, "row_by_row", each_row)
    watched = replace(stages, family=replace(stages.family, decode=decode))
    together = gpu.run_batch(watched, pieces, StopSign(), quiet)
    assert rows == [1, 1]
    alone = [gpu.run_batch(stages, [piece], StopSign(), quiet)[0] for piece in pieces]
    # A machine's kernels may round otherwise for more rows.
    pixels = [np.asarray(image, dtype=float) for image in (*together, *alone)]
    apart = [[np.abs(one - other).mean() for other in pixels[2:]] for one in pixels[:2]]
    assert [int(np.argmin(row)) for row in apart] == [0, 1] and np.trace(apart) < 2, apart
    # Layers of one vector an image add up as for one image; one alone needs no such help.
    assert batches == [stages.main.transformer]


def test_outside_of_the_mask_every_original_pixel_stays(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    import numpy as np

    task = task_of("fill")
    prepared = KINDS["fill"].prepare(task, MODEL_REGISTRY["tiny"].sizes)
    prompt = encoded(pipelines, task)
    painted = _run(loaded(pipelines, task), task, prepared, prompt, StopSign(), quiet)
    assert prepared.paste is not None
    image = prepared.paste.onto(painted)
    keep = np.asarray(prepared.images["mask"][0]) == 0
    original = np.asarray(prepared.images["image"][0])
    assert np.array_equal(np.asarray(image)[keep], original[keep])
    assert not np.array_equal(np.asarray(image)[~keep], original[~keep])


def test_components_with_the_same_bytes_are_loaded_once(
    pipelines: PipelineCache, task_of: TaskOf
) -> None:
    mains = [loaded(pipelines, task_of(kind)).main for kind in KINDS]
    assert len({id(main.vae) for main in mains}) == 1
    tasks = [pipelines.resolve(task_of(kind)) for kind in KINDS]
    assert len({id(pipelines.text(task, lambda *_: None)) for task in tasks}) == 1
    assert len({id(main.transformer) for main in mains}) == 3  # by channels
    assert len({id(main.scheduler) for main in mains}) == 4  # redux is text2img's pipeline


@pytest.mark.parametrize(
    "keyword", ["callback_on_step_end", "generator", "output_type", "prompt_embeds"]
)
def test_a_kind_that_brings_the_engines_keywords_is_a_type_error(
    keyword: str, task_of: TaskOf
) -> None:
    def arguments(task: ImageTask, prepared: Prepared) -> dict[str, Any]:
        return {**KINDS["text2img"].arguments["flux1"](task, prepared), keyword: None}

    stages = fake_stages(FakePipe(), arguments=arguments)
    with pytest.raises(TypeError, match=f"multiple values for keyword argument '{keyword}'"):
        _run(stages, task_of("text2img"), Prepared(64, 64), words(stages.main), StopSign(), quiet)


def test_the_stop_sign_cannot_be_left_out(task_of: TaskOf) -> None:
    with pytest.raises(TypeError, match="stop"):
        gpu.run_batch(fake_stages(FakePipe()), [])  # type: ignore[call-arg]


def test_a_main_pipeline_without_a_step_callback_is_refused_by_name() -> None:
    import diffusers

    with pytest.raises(Bug, match="FluxPriorReduxPipeline takes no callback_on_step_end"):
        gpu.require_callback(diffusers.FluxPriorReduxPipeline)
    for model in MODEL_REGISTRY.values():
        for serving in model.serves.values():
            gpu.require_callback(class_of("diffusers", serving.pipeline))


def raising(error: BaseException, at: int = 1) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step == at:
            raise error

    return on_step


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        type("OutOfMemoryError", (RuntimeError,), {})("tried to allocate 20 GiB"),
    ],
)
def test_running_out_of_memory_is_said_so_and_frees_the_hooks(
    error: BaseException, task_of: TaskOf
) -> None:
    pipe = FakePipe(raising(error))
    with pytest.raises(OutOfMemory):
        _run(
            fake_stages(pipe), task_of("text2img"), Prepared(64, 64), words(pipe), StopSign(), quiet
        )
    assert (pipe.frees, pipe.decodes) == (1, 0)


def test_a_foreign_error_passes_unchanged_and_frees_the_hooks(task_of: TaskOf) -> None:
    pipe = FakePipe(raising(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        _run(
            fake_stages(pipe), task_of("text2img"), Prepared(64, 64), words(pipe), StopSign(), quiet
        )
    assert (pipe.frees, pipe.decodes) == (1, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_never_decoded(value: float, task_of: TaskOf) -> None:
    pipe = FakePipe(latents=value)
    with pytest.raises(NotFinite):
        _run(
            fake_stages(pipe), task_of("text2img"), Prepared(64, 64), words(pipe), StopSign(), quiet
        )
    assert pipe.decodes == 0


@pytest.mark.parametrize("model", ["tiny", "klein", "z-image-turbo"])
def test_pixels_that_are_no_numbers_are_no_picture(
    model: str, pipelines: PipelineCache, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VAE in half precision overflows where the transformer did not (a black picture)."""
    task = task_of("text2img", model=model)
    stages, prompt = loaded(pipelines, task), encoded(pipelines, task)
    last = stages.main.vae.decoder.conv_out
    monkeypatch.setattr(last, "forward", lambda hidden: hidden[:, :3] * float("nan"))
    prepared = KINDS["text2img"].prepare(task, MODEL_REGISTRY[model].sizes)
    with pytest.raises(NotFinite, match="try another precision, seed or size"):
        _run(stages, task, prepared, prompt, StopSign(), quiet)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_of_weights_that_are_no_numbers_the_part_and_the_tensor_are_named(
    part: str, pipelines: PipelineCache, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of("text2img")
    stages, prompt = loaded(pipelines, task), encoded(pipelines, task)
    name, weight = next(iter(getattr(stages.main, part).named_parameters()))
    if part == "vae":  # of which only one half runs
        name, weight = "decoder.conv_out.bias", stages.main.vae.decoder.conv_out.bias
    before = weight.data.clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(NotFinite, match=f"^{name} of the {part} of tiny has numbers"):
            _run(stages, task, Prepared(64, 64), prompt, StopSign(), quiet)
    finally:
        weight.data.copy_(before)


def test_weights_in_8_bits_that_are_no_numbers_are_named_too() -> None:
    """Seen red: they were not looked at, and another precision was advised."""
    layer = torch.nn.Linear(4, 4)
    pipe = SimpleNamespace(components={"transformer": layer})
    for value in (1.0, float("nan")):
        layer.weight.data = torch.full((4, 4), value).to(torch.float8_e4m3fn)
        said = gpu._culprit(pipe, "tiny")
        assert (said is None) == (value == 1.0)
    assert said and said.startswith("weight of the transformer of tiny has numbers that are none")


def test_the_time_limit_is_seen_at_the_next_step(task_of: TaskOf) -> None:
    clock = FakeClock()
    stop = StopSign(10.0, clock)

    def slow(step: int) -> None:
        clock.now += 6.0

    pipe = FakePipe(slow)
    with pytest.raises(TimedOut, match="timeout of 10 s"):
        _run(fake_stages(pipe), task_of("text2img"), Prepared(64, 64), words(pipe), stop, quiet)
    assert (pipe.steps_done, pipe.decodes) == (2, 0)


def test_loading_does_not_count_against_the_time_limit() -> None:
    clock = FakeClock()
    stop = StopSign(10.0, clock)
    assert stop.given_back == 0.0
    for _ in range(2):
        with stop.not_counted():
            clock.now += 500.0
    assert stop.given_back == 1000.0
    clock.now += 10.0
    stop.check()
    clock.now += 0.5
    with pytest.raises(TimedOut):
        stop.check()


def test_the_time_that_a_task_waits_for_its_turn_does_not_count() -> None:
    clock = FakeClock()
    stop, unlimited = StopSign(10.0, clock), StopSign(None, clock)
    clock.now += 1000.0
    for sign in (stop, unlimited):
        sign.restart_clock()
    clock.now += 10.0
    stop.check()
    clock.now += 0.5
    unlimited.check()
    with pytest.raises(TimedOut):
        stop.check()


def test_a_stop_is_told_as_a_stop_even_after_the_time_limit() -> None:
    clock = FakeClock()
    stop = StopSign(1.0, clock)
    clock.now += 5.0
    stop.set()
    with pytest.raises(Stopped):
        stop.check()


def test_a_stopped_images_latents_are_gone_at_once(task_of: TaskOf) -> None:
    import torch

    class Keeping(FakePipe):
        alive: weakref.ref[Any] | None = None

        def __call__(self, **arguments: Any) -> Any:
            latents = torch.zeros(1000)
            self.alive = weakref.ref(latents)
            return super().__call__(**arguments)

    stop = StopSign()
    pipe = Keeping(lambda step: stop.set())
    gc.disable()
    try:
        try:
            _run(fake_stages(pipe), task_of("text2img"), Prepared(64, 64), words(pipe), stop, quiet)
        except Stopped:
            pass
        assert pipe.alive is not None and pipe.alive() is None
    finally:
        gc.enable()
