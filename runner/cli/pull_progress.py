"""Fetching models with their progress: bars on a terminal, elsewhere a line for each tenth.

Progress goes to standard error; standard output has results only.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from runner.cli.output import print_message
from runner.engine.hub import library as hub
from runner.engine.hub.pull import Puller, Share, check_room
from runner.engine.hub.sources import Source, lacking
from runner.errors import ModelMissing
from runner.settings import Home
from runner.terminal import escaped, size_text
from specs.errors import FluxdropError

_TENTHS = 10


class Pulling:
    """One `models pull`: surveys everything first, then fetches name by name.

    `again` is the command that continues it, for error messages; `quiet` prints no progress.
    """

    def __init__(self, home: Home, *, again: str, quiet: bool) -> None:
        self._home = home
        self._again = again
        self._quiet = quiet
        self._puller = Puller(home.data, again=again)
        self._stop = Event()
        self._shares: dict[Source, Share] = {}
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._is_terminal = self._bars.console.is_terminal

    def __enter__(self) -> Self:
        if self._is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._is_terminal:
            self._bars.stop()

    def run(self, targets: Mapping[str, Sequence[Source]], *, verify: bool) -> list[dict[str, Any]]:
        """Fetch everything and return one row for each name: what became of it.

        Raises DiskFull, before anything is fetched, where the disk has no room for all of it.
        """
        rows = {name: self._survey(name, needed, verify) for name, needed in targets.items()}
        wanted = {
            source: self._shares[source]
            for name, needed in targets.items()
            for source in needed
            if rows[name]["ok"] and source in self._shares
        }
        check_room(wanted.values(), self._home.data, again=self._again)
        for name, needed in targets.items():
            shares = [wanted.pop(source) for source in needed if source in wanted]
            if rows[name]["ok"] and shares:
                rows[name] = self._fetch(name, needed, shares, rows[name])
        return list(rows.values())

    def _survey(self, name: str, needed: Sequence[Source], verify: bool) -> dict[str, Any]:
        row = {"name": name, "ok": True, "path": self._path(needed), "bytes": 0, "fetched": 0}
        survey_bar = self._bars.add_task(f"asking for {name}", total=None)
        try:
            for source in needed:
                if source.is_local:
                    if not self._is_here(source):
                        raise ModelMissing(
                            f"{name} is in a folder of yours, and not all of it is there: see"
                            f" `fluxdrop models check {name}`"
                        )
                elif source not in self._shares:
                    self._shares[source] = self._puller.survey(source, verify=verify)
        except FluxdropError as error:
            if verify or not all(self._is_here(source) for source in needed):
                return {**row, "ok": False, "error": str(error)}
            row["note"] = str(error)
            note = f"{name}: nothing newer was looked for: {error}"
            if self._is_terminal and not self._quiet:
                self._bars.console.print(escaped(note), markup=False, highlight=False)
            self._print_progress(note)
        finally:
            self._bars.remove_task(survey_bar)
        shares = [self._shares[source] for source in needed if source in self._shares]
        row["bytes"] = sum(share.bytes for share in shares)
        return row

    def _fetch(
        self, name: str, needed: Sequence[Source], shares: Sequence[Share], row: dict[str, Any]
    ) -> dict[str, Any]:
        to_come = sum(share.to_come for share in shares)
        total = sum(file.size for share in shares for file in share.gone)
        if to_come:
            self._print_progress(f"{name}: {size_text(to_come)} to come")
        count = self._counter(name, total)
        try:
            for share in shares:
                self._puller.fetch(share, count, self._stop)
        except FluxdropError as error:
            return {**row, "ok": False, "error": str(error)}
        return {**row, "path": self._path(needed), "fetched": to_come}

    def _counter(self, name: str, total: int) -> Callable[[int], None]:
        """What adds the bytes that come for one name, from several threads, and shows the sum.

        Their number is negative where a file has to start again from its beginning.
        """
        bar = self._bars.add_task(name, total=total)
        done = shown = 0
        lock = Lock()

        def add(count: int) -> None:
            nonlocal done, shown
            with lock:
                done += count
                self._bars.update(bar, completed=done)
                tenths = _TENTHS * done // max(total, 1)
                if shown < tenths < _TENTHS:
                    self._print_progress(f"{name}: {size_text(done)} of {size_text(total)}")
                shown = max(tenths, shown)

        return add

    def _is_here(self, source: Source) -> bool:
        folder = hub.locate(source, self._home.data)
        return folder is not None and not lacking(source, folder)

    def _path(self, needed: Sequence[Source]) -> str | None:
        folder = hub.locate(needed[0], self._home.data) if needed else None
        return str(folder) if folder else None

    def _print_progress(self, text: str) -> None:
        """Print what bars show on a terminal; nothing where there are bars."""
        if not self._quiet and not self._is_terminal:
            print_message(text)
