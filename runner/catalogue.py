"""The models as intake, `check` and the clients see them: the registry under one home's settings.

Light: nothing here loads a pipeline or imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.engine import registry
from runner.job import ImageTask, InputImage
from runner.settings import Settings


class RegistryCatalogue:
    """Answers what a model can do, with the settings' default models."""

    def __init__(self, settings: Settings) -> None:
        self._defaults = settings.models

    def default_model(self, spec: Mapping[str, Any]) -> str:
        """The model that serves a spec which names none."""
        return registry.default_model(spec, self._defaults)

    def problems(self, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
        """All that the named models cannot do, as (path, message)."""
        return registry.problems(spec, defaults=self._defaults)

    def warnings(self, spec: Mapping[str, Any]) -> list[str]:
        """What a caller should know although it is no error."""
        return registry.warnings(spec, defaults=self._defaults)

    def parameters(self, model: str | None, kind: str) -> Mapping[str, Any]:
        """A model's own defaults for a kind, under the names of spec fields.

        `only_sizes` are the sizes of a model that makes no others, `prompt_tokens` how many
        tokens of a prompt it reads.
        """
        entry = registry.MODEL_REGISTRY.get(model or "")
        serving = entry.serves.get(kind) if entry else None
        if entry is None or serving is None:
            return {}
        width, height = entry.sizes.default
        return {
            "steps": serving.steps,
            "guidance": serving.guidance,
            "width": width,
            "height": height,
            "only_sizes": entry.sizes.only,
            "prompt_tokens": entry.max_sequence_length,
        }

    def task(
        self,
        spec: Mapping[str, Any],
        *,
        job: str,
        index: int,
        inputs: Mapping[str, Sequence[InputImage]],
    ) -> ImageTask:
        """The task of a realised single-image spec, every default filled in."""
        return registry.realise(spec, job=job, index=index, inputs=inputs, defaults=self._defaults)
