"""What callers do to a home, and what must be there in the end.

A scenario is played by dropping its files, running a daemon on a device of flat colours until
nothing is left, and asking the oracle. Callers write their files durably: before its answer, a file
is theirs.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from runner.daemon.daemon import Daemon
from runner.executor import Slot, Woken
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk
from runner.task import ImageTask
from tests.spool.device import FlatColours, SeveralSlots

SPEC = "kind: text2img\nmodel: tiny\nprompt: a red circle on a blue background\n"
SEEDED = SPEC + "seed: 7\n"
# A worker looks a few times at each step.
_LOOKS = 8
EDIT = "kind: kontext\nmodel: tiny\nprompt: make it green\nseed: 3\n"


@dataclass(frozen=True)
class Expected:
    """The end of one job: the states it may have, and how many pictures at least and at most."""

    states: tuple[str, ...]
    pictures: tuple[int, int] = (1, 1)
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Scenario:
    """Files to drop, files that appear when an image starts, and the jobs that must result.

    `drops` maps names to bytes; names of images are put beside. `appearing` maps (job, image
    number) to the name of an empty control file. `jobs` maps ids to their ends. `pack` maps the
    files of a pack named `small` to their texts. `left` names the home of an earlier version to
    begin with, and `forgotten` the jobs of it of which nothing must be left. Pictures of a `large`
    one are encoded beside the writer. With several `slots` as many images are in flight; each of
    `losing`, by (job, image number), loses its slot once, and is charged with that or not.
    """

    name: str
    drops: Mapping[str, bytes]
    jobs: Mapping[str, Expected]
    appearing: Mapping[tuple[str, int], str] = field(default_factory=dict)
    pack: Mapping[str, str] = field(default_factory=dict)
    left: str = ""
    large: bool = False
    forgotten: tuple[str, ...] = ()
    slots: int = 1
    losing: Mapping[tuple[str, int], bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One moment at which everything ends, and what to ask of it; may go to another process."""

    name: str
    ask: Callable[..., list[str]]
    given: tuple[Any, ...]

    def faults(self, root: Path) -> list[str]:
        """What was wrong after it, tried in an empty folder."""
        return self.ask(root, *self.given)


def picture() -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


_OK = ("succeeded",)
_CANCELLED = ("cancelled",)
_REJECTED = ("rejected",)
_NONE = (0, 0)

SCENARIOS = (
    Scenario("one", {"hero.yaml": SEEDED.encode()}, {"hero": Expected(_OK, seeds=(7,))}),
    Scenario(
        "many",
        {"hero.yaml": (SPEC + "seeds: {start: 5, count: 4}\n").encode()},
        {"hero": Expected(_OK, (4, 4), seeds=(5, 6, 7, 8))},
        large=True,
    ),
    Scenario(
        "enlarged",
        {"hero.yaml": (SPEC + "seeds: [5, 6]\nupscale: 2\nkeep_original: true\n").encode()},
        {"hero": Expected(_OK, (2, 2), seeds=(5, 6))},
    ),
    Scenario(
        "previewed",
        {"hero.yaml": (SPEC + "seeds: [5, 6]\npreview: true\n").encode()},
        {"hero": Expected(_OK, (2, 2), seeds=(5, 6))},
    ),
    Scenario(
        "unseeded",
        {"hero.yaml": (SPEC + "count: 3\n").encode()},
        {"hero": Expected(_OK, (3, 3))},
    ),
    Scenario(
        "several",
        {
            "a.yaml": SEEDED.encode(),
            "a.yml": (SEEDED + "steps: 5\n").encode(),
            "b.json": b'{"kind": "text2img", "model": "tiny", "prompt": "a red star", "seed": 1}',
        },
        {
            "a": Expected(_OK, seeds=(7,)),
            "a-2": Expected(_OK, seeds=(7,)),
            "b": Expected(_OK, seeds=(1,)),
        },
    ),
    # Enough to be synced together, and to share their files with the outbox.
    Scenario(
        "batch",
        {f"{name}.yaml": SEEDED.encode() for name in "abcdef"},
        {name: Expected(_OK, seeds=(7,)) for name in "abcdef"},
    ),
    Scenario(
        "reject",
        {"bad.yaml": b"kind: text2img\nstpes: 3\n", "good.yaml": SEEDED.encode()},
        {"bad": Expected(_REJECTED, _NONE), "good": Expected(_OK)},
    ),
    Scenario(
        "cancel queued",
        {"a.yaml": SEEDED.encode(), "b.yaml": SEEDED.encode(), "b.cancel": b""},
        {"a": Expected(_OK), "b": Expected(_CANCELLED, _NONE)},
    ),
    Scenario(
        "cancel running",
        {"hero.yaml": (SPEC + "seeds: [1, 2, 3]\n").encode()},
        # None: the kill took the first picture before its sidecar, and the cancel the rest.
        {"hero": Expected(("cancelled", "succeeded"), (0, 3))},
        {("hero", 2): "hero.cancel"},
    ),
    Scenario(
        "inputs",
        {
            "cat.png": picture(),
            "edit.yaml": (EDIT + "image: cat.png\n").encode(),
            "hero.yaml": SEEDED.encode(),
            "chain.yaml": (EDIT + "image: outbox/hero/hero-0001.png\n").encode(),
        },
        {"edit": Expected(_OK), "hero": Expected(_OK), "chain": Expected(_OK)},
    ),
    Scenario(
        "one id twice",
        {
            "a.yaml": (SEEDED + "id: mine\n").encode(),
            "b.yaml": (SEEDED + "id: mine\n").encode(),
        },
        {"mine": Expected(_OK, seeds=(7,))},
    ),
    Scenario(
        "retry",
        {
            "hero.yaml": SEEDED.encode(),
            "last.yaml": SEEDED.encode(),
            "runner.lend": b'{"until": "2026-01-01T00:00:00Z"}',
        },
        {"hero": Expected(_OK), "last": Expected(_OK), "hero-2": Expected(_OK, seeds=(7,))},
        {("last", 1): "hero.retry"},
    ),
    # The pictures of the second are copied from the first.
    Scenario(
        "reused",
        {
            "hero.yaml": (
                SPEC + "seeds: [5, 6]\nupscale: 2\nkeep_original: true\nreuse: true\n"
            ).encode(),
            "last.yaml": SEEDED.encode(),
        },
        {
            "hero": Expected(_OK, (2, 2), seeds=(5, 6)),
            "last": Expected(_OK),
            "hero-2": Expected(_OK, (2, 2), seeds=(5, 6)),
        },
        {("last", 1): "hero.retry"},
    ),
    Scenario(
        "compose",
        {
            "pack.yaml": b"kind: text2img\nmodel: tiny\nseed: 4\n"
            b"compose: {pack: small, subjects: all}\n",
            "plain.yaml": SEEDED.encode(),
            "stopped.yaml": b"kind: text2img\nmodel: tiny\nseed: 4\n"
            b"compose: {pack: small, subjects: all}\n",
            "stopped.yaml.cancel": b"",
        },
        {
            "pack": Expected(_OK, (2, 2), seeds=(4, 4)),
            "plain": Expected(_OK, seeds=(7,)),
            "stopped": Expected(_CANCELLED, _NONE),
        },
        pack={
            "pack.json": '{"schema_version": 1, "id": "small", "name": "S", "version": "1.0.0"}',
            "fixed_block.txt": "a picture of",
            "subjects/a.txt": "a red star",
            "subjects/b.txt": "a blue star",
        },
    ),
    # Its ledger is brought up to this version's first.
    Scenario(
        "earlier",
        {"new.yaml": SEEDED.encode()},
        {
            "run": Expected(_CANCELLED, seeds=(1,)),
            "dropped": Expected(_CANCELLED, _NONE),
            "held": Expected(_OK, seeds=(7,)),
            "answered": Expected(_OK, seeds=(7,)),
            "pack": Expected(_OK, (2, 2), seeds=(7, 7)),
            "new": Expected(_OK, seeds=(7,)),
        },
        left="cut-short",
    ),
    Scenario(
        "clean",
        {"new.yaml": SEEDED.encode(), "runner.clean": b""},
        {
            "done": Expected(_OK, seeds=(7,)),
            # It was killed at its second picture once: two more kills are a crash loop.
            "cut": Expected(("succeeded", "failed"), (1, 2), seeds=(1, 2)),
            "next": Expected(_OK, seeds=(7,)),
            "new": Expected(_OK, seeds=(7,)),
        },
        left="names",
        forgotten=("gone", "pack", "bad"),
    ),
    Scenario(
        "two slots",
        {
            "hero.yaml": (SPEC + "seeds: {start: 5, count: 5}\n").encode(),
            "last.yaml": SEEDED.encode(),
        },
        {"hero": Expected(_OK, (5, 5), seeds=(5, 6, 7, 8, 9)), "last": Expected(_OK, seeds=(7,))},
        slots=2,
    ),
    Scenario(
        "cancel on two slots",
        {"hero.yaml": (SPEC + "seeds: [1, 2, 3, 4]\n").encode()},
        {"hero": Expected(("cancelled", "succeeded"), (0, 4))},
        {("hero", 3): "hero.cancel"},
        slots=2,
        large=True,
    ),
    # Not charged: with two kills more no image has ended its process three times.
    Scenario(
        "machine of a slot lost",
        {"hero.yaml": (SPEC + "seeds: {start: 5, count: 4}\n").encode()},
        {"hero": Expected(_OK, (4, 4), seeds=(5, 6, 7, 8))},
        slots=2,
        losing={("hero", 2): False, ("hero", 3): False},
    ),
    Scenario(
        "process of a slot lost",
        {"hero.yaml": (SPEC + "seeds: {start: 5, count: 4}\n").encode()},
        # Failed: two kills more of the same image are a crash loop.
        {"hero": Expected(("succeeded", "failed"), (3, 4))},
        slots=2,
        losing={("hero", 2): True},
    ),
)
_LEFT = Path(__file__).parent.parent / "spool" / "startup" / "homes"


def home_of(root: Path) -> Home:
    """The home of a scenario: nothing waits for anybody."""
    return Home(root, Settings(settle_seconds=0.0, settle_seconds_unknown=0.0))


def furnish(scenario: Scenario, home: Home) -> None:
    """Write the pack that the scenario's specs name."""
    for name, text in scenario.pack.items():
        file = home.prompts / "small" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def prepare(scenario: Scenario, root: Path) -> Home:
    """An empty home with the scenario's files dropped."""
    home = home_of(root)
    if scenario.left:
        shutil.copytree(_LEFT / scenario.left, root)
    home.prepare()
    furnish(scenario, home)
    for name, data in scenario.drops.items():
        (home.inbox / name).write_bytes(data)
    return home


class _Overlapping(SeveralSlots):
    """Has every slot make an image at the same time: none answers before it was looked at often."""

    def __init__(self, scenario: Scenario) -> None:
        names = (f"gpu{number}" for number in range(scenario.slots))
        super().__init__(*names, side=256 if scenario.large else None)
        self._looks: dict[str, int] = {}

    def slots(self) -> Sequence[Slot]:
        seen = super().slots()
        for name in self.at_work:
            self._looks[name] += 1
            if self._looks[name] > _LOOKS:
                self[name].finish()
        if self.at_work and self.events.empty():
            self.events.put(Woken())
        return seen

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        self._looks[slot] = 0
        super().start(slot, tasks)
        if slot in self.at_work:
            self[slot].step()


def play(
    scenario: Scenario,
    home: Home,
    disk: Disk,
    *,
    appeared: Callable[[Path, int], None] = lambda path, modified: None,
) -> None:
    """Run a daemon until nothing is left; what the callers add on the way is added once."""
    device: FlatColours | _Overlapping = FlatColours(side=256 if scenario.large else None)
    if scenario.slots > 1:
        device = _Overlapping(scenario)

    def once(what: str) -> bool:
        mark = home.data / what
        if mark.exists():
            return False
        mark.touch()
        return True

    def on_start(task: ImageTask) -> None:
        name = scenario.appearing.get((task.job, task.index))
        charged = scenario.losing.get((task.job, task.index))
        if charged is not None and once(f"lost-{task.job}-{task.index}"):
            assert isinstance(device, _Overlapping)
            (slot,) = (name for name, each in device.each.items() if each.task is task)
            device[slot].step()
            device.lose(slot, "killed by SIGKILL" if charged else "unreachable", charged=charged)
        if name and once(f"appeared-{name}"):
            aside = home.inbox / ".tmp" / name
            aside.touch()
            # Recorded first: the intake may have taken it by the time the rename returns.
            appeared(home.inbox / name, aside.stat().st_mtime_ns)
            os.replace(aside, home.inbox / name)
            if name.endswith(".cancel"):
                # Give the intake the time a real image would take.
                daemon.intake.wake.set()

    for each in device.each.values() if isinstance(device, _Overlapping) else [device]:
        each.on_start = on_start
    daemon = Daemon(home, device, disk=disk)
    with daemon:
        daemon.drain()
