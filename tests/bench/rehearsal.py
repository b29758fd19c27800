"""Measures models at their true size on this machine: the planner's figures beside real memory.

`python -m tests.bench rehearsal [--models M…] [--folder DIR] [--precisions P…] [--ram GIB]`.
The folder has the published shapes with random weights (klein 16 GB; Z-Image 33 GB, its transformer
in float32 as it is published), written once and kept where `--folder` names one. Each precision
that the machine holds runs in a process of its own through the runner's GPU thread; a thread notes
the most memory of each phase, anonymous and pages of files apart. On Linux only. `--scale 0.1`
builds narrow ones, to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.memory import machine
from runner.engine.models import Model
from tests.bench.figures import PRECISIONS, Goal, shown

STATUS = Path("/proc/self/status")
NOTHING = "no /proc: nothing measured"
MODELS = ("klein", "z-image-turbo")
_PRECISIONS = ("fp32", *PRECISIONS)
SHARD_BYTES = 2**31
_GIB = 2**30
_RANDOM = 2**22
_TIMEOUT = 3600
_FLOAT32 = {("z-image-turbo", "transformer")}
_NARROW: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32,) * 4,
}


def main(argv: Sequence[str] = ()) -> int:
    """Build the folder where it is not there, run each precision, print the table and the goals."""
    asked = _arguments(argv)
    if asked.one:
        if asked.ram:
            machine.free_ram = lambda: round(asked.ram * _GIB)
        (name,) = asked.models
        print(json.dumps(run(Path(asked.folder), name, asked.one, asked.side, asked.steps)))
        return 0
    if not STATUS.is_file():
        print(NOTHING)
        return 0
    with _folder(asked.folder) as root:
        runs = {}
        for name in asked.models:
            build(root / name, name, asked.scale)
            runs |= {f"{name} {p}": _child(root, name, p, asked) for p in asked.precisions}
    rows = [(name, phase) for name, each in runs.items() for phase in each.get("phases", ())]
    table = [
        f"{'':<20} phase        expected  anonymous  of files  seconds   (GiB)",
        *(
            f"{name:<20} {phase['phase']:<12} {phase['expected']:>8.2f} {phase['anonymous']:>10.2f}"
            f" {phase['files']:>9.2f} {phase['seconds']:>8.1f}"
            for name, phase in rows
        ),
        *(f"{name:<20} {each['refused']}" for name, each in runs.items() if "refused" in each),
    ]
    goals = [
        Goal(f"{name}, {phase['phase']}: anonymous memory in that expected",
             phase["anonymous"] / phase["expected"], 1.1, at_least=False)
        for name, phase in rows
        if phase["expected"] > 1
    ]  # fmt: skip
    return shown(table, goals, {"runs": runs}, as_json=asked.json)


def build(folder: Path, model: str, scale: float = 1.0) -> None:
    """A model of random weights with the published shapes; `scale` makes it narrower."""
    import torch
    from accelerate import init_empty_weights
    from safetensors.torch import save_file

    from tests.twins.pieces import qwen_tokenizer, scheduler

    if (folder / "model_index.json").is_file():
        return
    with init_empty_weights():
        parts = modules(model, scale)
    random = torch.randn(_RANDOM, generator=torch.Generator().manual_seed(0)) * 0.02
    for name, module in parts.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        is_text = name == "text_encoder"
        (module.config.save_pretrained if is_text else module.save_config)(place)
        numbers = random if (model, name) in _FLOAT32 else random.to(torch.bfloat16)
        for number, names in enumerate(_shards(module)):
            state = {each: _filled(each, shape, numbers) for each, shape in names.items()}
            save_file(state, place / f"part-{number}", metadata={"format": "pt"})
        _name_shards(place, "model" if is_text else "diffusion_pytorch_model")
    qwen_tokenizer().save_pretrained(folder / "tokenizer")
    scheduler().save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": MODEL_REGISTRY[model].serves["text2img"].pipeline,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
    }
    for name, module in parts.items():
        library = "transformers" if name == "text_encoder" else "diffusers"
        index[name] = [library, type(module).__name__]
    if model == "klein":
        index["is_distilled"] = True
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def modules(model: str, scale: float) -> dict[str, Any]:
    """The transformer, the VAE and the text encoder, of the published shapes at scale 1."""
    from diffusers import AutoencoderKL, AutoencoderKLFlux2
    from transformers import Qwen3Config, Qwen3ForCausalLM

    groups = max(1, round(8 * scale))
    hidden = 128 * max(1, round(20 * scale))
    settings = Qwen3Config(
        vocab_size=151_936 if scale == 1 else 261,
        hidden_size=hidden,
        intermediate_size=hidden * 19 // 5,
        num_hidden_layers=36,
        num_attention_heads=4 * groups,
        num_key_value_heads=groups,
        head_dim=128,
        tie_word_embeddings=True,
    )
    widths = {} if scale == 1 else _NARROW
    if model == "klein":
        vae: Any = AutoencoderKLFlux2(**widths)
    else:
        whole = {**_NARROW, "block_out_channels": (128, 256, 512, 512)}
        vae = AutoencoderKL(
            **(widths or whole), latent_channels=16, layers_per_block=2, norm_num_groups=32,
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
            use_post_quant_conv=False,
        )  # fmt: skip
    transformer = _transformer(model, hidden, scale)
    return {"transformer": transformer, "vae": vae, "text_encoder": Qwen3ForCausalLM(settings)}


def _transformer(model: str, hidden: int, scale: float) -> Any:
    from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel

    if model == "klein":
        return Flux2Transformer2DModel(
            in_channels=128,
            num_layers=5,
            num_single_layers=20,
            attention_head_dim=128,
            num_attention_heads=max(2, round(24 * scale)),
            joint_attention_dim=3 * hidden,
            guidance_embeds=False,
        )
    heads = max(2, round(30 * scale))
    return ZImageTransformer2DModel(
        dim=128 * heads, n_heads=heads, n_kv_heads=heads, cap_feat_dim=hidden
    )


def run(root: Path, name: str, precision: str, side: int, steps: int) -> dict[str, Any]:
    """One picture in a precision: seconds and most memory of each phase, beside what is expected.

    With why, where the planner refuses.
    """
    from runner.engine.gpu_thread import GpuThread
    from runner.engine.hub.library import Disk
    from runner.engine.memory import devices, footprint
    from runner.engine.registry import realise
    from runner.engine.weights.pipeline_cache import PipelineCache
    from runner.errors import JobFailed
    from runner.executor import Failed, Progressed

    model = entry(root / name, name)
    pipelines = PipelineCache(Disk(root / "data", {name: model}), device="cpu")
    spec = {"kind": "text2img", "model": name, "prompt": "a lighthouse", "seed": 1,
            "precision": precision, "width": side, "height": side, "steps": steps}  # fmt: skip
    task = realise(spec, job="job", index=1, inputs={}, models={name: model})
    devices.frameworks()
    try:
        plan = pipelines.resolve(task, side * side).plan
    except JobFailed as error:
        return {"refused": str(error)}
    text = footprint.encoding(model, plan.text_precision)
    watch = _Watch()
    thread = GpuThread(root / "data", pipelines=pipelines)
    thread.start("gpu0", [task])
    encoded = False
    while isinstance(event := thread.events.get(), Progressed):
        encoded |= event.phase == "encoding"
        watch.enter(str(event.phase) if encoded else "loading text")
    phases = watch.close()
    thread.close()
    if isinstance(event, Failed):
        return {"refused": event.message}
    expected = {"loading text": text, "encoding": text}
    for phase in phases:
        phase["expected"] = expected.get(phase["phase"], plan.bytes) / _GIB
    return {"plan": plan.summary, "phases": phases}


def entry(folder: Path, name: str) -> Model:
    """A model's registry entry with the folder, and the counts of what is there."""
    published = MODEL_REGISTRY[name]
    counts = {name: _parameters(folder / name) for name in ("transformer", "text_encoder", "vae")}
    share = published.weights.unread / (published.weights.unread + published.weights.text)
    unread = round(counts["text_encoder"] * share)
    weights = replace(
        published.weights, transformer=counts["transformer"], vae=counts["vae"],
        text=counts["text_encoder"] - unread, unread=unread,
    )  # fmt: skip
    return replace(published, repo=str(folder), weights=weights, bytes=2 * weights.total)


class _Watch:
    """Notes the most memory of each phase, every 50 ms, above what this process had before."""

    def __init__(self) -> None:
        self._before = memory()
        self._phases: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def enter(self, phase: str) -> None:
        if not self._phases or self._phases[-1]["phase"] != phase:
            now = {"phase": phase, "anonymous": 0.0, "files": 0.0, "began": time.monotonic()}
            self._phases.append(now)
            self._note()

    def close(self) -> list[dict[str, Any]]:
        """The phases with their seconds."""
        self._note()
        self._over.set()
        self._thread.join()
        ends = [*(each["began"] for each in self._phases[1:]), time.monotonic()]
        for phase, end in zip(self._phases, ends, strict=True):
            phase["seconds"] = round(end - phase.pop("began"), 2)
        return self._phases

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._note()

    def _note(self) -> None:
        if self._phases:
            phase, held = self._phases[-1], memory()
            for name, count in held.items():
                more = (count - self._before[name]) / _GIB
                phase[name] = max(phase[name], round(more, 3))


def memory() -> Mapping[str, int]:
    """The bytes that this process holds in RAM: its own, and pages of files."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines())
    sizes = {"anonymous": "RssAnon", "files": "RssFile"}
    return {name: int(lines[field].split()[0]) * 1024 for name, field in sizes.items()}


def _child(root: Path, name: str, precision: str, asked: argparse.Namespace) -> dict[str, Any]:
    line = [sys.executable, "-m", "tests.bench", "rehearsal", "--one", precision]
    line += ["--folder", str(root), "--models", name]
    line += ["--side", str(asked.side), "--steps", str(asked.steps)]
    line += ["--ram", str(asked.ram)] if asked.ram else []
    done = subprocess.run(line, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        return {"refused": f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def _folder(named: str | None) -> Iterator[Path]:
    """The folder that was named, which stays; else one that goes."""
    if named:
        yield Path(named)
        return
    made = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _shards(module: Any) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of a module's tensors by name, in groups of at most 2 GiB in bf16."""
    shard: dict[str, tuple[int, ...]] = {}
    total = 0
    for name, tensor in module.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        if shard and total + 2 * tensor.numel() > SHARD_BYTES:
            yield shard
            shard, total = {}, 0
        shard[name] = tuple(tensor.shape)
        total += 2 * tensor.numel()
    yield shard


def _filled(name: str, shape: tuple[int, ...], random: Any) -> Any:
    """A tensor of repeated random numbers; scales of norms are 1, so that nothing overflows."""
    import torch

    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) < 2:
        return torch.full(shape, float("bias" not in name), dtype=random.dtype)
    count = torch.Size(shape).numel()
    return random[:count].repeat(-(-count // len(random)))[:count].reshape(shape)


def _name_shards(place: Path, stem: str) -> None:
    """Give the shards their published names, and write their index."""
    from safetensors import safe_open

    files = sorted(place.glob("part-*"), key=lambda file: int(file.name.partition("-")[2]))
    names: dict[str, str] = {}
    total = 0
    for number, file in enumerate(files, 1):
        name = f"{stem}-{number:05}-of-{len(files):05}.safetensors"
        file = file.rename(place / name)
        with safe_open(file, framework="pt") as opened:
            names |= dict.fromkeys(opened.keys(), name)
            shapes = (opened.get_slice(each).get_shape() for each in opened.keys())
            total += sum(_product(shape) for shape in shapes)
    metadata = {"total_size": 2 * total, "total_parameters": total}
    index = {"metadata": metadata, "weight_map": names}
    (place / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _product(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _parameters(component: Path) -> int:
    (index,) = component.glob("*.index.json")
    return int(json.loads(index.read_bytes())["metadata"]["total_parameters"])


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench rehearsal")
    parser.add_argument("--folder", help="where the weights stay; without, they go at the end")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["klein"])
    parser.add_argument("--precisions", nargs="+", choices=_PRECISIONS, default=list(_PRECISIONS))
    parser.add_argument("--side", type=int, default=256, help="of the picture, in pixels")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--ram", type=float, metavar="GIB", help="plan as if so much were free")
    parser.add_argument("--scale", type=float, default=1.0, help="of the widths")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(argv)
