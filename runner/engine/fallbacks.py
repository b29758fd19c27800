"""Retries an image that ran out of memory with ever lower memory plans, before it fails.

    the same plan on an empty device → text encoders out of the way → tiles → offload
    → next precision → streaming

The fallbacks are plans of the memory planner. The plan that succeeded is reported as a warning of
the job and used for later images like it. A precision that the spec or the settings named is never
changed.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

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
    """The result of the first attempt that fits, its warnings, and the resolved task it ran on.

    Calls `attempt` with `resolved`, then with lower plans of it. `pixels` is the picture's area.
    Raises OutOfMemory where the last plan does not fit either.
    """
    cleared = False
    first = resolved.plan
    while True:
        try:
            result = attempt(resolved)
        except OutOfMemory as error:
            message = str(error)
        else:
            if resolved.plan is first:
                return result, (), resolved
            ran_out = f"the device ran out of memory with {first.summary}"
            return result, (f"{ran_out}; this was made {resolved.plan.summary}",), resolved
        # Outside of `except`: the error would keep the tensors of its traceback alive.
        if not cleared:
            cleared = True
            pipelines.clear()
            log.warning("out of memory: trying again on a device that holds nothing else")
            continue
        lower = pipelines.lower(resolved, pixels)
        if lower is None:
            raise OutOfMemory(message)
        log.warning("out of memory: trying %s", lower.plan.summary)
        resolved = lower
