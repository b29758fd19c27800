"""One process of the GPU benchmark: the runner's executor, or a diffusers script, on one kind.

`python -m tests.bench.gpu_child ORDER`, an `Order` as JSON; prints one line of JSON. Whatever goes
wrong becomes an `error`: a card that is too small is a finding, and the next process goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from statistics import median, quantiles
from typing import Any

import torch

from runner.executor import Event, Failed, Progressed, StoppedEarly
from runner.job import Phase
from runner.task import ImageTask, InputImage
from tests.bench import scripts
from tests.bench.ceiling import fastest_product, operations_of_a_step
from tests.bench.figures import CONTEXT_GB, KEPT_FREE_GB, PROMPT
from tests.bench.gpu import Order
from tests.bench.library import MODELS, PARTS, PRIOR, StandIns
from tests.bench.stand_in import FLUX1, SMALLEST, Foundry

_OTHER = "a bicycle against a brick wall in the rain, reflections on the pavement"
_GIB = 2**30


def foundry(root: Path, *, tiny: bool) -> Foundry:
    """Where the weights come from."""
    if tiny:
        return Foundry(root / "weights", SMALLEST)
    return Foundry(root / "weights", FLUX1, dtype="bfloat16", device="cuda")


def obey(argv: list[str]) -> int:
    """Measure what the order says."""
    order = Order(**json.loads(argv[0]))
    device = torch.device("cpu" if order.tiny else "cuda")
    if device.type == "cuda" and order.cap_gb:
        total = torch.cuda.get_device_properties(device).total_memory
        bound = (order.cap_gb - CONTEXT_GB) * 1e9 / total
        torch.cuda.set_per_process_memory_fraction(min(bound, 1.0), device)
    scripts.import_all()
    if order.tiny:
        torch.set_num_threads(1)  # as the runner does for so small a model
    ceiling = fastest_product(device)
    try:
        found = (_runner if order.who == "fluxdrop" else _script)(order, device)
        found["ceiling"] = _operations(order) / found["step_s"] / ceiling
    except torch.cuda.OutOfMemoryError:
        found = {"error": "out of memory"}
    except Exception as error:  # noqa: BLE001 the other processes are still to run
        found = {"error": f"{type(error).__name__}: {error}"}
    found["ceiling_tflops"] = ceiling / 1e12
    print(json.dumps(found), flush=True)
    return 0


# -- the runner ----------------------------------------------------------------------------------


class Timeline(SimpleQueue[Event]):
    """The executor's queue, noting when each event came, with the device's work done."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self.at: list[tuple[float, Event]] = []

    def put(self, item: Event, block: bool = True, timeout: float | None = None) -> None:
        settle(self._device)
        self.at.append((time.perf_counter(), item))
        super().put(item)

    def seconds(self, *phases: Phase) -> float:
        """How long these phases took in all."""
        pairs = zip(self.at, self.at[1:], strict=False)
        return sum(
            later - at for (at, event), (later, _) in pairs
            if isinstance(event, Progressed) and event.phase in phases
        )  # fmt: skip

    def steps(self) -> list[float]:
        """The seconds of each step but the first, which warms up."""
        at = [t for t, e in self.at if isinstance(e, Progressed) and e.phase == Phase.DENOISING]
        return [later - before for before, later in zip(at[1:], at[2:], strict=False)]


def _runner(order: Order, device: torch.device) -> dict[str, Any]:
    from runner.engine.gpu_thread import GpuThread
    from runner.engine.speed import Speed
    from runner.engine.weights.pipeline_cache import PipelineCache

    library = _library(order)
    bound = (order.cap_gb - CONTEXT_GB - KEPT_FREE_GB) * 1e9 / _GIB if order.cap_gb else None
    pipelines = PipelineCache(
        library, device=str(device), speed=Speed(compile=order.compiled),
        gpu_memory_gb=None if order.tiny else bound,
    )  # fmt: skip
    executor = GpuThread(library.data, library=library, pipelines=pipelines)
    line = executor.events = Timeline(device)
    number = 0

    def draw(prompt: str, on_event: Callable[[Event], None] = lambda event: None) -> Event:
        nonlocal number
        number += 1
        line.at.clear()
        task = _task(order, library, prompt, number)
        began = time.perf_counter()
        executor.start("gpu0", [task])
        while isinstance(event := line.get(timeout=3000), Progressed):
            on_event(event)
        line.at.insert(0, (began, Progressed("gpu0", task, Phase.PREPROCESSING)))
        if isinstance(event, Failed):
            raise RuntimeError(event.message)
        return event

    try:
        draw(PROMPT)
        first = {"load_s": line.seconds(Phase.LOADING), "encode_s": line.seconds(Phase.ENCODING)}
        draw(PROMPT)
        steps = line.steps()
        low, _, high = quantiles(steps, n=4, method="inclusive")
        image_s, decode_s = line.at[-1][0] - line.at[0][0], line.seconds(Phase.DECODING)
        executor.release()
        draw(_OTHER)
        again_s = line.seconds(Phase.LOADING)
        cancel_s = _cancelled(executor, draw, median(steps))
        resolved = pipelines.resolve(_task(order, library, PROMPT, 1))
    finally:
        executor.close()
    return {
        **first, "again_s": again_s, "step_s": median(steps), "step_quartiles": [low, high],
        "decode_s": decode_s, "image_s": image_s, "cancel_s": cancel_s,
        "planned_gib": resolved.plan.bytes / _GIB, "plan": resolved.plan.summary,
        "peak_gib": peak(device),
    }  # fmt: skip


def _cancelled(executor: Any, draw: Callable[..., Event], step: float) -> float:
    """How long a stop takes that is asked for in the midst of a step."""
    asked = 0.0

    def on_event(event: Event) -> None:
        nonlocal asked
        if isinstance(event, Progressed) and event.phase == Phase.DENOISING and event.step == 2:
            time.sleep(step / 2)
            asked = time.perf_counter()
            executor.stop("gpu0")

    answer = draw(PROMPT, on_event)
    if not isinstance(answer, StoppedEarly):
        raise RuntimeError("the image was finished although it was cancelled at its third step")
    return executor.events.at[-1][0] - asked


def _task(order: Order, library: StandIns, prompt: str, number: int) -> ImageTask:
    from runner.engine.registry import KINDS, realise

    reads = KINDS[order.kind].reads
    pictures = _pictures(order)
    inputs = {name: (InputImage(pictures[name]),) for name in reads}
    spec = {"kind": order.kind, "model": MODELS[order.kind], "prompt": prompt, "seed": number,
            "steps": order.steps, "precision": order.precision}  # fmt: skip
    spec |= {"preprocessed": True} if order.kind == "control" else {}
    if not inputs or order.kind == "redux":
        spec |= {"width": order.side, "height": order.side}
    return realise(spec, job="gpu", index=number, inputs=inputs, models=library.models)


def _pictures(order: Order) -> Mapping[str, Path]:
    """An image and a mask of the size that is asked for, as files."""
    files = {name: Path(order.root) / f"{name}-{order.side}.png" for name in ("image", "mask")}
    for name, picture in scripts.pictures(order.side).items():
        picture.save(files[name])
    return files


def _library(order: Order) -> StandIns:
    folders = {
        part: foundry(Path(order.root), tiny=order.tiny).folder(part)
        for part in {PARTS[order.kind], *([PRIOR] if order.kind == "redux" else [])}
    }
    data = Path(order.root) / "data"
    if order.tiny:
        return StandIns(data, folders, length=16)
    return StandIns(data, folders, dtype="bf16")


# -- the script ----------------------------------------------------------------------------------


def _script(order: Order, device: torch.device) -> dict[str, Any]:
    """What a careful user writes: quantised or offloaded, encoded once, the loop timed."""
    began = time.perf_counter()
    pipes = _pipes(order, device)
    load_s = time.perf_counter() - began
    pictures = scripts.pictures(order.side)
    began = time.perf_counter()
    words = scripts.encode(pipes, PROMPT, 16 if order.tiny else 512)
    settle(device)
    encode_s = time.perf_counter() - began
    at: list[float] = []

    def on_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        settle(device)
        at.append(time.perf_counter())
        return tensors

    def draw(seed: int) -> float:
        at.clear()
        began = time.perf_counter()
        scripts.draw(
            order.kind, pipes, words, pictures, side=order.side, steps=order.steps, seed=seed,
            callback_on_step_end=on_step,
        )  # fmt: skip
        settle(device)
        return time.perf_counter() - began

    draw(0)
    image_s = draw(1)
    steps = [later - before for before, later in zip(at, at[1:], strict=False)]
    low, _, high = quantiles(steps, n=4, method="inclusive")
    return {
        "load_s": load_s, "encode_s": encode_s, "step_s": median(steps),
        "step_quartiles": [low, high], "image_s": image_s, "peak_gib": peak(device),
    }  # fmt: skip


def _pipes(order: Order, device: torch.device) -> scripts.Pipes:
    dtype = torch.float32 if order.tiny else torch.bfloat16
    given: dict[str, Any] = {}
    if order.precision == "nf4":
        from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig
        from transformers import BitsAndBytesConfig as TextConfig

        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        given["quantization_config"] = PipelineQuantizationConfig(quant_mapping={
            "transformer": BitsAndBytesConfig(**four), "text_encoder_2": TextConfig(**four),
        })  # fmt: skip

    def place(pipe: Any) -> None:
        if order.tiny:
            pipe.to(device)
        elif hasattr(pipe, "image_embedder"):
            # The text encoders that it shares are moved by the main pipeline.
            pipe.image_encoder.to(device)
            pipe.image_embedder.to(device)
        else:
            pipe.enable_model_cpu_offload()

    folder = foundry(Path(order.root), tiny=order.tiny).folder
    return scripts.load(order.kind, folder, dtype=dtype, place=place, **given)


# -- the machine ---------------------------------------------------------------------------------


def settle(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _operations(order: Order) -> float:
    """The operations of one step of this order."""
    text = 16 if order.tiny else 512
    if order.kind == "redux":
        text += (SMALLEST if order.tiny else FLUX1).vision_tokens
    image = (order.side // 16) ** 2 * (2 if order.kind == "kontext" else 1)
    folder = foundry(Path(order.root), tiny=order.tiny).folder(PARTS[order.kind])
    return operations_of_a_step(folder / "transformer", image, text)


def peak(device: torch.device) -> float | None:
    """What the allocator held at most, in GiB; None for a CPU, which has none."""
    return torch.cuda.max_memory_reserved(device) / _GIB if device.type == "cuda" else None


if __name__ == "__main__":
    sys.exit(obey(sys.argv[1:]))
