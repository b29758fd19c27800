"""What the runner counts, as Prometheus reads it."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner.daemon.metrics import FILE, Metrics
from runner.errors import UsageProblem
from runner.executor import Event, Failed, Progressed, SlotLost, Woken
from runner.job import Phase
from runner.spool.disk.disk import Disk, StrPath
from tests.harness import Runner, eventually
from tests.slots.inner import task
from tests.spool.conftest import SPEC, Spool

LAST = ("last_activity_timestamp_seconds",)
Samples = dict[tuple[str, ...], float]


def read(file: Path) -> Samples:
    """The samples of a file, which must be right in every line, by name and values of labels."""
    return samples(file.read_text(encoding="utf-8"))


def samples(text: str) -> Samples:
    families = list(text_string_to_metric_families(text))
    assert all(each.documentation and each.type in ("counter", "gauge") for each in families)
    return {
        (each.name.removeprefix("fluxdrop_"), *each.labels.values()): each.value
        for family in families
        for each in family.samples
    }


def until(spool: Spool, holds: Callable[[Samples], object]) -> Samples:
    """The samples in the spool's file, once something is true of them."""
    file = spool.home.data / FILE
    spool.until(lambda: file.exists() and holds(read(file)))
    return read(file)


def test_jobs_images_and_faults_are_counted_by_what_became_of_them(idle_spool: Spool) -> None:
    """Seen red: without the line in `ends`, nothing was unmade."""
    device = idle_spool.device
    device.failing["hero", 2] = ("OutOfMemory", "too large")
    idle_spool.start()
    begun = until(idle_spool, bool)
    assert begun["images_total", "text2img", "made"] == begun["faults",] == 0
    idle_spool.drop("hero.yaml", SPEC.replace("seed: 7", "seeds: [1, 2, 3]"))
    idle_spool.drop("again.yaml", SPEC.replace("seed: 7", "seed: 1\nreuse: true"))
    idle_spool.over("hero", "again")
    device.by_hand = True
    idle_spool.drop("late.yaml", SPEC.replace("seed: 7", "seeds: [4, 5]"))
    idle_spool.until(lambda: device.task)
    idle_spool.drop("late.cancel", "")
    idle_spool.end("late")
    told = until(idle_spool, lambda seen: seen.get(("jobs", "cancelled")))
    images = {result: told["images_total", "text2img", result] for result in ("made", "failed")}
    assert images["failed"] == 1 and told["images_total", "text2img", "unmade"] == 2
    assert images["made"] + told["images_total", "text2img", "reused"] == 3
    assert (told["jobs", "succeeded"], told["jobs", "failed"]) == (1, 1)
    assert told[LAST] > begun[LAST]
    assert told["phase_seconds_total", "saving"] > 0


def test_the_time_of_each_phase_loads_caches_and_losses_follow_from_the_events() -> None:
    metrics, one = Metrics(), task()
    told: list[tuple[Event, float]] = [
        (Progressed("a", one, Phase.LOADING), 10.0),
        (Progressed("a", one, Phase.LOADING, 3, 4), 12.0),
        (Progressed("b", one, Phase.DENOISING, 1, 4), 12.0),
        (Woken(), 12.5),
        (Progressed("a", one, Phase.ENCODING), 13.0),
        (Progressed("a", one, Phase.LOADING), 14.0),
        (Progressed("a", one, Phase.DENOISING, 1, 2), 20.0),
        (Failed("a", one, "Timeout", "too long"), 26.0),
        (SlotLost("b", "killed"), 30.0),
        (Progressed("b", one, Phase.DENOISING, 1, 4), 90.0),
    ]
    for event, moment in told:
        metrics.heard(event, moment)
    seen = {
        (sample.name.removeprefix("fluxdrop_"), *sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    seconds = {each: seen["phase_seconds_total", each] for each in ("loading", "encoding")}
    assert seconds == {"loading": 9.0, "encoding": 1.0}
    assert seen["phase_seconds_total", "denoising"] == 6.0 + 18.0
    assert seen["loads_total", "tiny"] == 2 and seen["slots_lost_total", "b"] == 1
    # Neither was made.
    assert seen["cache_total", "weights", "hit"] == seen["cache_total", "weights", "miss"] == 0


def test_a_real_image_that_finds_all_kept_is_a_hit(runner: Runner) -> None:
    file = runner.home / "data" / FILE
    job = runner.drop("metrics", seed=None, seeds=[1, 2, 3])
    before = read(file)
    runner.succeeded(job)
    parts = ("cache_total", "weights", "hit"), ("cache_total", "prompts", "hit")
    eventually(lambda: all(read(file)[part] >= before[part] + 2 for part in parts), "two hits")
    told = read(file)
    assert told["loads_total", "tiny"] >= 1 and told["cache_total", "weights", "miss"] >= 1
    assert told["phase_seconds_total", "denoising"] > 0 and told["slot_ready", "gpu0"] == 1
    assert told["slot_memory_bytes", "gpu0"] >= 0


def test_a_disk_that_refuses_one_file_costs_not_the_other(idle_spool: Spool) -> None:
    """Seen red: with both in one `try`, no health file was written."""

    class Refusing(Disk):
        def before(self, operation: str, path: StrPath, **details: object) -> None:
            if str(details.get("target", path)).endswith(FILE):
                raise OSError(28, "no room", str(path))

    idle_spool.start(Refusing())
    idle_spool.until(idle_spool.home.health.exists)
    assert not (idle_spool.home.data / FILE).exists()


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_port_of_this_machine_answers_with_the_same_and_no_other_name(
    idle_spool: Spool, port: int
) -> None:
    """Seen red: a page of `evil.example`, led to 127.0.0.1, read the figures."""
    idle_spool.start()
    assert idle_spool.daemon is not None
    idle_spool.daemon.metrics.serve(port)
    written = until(idle_spool, bool)
    with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
        assert samples(answer.read().decode()).keys() == written.keys()
    # Port 80 stands in no Host.
    plain = urllib.request.Request(f"http://127.0.0.1:{port}", headers={"Host": "localhost"})
    with urllib.request.urlopen(plain) as answer:
        assert answer.status == 200
    evil = urllib.request.Request(
        f"http://127.0.0.1:{port}", headers={"Host": f"evil.example:{port}"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(evil)
    with pytest.raises(UsageProblem, match=f"--metrics {port}: "):
        Metrics().serve(port)
    with pytest.raises(UsageProblem, match="--metrics 70000: "):
        Metrics().serve(70_000)
