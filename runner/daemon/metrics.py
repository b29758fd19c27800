"""What the runner counts and holds, in Prometheus' text format.

The health file's writer puts it into `data/metrics.prom`, for node_exporter's textfile collector;
`serve` answers with the same on a port. Observes what the worker hears and what the writer records,
and decides nothing. Counters begin at 0 with each process, as Prometheus expects.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge

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

_FAMILIES: Mapping[str, tuple[Any, str, tuple[str, ...]]] = {
    "images": (Counter, "Images that are over, or unmade as their job is.", ("kind", "result")),
    "phase_seconds": (Counter, "Seconds that images spent in each phase.", ("phase",)),
    "loads": (Counter, "Loads of a model's text encoders, transformer or prior.", ("model",)),
    "cache": (Counter, "Images made with what was kept (hit), or without.", ("cache", "result")),
    "slots_lost": (Counter, "Slots that ended while they had images.", ("slot",)),
    "jobs": (Gauge, "Jobs in the ledger.", ("state",)),
    "state": (Gauge, "1 with what the runner does now.", ("state", "version")),
    "slot_ready": (Gauge, "Whether a slot takes images, or makes one.", ("slot",)),
    "slot_memory_bytes": (Gauge, "Memory of its device that a slot has reserved.", ("slot",)),
    "faults": (Gauge, "Files and jobs that are set aside.", ()),
    "last_activity_timestamp_seconds": (Gauge, "When an image was over, or the start.", ()),
}


class Metrics:
    """The numbers of one runner, which any thread may change and read."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._of: dict[str, Any] = {
            name: make(f"fluxdrop_{name}", meaning, labels, registry=self.registry)
            for name, (make, meaning, labels) in _FAMILIES.items()
        }
        # A rate needs a series from its 0 on.
        for name, *values in (
            ("images", schemas.kinds(), _RESULTS),
            ("phase_seconds", Phase),
            ("cache", _CACHES, ("hit", "miss")),
        ):
            for each in product(*values):
                self._of[name].labels(*each)
        self._of["last_activity_timestamp_seconds"].set(now())
        self._heard: dict[str, tuple[Phase, float, frozenset[Phase]]] = {}
        """What each slot does, when that was last heard, and the phases of its image so far."""

    def heard(self, event: Event, moment: float) -> None:
        """Count an event of the executor, heard at this moment of the awake clock."""
        if isinstance(event, Woken | CancelAsked):
            return
        passed = frozenset[Phase]()
        if before := self._heard.pop(event.slot, None):
            phase, since, passed = before
            self.spent(phase, moment - since)
        if isinstance(event, Progressed):
            self._heard[event.slot] = event.phase, moment, passed | {event.phase}
            if event.phase == Phase.LOADING and not event.steps:
                self._of["loads"].labels(event.task.model).inc()
        elif isinstance(event, Rendered):
            for cache, phase in _CACHES.items():
                self._of["cache"].labels(cache, "miss" if phase in passed else "hit").inc()
        elif isinstance(event, SlotLost):
            self._of["slots_lost"].labels(event.slot).inc()

    def spent(self, phase: Phase, seconds: float) -> None:
        """Add to the time of a phase."""
        self._of["phase_seconds"].labels(phase).inc(seconds)

    def over(self, record: Record, result: str, count: int = 1) -> None:
        """Count images of a job that are over."""
        self._of["images"].labels(record.kind, result).inc(count)
        self._of["last_activity_timestamp_seconds"].set(now())

    def text(self, health: RunnerHealth, faults: int) -> bytes:
        """All of it, with what the health file says and so many faults."""
        slots = health["slots"]
        gauges: Mapping[str, Mapping[tuple[str, ...], float]] = {
            "jobs": {(state,): count for state, count in health["counts"].items()},
            "state": {(health["state"], health["version"]): 1},
            "slot_ready": {(s["name"],): s["state"] in ("idle", "working") for s in slots},
            "slot_memory_bytes": {(s["name"],): s["memory"] or 0 for s in slots},
        }
        for name, values in gauges.items():
            self._of[name].clear()
            for labels, number in values.items():
                self._of[name].labels(*labels).set(number)
        self._of["faults"].set(faults)
        return prometheus_client.generate_latest(self.registry)

    def serve(self, port: int) -> None:
        """Answer on a port of this machine until the process ends. Raises UsageProblem."""
        try:
            server, _ = prometheus_client.start_http_server(port, _ADDRESS, self.registry)
        except (OSError, OverflowError) as error:
            raise UsageProblem(f"--metrics {port}: {error}") from error
        answer: Any = server.get_app()

        def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            # A web page may give its own name this address.
            if environ.get("HTTP_HOST", "").partition(":")[0] in (_ADDRESS, "localhost"):
                return answer(environ, start)  # type: ignore[no-any-return]
            start("403 Forbidden", [])
            return []

        server.set_app(guarded)
