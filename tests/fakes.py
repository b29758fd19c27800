"""Stand-ins for foreign things: a pipeline without a model, a clock, and a library of twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from runner.engine.entries import MODEL_REGISTRY, TINY_UPSCALER
from runner.engine.memory.plans import Machine, MemoryPlan
from runner.engine.models import Estimator, Model, Upscaler, Weights
from runner.engine.resolved_task import ResolvedTask, TaskResolver
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.executor import Event, Progressed
from tests import random_twin
from tests.twins import depth, zimage


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TwinLibrary:
    """Every registry entry, real ones too, served by the random twin of the same class.

    What follows from the true size of the weights is left out: threads, room on the shelf, long
    prompts.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.models: Mapping[str, Model] = {
            name: replace(
                model,
                bytes=1,
                weights=Weights(1, 1, 1, 1),
                max_sequence_length=min(model.max_sequence_length, 64),
            )
            for name, model in MODEL_REGISTRY.items()
        }

    def main(self, model: Model, kind: str) -> Path:
        serving = model.serves[kind]
        part = random_twin.part_of(serving.pipeline, guided=serving.guided)
        return random_twin.folder(part, self.data)

    def prior(self, model: Model, kind: str) -> Path:
        return random_twin.folder("redux-prior", self.data)

    def controlnet(self, model: Model, kind: str) -> tuple[Path, Path]:
        return zimage.controlnet_files(random_twin.folder("zimage", self.data).parent)

    def estimator(self, estimator: Estimator) -> Path:
        folder = self.data / "random-twin" / "depth"
        return folder if (folder / "config.json").is_file() else depth.folder(folder)

    def single(self, model: Model) -> Path | None:
        return None

    def upscaler(self, model: Model) -> tuple[Upscaler, Path]:
        return TINY_UPSCALER, Path(TINY_UPSCALER.repo) / TINY_UPSCALER.file


class PlannedCache(PipelineCache):
    """A cache on the CPU that is given the plan of every task, and how many bytes are to be had."""

    def __init__(
        self, library: Any, plan: MemoryPlan | Callable[..., MemoryPlan], room: int = 2**40
    ) -> None:
        super().__init__(library, device="cpu")
        self._given = plan
        self._bytes = room

    @cached_property
    def _resolver(self) -> TaskResolver:
        resolver, given = (
            TaskResolver(self.library, Machine("cpu", 0, 2**40), device="cpu"),
            self._given,
        )
        resolver._plan = given if callable(given) else lambda *asked: given  # type: ignore
        return resolver

    def _room(self, resolved: ResolvedTask) -> int:
        return self._bytes


class Watched:
    """An event queue that shows every event to a function, in the thread that puts it."""

    def __init__(self, see: Callable[[Event], None]) -> None:
        self._queue: SimpleQueue[Event] = SimpleQueue()
        self._see = see

    def put(self, event: Event) -> None:
        self._see(event)
        self._queue.put(event)

    def get(self, timeout: float = 30.0) -> Event:
        return self._queue.get(timeout=timeout)


def life(executor: Any) -> list[Event]:
    """All events of the task in hand, up to and with its answer."""
    events: list[Event] = []
    while not events or isinstance(events[-1], Progressed):
        events.append(executor.events.get(timeout=50))
    return events


class FakePipe:
    """Called like FLUX pipelines are, without a model: steps, callback, latents, decode.

    `on_step` runs inside the loop before the callback of each step and may raise, as a device that
    runs out of memory does. `latents` is what the loop ends with.
    """

    vae_scale_factor = 8

    def __init__(
        self, on_step: Callable[[int], None] = lambda step: None, latents: float = 0.25
    ) -> None:
        self.on_step = on_step
        self.value = latents
        self.steps_done = 0
        self.decodes = 0
        self.frees = 0
        self.calls: list[dict[str, Any]] = []
        settings = SimpleNamespace(scaling_factor=1.0, shift_factor=0.0)
        self.vae = SimpleNamespace(config=settings, decode=self._decode)
        self.image_processor = SimpleNamespace(postprocess=self._postprocess)

    def __call__(
        self,
        width: int,
        height: int,
        num_inference_steps: int,
        guidance_scale: float,
        prompt_embeds: Any,
        pooled_prompt_embeds: Any,
        generator: Any,
        output_type: str,
        callback_on_step_end: Callable[..., dict[str, Any]],
        callback_on_step_end_tensor_inputs: list[str],
        **inputs: Any,
    ) -> SimpleNamespace:
        import torch

        self.calls.append({"guidance_scale": guidance_scale, **inputs})
        assert output_type == "latent"
        latents = torch.full((1, width * height // 256, 64), self.value)
        latents = latents + torch.rand(1, generator=generator[0])
        for step in range(num_inference_steps):
            self.on_step(step)
            self.steps_done += 1
            given = dict.fromkeys(callback_on_step_end_tensor_inputs, latents)
            callback_on_step_end(self, step, torch.tensor(0.0), given).pop("latents", latents)
        return SimpleNamespace(images=latents)

    def encode_prompt(self, **inputs: Any) -> tuple[Any, Any, Any]:
        import torch

        length = inputs["max_sequence_length"]
        return torch.zeros(1, length, 32), torch.zeros(1, 32), torch.zeros(length, 3)

    def tokenizer_2(self, prompt: str, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(prompt))

    def maybe_free_model_hooks(self) -> None:
        self.frees += 1

    @staticmethod
    def _unpack_latents(latents: Any, height: int, width: int, scale: int) -> Any:
        return latents.mean().expand(1, 3, height, width)

    def _decode(self, latents: Any, return_dict: bool) -> tuple[Any]:
        self.decodes += 1
        return (latents,)

    @staticmethod
    def _postprocess(pixels: Any, output_type: str) -> list[Any]:
        from PIL import Image

        values = (pixels[0].permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()
        return [Image.fromarray(values)]
