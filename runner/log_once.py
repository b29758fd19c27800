"""Logs a fault that recurs at every try only once: a full disk must not fill its own log."""

from __future__ import annotations

import logging
from math import inf

from runner.clock import monotonic
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

# What fails for one item and works for the next, in turn, is one fault.
_QUIET_SECONDS = 300.0


class LogOnce:
    """Logs when an action begins to fail or fails in another way, and when it works again.

    A fault that comes back within five minutes is the same one.

    `action` is the subject of those sentences: "writing to the outbox".
    """

    def __init__(self, action: str) -> None:
        self._action = action
        self._last: dict[object, float] = {}
        self._is_told = False

    def failed(self, error: Exception) -> None:
        """The action failed; errors that are neither OSError nor fluxdrop's have a traceback."""
        # Not the message: it names the file, and a full disk is full for all of them.
        kind = (type(error), getattr(error, "errno", None))
        moment = monotonic()
        last, self._last[kind] = self._last.get(kind, -inf), moment
        if moment - last > _QUIET_SECONDS:
            self._is_told = True
            known = isinstance(error, (OSError, FluxdropError))
            log.error(
                "%s: %s; trying again until it works", self._action, error,
                exc_info=None if known else error,
            )  # fmt: skip

    def recovered(self) -> None:
        """The action worked."""
        if self._is_told:
            self._is_told = False
            log.info("%s: it works again", self._action)
