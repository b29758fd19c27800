"""Which known name was probably meant by an unknown one, for the sentence of an error."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 60


def nearest(given: object, known: Iterable[str]) -> str | None:
    """The known name that is most like an unknown one; None where none is like it."""
    if not isinstance(given, str):
        return None
    # Only an error pays for this import.
    from difflib import get_close_matches

    # Names are compared without case, and a long one must not take long.
    plain = {name.casefold(): name for name in known}
    near = get_close_matches(given[:_LONGEST].casefold(), plain, n=1)
    return plain[near[0]] if near else None


def did_you_mean(given: object, known: Iterable[str], otherwise: str = "") -> str:
    """ "did you mean 'x'?" with the nearest of the known names, else `otherwise`."""
    near = nearest(given, known)
    return f"did you mean {near!r}?" if near else otherwise
