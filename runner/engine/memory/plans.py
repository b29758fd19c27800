"""What there is, how a model may be held on it, and every such way, the best first.

Decides nothing: `memory.py` takes the first that fits. Pure values and generators; the peaks come
from `footprint.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runner.engine.memory import footprint
from runner.engine.models import Model
from runner.errors import JobFailed


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes: free now, less what must stay free for others.

    `vram` is the GPU's own memory, where it has its own; `fp8` says that it is quick in fp8
    (compute capability 8.9 or more), `bitsandbytes` that 4-bit weights can be computed with.
    """

    device: str
    vram: int
    ram: int
    fp8: bool = False
    bitsandbytes: bool = False

    @property
    def room(self) -> int:
        """What a plan may take at its peak."""
        return self.vram if self.device == "cuda" else self.ram


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is held. `bytes` is the expected peak on the device.

    `text` is where the text encoders live: "stays" beside the transformer, "in turn" with it, or
    "cpu". `placement` is where the transformer lives: "resident" on the device, "offload"ed to RAM
    while the VAE works, or "stream"ed from RAM layer by layer.
    """

    precision: str
    text_precision: str
    text: str
    placement: str
    tiling: bool
    bytes: int
    reasons: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The plan in a few words."""
        return ", ".join([
            f"in {self.precision}",
            _TEXT_WORDS[self.text].format(self.text_precision),
            *([_PLACEMENT_WORDS[self.placement]] if self.placement != "resident" else []),
            *(["decoded in tiles"] if self.tiling else []),
        ])  # fmt: skip


_TEXT_WORDS = {
    "stays": "with the text encoders ({}) beside it",
    "in turn": "in turn with the text encoders ({})",
    "cpu": "with the text encoders ({}) on the CPU",
}
_PLACEMENT_WORDS = {
    "offload": "moved between GPU and RAM",
    "stream": "streamed from RAM",
}

STREAMED = ("bf16", "fp8", "fp32")
"""4-bit weights have parts that streaming leaves behind, and so may other people's."""


class Text(NamedTuple):
    """Where the text encoders live, and in which precision."""

    place: str
    precision: str


@dataclass(frozen=True)
class Ways:
    """The ways to hold one model on one machine for pictures of one size.

    `wanted` is a precision or "auto"; without a `kind`, whatever the model serves must fit.
    """

    model: Model
    machine: Machine
    pixels: int
    wanted: str = "auto"
    kind: str = ""

    def candidates(self) -> Iterator[MemoryPlan]:
        """Every way that is worth trying, the best first."""
        for placement in self._placements():
            for precision in self.precisions():
                yield from self._with(precision, placement)

    def below(self, held: MemoryPlan) -> Iterator[MemoryPlan]:
        """The ways that take less than one that was too much, in the order to try them."""
        for plan in self._fallbacks(held):
            if plan.bytes < held.bytes:
                yield plan

    def precisions(self) -> tuple[str, ...]:
        """The precisions that may be taken, the best first; never empty.

        Raises JobFailed where this machine cannot compute in the one that is wanted.
        """
        model, machine = self.model, self.machine
        if self.wanted != "auto":
            why = _impossible(model, machine, self.wanted)
            if why:
                raise JobFailed(f"{model.name} cannot run in {self.wanted} here: {why}")
            return (self.wanted,)
        if model.single is not None and model.single.file.lower().endswith(".gguf"):
            return ("gguf",)
        if model.native:
            return (model.native,)
        if machine.device == "cpu":
            return ("fp32", "bf16", "fp8")
        fp8 = machine.device == "cuda" and (machine.fp8 or not machine.bitsandbytes)
        return ("bf16", *(["fp8"] if fp8 else []), *(["nf4"] if machine.bitsandbytes else []))

    def ram(self, plan: MemoryPlan) -> int:
        """The host memory that a plan needs beside the device's own."""
        if self.machine.device != "cuda":
            return 0
        held = footprint.in_ram(self.model, plan.precision, plan.placement)
        if plan.text == "cpu":
            held = max(held, footprint.encoding(self.model, plan.text_precision))
        return held

    def _placements(self) -> tuple[str, ...]:
        # Moving weights pays only where the device has a memory of its own.
        return ("resident", "offload", "stream") if self.machine.device == "cuda" else ("resident",)

    def _with(self, precision: str, placement: str) -> Iterator[MemoryPlan]:
        if placement == "resident":
            for tiling in (False, True):
                for text in self._texts(precision):
                    yield self._made(precision, text, placement, tiling)
        elif placement == "offload" or precision in STREAMED:
            for text in self._texts(precision):
                if text.place != "stays":
                    yield self._made(precision, text, placement, True)

    def _texts(self, precision: str) -> Iterator[Text]:
        """Where the text encoders may live beside a transformer of this precision, best first.

        A precision that was named gives what `auto` gives where it comes to the same: a sidecar
        names it, and has to make the same picture again. Exact encoders that come and go are worth
        more than rounded ones that stay: prompts are encoded together, and kept.
        """
        full = "fp32" if precision == "fp32" else "bf16"
        yield Text("stays", full)
        yield Text("in turn", full)
        if self.machine.device == "cuda":
            if self.machine.bitsandbytes and not self.model.native:
                yield Text("in turn", "nf4")
            yield Text("cpu", full)

    def _made(self, precision: str, text: Text, placement: str, tiling: bool) -> MemoryPlan:
        model = self.model
        peak = footprint.painting(model, self.kind, precision, placement, tiling, self.pixels)
        if text.place == "stays":
            peak += footprint.text(model, text.precision)
        if text.place != "cpu":
            peak = max(peak, footprint.encoding(model, text.precision))
        return MemoryPlan(precision, text.precision, text.place, placement, tiling, peak)

    def _fallbacks(self, held: MemoryPlan) -> Iterator[MemoryPlan]:
        """Encoders out of the way, tiles, offload, the next precision, streaming."""
        if held.placement != "stream":
            text = Text("in turn" if held.text == "stays" else held.text, held.text_precision)
            if held.placement == "resident":
                yield self._made(held.precision, text, "resident", held.tiling)
                yield self._made(held.precision, text, "resident", True)
            if "offload" in self._placements():
                yield self._made(held.precision, text, "offload", True)
            for precision in self._after(held.precision):
                for placement in self._placements()[:2]:
                    for plan in self._with(precision, placement):
                        if plan.tiling and plan.text != "stays":
                            yield plan
            for text in self._texts(held.precision):
                if text.place == "in turn" and text.precision != held.text_precision:
                    for placement in self._placements()[:2]:
                        yield self._made(held.precision, text, placement, True)
        if "stream" in self._placements():
            for precision in self.precisions():
                yield from self._with(precision, "stream")

    def _after(self, precision: str) -> tuple[str, ...]:
        every = self.precisions()
        return every[every.index(precision) + 1 :] if precision in every else ()


def _impossible(model: Model, machine: Machine, wanted: str) -> str | None:
    """Why this machine cannot hold the model in the precision that was named."""
    if wanted in ("fp32", "bf16", "stored"):
        return None
    if wanted == "fp8":
        return "Apple's GPU knows no fp8; use nf4 or bf16" if machine.device == "mps" else None
    if wanted == "nf4":
        if machine.device == "cpu":
            return "it needs a GPU; use fp8 or bf16"
        return None if machine.bitsandbytes else "run `pip install bitsandbytes` first"
    if wanted == "gguf":
        return None if model.single else "its registry entry names no GGUF file"
    return "use bf16, fp8 or nf4"
