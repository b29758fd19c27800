"""The model registry combined with one home's settings, for intake and the front ends.

Nothing here loads a pipeline, imports torch or uses the network.
"""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from runner.engine import registry
from runner.engine.custom_entries import aids_of, models_of, upscaler_of
from runner.engine.hub import library as hub
from runner.engine.models import Model, Upscaler
from runner.settings import Home, Settings


class RegistryCatalogue:
    """The functions of the registry, for a home's models and its settings' default models.

    `data` is the home's data folder, where downloaded weights lie. The constructor raises
    UsageProblem for mistakes in the settings' entries.
    """

    snapshot = staticmethod(hub.snapshot)

    def __init__(self, settings: Settings, data: Path | None = None) -> None:
        self._data = data
        self._models = models = models_of(settings)
        self._upscaler = upscaler_of(settings)
        defaults = settings.models
        self._is_here = partial(_is_here, models, data)
        self.default_model = partial(
            registry.default_model, defaults=defaults, is_here=self._is_here
        )
        self.problems = partial(registry.problems, models=models, defaults=defaults)
        self.warnings = partial(registry.warnings, models=models, defaults=defaults)
        precision = settings.defaults.get("precision", "auto")
        self.task = partial(registry.realise, models=models, defaults=defaults, precision=precision)

    def here(self, kind: str) -> list[str]:
        """The models of a kind that are on this machine."""
        served = (name for name, model in self._models.items() if kind in model.serves)
        return [name for name in served if self._is_here(name)]

    def parameters(self, model: str | None, kind: str) -> Mapping[str, Any]:
        """A model's defaults for a kind, under the names of spec fields; empty if it is unknown.

        Two more keys: `only_sizes` are the sizes of a model that makes no others, and `encoders`
        is a function that returns the text encoders which read its prompts. They count tokens
        if the model's tokenizers are below the data folder, and estimate otherwise.
        """
        entry = self._models.get(model or "")
        serving = entry.serves.get(kind) if entry else None
        if entry is None or serving is None:
            return {}
        from runner.engine.prompts.tokens import encoders

        sizes = entry.sizes_for(kind)
        width, height = sizes.default
        return {
            "steps": serving.steps,
            "guidance": serving.guidance,
            "width": width,
            "height": height,
            "only_sizes": sizes.only,
            "encoders": partial(encoders, entry, self._data),
        }

    def absent(self, specs: Iterable[Mapping[str, Any]], data: Path) -> list[str]:
        """A sentence for each model of these specs that is not wholly on this machine, or wrong.

        It names the command that fetches the model, and how much that is, where that helps.
        """
        fields = ("kind", "model", "control", "preprocessed", "upscale")
        needed = {
            (*values, "image" in spec or "image" in spec.get("matrix", {}))
            for spec in specs
            for values in itertools.product(
                *(spec.get("matrix", {}).get(field) or [spec.get(field)] for field in fields)
            )
        }
        absent = set()
        for *values, starts in needed:
            asked = {field: value for field, value in zip(fields, values, strict=True) if value}
            asked |= {"image": starts}
            model = self._models.get(self.default_model(asked))
            # What makes depth maps is not needed for a ready one.
            estimates = "preprocessed" not in asked
            if model:
                absent.add(hub.absence(model, data, asked.get("kind"), estimates=estimates))
            if model and not model.builtin and "upscale" in asked:
                absent.add(hub.absence(self._upscaler, data))
        return sorted(filter(None, absent))


def _is_here(models: Mapping[str, Model], data: Path | None, name: str) -> bool:
    """Whether a model is on this machine, as far as the caller may know that."""
    with suppress(PermissionError):
        return data is not None and hub.present(models[name], data, estimates=False) is not None
    return False


def model_rows(home: Home) -> list[dict[str, Any]]:
    """Every model as the `models` command and the resource flux://models list it, then upscalers.

    These serve no kind, and have a `scale`. `own` is true for an entry of the settings, `bytes` is
    the size of a complete download and `bytes_here` what of it is on this machine. Raises
    UsageProblem as the catalogue does.
    """
    models = models_of(home.settings)
    kinds = {kind for model in models.values() for kind in model.serves}
    default_models = {
        kind: registry.default_model(
            {"kind": kind}, home.settings.models, partial(_is_here, models, home.data)
        )
        for kind in sorted(kinds)
    }
    rows = []
    for model in models.values():
        path = hub.present(model, home.data)
        rows.append({
            "name": model.name,
            "kinds": list(model.serves),
            "default_for": [kind for kind, name in default_models.items() if name == model.name],
            "repo": model.repo,
            "file": model.single.file if model.single else None,
            "licence": model.licence,
            "conditions": model.conditions or None,
            "gated": model.gated,
            "own": model.name in home.settings.registry,
            "present": path is not None,
            "path": str(path) if path else None,
            "bytes": hub.bytes_to_pull(model),
            "bytes_here": hub.bytes_here(model, home.data),
        })  # fmt: skip
    for aid in aids_of(home.settings).values():
        if isinstance(aid, Upscaler):
            here, lacks = hub.bytes_here(aid, home.data), hub.absence(aid, home.data)
            rows.append({
                "name": aid.name, "kinds": [], "default_for": [], "scale": aid.scale or None,
                "repo": aid.repo, "file": aid.file, "licence": aid.licence, "conditions": None,
                "gated": False, "own": not aid.licence, "present": lacks is None,
                "path": None if lacks else str(hub.present(aid, home.data)),
                "bytes": aid.bytes or here, "bytes_here": here,
            })  # fmt: skip
    return rows
