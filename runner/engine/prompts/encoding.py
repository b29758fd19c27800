"""Encodes prompts: the one that is needed now, and the upcoming ones along with it.

Text encoders are large and used for a moment. Where they do not fit beside the transformer, all
upcoming prompts are encoded while they are on the device, so that they are loaded once. Never
decides what is loaded: it takes the text stage from the PipelineCache when a prompt is not kept.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from zlib import crc32

from runner.engine.errors import translation
from runner.engine.gpu import OnProgress, StopSign
from runner.engine.prompts.embeddings import Encoded, PromptCache, key_of
from runner.engine.prompts.tokens import encoders_in
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights import loras
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import JobFailed
from runner.job import Phase
from runner.task import ImageTask


class Prompts:
    """The prompts of one device: kept embeddings, and the tasks known to come.

    With an `order`, the latter are encoded in one that follows from it.
    """

    def __init__(
        self,
        pipelines: PipelineCache,
        cache: PromptCache,
        versions: Mapping[str, str],
        order: str = "",
    ) -> None:
        self._pipelines = pipelines
        self._cache = cache
        self._versions = versions
        self._order = order
        self._lock = threading.Lock()
        self._lookahead: dict[tuple[object, ...], ImageTask] = {}

    def expect(self, upcoming: Sequence[ImageTask]) -> None:
        """Remember the tasks that come next, one for each prompt; callable from any thread."""
        with self._lock:
            for task in (each for both in upcoming for each in _prompts_of(both)):
                key = (task.model, task.kind, task.precision, task.prompt, task.loras)
                self._lookahead[key] = task
            while len(self._lookahead) > 4096:
                del self._lookahead[next(iter(self._lookahead))]

    def encoded(
        self, resolved: ResolvedTask, task: ImageTask, stop: StopSign, on_progress: OnProgress
    ) -> Encoded:
        """The embeddings of a task's prompts, on the device; upcoming ones are encoded with them.

        Those of the negative prompt have the names of the prompt's behind `negative_`. Raises
        JobFailed where the text stage cannot be loaded or run, or a LoRA does not fit; Stopped or
        TimedOut at the cancellation points after loading and after each prompt.
        """
        prompts = [self._encoded(resolved, each, stop, on_progress) for each in _prompts_of(task)]
        return prompts[0] if len(prompts) == 1 else prompts[0].against(prompts[1])

    def _encoded(
        self, resolved: ResolvedTask, task: ImageTask, stop: StopSign, on_progress: OnProgress
    ) -> Encoded:
        """The embeddings of a task's own prompt."""
        kept = self._cache.get(self._key(resolved, task), self._pipelines.device)
        if kept is not None:
            return kept
        with stop.not_counted():
            pipe = self._pipelines.text(resolved, partial(on_progress, Phase.LOADING))
        stop.check()
        on_progress(Phase.ENCODING, 0, 0)
        encoded = self._encode(resolved, pipe, task)
        stop.check()
        if resolved.plan.text != "stays":
            room = self._cache.capacity(encoded) - 1
            self._encode_upcoming(resolved, pipe, room, stop, on_progress)
        return encoded

    def clear(self) -> None:
        """Release the embeddings in memory; callable by the thread that renders."""
        self._cache.clear()

    def _encode_upcoming(
        self, resolved: ResolvedTask, pipe: Any, room: int, stop: StopSign, on_progress: OnProgress
    ) -> None:
        """Encode at most `room` upcoming prompts that need the same text stage.

        Repeated until none is left, because more may be announced while these are encoded.
        """
        while room > 0 and (batch := self._take_upcoming(resolved)):
            count = min(len(batch), room)
            if self._order:
                batch[:count] = sorted(batch[:count], key=self._place)
            done = 0
            try:
                for task, other in batch[:count]:
                    with stop.not_counted():
                        on_progress(Phase.ENCODING, done + 1, count)
                        # Another process may have encoded it meanwhile.
                        if not self._cache.has(self._key(other, task)):
                            self._encode(other, pipe, task)
                    done += 1
                    stop.check()
            finally:
                self.expect([task for task, _ in batch[done:]])
            room -= done

    def _place(self, upcoming: tuple[ImageTask, ResolvedTask]) -> int:
        return crc32(f"{self._order} {upcoming[0].prompt}".encode(errors="replace"))

    def _take_upcoming(self, resolved: ResolvedTask) -> list[tuple[ImageTask, ResolvedTask]]:
        """Remove the upcoming tasks whose prompts this text stage still has to encode."""
        with self._lock:
            upcoming, self._lookahead = self._lookahead, {}
        taken: dict[str, tuple[ImageTask, ResolvedTask]] = {}
        others = []
        for task in upcoming.values():
            try:
                other = self._pipelines.resolve(task)
                key = self._key(other, task)
            except JobFailed:  # reported when the task itself runs
                continue
            if other.encoders != resolved.encoders:
                others.append(task)
            elif not self._cache.has(key):
                taken[key] = (task, other)
        self.expect(others)
        return list(taken.values())

    def _encode(self, resolved: ResolvedTask, pipe: Any, task: ImageTask) -> Encoded:
        """Encode a task's prompt with the text stage `pipe`, and keep it."""
        readers = encoders_in(resolved.folder, resolved.model)
        warnings = [
            f"the prompt has {count} tokens and the model reads {resolved.length}:"
            " its end was not read"
            for each in readers
            if each.counted
            and not each.pooled
            and (count := each.measure(task.prompt).tokens) > resolved.length
        ]
        with translation():
            # Most LoRAs leave the text encoders as they are: their prompts are encoded without.
            warnings += loras.apply(pipe, task.loras if loras.text_mark(task.loras) else ())
            embeddings = resolved.family.encode(pipe, task.prompt, resolved.length)
            encoded = Encoded(embeddings, tuple(warnings))
        self._cache.put(self._key(resolved, task), encoded)
        return encoded

    def _key(self, resolved: ResolvedTask, task: ImageTask) -> str:
        encoders = " ".join(filter(None, [resolved.encoders, loras.text_mark(task.loras)]))
        return key_of(encoders, task.prompt, resolved.length, self._versions)


def _prompts_of(task: ImageTask) -> list[ImageTask]:
    """The task, and the same with its negative prompt as the prompt, where the model gets one."""
    negative = task.options.get("negative_prompt")
    return [task] if negative is None else [task, replace(task, prompt=negative)]
