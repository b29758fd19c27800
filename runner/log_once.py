"""Logs a fault that is met at every try only once: a full disk must not fill its own log."""

from __future__ import annotations

import logging

from specs.errors import FluxdropError

log = logging.getLogger(__name__)


class LogOnce:
    """Logs what goes wrong when it begins or changes, and that it works again.

    `what` is what is being tried, as the subject of a sentence: "writing to the outbox".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._kind: object = None

    def failed(self, error: Exception) -> None:
        """It went wrong; an error that is not the disk's and not ours has a traceback."""
        # Not its words: they name the file, and a full disk is full for all of them.
        kind = (type(error), getattr(error, "errno", None))
        if kind != self._kind:
            self._kind = kind
            known = isinstance(error, (OSError, FluxdropError))
            log.error(
                "%s: %s; trying again until it works", self._what, error,
                exc_info=None if known else error,
            )  # fmt: skip

    def recovered(self) -> None:
        """It worked."""
        if self._kind is not None:
            self._kind = None
            log.info("%s: it works again", self._what)
