"""What the runner counts and holds, in Prometheus' text format.

The health file's writer puts it into `data/metrics.prom`, for node_exporter's textfile collector;
`serve` answers with the same on a port. Observes what the worker hears and what the writer records,
and decides nothing. Counters begin at 0 with each process, as Prometheus expects.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runner.clock import now
from runner.errors import UsageProblem
from runner.executor import CancelAsked, Event, Progressed, Rendered, SlotLost, Woken
from runner.job import Phase
from runner.spool.store.record import Record
from runner.wire import RunnerHealth
from specs import schemas

FILE = "metrics.prom"
_ADDRESS = "127.0.0.1"
_RESULTS = ("made", "reused", "failed", "unmade")
_CACHES = {"prompts": Phase.ENCODING, "weights": Phase.LOADING}
"""What is kept, and the phase of an image for which it was not."""

_COUNTER, _GAUGE = CounterMetricFamily, GaugeMetricFamily
_FAMILIES: Mapping[str, tuple[Any, str, tuple[str, ...]]] = {
    "images": (_COUNTER, "Images that are over, or unmade as their job is.", ("kind", "result")),
    "phase_seconds": (_COUNTER, "Seconds that images spent in each phase.", ("phase",)),
    "loads": (_COUNTER, "Loads of a model's text encoders, transformer or prior.", ("model",)),
    "cache": (_COUNTER, "Images made with what was kept (hit), or without.", ("cache", "result")),
    "slots_lost": (_COUNTER, "Slots that ended while they had images.", ("slot",)),
    "jobs": (_GAUGE, "Jobs in the ledger.", ("state",)),
    "state": (_GAUGE, "1 with what the runner does now.", ("state", "version")),
    "slot_ready": (_GAUGE, "Whether a slot takes images, or makes one.", ("slot",)),
    "slot_memory_bytes": (_GAUGE, "Memory of its device that a slot has reserved.", ("slot",)),
    "faults": (_GAUGE, "Files and jobs that are set aside.", ()),
    "last_activity_timestamp_seconds": (_GAUGE, "When an image was over, or the start.", ()),
}


class Metrics(Collector):
    """The numbers of one runner; `collect` may be called in any thread."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {
            name: defaultdict(float) for name in _FAMILIES
        }
        # A rate needs a series from its 0 on.
        self._values["images"].update(dict.fromkeys(product(schemas.kinds(), _RESULTS), 0))
        self._values["phase_seconds"].update(dict.fromkeys(product(Phase), 0))
        self._values["cache"].update(dict.fromkeys(product(_CACHES, ("hit", "miss")), 0))
        self._moved()
        self._phases: dict[str, tuple[Phase, float]] = {}
        """What each slot does, and when that was last heard."""
        self._passed: defaultdict[str, set[Phase]] = defaultdict(set)
        """The phases of each slot's image so far."""
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def heard(self, event: Event, moment: float) -> None:
        """Count an event of the executor, heard at this moment of the awake clock."""
        if isinstance(event, Woken | CancelAsked):
            return
        if before := self._phases.pop(event.slot, None):
            self.spent(before[0], moment - before[1])
        if isinstance(event, Progressed):
            self._phases[event.slot] = event.phase, moment
            self._passed[event.slot].add(event.phase)
            if event.phase == Phase.LOADING and not event.steps:
                self._values["loads"][event.task.model,] += 1
            return
        passed = self._passed.pop(event.slot, set())
        if isinstance(event, Rendered):
            for cache, phase in _CACHES.items():
                self._values["cache"][cache, "miss" if phase in passed else "hit"] += 1
        elif isinstance(event, SlotLost):
            self._values["slots_lost"][event.slot,] += 1

    def spent(self, phase: Phase, seconds: float) -> None:
        """Add to the time of a phase; each phase is one thread's."""
        self._values["phase_seconds"][phase,] += seconds

    def over(self, record: Record, result: str, count: int = 1) -> None:
        """Count images of a job that are over; called by the writer thread."""
        self._values["images"][str(record.kind), result] += count
        self._moved()

    def text(self, health: RunnerHealth, faults: int) -> bytes:
        """All of it, with what the health file says and so many faults."""
        slots = health["slots"]
        self._values |= {
            "jobs": {(state,): count for state, count in health["counts"].items()},
            "state": {(health["state"], health["version"]): 1},
            "slot_ready": {(s["name"],): s["state"] in ("idle", "working") for s in slots},
            "slot_memory_bytes": {(s["name"],): s["memory"] or 0 for s in slots},
            "faults": {(): faults},
        }
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The families, as prometheus_client asks for them."""
        for name, (make, meaning, labels) in _FAMILIES.items():
            family = make(f"fluxdrop_{name}", meaning, labels=labels)
            for values, number in list(self._values[name].items()):
                family.add_metric(values, number)
            yield family

    def serve(self, port: int) -> None:
        """Answer on a port of this machine until the process ends. Raises UsageProblem."""
        try:
            server, _ = start_http_server(port, _ADDRESS, self._registry)
        except (OSError, OverflowError) as error:
            raise UsageProblem(f"--metrics {port}: {error}") from error
        answer: Any = server.get_app()

        def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            # A web page may give its own name this address.
            if environ.get("HTTP_HOST", "").rpartition(":")[0] in (_ADDRESS, "localhost"):
                return answer(environ, start)  # type: ignore[no-any-return]
            start("403 Forbidden", [])
            return []

        server.set_app(guarded)

    def _moved(self) -> None:
        self._values["last_activity_timestamp_seconds"] = {(): now()}
