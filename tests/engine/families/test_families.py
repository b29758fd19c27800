"""Families on halves of a pipeline: own encoding and decoding equal the pipeline's plain call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.families import FAMILIES
from runner.engine.hub.sources import HEAVY
from runner.engine.prompts.tokens import encoders_in
from runner.engine.registry import KINDS
from runner.engine.weights.assembly import _load, class_of
from runner.task import ImageTask
from tests.engine.painting import beside
from tests.fakes import TwinLibrary

TaskOf = Callable[..., ImageTask]
SERVED = [
    pytest.param(model.name, kind, id=f"{model.name}-{kind}")
    for model in MODEL_REGISTRY.values()
    for kind in model.serves
]
MODELS = [pytest.param(name, id=name) for name in MODEL_REGISTRY]
PIPELINES = sorted(
    {
        pipeline
        for model in MODEL_REGISTRY.values()
        for each in model.serves.values()
        for pipeline in filter(None, (each.pipeline, each.img2img))
    }
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def library(data: Path) -> TwinLibrary:
    return TwinLibrary(data)


@pytest.fixture(scope="module")
def load(library: TwinLibrary) -> Callable[..., Any]:
    """Loads the pipeline that serves a kind, with the components left out that are given."""

    @cache
    def loading(model: str, kind: str, *without: str) -> Any:
        entry = library.models[model]
        name = entry.serves[kind].pipeline
        if HEAVY in without:
            name = FAMILIES[entry.family].text_pipeline or name
        left_out = dict.fromkeys(without) | beside(name)
        return _load(name, library.main(entry, kind), "fp32", left_out)

    return loading


@pytest.mark.parametrize(("model", "kind"), SERVED)
def test_two_halves_paint_what_the_whole_pipeline_paints(
    model: str, kind: str, library: TwinLibrary, load: Callable[..., Any], task_of: TaskOf
) -> None:
    import torch

    entry = library.models[model]
    family = FAMILIES[entry.family]
    task = task_of(kind, model=model, prompt="a red circle", steps=2)
    prepared = KINDS[kind].prepare(task, entry.sizes_for(kind))
    if prepared.depth_of is not None:
        prepared = prepared.with_depth(prepared.depth_of)
    arguments = KINDS[kind].build(entry.family, entry.serves[kind])(task, prepared)
    length = entry.max_sequence_length

    def seed() -> Any:
        return torch.Generator("cpu").manual_seed(task.seed)

    whole = load(model, kind)
    plain = whole(
        **arguments, prompt=task.prompt, max_sequence_length=length, generator=seed()
    ).images[0]

    text = load(model, kind, HEAVY, "vae")
    paint = load(model, kind, *family.text_parts)
    embeddings = dict(family.encode(text, task.prompt, length))
    if entry.serves[kind].negative == "guidance":
        against = family.encode(text, "", length).items()
        embeddings |= {f"negative_{name}": tensor for name, tensor in against}
    latents = paint(**arguments, **embeddings, generator=seed(), output_type="latent").images
    ours = family.decode(paint, latents, prepared.width, prepared.height)
    assert ours.size == plain.size == (prepared.width, prepared.height)
    assert ours.tobytes() == plain.tobytes()


@pytest.mark.parametrize("model", MODELS)
def test_a_prompt_is_counted_as_the_pipeline_reads_it(
    model: str, library: TwinLibrary, load: Callable[..., Any]
) -> None:
    """One token fewer than is counted and the end is cut off; as many, and it is not."""
    import torch

    entry = library.models[model]
    kind, family = next(iter(entry.serves)), FAMILIES[entry.family]
    text = load(model, kind, HEAVY, "vae")
    prompt = "a red circle on a blue square"
    *_, encoder = encoders_in(library.main(entry, kind), entry)
    count = encoder.measure(prompt).tokens
    assert encoder.counted
    assert count >= len(prompt.split())
    whole = _seen(text, family, prompt, count)
    assert torch.equal(whole, _seen(text, family, prompt, count + 8))
    assert len(_seen(text, family, prompt, count - 1)) == len(whole) - 1


def _seen(text: Any, family: Any, prompt: str, length: int) -> Any:
    """The tokens that are no padding, as the last text encoder is given them."""
    seen: list[Any] = []
    encoder = text.components.get("text_encoder_2") or text.text_encoder

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else given[0]
        seen.append(ids[0])

    hook = encoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        family.encode(text, prompt, length)
    finally:
        hook.remove()
    (ids,) = seen
    pad = (text.components.get("tokenizer_2") or text.tokenizer).pad_token_id
    return ids[ids != pad]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_text_parts_of_a_family_are_components_of_its_pipelines(pipeline: str) -> None:
    import inspect

    family = next(
        FAMILIES[model.family]
        for model in MODEL_REGISTRY.values()
        if pipeline in {p for each in model.serves.values() for p in (each.pipeline, each.img2img)}
    )
    components = set(inspect.signature(class_of("diffusers", pipeline).__init__).parameters)
    assert {*family.text_parts, HEAVY} <= components
    said = {name for name in components if name.startswith(("text_encoder", "tokenizer"))}
    assert said == set(family.text_parts)
