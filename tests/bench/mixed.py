"""Measures a night of all five kinds, mixed, against scripts that run them as they come or in turn.

`python -m tests.bench mixed [--jobs N] [--quick] [--json]`. Jobs of the five kinds come in turn,
so that each needs another model than the one before. The first loop takes them as they come and
has one pipeline at a time; the other stands for five scripts, one kind after another (as generous
as can be: one process, imported once). The runner has taken all jobs when it is let go, and has to
find the better order by itself, with room for one transformer or for the text encoders, but not
for both. Models are random. For all alike, weights come no faster than from a disk that is to a
step of theirs what an NVMe disk is to a step of FLUX.1-dev: 34 GB at 3 GB/s take as long as some
20 steps of half a second. Loads of each component are counted, told apart by their weights' file.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.cli.init import make_home
from runner.engine.memory.plans import MemoryPlan
from runner.settings import Home, load_settings
from runner.spool.store.names import PAUSE_NAME
from tests.bench import scripts
from tests.bench.figures import Goal, Spread, shown
from tests.bench.library import MODELS, PARTS, PRIOR, StandIns
from tests.bench.loop import BLOCK, Marking, prompts
from tests.bench.turns import Contestant, Run, Stage, take_turns

GOAL_FIFO, GOAL_SCRIPTS, GOAL_LOADS = 3.0, 1.0, 1
KINDS = tuple(MODELS)
SIDE, STEPS, LENGTH = 64, 4, 8
DISK_BYTES_A_SECOND = 500e6
IN_TURN = MemoryPlan("fp32", "fp32", "in turn", "resident", tiling=False, bytes=0)
_NAP = 0.01
_READS: Mapping[str, Mapping[str, Any]] = {
    "text2img": {"width": SIDE, "height": SIDE},
    "kontext": {"image": "image.png"},
    "fill": {"image": "image.png", "mask": "mask.png"},
    "control": {"image": "image.png", "preprocessed": True},
    "redux": {"image": "image.png"},
}


def specs(jobs: int) -> list[dict[str, Any]]:
    """The jobs in the order in which they come, as the runner is given them."""
    found = []
    for number, prompt in enumerate(prompts(jobs)):
        kind = KINDS[number % len(KINDS)]
        spec = {"kind": kind, "model": MODELS[kind], "seed": number, "steps": STEPS, **_READS[kind]}
        found.append(spec if kind == "redux" else {**spec, "prompt": prompt})
    return found


# -- contestants ---------------------------------------------------------------------------------


def as_they_come(stage: Stage, **given: Any) -> dict[str, Any]:
    """A loop that takes the jobs in their order and loads what the next one needs."""
    return _script(stage, **given, order=lambda spec: 0)


def by_kind(stage: Stage, **given: Any) -> dict[str, Any]:
    """Five scripts, one kind after another."""
    return _script(stage, **given, order=lambda spec: KINDS.index(spec["kind"]))


def _script(
    stage: Stage, *, jobs: int, folders: Mapping[str, Path], root: Path,
    order: Callable[[Mapping[str, Any]], int],
) -> dict[str, Any]:  # fmt: skip
    import torch

    torch.set_num_threads(1)
    scripts.import_all()
    pictures = scripts.pictures(SIDE)
    stage.ready()
    kind: str = ""
    pipes: scripts.Pipes = ()
    with counted_loads() as loads:
        for number, spec in enumerate(sorted(specs(jobs), key=order)):
            if spec["kind"] != kind:
                kind, pipes = spec["kind"], ()
                gc.collect()
                pipes = scripts.load(kind, folders.__getitem__, dtype=torch.float32)
            words = scripts.encode(pipes, spec.get("prompt", ""), LENGTH)
            image = scripts.draw(
                kind, pipes, words, pictures, side=SIDE, steps=STEPS, seed=spec["seed"]
            )
            image.save(root / f"{number}.png")
            stage.mark()
    stage.done()
    return {"loads": named(loads)}


def fluxdrop(stage: Stage, *, jobs: int, folders: Mapping[str, Path], root: Path) -> dict[str, Any]:
    """The runner, let go when it has taken all jobs, in the order in which they came."""
    from runner.daemon.daemon import Daemon
    from runner.engine.gpu_thread import GpuThread
    from tests.fakes import PlannedCache

    scripts.import_all()
    make_home(root)
    home = Home(root, load_settings(root / "fluxdrop.yaml"))
    home.prepare()
    for name, picture in scripts.pictures(SIDE).items():
        picture.save(home.inbox / f"{name}.png")
    pause = home.inbox / PAUSE_NAME
    pause.touch()
    for number, spec in enumerate(specs(jobs)):
        file = home.inbox / f"job{number:03}.json"
        file.write_text(json.dumps(spec), encoding="utf-8")

    def executor(home: Home) -> GpuThread:
        library = StandIns(home.data, folders, length=LENGTH)
        pipelines = PlannedCache(library, IN_TURN, room=1)
        cache = int(home.settings.prompt_cache_gb * 1e9)
        made = GpuThread(home.data, library=library, pipelines=pipelines, prompt_cache=cache)
        made.events = Marking(stage)
        return made

    with Daemon(home, executor) as daemon, counted_loads() as loads:
        while len(daemon.ledger.ready(time.time(), jobs)) < jobs:
            daemon.step(0.1)
        stage.ready()
        pause.unlink()
        while daemon.intake.controls.paused:
            daemon.step(0.02)
        outcome = daemon.drain()
        stage.done()
    assert outcome.counts["succeeded"] == jobs, outcome
    return {"loads": named(loads)}


Loads = Counter[tuple[str, int]]


@contextmanager
def counted_loads() -> Iterator[Loads]:
    """How often each component's weights are loaded in this process meanwhile."""
    from diffusers.models.modeling_utils import ModelMixin
    from transformers import PreTrainedModel

    loads: Loads = Counter()
    before = [(base, base.from_pretrained) for base in (ModelMixin, PreTrainedModel)]
    for base, load in before:
        base.from_pretrained = classmethod(_counting(load.__func__, loads))
    try:
        yield loads
    finally:
        for base, load in before:
            base.from_pretrained = classmethod(load.__func__)


def _counting(load: Callable[..., Any], loads: Loads) -> Callable[..., Any]:
    def counted(cls: Any, path: Any, *more: Any, **given: Any) -> Any:
        folder = Path(path) / (given.get("subfolder") or "")
        shards = sorted(folder.glob("*.safetensors"))
        # Folders that share weights share the file: the last shard is never a part's own.
        loads[cls.__name__, shards[-1].stat().st_ino] += 1
        began = time.thread_time()
        loaded = load(cls, path, *more, **given)
        size = sum(shard.stat().st_size for shard in shards)
        _rest(size / DISK_BYTES_A_SECOND - (time.thread_time() - began))
        return loaded

    return counted


def _rest(seconds: float) -> None:
    """Pass so much time of one's own turns: the clock goes on while another has its turn."""
    for _ in range(int(seconds / _NAP)):
        time.sleep(_NAP)


def named(loads: Loads) -> dict[str, int]:
    """Loads by component, those of one class numbered."""
    seen: Counter[str] = Counter()
    found = {}
    for (name, _), count in loads.items():
        seen[name] += 1
        found[f"{name} {seen[name]}" if seen[name] > 1 else name] = count
    return found


# -- the whole -----------------------------------------------------------------------------------


def measure(jobs: int, *, quick: bool, folder: Path | None) -> dict[str, Any]:
    """Let all three do all jobs; what it took, and what they loaded."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        folders = weights(root / "weights", quick=quick)
        contestants = {}
        for contestant in (as_they_come, by_kind, fluxdrop):
            own = root / contestant.__name__
            own.mkdir()
            contestants[contestant.__name__] = Contestant(
                f"{__name__}:{contestant.__name__}",
                {"jobs": jobs, "folders": folders, "root": own},
            )
        runs = take_turns(contestants, 2.0)
    ours, loop, turn = (runs[name] for name in ("fluxdrop", "as_they_come", "by_kind"))
    # Those two differ by nothing but their loads; weights are read in part at the first step.
    load = (loop.seconds - turn.seconds) / (jobs - len(KINDS))
    image = (turn.seconds - len(KINDS) * load) / jobs
    return {
        "jobs": jobs,
        "seconds": {name: round(run.seconds, 2) for name, run in runs.items()},
        "cpu_seconds": {name: round(run.cpu, 2) for name, run in runs.items()},
        "blocks_s": {name: Spread.of(run.blocks(BLOCK)).json() for name, run in runs.items()},
        "loads": {name: run.said["loads"] for name, run in runs.items()},
        "a_load_in_steps": round(load / image * STEPS, 1),
        "faster_than_as_they_come": round(loop.seconds / ours.seconds, 3),
        "faster_than_by_kind": round(turn.seconds / ours.seconds, 3),
        "most_loads": _most_loads(ours),
    }


def _most_loads(run: Run) -> int:
    """Of the heavy components: a VAE is read in a moment."""
    return max(count for name, count in run.said["loads"].items() if "Autoencoder" not in name)


def weights(root: Path, *, quick: bool) -> dict[str, Path]:
    """A folder for each part; every kind but redux has a transformer of its own."""
    from tests.bench.stand_in import Foundry, Size

    size = Size(
        double=1, single=1 if quick else 4, heads=4 if quick else 12, head=64,
        text=512 if quick else 1024, text_layers=2 if quick else 8, text_inner=2048,
        text_words=8000 if quick else 32128, pooled=256, pooled_layers=2, pooled_words=8000,
        vae=(4,) * 4, vae_layers=1, vae_groups=1, vision=288, vision_layers=2, vision_inner=512,
        vision_side=56,
    )  # fmt: skip
    foundry = Foundry(root, size)
    folders = {part: foundry.folder(part, f"-{part}") for part in PARTS.values()}
    return {**folders, PRIOR: foundry.folder(PRIOR)}


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures, to be read by people."""
    names = tuple(found["seconds"])

    def line(label: str, values: Mapping[str, Any], form: str) -> str:
        return f"{label:<33}" + "".join(f"{values.get(name, 0):>14{form}}" for name in names)

    lines = [f"{found['jobs']} jobs".ljust(33) + "".join(f"{name:>14}" for name in names)]
    lines += [line(what, found[what], ".1f") for what in ("seconds", "cpu_seconds")]
    for what in ("quartile1", "median", "quartile3"):
        blocks = {name: found["blocks_s"][name][what] for name in names}
        lines.append(line(f"{BLOCK} jobs, {what}", blocks, ".2f"))
    for part in sorted({part for each in found["loads"].values() for part in each}):
        loads = {name: found["loads"][name].get(part, 0) for name in names}
        lines.append(line(f"loads of {part}", loads, ""))
    return [*lines, f"loading for another kind costs as much as {found['a_load_in_steps']} steps"]


def main(argv: list[str]) -> int:
    """Measure and say which goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench mixed", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="20 jobs on smaller models")
    parser.add_argument("--folder", type=Path, help="where homes and weights are put (2 GB)")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    jobs = 20 if asked.quick else asked.jobs
    found = measure(jobs, quick=asked.quick, folder=asked.folder)
    faster = "times faster than"
    goals = [
        Goal(f"{faster} as they come", found["faster_than_as_they_come"], GOAL_FIFO),
        Goal(f"{faster} one kind after another", found["faster_than_by_kind"], GOAL_SCRIPTS),
        Goal("loads of a heavy component", found["most_loads"], GOAL_LOADS + 1, at_least=False),
    ]
    return shown(table(found), goals, found, as_json=asked.json)
