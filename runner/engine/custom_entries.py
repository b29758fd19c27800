"""The models of a home: those that ship, and the user's own from the setting `registry`.

An entry of the user names the model that it is like and what differs from it. Neither the disk nor
the hub is asked: missing weights are reported by `models check`, and by the job that needs them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.engine.entries import AIDS, DEFAULT_UPSCALER, MODEL_REGISTRY, UPSCALERS
from runner.engine.models import Aid, Model, Serving, SingleFile, Upscaler
from runner.errors import UsageProblem
from runner.settings import Settings
from specs.suggest import did_you_mean


def models_of(settings: Settings) -> Mapping[str, Model]:
    """Every model of a home by its name: those that ship, then those of its settings.

    Raises UsageProblem with every mistake, each with its position in the settings file.
    """
    models = dict(MODEL_REGISTRY)
    mistakes: list[str] = []
    for name, entry in settings.registry.items():
        before = len(mistakes)
        for field, message in _mistakes(name, entry, models):
            path = ".".join(filter(None, ("registry", name, field)))
            mistakes.append(f"{settings.positions.get(path, 'fluxdrop.yaml')}: {path}: {message}")
        if len(mistakes) == before:
            models[name] = _model(name, entry, models[entry["like"]])
    if mistakes:
        raise UsageProblem(*mistakes)
    return models


def upscaler_of(settings: Settings) -> Upscaler:
    """What enlarges pictures: the product's, or another one or a file that the settings name.

    Raises UsageProblem where they name neither.
    """
    named, file = settings.upscaler, Path(settings.upscaler)
    if not named or named in UPSCALERS:
        return UPSCALERS.get(named, DEFAULT_UPSCALER)
    if not file.is_absolute():
        hint = did_you_mean(named, UPSCALERS, f"there are {', '.join(UPSCALERS)}")
        raise UsageProblem(
            f"fluxdrop.yaml: upscaler: there is no {named!r}; {hint}, or name a .safetensors or"
            " .pth file"
        )
    return Upscaler(file.name, str(file.parent), file.name, "")


def aids_of(settings: Settings) -> Mapping[str, Aid]:
    """Every estimator and upscaler by its name, the settings' own upscaler among them."""
    own = upscaler_of(settings)
    return {**AIDS, own.name: own}


def _mistakes(
    name: str, entry: Mapping[str, Any], models: Mapping[str, Model]
) -> Iterator[tuple[str, str]]:
    """The mistakes of an entry as (field, message); the field is empty where it is the name."""
    if name in models or name in AIDS:
        yield "", "this name is in use already: choose another"
    like = models.get(entry["like"])
    if like is None:
        hint = did_you_mean(entry["like"], models, f"there are {', '.join(models)}")
        yield "like", f"there is no model {entry['like']!r} above this one; {hint}"
        return
    if "repo" in entry and "folder" in entry:
        yield "folder", "either `repo` or `folder`: leave one of them out"
    if "revision" in entry and "repo" not in entry:
        yield "revision", "a revision is one of a `repo`: leave it out, or name the repository"
    file = entry.get("file")
    if file is not None and not file.lower().endswith((".gguf", ".safetensors")):
        yield "file", "a transformer in one file ends with .gguf or .safetensors"
    if file is not None and like.builtin:
        yield "like", f"{like.name} is built in: a single file has to be like another model"
    unserved = [kind for kind in entry.get("kinds", ()) if kind not in like.serves]
    if unserved:
        yield "kinds", f"{like.name} serves {', '.join(like.serves)}, not {', '.join(unserved)}"
    guided = entry.get("guided", all(serving.guided for serving in like.serves.values()))
    if guided and "guidance" not in entry and not any(s.guided for s in like.serves.values()):
        yield "guided", "name its usual `guidance` beside it"
    if guided and any(serving.caches for serving in like.serves.values()):
        yield "guided", f"{like.name} is called without a guidance: leave it out"
    if entry.get("guidance") and not guided:
        yield "guidance", f"{like.name} has no guidance: leave it out, or set `guided: true`"
    width, height = _default_size(entry, like)
    problem = like.sizes.problem(width, height)
    if problem:
        yield "width" if "width" in entry else "height", f"{like.name} {problem}"


def _model(name: str, entry: Mapping[str, Any], like: Model) -> Model:
    serves = {
        kind: replace(
            serving,
            steps=int(entry.get("steps", serving.steps)),
            guidance=float(entry.get("guidance", serving.guidance)),
            **_guided(entry, serving, like.family),
        )
        for kind, serving in like.serves.items()
        if kind in entry.get("kinds", like.serves)
    }
    is_local = "folder" in entry and "file" not in entry
    made = replace(
        like,
        name=name,
        serves=serves,
        licence=str(entry.get("licence", like.licence)),
        conditions="" if "licence" in entry else like.conditions,
        gated=bool(entry.get("gated", like.gated and not is_local)),
        sizes=replace(like.sizes, default=_default_size(entry, like)),
    )
    repo = str(entry.get("repo") or entry.get("folder") or "")
    revision = str(entry.get("revision", "main"))
    if "file" in entry:  # of which the size is not known here
        file = str(entry["file"])
        return replace(
            made,
            single=SingleFile(file, repo, revision),
            bytes=2 * like.weights.others,  # two for each parameter
            precisions=("auto", "gguf") if file.lower().endswith(".gguf") else like.precisions,
        )
    if repo:
        return replace(made, repo=repo, revision=revision, builtin=False)
    return made


def _guided(entry: Mapping[str, Any], serving: Serving, family: str) -> dict[str, Any]:
    """Whether a sibling has guidance where the other has none, or the other way round.

    An undistilled one computes a negative prompt in any case, if only the empty one.
    """
    guided = bool(entry.get("guided", serving.guided))
    if guided == serving.guided:
        return {}
    weighs = "true_cfg" if family == "flux1" else "guidance"
    return {"guided": guided, "negative": weighs if guided else ""}


def _default_size(entry: Mapping[str, Any], like: Model) -> tuple[int, int]:
    width, height = like.sizes.default
    return int(entry.get("width", width)), int(entry.get("height", height))
