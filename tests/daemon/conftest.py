"""The daemon's tests use the spool's homes."""

from tests.spool.conftest import idle_spool, packed, spool

__all__ = ["idle_spool", "packed", "spool"]
