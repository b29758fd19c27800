"""Retries an image that ran out of memory with ever lower memory plans, before it fails.

    the same plan on an empty device → text encoders out of the way → tiles → offload
    → next precision → streaming

The fallbacks are plans of the memory planner. The plan that succeeded is reported as a warning of
the job and used for later images like it. A precision that the spec or the settings named is never
changed.
"""

import logging
from collections.abc import Iterator

from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights.pipeline_cache import PipelineCache

log = logging.getLogger(__name__)


def attempts(pipelines: PipelineCache, resolved: ResolvedTask) -> Iterator[ResolvedTask]:
    """What to make an image on, until one attempt has enough memory: first on `resolved` itself.

    No error of an attempt may be held when the next one is asked for: it would keep the tensors of
    its traceback alive.
    """
    yield resolved
    pipelines.clear()
    log.warning("out of memory: trying again on a device that holds nothing else")
    yield resolved
    while (lower := pipelines.lower(resolved)) is not None:
        log.warning("out of memory: trying %s", lower.plan.summary)
        yield (resolved := lower)
