"""Checks specs against what the models can do, and turns a spec into a task.

Pure functions for intake, which runs where torch is not loaded. Everything that a model cannot do
is a problem here, before any work: nothing that a spec asks for is ignored without a message. Specs
have passed their schema, so types are not checked again.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from runner.engine.entries import CONTROL_DEFAULTS, DEFAULTS, IMG2IMG_DEFAULT, MODEL_REGISTRY
from runner.engine.kinds import control, fill, kontext, redux, text2img
from runner.engine.kinds.base import NOT_GIVEN, Kind
from runner.engine.models import Model, Serving, upscaling_problem
from runner.engine.tiny.vocabulary import unknown_words
from runner.task import ImageTask, InputImage, Lora
from specs.expand import MAX_IMAGES
from specs.suggest import did_you_mean

KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (text2img.KIND, kontext.KIND, fill.KIND, control.KIND, redux.KIND)
}

# What other programs put around the names of models, and write into prompts.
_FLUX = re.compile(r"^(?:.*/)?flux[\d.]*[-_. ]*|-4b$")
_SYNTAX = re.compile(r"<(?:lora|lyco):[^<>]*>|\([^()]+:\d*\.\d+\)")
# Chinese and Japanese have no spaces: each of their characters counts as a word.
_WORD = re.compile(r"[\u2e80-\u9fff]|[^\s\u2e80-\u9fff]+")

Finding = tuple[str, str]
"""The path of a field and one sentence about it."""
Models = Mapping[str, Model]


def default_model(
    spec: Mapping[str, Any],
    defaults: Mapping[str, str] | None = None,
    is_here: Callable[[str], bool] = lambda model: False,
) -> str:
    """The model of a spec: its own, else the settings' for its kind, else the product's.

    `is_here` says whether a model is on this machine: some are the default only there.
    """
    named = spec.get("model")
    if named:
        return str(named)
    kind = str(spec.get("kind", ""))
    if defaults and kind in defaults:
        return defaults[kind]
    if kind == "control":
        varied = (spec.get("matrix") or {}).get("control") or [spec.get("control", "canny")]
        made_for = {CONTROL_DEFAULTS.get(str(each), "") for each in varied}
        return next(filter(is_here, made_for if len(made_for) == 1 else ()), DEFAULTS[kind])
    if kind == "text2img" and spec.get("image"):
        return IMG2IMG_DEFAULT
    return DEFAULTS.get(kind, "")


def problems(
    spec: Mapping[str, Any],
    *,
    models: Models = MODEL_REGISTRY,
    defaults: Mapping[str, str] | None = None,
) -> list[Finding]:
    """All that the model of this spec cannot do, each found once; empty where it can do it all."""
    matrix = spec.get("matrix")
    varied = {
        name: list(enumerate(values))
        for name, values in (matrix.items() if isinstance(matrix, Mapping) else ())
        # Of these every model takes every value.
        if name not in ("prompt", "steps") and isinstance(values, list | tuple)
    }
    findings: dict[Finding, None] = {}
    for chosen in itertools.islice(itertools.product(*varied.values()), MAX_IMAGES):
        values = dict(zip(varied, chosen, strict=True))
        single = {**spec, **{name: value for name, (_, value) in values.items()}}
        for path, message in _spec_problems(single, models, defaults):
            place = f"matrix.{path}.{values[path][0]}" if path in values else path
            findings[place, message] = None
    return list(findings)


def realise(
    spec: Mapping[str, Any],
    *,
    job: str,
    index: int,
    inputs: Mapping[str, Sequence[InputImage]],
    loras: Sequence[Lora] = (),
    models: Models = MODEL_REGISTRY,
    defaults: Mapping[str, str] | None = None,
    precision: str = "auto",
) -> ImageTask:
    """The task of a single-image spec with a seed and no problems; `precision` is the usual one."""
    kind = KINDS[spec["kind"]]
    model = models[default_model(spec, defaults)]
    serving = model.serves[kind.name]
    width, height = _size({**spec, **inputs}, kind, model)
    timeout = spec.get("timeout")
    usual = precision if precision in model.precisions else "auto"
    return ImageTask(
        job=job,
        index=index,
        kind=kind.name,
        model=model.name,
        prompt=str(spec.get("prompt") or serving.words),
        seed=int(spec["seed"]),
        steps=int(spec.get("steps", serving.steps)),
        guidance=float(spec.get("guidance", serving.guidance)),
        width=width,
        height=height,
        precision=str(spec.get("precision", usual)),
        timeout=None if timeout is None else float(timeout),
        inputs={name: tuple(images) for name, images in inputs.items()},
        loras=tuple(loras),
        options={
            name: spec.get(name, default)
            for name, default in {**kind.options, **_own_options(spec, serving)}.items()
            if name in spec or default is not NOT_GIVEN
        },
        upscale=int(spec.get("upscale", 1)),
        keep_original=bool(spec.get("keep_original", False)),
    )


def warnings(
    spec: Mapping[str, Any],
    *,
    models: Models = MODEL_REGISTRY,
    defaults: Mapping[str, str] | None = None,
) -> list[str]:
    """Sentences for the caller about a spec that are no reason to reject it."""
    matrix, told = spec.get("matrix") or {}, []
    prompts = [str(each) for each in matrix.get("prompt") or [spec.get("prompt")] if each]
    if syntax := _SYNTAX.search(text := "\n".join(prompts)):
        told.append(f"`{syntax[0]}` is plain text here: `loras` has LoRA files, words no weights")
    named = matrix.get("model") or [default_model(spec, defaults)]
    used = [models[name] for name in named if name in models]
    if any(model.builtin for model in used) and (unknown := unknown_words(text)):
        listed = ", ".join(f"`{word}`" for word in unknown[:8])
        told.append(f"the built-in model does not know {listed}; it draws simple coloured shapes")
    model = max(used, key=lambda each: each.fewest_words, default=None)
    if model and any(len(_WORD.findall(prompt)) < model.fewest_words for prompt in prompts):
        told.append(  # without a count: it is told once of all prompts of a job
            f"{model.name} was trained on captions of 100 to 350 words, and makes less of a prompt"
            f" of under {model.fewest_words}: say more of what is seen, its place, light and style"
        )
    return told


def _own_options(spec: Mapping[str, Any], serving: Serving) -> Mapping[str, Any]:
    """The default options that depend on the serving: what weighs a map, or a negative prompt.

    That is the empty one where none is given; the guidance of a model that is not distilled always
    takes one.
    """
    own = {"strength": serving.controlnet.scale} if serving.controlnet else {}
    return {**own, **_negative(spec, serving)}


def _negative(spec: Mapping[str, Any], serving: Serving) -> Mapping[str, Any]:
    if serving.negative == "true_cfg" and ("negative_prompt" in spec or "true_cfg" in spec):
        return {"negative_prompt": "", "true_cfg": serving.true_cfg}
    return {"negative_prompt": ""} if serving.negative == "guidance" else {}


def _size(spec: Mapping[str, Any], kind: Kind, model: Model) -> tuple[int | None, int | None]:
    width, height = spec.get("width"), spec.get("height")
    if kind.reads or any(name in spec for name in kind.may_read):
        return width, height
    default = model.sizes_for(kind.name).default
    return width or default[0], height or default[1]


def _spec_problems(
    spec: Mapping[str, Any], models: Models, defaults: Mapping[str, str] | None
) -> Iterator[Finding]:
    """The problems of a spec without a matrix; only the first where kind and model do not fit."""
    kind = KINDS.get(str(spec.get("kind", "")))
    if kind is None:
        yield "kind", _unknown("kind", str(spec.get("kind", "")), KINDS)
        return
    name = default_model(spec, defaults)
    model = models.get(name)
    if model is None:
        yield "model", _unknown("model", name, models)
        return
    serving = model.serves.get(kind.name)
    if serving is None:
        able = [other.name for other in models.values() if kind.name in other.serves]
        yield "model", f"{name} cannot do {kind.name}; {_listed(able)} can"
        return
    yield from _size_problems(spec, kind, model)
    yield from _sampling_problems(spec, model, serving, models)
    if "image" in spec:
        yield from _reference_problems(spec, model, serving, models)
    if kind.name == "control":
        yield from _control_problems(spec, model, serving, models)


def _size_problems(spec: Mapping[str, Any], kind: Kind, model: Model) -> Iterator[Finding]:
    width, height = _size(spec, kind, model)
    known, times = [side for side in (width, height) if side], int(spec.get("upscale", 1))
    # Of a size that follows the input image the rest is seen when that is opened.
    if times > 1 and known and (message := upscaling_problem(known[0], known[-1], times)):
        yield "upscale", message
    sides = [side for side in ("width", "height") if spec.get(side)]
    if not sides:
        return
    sizes = model.sizes_for(kind.name)
    if width and height:
        message = sizes.problem(width, height)
    else:  # the other side follows the input image, which is not opened here
        message = sizes.side_problem(width or height or 0)
    if message:
        yield sides[0], f"{model.name} {message}"


def _sampling_problems(
    spec: Mapping[str, Any], model: Model, serving: Serving, models: Models
) -> Iterator[Finding]:
    kind, precision = str(spec["kind"]), spec.get("precision", "auto")
    if precision not in model.precisions:
        yield "precision", f"{model.name} runs in {_listed(model.precisions)}, not in {precision}"
    # A sidecar is a valid spec, and names the guidance that the model's pipeline was called with.
    if not serving.guided and spec.get("guidance", 0) not in (0, serving.guidance):
        able = _able(kind, models, lambda _, other: other.guided)
        yield "guidance", f"{model.name} has no guidance; leave it out or set it to 0{able}"
    for field in ("negative_prompt", "true_cfg"):
        if field in spec and not serving.negative:
            able = _able(kind, models, lambda _, other: bool(other.negative))
            yield field, f"{model.name} takes no `{field}`; leave it out{able}"
    if serving.negative == "guidance" and "true_cfg" in spec:
        yield "true_cfg", f"of {model.name} `guidance` is the true CFG: leave `true_cfg` out"
    least = 0 if model.family == "zimage" else 1  # as their pipelines have it
    if serving.negative == "guidance" and spec.get("guidance", serving.guidance) <= least:
        if "negative_prompt" in spec:
            yield "negative_prompt", f"{model.name} reads it with a `guidance` above {least} only"
    if spec.get("loras") and not model.loras:
        able = _able(kind, models, lambda other, _: other.loras)
        yield "loras", f"{model.name} cannot load LoRA files; leave `loras` out{able}"


def _reference_problems(
    spec: Mapping[str, Any], model: Model, serving: Serving, models: Models
) -> Iterator[Finding]:
    kind, image = str(spec["kind"]), spec["image"]
    if kind == "text2img" and not serving.img2img:
        able = _able(kind, models, lambda _, other: bool(other.img2img))
        edits = f"; `kind: kontext` edits with {model.name}" if "kontext" in model.serves else ""
        yield "image", f"{model.name} cannot start from a picture; leave `image` out{able}{edits}"
    several = isinstance(image, list)
    images = image if isinstance(image, list) else [image]
    if len(images) > serving.references:
        at_most = "one picture" if serving.references == 1 else f"{serving.references} pictures"
        able = _able(kind, models, lambda _, other: other.references >= len(images))
        yield "image", f"{model.name} reads at most {at_most}; {len(images)} are given{able}"
    weights = [e.get("weight", 1) if isinstance(e, Mapping) else 1 for e in images]
    # More would be far outside of what one picture may weigh.
    if serving.weighted and len(weights) > 1 and max(map(abs, weights)) >= 10 * sum(weights):
        yield "image", "the weights of the pictures cancel each other out: raise those above 0"
    for number, entry in enumerate(images):
        weight = entry.get("weight") if isinstance(entry, Mapping) else None
        path = f"image[{number}].weight" if several else "image.weight"
        if weight is not None and weight < 0 and len(images) == 1:
            yield path, "a picture's weight begins at 0, where only the prompt counts"
        if weight is not None and not serving.weighted:
            able = _able(kind, models, lambda _, other: other.weighted)
            yield path, f"{model.name} cannot weigh a picture; leave `weight` out{able}"


def _control_problems(
    spec: Mapping[str, Any], model: Model, serving: Serving, models: Models
) -> Iterator[Finding]:
    wanted = str(spec.get("control", "canny"))
    if wanted not in serving.controls:
        able = _able("control", models, lambda _, other: wanted in other.controls)
        asked = "" if "control" in spec else f": write `control: {serving.controls[0]}`"
        follows = f"{model.name} follows {_listed(serving.controls)}, not {wanted}"
        yield "control", f"{follows}{asked or able}"
    elif wanted == "depth" and not spec.get("preprocessed") and serving.estimator is None:
        yield (
            "preprocessed",
            f"no depth map can be made for {model.name}: give a ready map and set this to true",
        )
    if "strength" in spec and serving.controlnet is None:
        able = _able("control", models, lambda _, other: other.controlnet is not None)
        yield "strength", f"{model.name} cannot weigh its map; leave `strength` out{able}"


def _able(kind: str, models: Models, can: Callable[[Model, Serving], bool]) -> str:
    """The models that serve a kind and satisfy `can`, as the end of a sentence; "" without any."""
    names = [
        model.name
        for model in models.values()
        if kind in model.serves and can(model, model.serves[kind])
    ]
    return f"; {_listed(names)} can" if names else ""


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    plain, listed = _FLUX.sub("", name.lower()), _listed(list(known))
    hint = did_you_mean(plain if plain in known else name, known, f"known are {listed}")
    return f"there is no {what} {name!r}; {hint}"


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names) or "nothing"
    return ", ".join(names[:-1]) + " and " + names[-1]
