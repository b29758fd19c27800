"""Measures the runner against a bare loop over the same prompts: the same pictures, saved as PNG.

`python -m tests.bench loop [--prompts N] [--quick] [--json]`. The loop calls the pipeline with
each prompt and saves; the runner drains one spec and writes pictures, sidecars, thumbnails,
statuses, pages and the gallery. Both are warm, have one thread for arithmetic, and take turns of a
second. Once on the built-in model, and on a random one whose parts cost as FLUX.1-dev's do on a GPU
(measured and printed); there also on a second night, with the prompts known from the first, and
with every prompt a new one. Ratios say how many images the runner makes while the loop makes one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

from runner.cli.init import make_home
from runner.executor import Event, Failed, Progressed, Rendered
from runner.settings import Home, load_settings
from runner.task import ImageTask
from tests.bench.figures import Goal, Spread, shown
from tests.bench.turns import Contestant, Run, Stage, take_turns

BLOCK = 10
PACK = "loop"
_FIXED = "a woodcut of"


@dataclass(frozen=True)
class Case:
    """What is drawn by whom: the folder of the weights, and what the pipeline is asked for."""

    name: str
    model: str
    seeds: int
    goal: float
    night: int = 1
    steps: int = 8
    guidance: float = 3.5
    side: int = 64
    length: int = 64


PROPORTIONED = {"model": "dev", "steps": 5, "side": 384}
CASES = (
    Case("tiny, two seeds a prompt", "tiny", 2, 0.97),
    Case("as FLUX, two seeds a prompt", **PROPORTIONED, seeds=2, goal=1.08),
    Case("as FLUX, the second night", **PROPORTIONED, seeds=2, goal=1.12, night=2),
    Case("as FLUX, every prompt new", **PROPORTIONED, seeds=1, goal=1.03),
)


def prompts(count: int) -> list[str]:
    """Prompts as long as people write them."""
    colours, things = ("red", "blue", "green", "yellow", "purple"), ("circle", "star", "square")
    return [
        f"{_FIXED} a {colours[n % 5]} {things[n % 3]} on a {colours[(n + 2) % 5]} background, in"
        f" strong lines on rough paper, plate {n} of a series"
        for n in range(count)
    ]


# -- contestants ---------------------------------------------------------------------------------


def bare(stage: Stage, *, case: Case, folder: Path, texts: Sequence[str], root: Path) -> Any:
    """The pipeline in a loop, written with care."""
    import torch

    from runner.engine.memory import devices

    torch.set_num_threads(1)
    pipe = devices.frameworks().FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt: str, seed: int) -> Any:
        return pipe(
            prompt=prompt, num_inference_steps=case.steps, guidance_scale=case.guidance,
            width=case.side, height=case.side, max_sequence_length=case.length,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]  # fmt: skip

    image = draw("warming up", 0)
    shares = _shares(pipe, case, image, lambda: draw("warming up", 0))
    out = root / "bare"
    out.mkdir(exist_ok=True)
    image.save(out / "0.png")
    stage.ready()
    number = 0
    for prompt in texts:
        for seed in range(1, case.seeds + 1):
            number += 1
            draw(prompt, seed).save(out / f"{number}.png")
            stage.mark()
    return shares


def fluxdrop(stage: Stage, *, case: Case, folder: Path, texts: Sequence[str], root: Path) -> Any:
    """The runner, from a spec in the inbox to everything that it writes."""
    from runner.daemon.daemon import Daemon

    make_home(root)
    home = Home(root, load_settings(root / "fluxdrop.yaml"))
    home.prepare()
    _write_pack(home, texts)
    executor = _executor(home, case, folder)
    executor.start("gpu0", [_task(case)])
    _wait_for_picture(executor.events)
    executor.events = Marking(stage)
    job = f"night-{case.night}"
    spec = {
        "kind": "text2img", "model": case.model, "steps": case.steps, "guidance": case.guidance,
        "width": case.side, "height": case.side, "seed": 1, "count": case.seeds,
        "compose": {"pack": PACK, "subjects": "all"},
    }  # fmt: skip
    with Daemon(home, lambda home: executor) as daemon:
        stage.ready()
        aside = home.inbox / ".tmp" / job
        aside.write_text(json.dumps(spec), encoding="utf-8")
        os.replace(aside, home.inbox / f"{job}.json")
        outcome = daemon.drain()
        stage.done()
    assert outcome.all_well, (home.job(job) / "status.json").read_text(encoding="utf-8")
    pictures = len(list(home.job(job).glob("*.png")))
    assert pictures == len(texts) * case.seeds, f"{pictures} pictures"
    return {}


class Marking(SimpleQueue[Event]):
    """The executor's queue of events, telling the stage of each picture."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def put(self, item: Event, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item, Rendered):
            self._stage.mark()
        super().put(item)


def _executor(home: Home, case: Case, folder: Path) -> Any:
    from runner.engine.gpu_thread import GpuThread
    from tests.bench.library import StandIns

    library = None
    if case.model != "tiny":
        library = StandIns(home.data, {"text2img": folder}, length=case.length)
    cache = int(home.settings.prompt_cache_gb * 1e9)
    return GpuThread(home.data, library=library, device="cpu", prompt_cache=cache)


def _task(case: Case) -> ImageTask:
    return ImageTask(
        "warm-up", 1, "text2img", case.model, "warming up", seed=0, steps=case.steps,
        guidance=case.guidance, width=case.side, height=case.side,
    )  # fmt: skip


def _wait_for_picture(events: SimpleQueue[Event]) -> None:
    while isinstance(event := events.get(timeout=600), Progressed):
        pass
    assert not isinstance(event, Failed), event.message


def _write_pack(home: Home, texts: Sequence[str]) -> None:
    from tests.composer.helpers import write_pack

    if not (home.prompts / PACK).is_dir():
        own = (text.removeprefix(f"{_FIXED} ") for text in texts)
        subjects = {f"s{number:03}": text for number, text in enumerate(own)}
        write_pack(home.prompts, PACK, fixed=_FIXED, separator=" ", subjects=subjects)


def _shares(pipe: Any, case: Case, image: Any, draw: Callable[[], Any]) -> dict[str, float]:
    """The parts of an image's time, as milliseconds of the processor."""
    import torch

    from runner.gallery.page.thumbs import thumbnail

    def encode() -> None:
        with torch.no_grad():
            pipe.encode_prompt("warming up", None, max_sequence_length=case.length)

    def save() -> None:
        image.save(io.BytesIO(), "PNG", compress_level=4)
        thumbnail(image)

    return {"whole": _cpu_ms(draw), "text": _cpu_ms(encode), "saving": _cpu_ms(save)}


def _cpu_ms(act: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return median(times) * 1000


# -- the whole -----------------------------------------------------------------------------------


def measure(cases: Sequence[Case], count: int, folder: Path | None) -> list[dict[str, Any]]:
    """Run every case; a row of figures for each."""
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        for case in cases:
            texts = prompts(count * (2 // case.seeds))
            # The second night has the home of the first; all others one of their own.
            home = root / f"{case.model}-{case.seeds}"
            home.mkdir(exist_ok=True)
            shared = {"case": case, "folder": _weights(case, root), "texts": texts, "root": home}
            runs = take_turns({
                contestant.__name__: Contestant(f"{__name__}:{contestant.__name__}", shared)
                for contestant in (bare, fluxdrop)
            })  # fmt: skip
            rows.append(_row(case, runs["bare"], runs["fluxdrop"]))
    return rows


def _weights(case: Case, root: Path) -> Path:
    if case.model == "tiny":
        from runner.engine.tiny.folders import folder as builtin_folder

        return builtin_folder("text2img", root)
    from tests.bench.stand_in import Foundry, Size

    size = Size(
        double=1, single=2, heads=8, head=32, text=512, text_layers=6, text_inner=1024,
        text_words=128, pooled=64, pooled_layers=2, pooled_words=600, vae=(4,) * 4, vae_layers=1,
        vae_groups=1,
    )  # fmt: skip
    return Foundry(root / "weights", size).folder("text2img")


def _row(case: Case, one: Run, other: Run) -> dict[str, Any]:
    images = len(one.marks)
    blocks = [a / b for a, b in zip(one.blocks(BLOCK), other.blocks(BLOCK), strict=False)]
    shares = one.said
    part = {name: shares[name] / (shares["whole"] + shares["saving"]) for name in shares}
    return {
        "case": case.name,
        "goal": case.goal,
        "images": images,
        "bare_s": round(one.seconds / images, 4),
        "fluxdrop_s": round(other.seconds / images, 4),
        "ratio": round(one.seconds / other.seconds, 4),
        "blocks": Spread.of(blocks).json(),
        "bare_cpu_s": round(one.cpu / images, 4),
        "fluxdrop_cpu_s": round(other.cpu / images, 4),
        "text_share": round(part["text"], 3),
        "saving_share": round(part["saving"], 3),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows, to be read by people."""
    lines = [
        f"{'':<28}{'images':>7}{'bare':>8}{'runner':>8}{'ratio':>8}   blocks of {BLOCK}: median"
        f"{'CPU':>15}{'text':>13}{'saving':>8}"
    ]
    for row in rows:
        blocks = row["blocks"]
        spread = f"{blocks['median']:.3f} ({blocks['quartile1']:.3f} to {blocks['quartile3']:.3f})"
        cpu = f"{row['bare_cpu_s']:.3f} / {row['fluxdrop_cpu_s']:.3f}"
        lines.append(
            f"{row['case']:<28}{row['images']:>7}{row['bare_s']:>7.3f}s{row['fluxdrop_s']:>7.3f}s"
            f"{row['ratio']:>8.3f}   {spread:<25}{cpu:>15} s"
            f"{row['text_share']:>10.1%}{row['saving_share']:>8.1%}"
        )
    return lines


def main(argv: list[str]) -> int:
    """Measure and say which goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench loop", description=__doc__)
    parser.add_argument("--prompts", type=int, default=60, help="drawn with two seeds each")
    parser.add_argument("--case", type=int, nargs="+", choices=range(1, len(CASES) + 1))
    parser.add_argument("--quick", action="store_true", help="5 prompts")
    parser.add_argument("--folder", type=Path, help="where the homes are made: on a real disk")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    chosen = [case for number, case in enumerate(CASES, 1) if number in (asked.case or range(1, 9))]
    rows = measure(chosen, 5 if asked.quick else asked.prompts, asked.folder)
    goals = [Goal(row["case"], row["ratio"], row["goal"]) for row in rows]
    return shown(table(rows), goals, {"rows": rows}, as_json=asked.json)
