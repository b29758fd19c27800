"""Logs a fault that recurs at every try only once: a full disk must not fill its own log."""

import logging

from runner.clock import monotonic
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

# An action that fails for one item and works for the next, in turn, does not work again.
_WORKS_SECONDS = 60.0


class LogOnce:
    """Logs when an action begins to fail or fails in another way, and when it has worked again for
    a minute. `action` is the subject of those sentences: "writing to the outbox".
    """

    def __init__(self, action: str) -> None:
        self._action = action
        self._told: set[object] = set()
        self._failed_at = 0.0

    def failed(self, error: Exception) -> None:
        """The action failed; errors that are neither OSError nor fluxdrop's have a traceback."""
        self._failed_at = monotonic()
        # Not the message: it names the file, and a full disk is full for all of them.
        kind = (type(error), getattr(error, "errno", None))
        if kind not in self._told:
            self._told.add(kind)
            known = isinstance(error, (OSError, FluxdropError))
            log.error(
                "%s: %s; trying again until it works", self._action, error,
                exc_info=None if known else error,
            )  # fmt: skip

    def recovered(self) -> None:
        """The action worked."""
        if self._told and monotonic() - self._failed_at > _WORKS_SECONDS:
            self._told.clear()
            log.info("%s: it works again", self._action)
