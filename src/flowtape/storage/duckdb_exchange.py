"""A new file in the place of an embedded store's, whole or not at all; and shrinking a store by copying it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from flowtape.errors import StoreError
from flowtape.files import Held, private
from flowtape.storage import other_format
from flowtape.storage.duckdb_file import CONFIG, opening
from flowtape.storage.duckdb_tables import DDL, PRINT_COLUMNS, VERSION

Progress = Callable[[float], None]


@contextmanager
def in_place_of(path: Path) -> Iterator[tuple[Any, Path]]:
    """Give a connection to a store's file, which no other process can open meanwhile, and the path of the file that is
    to be made. At the end that file, where it was made, takes the place of the old one in one step.

    A new file that an earlier run left unfinished is removed first. Raises `StoreBusy`, `StoreError`, also where the
    disk has less room than the old file takes.
    """
    if not path.is_file():
        raise StoreError(f"{path.name}: there is no such store")
    path = path.resolve()
    new = path.with_name(f"{path.name}.new")
    _remove(new)
    try:
        connection = duckdb.connect(str(path), config=CONFIG)
    except (duckdb.Error, OSError) as error:
        raise opening(path, error) from None
    held = Held(path)
    try:
        with closing(connection) as old, private():
            # Nothing may be left in a log: it would be taken for that of the new file, here or at closing.
            old.execute("CHECKPOINT; PRAGMA disable_checkpoint_on_shutdown")
            if _log_of(path).exists():
                raise StoreError(f"{path.name}: its log cannot be written into the file")
            _check_room(path)
            yield old, new
            if new.exists():
                if _log_of(new).exists():
                    raise StoreError(f"{path.name}: the new file is not complete; nothing is changed")
                shutil.copymode(path, new)
                _sync(new)
                new.replace(path)
                _sync(path.parent)
    except duckdb.Error as error:
        raise StoreError(f"{path.name}: {str(error).splitlines()[0]}") from error
    finally:
        held.release()
        _remove(new)


def vacuum(path: Path, progress: Progress = lambda done: None) -> tuple[int, int]:
    """Shrink a store by copying it; return the bytes of its file before and after.

    Rows keep their order. A kill at any instant leaves the old file or the new one. `progress` is called with the share
    that is done. Raises as `in_place_of` does.
    """
    before = path.stat().st_size if path.exists() else 0
    with in_place_of(path) as (old, new):
        version = version_of(old)
        if version != VERSION:
            raise StoreError(f"{path.name}: {other_format(version, VERSION)}")
        name, size, used = old.execute(
            "SELECT database_name, block_size, used_blocks FROM pragma_database_size()"
            " WHERE database_name = current_database()"
        ).fetchall()[0]
        old.execute("SET preserve_insertion_order = true; SET memory_limit = '600MB'")
        old.execute("ATTACH '" + str(new).replace("'", "''") + f"' AS copy; USE copy; BEGIN; {DDL} COMMIT")
        with _told(new, max(1, size * used), progress):
            _copy(old, f'"{name}"')
        old.execute(f'CHECKPOINT copy; USE "{name}"; DETACH copy')
    return before, path.stat().st_size


def _copy(old: Any, name: str) -> None:
    sql = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'copy' AND table_name != 'meta'"
    for (table,) in old.execute(sql).fetchall():
        # In one statement, so that every block is filled and written once.
        columns = PRINT_COLUMNS if table == "print_rows" else "*"
        old.execute(f"INSERT INTO copy.{table} BY NAME SELECT {columns} FROM {name}.{table}")
        kept, made = (
            old.execute(f"SELECT count(*) FROM {of}.{table}").fetchall()[0][0] for of in (name, "copy")
        )
        if kept != made:
            raise StoreError(f"{table}: {made:,} of {kept:,} rows were copied; nothing is changed")


@contextmanager
def _told(file: Path, whole: int, progress: Progress) -> Iterator[None]:
    """Call `progress` with the share that a file has of so many bytes, while it grows."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(0.2):
            if file.exists():
                progress(min(1.0, file.stat().st_size / whole))

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def version_of(connection: Any) -> str:
    """Return the format version of an open store, empty where it has none. Raises `StoreError` for another file."""
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if "meta" not in tables:
        raise StoreError("it is a DuckDB file, but not a flowtape store")
    found = connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchall()
    return str(found[0][0]) if found else ""


def _check_room(path: Path) -> None:
    needed, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(
            f"{path.name}: the copy may take {needed / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free"
        )


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    for one in (path, _log_of(path)):
        one.unlink(missing_ok=True)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")
