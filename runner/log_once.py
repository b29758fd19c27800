"""A fault that is met again at every try, said once: a full disk must not fill its own log."""

from __future__ import annotations

import logging

from runner.errors import FluxdropError


class LogOnce:
    """Says what goes wrong when it begins or changes, and that it is over."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._kind: object = None

    def about(self, error: Exception) -> None:
        """It went wrong, once more perhaps; a foreign error is shown with where it came from."""
        # Not its words: they name the file, and a full disk is full for all of them.
        kind = (type(error), getattr(error, "errno", None))
        if kind != self._kind:
            self._kind = kind
            known = isinstance(error, (OSError, FluxdropError))
            self._log.error(
                "%s: %s; trying again until it works", self._what, error,
                exc_info=None if known else error,
            )  # fmt: skip

    def over(self) -> None:
        """It worked."""
        if self._kind is not None:
            self._kind = None
            # As loud as the fault: whoever read of that waits for this.
            self._log.error("%s: it works again", self._what)
