"""Three ways to keep the gallery's rows, for the bench: ours, plain TinyDB, SQLite with FTS5."""

from __future__ import annotations

import json
import random
import sqlite3
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from tinydb import TinyDB, where

from runner.gallery.search import search
from runner.gallery.store import Gallery
from tests.gallery.samples import write

COMMON, HUNDREDTH, RAREST = "everywhere", "hundredth", "singular"


class Contender(ABC):
    """One way to keep the rows; `cold` is the program of a process that asks one question."""

    name = ""
    cold = ""
    # Where every insert rewrites everything, only so many are waited for.
    most_inserts = 1_000
    repeats = 15

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def fill(self, rows: Iterable[dict[str, Any]]) -> None:
        """Put many rows."""

    @abstractmethod
    def insert(self, row: dict[str, Any]) -> None:
        """Put one row, to be seen by other processes."""

    @abstractmethod
    def find(self, word: str, kind: str | None = None) -> int:
        """The newest twenty rows with the word; returns how many there are in all."""

    @abstractmethod
    def get(self, row_id: str) -> Any:
        """One row."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files."""


class Ours(Contender):
    name = "fluxdrop"
    cold = (
        "from pathlib import Path\n"
        "from runner.gallery.search import search\n"
        "from runner.gallery.store import Gallery\n"
        "gallery = Gallery(Path(sys.argv[1]))\n"
        "before = held()\n"
        "total = search(gallery, sys.argv[2], limit=20)['total']\n"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gallery = Gallery(folder, write)

    def fill(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = iter(rows)
        while batch := list(islice(rows, 1000)):
            self.gallery.add(*batch)

    def insert(self, row: dict[str, Any]) -> None:
        self.gallery.add(row)

    def find(self, word: str, kind: str | None = None) -> int:
        return search(self.gallery, word, kind=kind, limit=20)["total"]

    def get(self, row_id: str) -> Any:
        return self.gallery.get(row_id)

    def close(self) -> None:
        # Nothing is held open between calls.
        return


class PlainTinyDB(Contender):
    name = "plain TinyDB"
    most_inserts = 5
    repeats = 3
    cold = (
        "from pathlib import Path\n"
        "from tinydb import TinyDB, where\n"
        "table = TinyDB(Path(sys.argv[1]) / 'db.json').table('rows')\n"
        "before = held()\n"
        "total = len(table.search(where('prompt').search(sys.argv[2])))\n"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.base = TinyDB(folder / "db.json")
        self.table = self.base.table("rows")

    def fill(self, rows: Iterable[dict[str, Any]]) -> None:
        self.table.insert_multiple(rows)

    def insert(self, row: dict[str, Any]) -> None:
        self.table.insert(row)

    def find(self, word: str, kind: str | None = None) -> int:
        self.table.clear_cache()
        query = where("prompt").search(rf"\b{word}")
        return len(self.table.search(query if kind is None else query & (where("kind") == kind)))

    def get(self, row_id: str) -> Any:
        return self.table.get(where("id") == row_id)

    def close(self) -> None:
        self.base.close()


class SQLite(Contender):
    name = "SQLite FTS5"
    cold = (
        "import sqlite3\n"
        "from pathlib import Path\n"
        "base = sqlite3.connect(Path(sys.argv[1]) / 'db.sqlite')\n"
        "before = held()\n"
        "asked = 'SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rowid DESC'\n"
        "total = len(base.execute(asked, (sys.argv[2] + '*',)).fetchall())\n"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.base = sqlite3.connect(folder / "db.sqlite", isolation_level=None)
        self.base.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE rows (n INTEGER PRIMARY KEY, id TEXT UNIQUE, kind TEXT, row TEXT);"
            "CREATE VIRTUAL TABLE texts USING fts5(prompt, content = '');"
        )

    def fill(self, rows: Iterable[dict[str, Any]]) -> None:
        self.base.execute("BEGIN")
        for row in rows:
            self._put(row)
        self.base.execute("COMMIT")

    def insert(self, row: dict[str, Any]) -> None:
        self.base.execute("BEGIN")
        self._put(row)
        self.base.execute("COMMIT")

    def _put(self, row: dict[str, Any]) -> None:
        values = (row["id"], row["kind"], json.dumps(row))
        done = self.base.execute("INSERT INTO rows (id, kind, row) VALUES (?, ?, ?)", values)
        text = (done.lastrowid, row["prompt"])
        self.base.execute("INSERT INTO texts (rowid, prompt) VALUES (?, ?)", text)

    def find(self, word: str, kind: str | None = None) -> int:
        asked = "FROM texts JOIN rows ON rows.n = texts.rowid WHERE texts MATCH ?"
        values = [f"{word}*"]
        if kind is not None:
            asked, values = f"{asked} AND kind = ?", [*values, kind]
        page = self.base.execute(f"SELECT row {asked} ORDER BY n DESC LIMIT 20", values)
        assert [json.loads(row) for (row,) in page]
        (total,) = self.base.execute(f"SELECT count(*) {asked}", values).fetchone()
        return int(total)

    def get(self, row_id: str) -> Any:
        asked = "SELECT row FROM rows WHERE id = ?"
        return json.loads(self.base.execute(asked, (row_id,)).fetchone()[0])

    def close(self) -> None:
        self.base.close()


CONTENDERS: tuple[type[Contender], ...] = (Ours, PlainTinyDB, SQLite)


def rows(first: int, last: int) -> Iterator[dict[str, Any]]:
    """Rows as a bulk run makes them: forty words of a vocabulary with a few frequent ones."""
    return (_row(number) for number in range(first, last))


@cache
def _vocabulary() -> list[str]:
    chance = random.Random(0)
    return ["".join(chance.choices(string.ascii_lowercase, k=3 + n % 8)) for n in range(6000)]


def _row(number: int) -> dict[str, Any]:
    chance, known = random.Random(number), _vocabulary()
    said = [known[min(len(known) - 1, int(chance.paretovariate(0.6)))] for _ in range(40)]
    said.append(COMMON)
    said += [HUNDREDTH] if number % 100 == 0 else []
    said += [RAREST] if number == 77 else []
    job, stem = f"job{number // 100}", f"job{number // 100}-{number % 100:04}"
    day, second = divmod(number, 8000)
    return {
        "id": stem,
        "job": job,
        "index": number % 100,
        "file": f"outbox/{job}/{stem}.png",
        "sidecar": f"outbox/{job}/{stem}.json",
        "thumbnail": f"outbox/{job}/thumbs/{stem}.webp",
        "prompt": " ".join(said),
        "model": ("dev", "schnell", "tiny")[number % 3],
        "kind": "fill" if number % 7 == 3 else "text2img",
        "seed": chance.randrange(2**32),
        "tags": ["poster"],
        "pack": "lamps",
        "subject": f"subject {number % 20}",
        "variable": f"variable {number % 9}",
        "width": 1024,
        "height": 1024,
        "seconds": 3.2,
        "created_at": f"2026-11-{1 + day:02}T{second // 3600:02}:{second // 60 % 60:02}:00.000Z",
        "steps": 28,
        "guidance": 3.5,
    }
