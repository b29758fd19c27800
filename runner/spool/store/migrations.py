"""Brings the ledger's file to this version's schema, by numbered migrations in order.

The schema is the sum of the files in schema/. Each runs in one transaction that also sets the
file's number, so a kill or a full disk leaves the schema before or after it. A file that a newer
version made is refused and never changed.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from runner.errors import LedgerNewer
from runner.spool.disk.disk import Disk
from runner.spool.store.names import file_key

_FILES = {int(f.name.split("_")[0]): f for f in Path(__file__).with_name("schema").glob("*.sql")}
LATEST = max(_FILES)
# Of the files without a number there was one form.
_COLUMNS_OF_1 = (
    "seq id key state reason message kind model priority attempt revision total base_seed"
    " cancelled ready_at behind source_name source_sha256 source_bytes source_mtime_ns identity"
    " suffix spec realised inputs errors warnings accepted_at started_at finished_at"
).split()


def migrate(connection: sqlite3.Connection, file: Path, disk: Disk) -> None:
    """Run the migrations that a file lacks; before the first of them it is copied beside itself.

    Raises LedgerNewer, or sqlite3.Error with the file as it was before the migration that failed.
    """
    version = version_of(connection, file)
    if version == LATEST:
        return
    connection.create_function("file_key", 1, file_key, deterministic=True)
    if connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        disk.copy_database(connection, file.with_name(f"{file.name}.v{version}"))
    for number in range(version + 1, LATEST + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in (*_statements(number), f"PRAGMA user_version = {number}"):
                disk.before("statement", file)
                connection.execute(statement)
            disk.commit(connection, file, durable=True)
        except BaseException:
            connection.rollback()
            raise


def remove_copies(file: Path, disk: Disk) -> None:
    """Remove the copies of a ledger from before its migrations: this version has worked with it."""
    for copy in file.parent.glob(f"{file.name}.v*"):
        disk.remove(copy)


def version_of(connection: sqlite3.Connection, file: Path) -> int:
    """The number of a file's schema. Raises LedgerNewer where a newer version made it."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    columns = [row[1] for row in connection.execute("PRAGMA table_info(job)")]
    if version > LATEST or (version == 0 and columns and columns != _COLUMNS_OF_1):
        raise LedgerNewer(file, version, LATEST)
    return version


def _statements(number: int) -> Iterator[str]:
    """The statements of one migration: `executescript` would commit between them."""
    statement = ""
    for line in _FILES[number].read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
