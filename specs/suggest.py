"""Suggests the known name that is most like an unknown one, for error messages."""

from collections.abc import Iterable


def nearest(unknown: object, known: Iterable[str]) -> str | None:
    """The known name that is most like an unknown one; None where none is similar enough."""
    if not isinstance(unknown, str):
        return None
    # Imported here because only errors need it.
    from difflib import get_close_matches

    # Case is ignored, and only the first 60 characters are compared, to bound the time.
    by_folded = {name.casefold(): name for name in known}
    matches = get_close_matches(unknown[:60].casefold(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def did_you_mean(unknown: object, known: Iterable[str], otherwise: str = "") -> str:
    """ "did you mean 'x'?" with the nearest of the known names, else `otherwise`."""
    near = nearest(unknown, known)
    return f"did you mean {near!r}?" if near else otherwise
