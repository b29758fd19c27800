"""Encodes prompts: the one that is needed now, and the upcoming ones along with it.

Text encoders are large and used for a moment. Where they do not fit beside the transformer, all
upcoming prompts are encoded while they are on the device, so that they are loaded once. Never
decides what is loaded: it takes the text stage from the PipelineCache when a prompt is not kept.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from runner.engine.errors import translation
from runner.engine.gpu import OnProgress, StopSign
from runner.engine.prompts.embeddings import Encoded, PromptCache, key_of
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights import loras
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import JobFailed
from runner.job import Phase
from runner.task import ImageTask


class Prompts:
    """The prompts of one device: kept embeddings, and the tasks known to come."""

    def __init__(
        self, pipelines: PipelineCache, cache: PromptCache, versions: Mapping[str, str]
    ) -> None:
        self._pipelines = pipelines
        self._cache = cache
        self._versions = versions
        self._lock = threading.Lock()
        self._lookahead: dict[tuple[object, ...], ImageTask] = {}

    def expect(self, upcoming: Sequence[ImageTask]) -> None:
        """Remember the tasks that come next, one for each prompt; callable from any thread."""
        with self._lock:
            for task in upcoming:
                key = (task.model, task.kind, task.precision, *_texts(task), task.loras)
                self._lookahead[key] = task
            while len(self._lookahead) > 4096:
                del self._lookahead[next(iter(self._lookahead))]

    def encoded(
        self, resolved: ResolvedTask, task: ImageTask, stop: StopSign, on_progress: OnProgress
    ) -> Encoded:
        """The embeddings of a task's prompts, on the device; upcoming ones are encoded with them.

        Those of a negative prompt have the names of the prompt's behind `negative_`.

        Raises JobFailed where the text stage cannot be loaded or run, or a LoRA does not fit;
        Stopped or TimedOut at the cancellation points after loading and after each prompt.
        """
        keys = [self._key(resolved, task, text) for text in _texts(task)]
        kept = [self._cache.get(key, self._pipelines.device) for key in keys]
        encoded = [each for each in kept if each is not None]
        if len(encoded) == len(kept):
            return _together(*encoded)
        with stop.not_counted():
            pipe = self._pipelines.text(resolved, lambda: on_progress(Phase.LOADING, 0, 0))
        stop.check()
        on_progress(Phase.ENCODING, 0, 0)
        encoded.clear()
        for text, known in zip(_texts(task), kept, strict=True):
            encoded.append(known or self._encode(resolved, pipe, task, text))
            stop.check()
        if resolved.plan.text != "stays":
            room = self._cache.capacity(encoded[0]) - len(encoded)
            self._encode_upcoming(resolved, pipe, room, stop, on_progress)
        return _together(*encoded)

    def clear(self) -> None:
        """Release the embeddings in memory; callable by the thread that renders."""
        self._cache.clear()

    def _encode_upcoming(
        self,
        resolved: ResolvedTask,
        pipe: Any,
        room: int,
        stop: StopSign,
        on_progress: OnProgress,
    ) -> None:
        """Encode at most `room` upcoming prompts that need the same text stage.

        Repeated until none is left, because more may be announced while these are encoded.
        """
        while room > 0 and (batch := self._take_upcoming(resolved)):
            count = min(len(batch), room)
            done = 0
            try:
                for task, text, other in batch[:count]:
                    with stop.not_counted():
                        on_progress(Phase.ENCODING, done + 1, count)
                        self._encode(other, pipe, task, text)
                    done += 1
                    stop.check()
            finally:
                self.expect([task for task, _, _ in batch[done:]])
            room -= done

    def _take_upcoming(self, resolved: ResolvedTask) -> list[tuple[ImageTask, str, ResolvedTask]]:
        """Remove the upcoming tasks whose prompts this text stage still has to encode."""
        with self._lock:
            upcoming, self._lookahead = self._lookahead, {}
        taken: dict[str, tuple[ImageTask, str, ResolvedTask]] = {}
        others = []
        for task in upcoming.values():
            try:
                other = self._pipelines.resolve(task)
                keys = {self._key(other, task, text): text for text in _texts(task)}
            except JobFailed:  # reported when the task itself runs
                continue
            if other.encoders != resolved.encoders:
                others.append(task)
                continue
            taken |= {
                key: (task, text, other) for key, text in keys.items() if not self._cache.has(key)
            }
        self.expect(others)
        return list(taken.values())

    def _encode(self, resolved: ResolvedTask, pipe: Any, task: ImageTask, text: str) -> Encoded:
        """Encode a prompt of a task with the text stage `pipe`, and keep it."""
        count = resolved.family.tokens(pipe, text)
        warnings: list[str] = []
        if count > resolved.length:
            warnings.append(
                f"the prompt has {count} tokens and the model reads {resolved.length}:"
                " its end was not read"
            )
        with translation():
            # Most LoRAs leave the text encoders as they are: their prompts are encoded without.
            warnings += loras.apply(pipe, task.loras if loras.text_mark(task.loras) else ())
            embeddings = resolved.family.encode(pipe, text, resolved.length)
            encoded = Encoded(embeddings, tuple(warnings))
        self._cache.put(self._key(resolved, task, text), encoded)
        return encoded

    def _key(self, resolved: ResolvedTask, task: ImageTask, text: str) -> str:
        encoders = " ".join(filter(None, [resolved.encoders, loras.text_mark(task.loras)]))
        return key_of(encoders, text, resolved.length, self._versions)


def _texts(task: ImageTask) -> tuple[str, ...]:
    """The prompt of a task, and its negative prompt where the model gets one."""
    negative = task.options.get("negative_prompt")
    return (task.prompt,) if negative is None else (task.prompt, negative)


def _together(prompt: Encoded, negative: Encoded | None = None) -> Encoded:
    """The embeddings of a prompt and of a negative one, as a pipeline takes them."""
    if negative is None:
        return prompt
    embeddings = {f"negative_{name}": tensors for name, tensors in negative.embeddings.items()}
    of_both = (text.replace("the prompt", "the negative prompt") for text in negative.warnings)
    warnings = dict.fromkeys((*prompt.warnings, *of_both))
    return Encoded({**prompt.embeddings, **embeddings}, tuple(warnings))
