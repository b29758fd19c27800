"""Logs a fault that recurs at every try only once: a full disk must not fill its own log."""

from __future__ import annotations

import logging

from specs.errors import FluxdropError

log = logging.getLogger(__name__)


class LogOnce:
    """Logs when an action begins to fail or fails in another way, and when it works again.

    `action` is the subject of those sentences: "writing to the outbox".
    """

    def __init__(self, action: str) -> None:
        self._action = action
        self._kind: object = None

    def failed(self, error: Exception) -> None:
        """The action failed; errors that are neither OSError nor fluxdrop's have a traceback."""
        # Not the message: it names the file, and a full disk is full for all of them.
        kind = (type(error), getattr(error, "errno", None))
        if kind != self._kind:
            self._kind = kind
            known = isinstance(error, (OSError, FluxdropError))
            log.error(
                "%s: %s; trying again until it works", self._action, error,
                exc_info=None if known else error,
            )  # fmt: skip

    def recovered(self) -> None:
        """The action worked."""
        if self._kind is not None:
            self._kind = None
            log.info("%s: it works again", self._action)
