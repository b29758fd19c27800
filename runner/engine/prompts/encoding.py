"""Encoding prompts: the one that is needed now, and with it what waits behind it.

Text encoders are large and used for a moment. Where they do not fit beside the transformer, the
prompts of everything that waits are encoded while they are on the device, and then they leave.
Never decides what is loaded: it asks the shelf for the text stage only when a prompt is not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.engine.errors import translation
from runner.engine.prompts.embeddings import Encoded, PromptCache, key_of
from runner.engine.resolved_task import ResolvedTask
from runner.engine.stop_sign import StopSign
from runner.engine.weights import loras
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import JobFailed
from runner.job import ImageTask, Phase

OnProgress = Callable[[Phase, int, int], None]

_MOST_AHEAD = 4096


class Prompts:
    """The prompts of one device: kept ones, and those known to come."""

    def __init__(
        self, pipelines: PipelineCache, cache: PromptCache, versions: Mapping[str, str]
    ) -> None:
        self._pipelines = pipelines
        self._cache = cache
        self._versions = versions
        self._lock = threading.Lock()
        self._lookahead: dict[tuple[object, ...], ImageTask] = {}

    def expect(self, upcoming: Sequence[ImageTask]) -> None:
        """Remember what comes next, one task for each prompt; callable from any thread."""
        with self._lock:
            for task in upcoming:
                words = (task.model, task.kind, task.precision, task.prompt, task.loras)
                self._lookahead[words] = task
            while len(self._lookahead) > _MOST_AHEAD:
                del self._lookahead[next(iter(self._lookahead))]

    def encoded(
        self, resolved: ResolvedTask, task: ImageTask, stop: StopSign, on_progress: OnProgress
    ) -> Encoded:
        """The embeddings of a task's prompt; the others that wait are encoded along with it."""
        kept = self._cache.get(self._key(resolved, task), self._pipelines.device)
        if kept is not None:
            return kept
        with stop.not_counted():
            pipe = self._pipelines.text(resolved, lambda: on_progress(Phase.LOADING, 0, 0))
        stop.check()
        on_progress(Phase.ENCODING, 0, 0)
        encoded = self._encode(resolved, pipe, task)
        stop.check()
        if resolved.plan.text != "stays":
            self._encode_ahead(resolved, pipe, encoded, stop, on_progress)
        return encoded

    def clear(self) -> None:
        """Give back the memory of what is kept; callable by the shelf's thread."""
        self._cache.clear()

    def _encode_ahead(
        self,
        resolved: ResolvedTask,
        pipe: Any,
        like: Encoded,
        stop: StopSign,
        on_progress: OnProgress,
    ) -> None:
        """Encode what waits for the same text stage, as much as can be kept.

        Asked for again until nothing is left: more may have come while these were encoded.
        """
        room = self._cache.room_like(like) - 1
        while room > 0 and (waiting := self._sharing(resolved)):
            most = min(len(waiting), room)
            done = 0
            try:
                for task, other in waiting[:most]:
                    with stop.not_counted():
                        on_progress(Phase.ENCODING, done + 1, most)
                        self._encode(other, pipe, task)
                    done += 1
                    stop.check()
            finally:
                self.expect([task for task, _ in waiting[done:]])
            room -= done

    def _sharing(self, resolved: ResolvedTask) -> list[tuple[ImageTask, ResolvedTask]]:
        """The tasks taken out of those ahead whose prompts this text stage still has to encode."""
        with self._lock:
            ahead, self._lookahead = self._lookahead, {}
        found: dict[str, tuple[ImageTask, ResolvedTask]] = {}
        others = []
        for task in ahead.values():
            try:
                other = self._pipelines.resolve(task)
                key = self._key(other, task)
            except JobFailed:  # told when its turn comes
                continue
            if other.encoders != resolved.encoders:
                others.append(task)
            elif not self._cache.has(key):
                found[key] = (task, other)
        self.expect(others)
        return list(found.values())

    def _encode(self, resolved: ResolvedTask, pipe: Any, task: ImageTask) -> Encoded:
        count = resolved.family.tokens(pipe, task.prompt)
        cut = (
            (
                f"the prompt has {count} tokens and the model reads {resolved.length}:"
                " its end was not read",
            )
            if count > resolved.length
            else ()
        )
        with translation():
            # Most LoRAs leave the text encoders as they are; then their words are anybody's.
            told = loras.apply(pipe, task.loras if loras.text_mark(task.loras) else ())
            encoded = Encoded(
                resolved.family.encode(pipe, task.prompt, resolved.length), (*cut, *told)
            )
        self._cache.put(self._key(resolved, task), encoded)
        return encoded

    def _key(self, resolved: ResolvedTask, task: ImageTask) -> str:
        encoders = " ".join(filter(None, [resolved.encoders, loras.text_mark(task.loras)]))
        return key_of(encoders, task.prompt, resolved.length, self._versions)
