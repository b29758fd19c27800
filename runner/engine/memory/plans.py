"""`Machine`, `MemoryPlan`, and `PlanSpace`: all plans for a model on a machine, the best first.

`planner` takes the first that fits. Pure values and generators; the peaks come from `footprint`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runner.engine.memory import footprint
from runner.engine.models import Model
from runner.errors import InputBad


@dataclass(frozen=True)
class Machine:
    """The memory of a machine in bytes: free now, less what is left to other programs.

    `device` is "cuda", "mps" or "cpu". `vram` is the GPU's memory, 0 for "cpu"; `fp8` says that the
    GPU is fast in fp8 (compute capability 8.9 or more), `bitsandbytes` that it can use 4-bit
    weights, `int8` that it multiplies 8-bit integers (7.5 or more).
    """

    device: str
    vram: int
    ram: int
    fp8: bool = False
    bitsandbytes: bool = False
    int8: bool = True

    @property
    def room(self) -> int:
        """The bytes that a plan may take on the device at its peak."""
        return self.vram if self.device == "cuda" else self.ram


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is held. `bytes` is the expected peak on the device.

    `text` says where the text encoders are: "stays" (on the device, beside the transformer), "in
    turn" (there only while the transformer is not) or "cpu". `placement` says where the transformer
    is: "resident" (on the device), "offload" (moved to RAM while the VAE decodes) or "stream"
    (copied from RAM layer by layer). With `tiling`, pictures are decoded in tiles.
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
            in_words(self.precision),
            _TEXT_WORDS[self.text].format(self.text_precision),
            *(["moved between GPU and RAM"] if self.placement == "offload" else []),
            *(["streamed from RAM"] if self.placement == "stream" else []),
            *(["decoded in tiles"] if self.tiling else []),
        ])  # fmt: skip


def in_words(precision: str) -> str:
    """A precision as a sentence says it."""
    return "as it was published" if precision == "stored" else f"in {precision}"


_TEXT_WORDS = {
    "stays": "with the text encoders ({}) beside it",
    "in turn": "in turn with the text encoders ({})",
    "cpu": "with the text encoders ({}) on the CPU",
}
STREAMED = ("bf16", "fp8", "int8", "fp32")
"""The precisions that can be streamed: of others, weights may have parts that it does not move."""


class TextPlacement(NamedTuple):
    """Where the text encoders are (`MemoryPlan.text`), and in which precision."""

    place: str
    precision: str


@dataclass(frozen=True)
class PlanSpace:
    """All plans to hold one model on one machine for pictures of `pixels` pixels.

    `wanted` is a precision or "auto"; without a `kind`, every kind that the model serves must fit.
    `references` is how many pictures a job brings.
    """

    model: Model
    machine: Machine
    pixels: int
    wanted: str = "auto"
    kind: str = ""
    references: int = 1

    @property
    def key(self) -> tuple[str, int, str, str, int]:
        """By which a plan is known, for one machine."""
        return self.model.name, self.pixels, self.wanted, self.kind, self.references

    def candidates(self) -> Iterator[MemoryPlan]:
        """Every plan that may be chosen, the best first."""
        for placement in self._placements():
            for precision in self.precisions():
                yield from self._plans(precision, placement)

    def fallbacks(self, held: MemoryPlan) -> Iterator[MemoryPlan]:
        """The plans to try after `held` ran out of memory; not all have a lower peak.

        Encoders out of the way, tiles, offload, the next precision, other encoders, streaming.
        """
        if held.placement != "stream":
            place = "in turn" if held.text == "stays" else held.text
            text = TextPlacement(place, held.text_precision)
            if held.placement == "resident":
                yield self._plan(held.precision, text, "resident", held.tiling)
                yield self._plan(held.precision, text, "resident", True)
            if "offload" in self._placements():
                yield self._plan(held.precision, text, "offload", True)
            precisions = self.precisions()
            for precision in precisions[precisions.index(held.precision) + 1 :]:
                for placement in self._placements()[:2]:
                    for plan in self._plans(precision, placement):
                        if plan.tiling and plan.text != "stays":
                            yield plan
            for text in self._text_placements(held.precision):
                if text.place == "in turn" and text.precision != held.text_precision:
                    for placement in self._placements()[:2]:
                        yield self._plan(held.precision, text, placement, True)
        if "stream" in self._placements():
            for precision in self.precisions():
                yield from self._plans(precision, "stream")

    def precisions(self) -> tuple[str, ...]:
        """The precisions that may be used, the best first; never empty.

        Raises InputBad where the machine cannot compute in the one that is wanted.
        """
        model, machine = self.model, self.machine
        if self.wanted != "auto":
            why = _impossible(model, machine, self.wanted)
            if why:
                able = (each for each in model.precisions if not _impossible(model, machine, each))
                advice = " or use ".join(filter(None, ("leave `precision` out", " or ".join(able))))
                raise InputBad(f"{model.name} cannot run in {self.wanted} here: {why}; {advice}")
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
        """The bytes of host memory that a plan takes; 0 where the device shares it."""
        if self.machine.device != "cuda":
            return 0
        held = footprint.in_ram(self.model, plan.precision, plan.placement)
        if plan.text == "cpu":
            held = max(held, footprint.encoding(self.model, plan.text_precision))
        return held

    def _placements(self) -> tuple[str, ...]:
        # Moving weights pays only where the device has its own memory.
        if self.machine.device != "cuda":
            return ("resident",)
        # A layer that two models share can be streamed for one of them only.
        shares = self.model.weights.controlnet
        return ("resident", "offload", *(() if shares else ("stream",)))

    def _plans(self, precision: str, placement: str) -> Iterator[MemoryPlan]:
        if placement == "resident":
            for tiling in (False, True):
                for text in self._text_placements(precision):
                    yield self._plan(precision, text, placement, tiling)
        elif placement == "offload" or precision in STREAMED:
            for text in self._text_placements(precision):
                if text.place != "stays":
                    yield self._plan(precision, text, placement, True)

    def _text_placements(self, precision: str) -> Iterator[TextPlacement]:
        """The placements of the text encoders with a transformer of this precision, best first.

        They do not depend on whether the precision was named or chosen by `auto`: a sidecar names
        it, and must give the same picture again. Exact encoders that are loaded in turn come before
        quantised ones that stay, because prompts are encoded together and kept.
        """
        full = "fp32" if precision == "fp32" else "bf16"
        yield TextPlacement("stays", full)
        yield TextPlacement("in turn", full)
        if self.machine.device == "cuda":
            if self.machine.bitsandbytes and self.model.native != "fp32":
                yield TextPlacement("in turn", "nf4")
            yield TextPlacement("cpu", full)

    def _plan(
        self, precision: str, text: TextPlacement, placement: str, tiling: bool
    ) -> MemoryPlan:
        model = self.model
        peak = footprint.painting(
            model, self.kind, precision, placement, tiling, self.pixels, self.references
        )
        if text.place == "stays":
            peak += footprint.text(model, text.precision)
        if text.place != "cpu":
            peak = max(peak, footprint.encoding(model, text.precision))
        return MemoryPlan(precision, text.precision, text.place, placement, tiling, peak)


def _impossible(model: Model, machine: Machine, wanted: str) -> str | None:
    """Why a machine cannot hold a model in the precision `wanted`; None where it can."""
    if model.precisions == ("auto",):
        return "its weights were published quantised"
    if wanted in ("fp32", "bf16"):
        return None
    if wanted == "fp8":
        return "Apple's GPU knows no fp8" if machine.device == "mps" else None
    if wanted == "int8":
        if machine.device == "mps":
            return "torch has no product of 8-bit integers for Apple's GPU"
        old = machine.device == "cuda" and not machine.int8
        return "it needs a GPU of compute capability 7.5 (RTX 20) or newer" if old else None
    if wanted == "nf4":
        if machine.device == "cpu":
            return "it needs a GPU"
        return None if machine.bitsandbytes else "run `pip install bitsandbytes` first"
    if wanted == "gguf":
        return None if model.single else "its registry entry names no GGUF file"
    return "there is no such precision"
