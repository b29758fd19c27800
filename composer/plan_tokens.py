"""Counts the tokens of a plan's prompts for every text encoder of every model of the plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.entries import Entry
from composer.parameters import ModelDefaults, encoders_of
from composer.tokencount import Encoder


@dataclass
class EncoderTotals:
    """One encoder of one model, with totals over the prompts that it reads.

    `most` is the largest number of tokens of a prompt, `over` the number of prompts beyond the
    encoder's limit.
    """

    model: str | None
    encoder: Encoder
    most: int = 0
    over: int = 0
    warnings: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Count the tokens of one prompt."""
        reading = self.encoder.measure(entry.prompt)
        self.most = max(self.most, reading.tokens)
        self.over += reading.tokens > self.encoder.limit
        warnings = self.encoder.warnings(entry.prompt, reading)
        self.warnings += [f"{entry.where or entry.path}: {warning}" for warning in warnings]

    def to_json(self) -> dict[str, Any]:
        """The totals as JSON for other programs."""
        return {
            "model": self.model,
            "encoder": self.encoder.name,
            "limit": self.encoder.limit,
            "most": self.most,
            "over": self.over,
            "counted": self.encoder.counted,
        }


def count_tokens(
    entries: Sequence[Entry],
    spec: Mapping[str, Any],
    otherwise: str | None,
    model_defaults: ModelDefaults,
) -> tuple[EncoderTotals, ...]:
    """Count every prompt once for each encoder of its models; `otherwise` where none is named."""
    by_model: dict[str | None, list[EncoderTotals]] = {}
    for entry in entries:
        for model in _models_of(spec, entry, otherwise):
            if model not in by_model:
                encoders = encoders_of(model_defaults(model))
                by_model[model] = [EncoderTotals(model, encoder) for encoder in encoders]
            for totals in by_model[model]:
                totals.add(entry)
    return tuple(totals for of_model in by_model.values() for totals in of_model)


def token_warnings_of(tokens: Sequence[EncoderTotals], prompts: int) -> Iterator[str]:
    """The warnings about each prompt; those of a pooled encoder are combined into one, and last."""
    several = len({totals.model for totals in tokens}) > 1
    for totals in sorted(tokens, key=lambda totals: totals.encoder.pooled):
        prefix = f"{totals.model}: " if several and totals.model else ""
        if totals.encoder.pooled and totals.over > 1:
            yield f"{prefix}{totals.warnings[0]} ({totals.over} of {prompts} prompts are as long)"
        else:
            yield from (f"{prefix}{warning}" for warning in totals.warnings)


def _models_of(
    spec: Mapping[str, Any], entry: Entry, otherwise: str | None
) -> Sequence[str | None]:
    """The models of an entry's images: of the matrix, else spec, else entry, else `otherwise`."""
    in_matrix = spec.get("matrix", {}).get("model")
    if in_matrix:
        return [str(model) for model in in_matrix]
    named = spec.get("model", entry.fields.get("model"))
    return [otherwise if named is None else str(named)]
