"""An executor in a process of its own, as an executor of this process; a dead one is made again.

Orders go to the child through a pipe, and its events and changed slots come back. The child ignores
the signals that end the runner, writes what it prints to standard error, and ends at once when the
process that started it is gone. Knows nothing of what the executor in the child does.
"""

import atexit
import logging
import multiprocessing.util  # before `atexit.register`: what it does at exit comes after ours
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.context import SpawnProcess
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from runner import exit_codes
from runner.clock import monotonic
from runner.executor import (
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    Slot,
    SlotLost,
    SlotState,
    StoppedEarly,
    Woken,
)
from runner.logs import log_to_parent
from runner.stop_signals import SIGNALS
from runner.task import ImageTask
from runner.threads import Threads
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
"""How often the child looks for changes that no event tells of, and the parent for its death."""
_ALIVE_SECONDS = 1.0
_SILENT_SECONDS = 60.0
"""How often a child says that it lives, and after how long a silence it is killed."""
_CLOSE_SECONDS = 5.0
_SOON_SECONDS = 60.0
_LONGEST_PAUSE = 60.0


class ProcessExecutor:
    """The `Executor` that `make(*arguments)` returns in a child process; its slots come and go.

    `make` is a function at the top of a module, called once `environment` is set there. `name` is
    that of the process, and of the one slot that is shown until the child has told of its own.
    `charged` says whether the images that a dead child had in hand are charged an attempt. It is
    killed where it has not abandoned a slot within `answer_seconds`.
    """

    def __init__(
        self,
        make: Callable[..., Executor],
        arguments: Sequence[object],
        *,
        name: str,
        events: SimpleQueue[Event],
        threads: Threads,
        environment: Mapping[str, str] | None = None,
        charged: bool = True,
        answer_seconds: float = 2.0,
    ) -> None:
        self.events = events
        self._work = make, tuple(arguments), dict(environment or {})
        self._name = name
        self._charged, self._answer_seconds = charged, answer_seconds
        self._threads = threads
        self._lock = threading.Lock()
        self._seen = {name: Slot(name, False, host=platform.node(), state=SlotState.STARTING)}
        self._in_flight: dict[str, tuple[int, list[ImageTask]]] = {}
        """The tasks of each slot that has some, with the number of their order."""
        self._number = self._answers = 0
        self._is_told = False
        """Whether the child has told of its slots."""
        self._upcoming: Sequence[ImageTask] = ()
        self._deadlines: dict[str, tuple[float, str, bool]] = {}
        """When the child is killed unless it answers, and what is told of its images then."""
        self._closing = threading.Event()
        self._pipe: Any = None
        self._process: SpawnProcess | None = None
        self._orders: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self._sender = threads.start(f"{name} sender", self._send_all)
        self._thread = threads.start(name, self._keep)
        # A child that hangs would keep this process from ending.
        atexit.register(self.close)

    def slots(self) -> Sequence[Slot]:
        """The slots as the child last told them; one with tasks in flight is busy at once."""
        with self._lock:
            return tuple(
                replace(slot, busy=True) if slot.name in self._in_flight else slot
                for slot in self._seen.values()
            )

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        with self._lock:
            self._upcoming = upcoming
            self._order("prepare", upcoming)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        with self._lock:
            why = "busy" if slot in self._in_flight else "not there"
            if self._closing.is_set():
                why = "closed"
            elif (known := self._seen.get(slot)) and slot not in self._in_flight:
                why = "" if known.is_free else str(known.state)
            if why:
                raise ValueError(f"slot {slot} cannot start a task: it is {why}")
            if tasks:
                self._number += 1
                self._in_flight[slot] = self._number, list(tasks)
                self._order("start", self._number, slot, list(tasks))

    def stop(self, slot: str) -> None:
        with self._lock:
            self._order("stop", slot)

    def abandon(self, slot: str, why: str) -> bool:
        """Have the child abandon the slot, or end the child where it cannot, or does not answer."""
        with self._lock:
            if slot not in self._seen:
                return True  # it is gone, which is told by an event
            if self._pipe is not None:
                self._deadlines[slot] = monotonic() + self._answer_seconds, why, self._charged
                self._order("abandon", slot, why)
            return True

    def release(self) -> None:
        with self._lock:
            self._order("release")

    def close(self) -> None:
        """End the child, in seconds also where it hangs; what it leaves is told as lost."""
        with self._lock:
            self._closing.set()
            self._close_child()
        self._thread.join(3 * _CLOSE_SECONDS)
        self._sender.join(_CLOSE_SECONDS)
        atexit.unregister(self.close)

    # -- with the lock held ----------------------------------------------------------------------

    def _order(self, *order: object) -> None:
        if self._pipe is not None:
            self._orders.put((self._pipe, order))

    def _close_child(self) -> None:
        self._deadlines[""] = monotonic() + _CLOSE_SECONDS, "the runner stopped", False
        self._order("close")

    # -- in threads of their own -----------------------------------------------------------------

    def _send_all(self) -> None:
        """Send orders, so that no caller waits for a child that hangs."""
        while True:
            pipe, order = self._orders.get()
            if order is not None:
                with suppress(OSError):
                    pipe.send(order)
            elif pipe is not None:
                pipe.close()
            else:
                return

    def _keep(self) -> None:
        """Have a child until this is closed."""
        if sys.platform != "win32":
            # A child takes it over: no signal may end one before it handles them itself.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        early, pause = 0, 0.0
        while not self._closing.wait(pause):
            began, answers = monotonic(), self._answers
            why, charged = self._live()
            is_sound = self._answers > answers or monotonic() - began > _SOON_SECONDS
            early = 0 if is_sound else early + 1
            pause = _pause(early)
            self._lose(why, charged)
            while self._process is not None and self._process.is_alive():
                # Not even a kill ends it while its driver hangs, and it holds its device.
                if self._closing.wait(1.0):
                    break
        self._orders.put((None, None))

    def _live(self) -> tuple[str, bool]:
        """Start a child and take what it tells until its end; why it ended, and who is charged."""
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        process = context.Process(
            target=_serve, args=(its, *self._work), name=self._name, daemon=True
        )
        try:
            with its:
                process.start()
        except OSError as error:
            ours.close()
            return f"no process can be started: {error.strerror}", False
        self._process = process
        with self._lock:
            self._pipe = ours
            self._deadlines, self._is_told = {}, False
            self._order("prepare", self._upcoming)
            if self._closing.is_set():
                self._close_child()
        told = self._listen(process, ours)
        with self._lock:
            self._pipe = None
        # Not by this thread: the other one may be sending.
        self._orders.put((ours, None))
        process.join(_LOOK_SECONDS)
        process.kill()
        process.join(_CLOSE_SECONDS)
        code = process.exitcode
        why = "it cannot be killed" if code is None else exit_codes.cause_of(code)
        return told or (why, self._charged)

    def _listen(self, process: SpawnProcess, pipe: Any) -> tuple[str, bool] | None:
        """What ended a child, where that is known before its exit code is."""
        killed, heard_at = None, self._threads.awake()
        while True:
            self._threads.moved(self._name)
            if self._threads.awake() - heard_at > _SILENT_SECONDS and killed is None:
                # It was stopped, or its driver holds all of it.
                killed = f"silent for {_SILENT_SECONDS:.0f} s", self._charged
                process.kill()
            late = [each for each in self._deadlines.copy().values() if each[0] < monotonic()]
            if late and killed is None:
                killed = late[0][1:]
                process.kill()
            try:
                # A process that the child started may hold the pipe open after its death.
                if not pipe.poll(_LOOK_SECONDS):
                    if process.is_alive() or pipe.poll(0):
                        continue
                    return killed
                what, content = pipe.recv()
            except (EOFError, OSError):
                return killed
            heard_at = self._threads.awake()
            if what == "alive":
                continue
            if what == "ends":
                return content, self._charged
            if what == "log":
                logging.getLogger(content.name).handle(content)
                continue
            self._take(what, content)

    def _take(self, what: str, content: Any) -> None:
        with self._lock:
            if what == "slots":
                changed, gone = content
                before = _apart(self._seen)
                # Those of the child before are forgotten.
                kept = self._seen if self._is_told else {}
                self._seen = {n: s for n, s in kept.items() if n not in gone} | changed
                self._is_told = True
                if _apart(self._seen) == before:
                    return
                content = Woken()
            elif what == "refused":
                # It was lost before its tasks came: they go back.
                found = [slot for slot, (n, _) in self._in_flight.items() if n == content]
                if not found:
                    return
                del self._in_flight[found[0]]
                content = SlotLost(found[0], "it was lost before it began", charged=False)
            elif what == "abandoned":
                self._deadlines.pop(content, None)
                return
            elif not self._is_awaited(content):
                return
        self.events.put(content)

    def _is_awaited(self, event: Event) -> bool:
        """Whether an event is of tasks in flight; an answer takes its task out of them."""
        match event:
            case SlotLost():
                return self._in_flight.pop(event.slot, None) is not None
            case Progressed() | Rendered() | Failed() | StoppedEarly():
                _, tasks = self._in_flight.get(event.slot, (0, []))
                if event.task not in tasks:
                    return False
                if not isinstance(event, Progressed):
                    self._answers += 1
                    tasks.remove(event.task)
                    if not tasks:
                        del self._in_flight[event.slot]
        return True

    def _lose(self, why: str, charged: bool) -> None:
        """Tell of the slots that had tasks; none takes any until the next child is there."""
        with self._lock:
            lost, self._in_flight = self._in_flight, {}
            state, note = SlotState.STARTING, f"made again: {why}"
            if self._closing.is_set():
                state, note = SlotState.DRAINED, ""
            self._seen = {
                slot.name: replace(slot, busy=False, models=(), memory=None, state=state, note=note)
                for slot in self._seen.values()
            }
        for slot in lost:
            self.events.put(SlotLost(slot, why, charged))
        self.events.put(Woken())


def _pause(early: int) -> float:
    """The seconds before a child is made again of which so many ended soon, one after another."""
    return min(2.0 ** (early - 2), _LONGEST_PAUSE) if early > 1 else 0.0


def _apart(slots: Mapping[str, Slot]) -> list[Slot]:
    """Slots without what changes with every step, and what events tell of."""
    return [replace(slot, busy=False, memory=None) for slot in slots.values()]


# -- in the child ------------------------------------------------------------------------------


def _serve(
    pipe: Any,
    make: Callable[..., Executor],
    arguments: tuple[object, ...],
    environment: Mapping[str, str],
) -> None:
    """Do the orders that come through a pipe until it is closed."""
    for each in SIGNALS:
        # Not SIG_IGN, which the processes that this one starts would take over.
        signal.signal(each, lambda number, frame: None)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.update(environment)
    # What this one starts begins as in any process, and no kill leaves semaphores behind.
    multiprocessing.set_start_method(None, force=True)
    # What a command prints may be read as JSON.
    sys.stdout = sys.stderr
    with suppress(OSError):
        os.dup2(2, 1)
    teller = _Teller(pipe)
    log_to_parent(partial(teller.tell, "log"))
    for act in (_end_with_parent, teller.keep_alive):
        threading.Thread(target=act, daemon=True).start()
    try:
        executor = make(*arguments)
    except FluxdropError as error:
        teller.end(str(error), exit_codes.WRONG_USAGE)
    forwarder = threading.Thread(target=teller.forward, args=(executor,), daemon=True)
    forwarder.start()
    with suppress(EOFError, OSError):
        while (order := pipe.recv())[0] != "close":
            match order:
                case "start", number, slot, tasks:
                    try:
                        executor.start(slot, tasks)
                    except ValueError:
                        teller.tell("refused", number)
                case "abandon", slot, why:
                    if not executor.abandon(slot, why):
                        teller.end(why, exit_codes.HUNG)
                    teller.tell("abandoned", slot)
                case name, *given:
                    getattr(executor, name)(*given)
        executor.close()
        teller.is_closed = True
        forwarder.join()
    # Without taking every module down, which takes seconds.
    atexit._run_exitfuncs()
    os._exit(exit_codes.DONE)


class _Teller:
    """Tells the parent of an executor's events and slots."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._told: dict[str, Slot] = {}
        self.is_closed = False

    def tell(self, what: str, content: object) -> None:
        with self._lock:
            self._pipe.send((what, content))

    def keep_alive(self) -> None:
        """Say again and again that this process lives."""
        with suppress(OSError):
            while True:
                time.sleep(_ALIVE_SECONDS)
                self.tell("alive", None)

    def end(self, why: str, code: int) -> NoReturn:
        """End this process; nothing is told after why."""
        with self._lock:
            with suppress(OSError):
                self._pipe.send(("ends", why))
            os._exit(code)

    def forward(self, executor: Executor) -> None:
        """Tell of all events, each after the slots as they are by then."""
        try:
            looked = 0.0
            while True:
                event = None
                with suppress(Empty):
                    event = executor.events.get(timeout=_LOOK_SECONDS)
                if isinstance(event, Failed) and event.reason == "DeviceLost":
                    # Only another process can use the device again.
                    self.end("the GPU was lost", exit_codes.DEVICE_LOST)
                if not isinstance(event, Progressed) or monotonic() - looked > _LOOK_SECONDS:
                    looked = monotonic()
                    self._tell_slots(executor)
                if event is not None and not isinstance(event, Woken):
                    self.tell("event", event)
                elif event is None and self.is_closed:
                    return
        except OSError:
            os._exit(exit_codes.DONE)  # nobody listens
        except BaseException:
            log.critical("events cannot be told", exc_info=True)
            os._exit(exit_codes.BROKEN)

    def _tell_slots(self, executor: Executor) -> None:
        slots = {slot.name: slot for slot in executor.slots()}
        changed = {n: slot for n, slot in slots.items() if self._told.get(n) != slot}
        gone = self._told.keys() - slots.keys()
        if changed or gone:
            self._told = slots
            self.tell("slots", (changed, gone))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # In the middle of a step too: its picture is of no use any more.
    os._exit(exit_codes.DONE)
