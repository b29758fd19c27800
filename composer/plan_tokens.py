"""What the encoders of its models see of a plan's prompts: the longest, and what is not seen.

Works for each model that a plan runs on; a prompt is counted once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.entries import Entry, where
from composer.tokencount import Encoder

EncodersOf = Callable[[str | None], Sequence[Encoder]]
"""What reads the prompts of a model, by the model's name."""


@dataclass
class Seen:
    """One encoder of one model, and the prompts it has read."""

    model: str | None
    encoder: Encoder
    most: int = 0
    over: int = 0
    warnings: list[str] = field(default_factory=list)

    def read(self, entry: Entry) -> None:
        """Count the tokens of one prompt."""
        reading = self.encoder.measure(entry.prompt)
        self.most = max(self.most, reading.tokens)
        self.over += reading.tokens > self.encoder.limit
        told = self.encoder.warnings(entry.prompt, reading)
        self.warnings += [f"{where(entry)}: {warning}" for warning in told]

    def to_json(self) -> dict[str, Any]:
        """The encoder and its longest prompt as other programs read them."""
        return {
            "model": self.model,
            "encoder": self.encoder.name,
            "limit": self.encoder.limit,
            "most": self.most,
            "over": self.over,
            "counted": self.encoder.counted,
        }

    def told(self, prompts: int, models: int) -> Iterator[str]:
        """Every loss, prompt by prompt; what only a summary misses in one sentence."""
        of = f"{self.model}: " if models > 1 and self.model else ""
        if self.encoder.pooled and self.over > 1:
            yield f"{of}{self.warnings[0]} ({self.over} of {prompts} prompts are as long)"
        else:
            yield from (f"{of}{warning}" for warning in self.warnings)


def read_prompts(
    entries: Sequence[Entry], models: Callable[[Entry], Sequence[str | None]], of: EncodersOf
) -> tuple[Seen, ...]:
    """Let every model's encoders read the prompts that it will run on."""
    found: dict[str | None, tuple[Seen, ...]] = {}
    for entry in entries:
        for model in models(entry):
            if model not in found:
                found[model] = tuple(Seen(model, encoder) for encoder in of(model))
            for each in found[model]:
                each.read(entry)
    return tuple(each for readers in found.values() for each in readers)


def token_warnings_of(seen: Sequence[Seen], prompts: int) -> Iterator[str]:
    """What is not seen, what matters more first."""
    models = len({each.model for each in seen})
    for each in sorted(seen, key=lambda one: one.encoder.pooled):
        yield from each.told(prompts, models)


def models_of(spec: Mapping[str, Any], entry: Entry, otherwise: str | None) -> Sequence[str | None]:
    """The models that an entry's images run on: the matrix's, else its own, else the default."""
    varied = spec.get("matrix", {}).get("model")
    if varied:
        return [str(model) for model in varied]
    named = spec.get("model", entry.fields.get("model"))
    return [otherwise if named is None else str(named)]
