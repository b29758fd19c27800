"""`FluxdropError`, the base class of all errors of the project, and the problems of a spec."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class FluxdropError(Exception):
    """The base class; the text of an error is one sentence that says what to do, or several."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


@dataclass(frozen=True, order=True)
class Problem:
    """One problem of a spec; line and column count from 1 and are 0 where unknown."""

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in the order of the file, each once; of one place as they were found."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda each: (each.line, each.column)))


class SpecInvalid(FluxdropError):
    """A spec cannot be accepted: carries the reason word and every problem, in the file's order.

    `of` is the number of all problems where there are others with other reasons.
    """

    def __init__(self, reason: str, problems: Sequence[Problem], of: int = 0) -> None:
        self.reason = reason
        self.problems = in_order(problems)
        first = self.problems[0]
        where = f"line {first.line}, column {first.column}: " if first.line else ""
        more = max(of, len(self.problems)) - 1
        rest = f" (and {more} more)" if more else ""
        super().__init__(f"{where}{first}{rest}")
