"""How the benchmarks of speed show what they measured: medians with quartiles, goals met or not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

PROMPT = "a lighthouse on a cliff at dusk, waves below, long exposure, film grain"
CONTEXT_GB, KEPT_FREE_GB = 0.4, 0.75
"""What a driver takes of a card for itself, and what the runner leaves free."""
PRECISIONS = ("bf16", "fp8", "int8", "nf4")


@dataclass(frozen=True)
class Spread:
    """The median of many values and the quartiles around it."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of values; of one value it is that value."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(low, median(values), high)

    def __str__(self) -> str:
        return f"{self.middle:.3f} ({self.low:.3f} to {self.high:.3f})"

    def json(self, digits: int = 4) -> dict[str, float]:
        """As figures."""
        values = {"quartile1": self.low, "median": self.middle, "quartile3": self.high}
        return {name: round(value, digits) for name, value in values.items()}


@dataclass(frozen=True)
class Goal:
    """What a figure should be: at least, or below, a bound."""

    name: str
    measured: float
    bound: float
    at_least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is so."""
        return self.measured >= self.bound if self.at_least else self.measured < self.bound

    def __str__(self) -> str:
        wanted = "at least" if self.at_least else "below"
        return (
            f"goal {'met    ' if self.met else 'NOT met'}  {self.name}: {self.measured:.4g}"
            f"{self.unit}, wanted {wanted} {self.bound:g}{self.unit}"
        )

    def json(self) -> dict[str, Any]:
        """As figures."""
        return {
            "name": self.name, "measured": round(self.measured, 4), "bound": self.bound,
            "at_least": self.at_least, "met": self.met,
        }  # fmt: skip


def failures(rows: Iterable[Mapping[str, Any]]) -> list[Goal]:
    """A goal that is missed for each row with an error, but for what no such machine can do."""
    failed = (row for row in rows if "it needs a GPU" not in row.get("error", "it needs a GPU"))
    return [Goal(f"{row['name']}: ran", 0, 1) for row in failed]


def shown(
    table: Sequence[str], goals: Sequence[Goal], figures: Mapping[str, Any], *, as_json: bool
) -> int:
    """Print a table and its goals, or the figures; 1 if a goal is missed."""
    met = all(goal.met for goal in goals)
    if as_json:
        print(json.dumps({**figures, "goals": [goal.json() for goal in goals], "met": met}))
    else:
        print("\n".join([*table, *map(str, goals)]))
    return 0 if met else 1
