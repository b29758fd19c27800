"""What is tried when a device runs out of memory, before the image is given up.

    the plan as it is → everything else off the device → tile the VAE → offload → next quantisation

Each fallback is a plan of the planner's; which one held is told to the job and kept for the images
after it. Never changes a precision that the spec or the settings named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from runner.engine.memory.plans import MemoryPlan
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import OutOfMemory

log = logging.getLogger(__name__)

T = TypeVar("T")


def with_fallbacks(
    pipelines: PipelineCache,
    resolved: ResolvedTask,
    pixels: int,
    attempt: Callable[[ResolvedTask], T],
) -> tuple[T, tuple[str, ...], ResolvedTask]:
    """What an attempt makes, a sentence where it took more than one, and the plan that held.

    Raises OutOfMemory when the last fallback does not hold either.
    """
    cleared = False
    first = resolved.plan
    while True:
        try:
            made = attempt(resolved)
        except OutOfMemory as error:
            said = str(error)
        else:
            return made, _told(first, resolved.plan), resolved
        # Here the error is gone, and with it the tensors that its traceback held.
        if not cleared:
            cleared = True
            pipelines.clear()
            log.warning("out of memory: trying again on a device that holds nothing else")
            continue
        lower = pipelines.lower(resolved, pixels)
        if lower is None:
            raise OutOfMemory(said)
        log.warning("out of memory: trying %s", lower.plan.summary)
        resolved = lower


def _told(first: MemoryPlan, held: MemoryPlan) -> tuple[str, ...]:
    if held is first:
        return ()
    return (f"the device ran out of memory with {first.summary}; this was made {held.summary}",)
