"""Tells receivers of events: one thread for each reads the ledger's events behind a cursor.

It sends one after another, and what did not arrive again, after pauses that grow. The cursor moves
once the receiver has it: a kill costs a repetition. Whatever a receiver does, the others, the
worker and the writer go on. Ends of jobs are events of the ledger's; the others are made here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from threading import Event as Flag
from typing import Any

from runner.clock import monotonic, now, timestamp
from runner.errors import LedgerUnusable, ReceiverAway, ReceiverRefuses
from runner.executor import Slot, SlotState, absence
from runner.files import text_of
from runner.holds import Hold
from runner.job import State
from runner.log_once import LogOnce
from runner.receivers import SECONDS, envelope, send
from runner.spool.store.queries import Event
from runner.spool.store.spool import Spool
from runner.wire import Fault, ReceiverHealth

log = logging.getLogger(__name__)

_PREFIX = "tell "
_EMPTY, _TROUBLE, _RECOVERED = "queue.empty", "runner.trouble", "runner.recovered"
# So many events are kept for a receiver that cannot be told, and no longer than three days.
_MOST_BEHIND = 5000
_KEPT_SECONDS = 3 * 86_400.0
# At pauses of up to a quarter of an hour, about four hours.
_MOST_REFUSALS = 24
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 900.0
_LOOK_SECONDS = 1.0
_BATCH = 256
# An end whose status cannot be written for so long is told all the same.
_SHOWN_SECONDS = 60.0
_MOST_BYTES = 64 << 10
_LISTS = ("outputs", "errors", "warnings")
_CLOSE_SECONDS = 12.0
# What passes sooner is told to nobody.
_TROUBLE_SECONDS, _CALM_SECONDS = 5.0, 30.0


class Telling:
    """The receivers of one home, and the events that are not the ledger's own.

    Once `stop` is set, what fails is left for the next run; the others are told until `close`.
    """

    def __init__(self, spool: Spool) -> None:
        settings, start = spool.home.settings, spool.home.threads.start
        self._ledger, self._faults, self._on = spool.ledger, spool.faults, settings.on
        self.stop, self._over = Flag(), Flag()
        last = self._ledger.last_event(_TROUBLE, _RECOVERED)
        self._trouble = Trouble(last.body.get("trouble", ()) if last else ())
        self._log_once = LogOnce("recording events")
        # It logs addresses, and with them tokens.
        logging.getLogger("apprise").disabled = True
        # Before a new receiver listens, which is told nothing of what was.
        self._look_at_queue()
        # This one keeps the ends of jobs until they are counted.
        empty = [_EMPTY] if self._on.get(_EMPTY) else []
        self._ledger.listen(_PREFIX, (_PREFIX + name for name in (*settings.receivers, *empty)))
        self.tellers = [Teller(n, spool, self.stop, self._over) for n in settings.receivers]
        self._threads = [start(_PREFIX + teller.name, teller.run) for teller in self.tellers]

    def look(self, hold: Hold | None, slots: Sequence[Slot], *, is_idle: bool) -> None:
        """Record what has changed: trouble, its end, or that nothing is left in the queue."""
        try:
            if self._on.get(_TROUBLE) or self._on.get(_RECOVERED):
                faults = self._faults.listed()
                found = troubles(hold, faults, slots)
                event, told = self._trouble.look(found, monotonic())
                if event:
                    note = text_of("; ".join(found.values())) or "what was wrong has passed"
                    self._ledger.announce(event, {"note": note, "trouble": told, "faults": faults})
                # What could not be recorded is due again.
                self._trouble.told = told
            if is_idle:
                self._look_at_queue()
            self._log_once.recovered()
        except LedgerUnusable as error:
            self._log_once.failed(error)

    def _look_at_queue(self) -> None:
        if self._on.get(_EMPTY) and not self._ledger.has_queued():
            self._ledger.announce_empty(_EMPTY, _PREFIX + _EMPTY)

    def health(self) -> list[ReceiverHealth]:
        """How telling goes, for the health file."""
        return [teller.health() for teller in self.tellers]

    def close(self) -> None:
        """Tell what waits, as far as it goes within seconds; the rest is told by the next run."""
        self.stop.set()
        self._over.set()
        deadline = monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - monotonic(), 0.0))


class Trouble:
    """What is wrong with a runner, and since when; `told` is what of it was told."""

    def __init__(self, told: Sequence[str] = ()) -> None:
        self.told = [*told]
        self._times: dict[str, tuple[float, float]] = {}

    def look(self, found: Mapping[str, str], moment: float) -> tuple[str | None, list[str]]:
        """The event that is due and what is told with it, given what is wrong now."""
        before, self._times = self._times, {}
        for each in (*found, *self.told):
            first, last = before.get(each, (moment, moment))
            self._times[each] = (first, moment) if each in found else (moment, last)
        kept = [e for e in self.told if moment - self._times[e][1] < _CALM_SECONDS]
        lasting = (e for e in found if moment - self._times[e][0] >= _TROUBLE_SECONDS)
        if new := [each for each in lasting if each not in kept]:
            return _TROUBLE, [*kept, *new]
        if self.told and not (kept or found):
            return _RECOVERED, []
        return None, kept or self.told


def troubles(hold: Hold | None, faults: Sequence[Fault], slots: Sequence[Slot]) -> dict[str, str]:
    """What is wrong with a runner, by a word for each thing; not what was asked for."""
    found = {str(hold.reason): hold.message} if hold and not hold.wanted else {}
    found |= {each["file"]: f"set aside: {each['file']}: {each['message']}" for each in faults}
    for slot in slots:
        if slot.state in (SlotState.LOST, SlotState.SUSPECT):
            found[f"slot {slot.name}"] = f"slot {slot.name} is {slot.state}: {slot.note}"
    if not any(slot.state in (SlotState.READY, SlotState.STARTING) for slot in slots):
        found["slots"] = absence(slots) or ""
    return found


class Teller:
    """Tells one receiver; `run` is the loop of its thread, until all is `over`."""

    def __init__(self, name: str, spool: Spool, stop: Flag, over: Flag) -> None:
        home = spool.home
        self.name, self._listener = name, _PREFIX + name
        self._receiver, self._on = home.settings.receivers[name], home.settings.on
        self._ledger, self._outbox, self._threads = spool.ledger, spool.outbox, home.threads
        self._home, self._stop, self._over = home.root, stop, over
        # Where the cursor is, though a full disk may not let it be recorded.
        self._n = self._ledger.heard_by(self._listener)
        self._failures = self._refusals = self._dropped = self._admitted = 0
        self._error: str | None = None
        self._log_once = LogOnce(f"telling {name}")

    def health(self) -> ReceiverHealth:
        """How telling goes."""
        return {"name": self.name, "error": self._error, "dropped": self._dropped}

    def run(self) -> None:
        """Tell, and look again for events; once it is to stop, tell what is left."""
        stops = False
        while not (stops or (self._failures and self._stop.is_set())):
            stops = self._over.is_set()
            self._threads.moved(self._listener)
            dropped = self._dropped
            try:
                self._tell_all()
            except Exception as error:  # noqa: BLE001 whatever it is, the runner goes on
                self._failures += 1
                self._log_once.failed(error)
            if dropped != self._dropped:
                text = "%s was not told of %d events, which are dropped: it keeps %d, for %d days"
                kept = (_MOST_BEHIND, _KEPT_SECONDS / 86_400)
                log.warning(text, self.name, self._dropped - dropped, *kept)
            pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 20), _LONGEST_PAUSE)
            self._stop.wait(pause) if self._failures else self._over.wait(_LOOK_SECONDS)

    def _tell_all(self) -> None:
        """Tell all that waits, in order, up to the first that cannot be told now."""
        while events := self._ledger.events_after(self._n, _BATCH):
            newest, moment = self._ledger.newest_event(), now()
            for event in events:
                if name := self._name_of(event):
                    if not event.stands and event.at > timestamp(moment - _SHOWN_SECONDS):
                        return
                    too_old = event.at < timestamp(moment - _KEPT_SECONDS)
                    if too_old or newest - event.n >= _MOST_BEHIND:
                        self._dropped += 1
                    elif not self._tell(event, name):
                        return
                self._n = event.n
                if name or event is events[-1]:
                    self._ledger.heard(self._listener, self._n, forget=False)
        self._failures, self._error = 0, None

    def _name_of(self, event: Event) -> str | None:
        """The name by which the receiver is told of an event; None where it is not."""
        if event.type != "ended":
            return event.type if self.name in self._on.get(event.type, ()) else None
        failed = event.body.get("state") in (State.FAILED, State.REJECTED)
        if failed and self.name in self._on.get("job.failed", ()):
            return "job.failed"
        named = (*self._on.get("job.ended", ()), *event.body.get("notify", ()))
        return "job.ended" if self.name in named else None

    def _tell(self, event: Event, name: str) -> bool:
        """Tell one event; whether it is over with it."""
        # The same also where power was lost before it was recorded that it is told.
        seed = f"{text_of(str(self._home))} {event.n} {event.type} {event.id} {event.at}"
        message_id = f"msg_{hashlib.sha256(seed.encode()).hexdigest()[:32]}"
        try:
            send(self._receiver, message_id, self._content(event, name), SECONDS)
        except Exception as error:  # noqa: BLE001 apprise has a hundred services
            # Another's text may have the address in it.
            known = isinstance(error, ReceiverAway)
            self._error = str(error) if known else type(error).__name__
            self._log_once.failed(ReceiverAway(self._error))
            self._failures += 1
            self._refusals += isinstance(error, ReceiverRefuses)
            if self._refusals < _MOST_REFUSALS:
                return False
            self._dropped += 1
        else:
            self._failures, self._error, self._admitted = 0, None, self._dropped
            self._log_once.recovered()
        self._refusals = 0
        return True

    def _content(self, event: Event, name: str) -> dict[str, Any]:
        about: Mapping[str, Any] = event.body
        if event.seq is not None:
            # One that was forgotten meanwhile has no status.
            record = self._ledger.find(event.seq)
            status = record and {**self._outbox.status(record), "revision": record.revision}
            about = status or {"id": event.id, **about}
        dropped = self._dropped - self._admitted
        content = {**envelope(self._home, name, event.at), "dropped": dropped, **about}
        if len(json.dumps(content)) > _MOST_BYTES:
            content = {k: v for k, v in content.items() if k[:2] != "x_" and k not in _LISTS}
        return content
