"""The models as intake, `check` and the clients see them: the registry under one home's settings.

Light: nothing here loads a pipeline, imports torch or asks the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engine import registry
from runner.engine.custom_entries import models_of
from runner.job import ImageTask, InputImage, Lora
from runner.settings import Home, Settings

if TYPE_CHECKING:
    from composer.tokencount import Encoder
    from runner.engine.models import Model


class RegistryCatalogue:
    """Answers what a model can do, with the settings' own entries and default models.

    Raises UsageProblem where the settings' entries have mistakes.
    """

    def __init__(self, settings: Settings, data: Path | None = None) -> None:
        self._data = data
        self._defaults = settings.models
        self._models = models_of(settings)

    def default_model(self, spec: Mapping[str, Any]) -> str:
        """The model that serves a spec which names none."""
        return registry.default_model(spec, self._defaults)

    def problems(self, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
        """All that the named models cannot do, as (path, message)."""
        return registry.problems(spec, models=self._models, defaults=self._defaults)

    def warnings(self, spec: Mapping[str, Any]) -> list[str]:
        """What a caller should know although it is no error."""
        return registry.warnings(spec, models=self._models, defaults=self._defaults)

    def parameters(self, model: str | None, kind: str) -> Mapping[str, Any]:
        """A model's own defaults for a kind, under the names of spec fields.

        `only_sizes` are the sizes of a model that makes no others, `encoders` is a function that
        gives what reads its prompts: counting where its tokenizers are below the data folder.
        """
        entry = self._models.get(model or "")
        serving = entry.serves.get(kind) if entry else None
        if entry is None or serving is None:
            return {}
        sizes = entry.sizes_for(kind)
        width, height = sizes.default
        return {
            "steps": serving.steps,
            "guidance": serving.guidance,
            "width": width,
            "height": height,
            "only_sizes": sizes.only,
            "encoders": partial(_encoders, entry, self._data),
        }

    def snapshot(self, repo: str, revision: str, data: Path) -> Path | None:
        """The folder of a repository that was pulled, or None; whatever is in it."""
        from runner.engine import hub

        return hub.snapshot(repo, revision, data)

    def task(
        self,
        spec: Mapping[str, Any],
        *,
        job: str,
        index: int,
        inputs: Mapping[str, Sequence[InputImage]],
        loras: Sequence[Lora] = (),
    ) -> ImageTask:
        """The task of a realised single-image spec, every default filled in."""
        return registry.realise(
            spec,
            job=job,
            index=index,
            inputs=inputs,
            loras=loras,
            models=self._models,
            defaults=self._defaults,
        )


def _encoders(entry: Model, data: Path | None) -> Sequence[Encoder]:
    from runner.engine.prompts.tokens import encoders

    return encoders(entry, data)


def model_rows(home: Home) -> list[dict[str, Any]]:
    """Every model as `models` and flux://models list it; `bytes` is all that `pull` would bring.

    `own` is true for an entry of the settings. Raises UsageProblem as the catalogue does.
    """
    from runner.engine import hub

    models = models_of(home.settings)
    kinds = {kind for model in models.values() for kind in model.serves}
    usual = {
        kind: registry.default_model({"kind": kind}, home.settings.models) for kind in sorted(kinds)
    }
    rows = []
    for model in models.values():
        path = hub.present(model, home.data)
        rows.append({
            "name": model.name,
            "kinds": list(model.serves),
            "default_for": [kind for kind, name in usual.items() if name == model.name],
            "repo": model.repo,
            "file": model.single.file if model.single else None,
            "licence": model.licence,
            "gated": model.gated,
            "own": model.name in home.settings.registry,
            "present": path is not None,
            "path": str(path) if path else None,
            "bytes": hub.bytes_to_pull(model),
            "bytes_here": hub.bytes_here(model, home.data),
        })  # fmt: skip
    return rows
