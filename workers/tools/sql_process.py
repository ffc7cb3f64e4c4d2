"""The process in which a database is asked: DuckDB holds some memory beside its own limit, and native code may crash.

    python -m workers.tools.sql_process DATABASE MEMORY_MB

It says on its standard output how it began, then answers each line of standard input with a line, all of them JSON.
Three locks: one statement and that a SELECT, a configuration that nobody can change any more, and no way out of the
database or the folder.
"""

from __future__ import annotations

import csv
import io
import json
import os
import queue
import resource
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".json": "read_json", ".jsonl": "read_json"}
LONGEST = 1_000_000  # characters of an answer
SLACK_MB = 1_024  # addresses of DuckDB and Python themselves, of which most are never touched


def main() -> None:
    path, memory_mb = Path(sys.argv[1]), int(sys.argv[2])
    addresses = (memory_mb + SLACK_MB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        database = opened(path, memory_mb)
        say({"tables": tables(database)})
    except duckdb.Error as error:
        say({"error": str(error)})
        return
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=follow, args=(lines,), daemon=True).start()
    while True:
        asked = json.loads(lines.get())
        try:
            say({"text": answer(database, asked["query"], asked["rows"])})
        except PermissionError as error:
            say({"error": str(error), "failure": "refused"})
        except (duckdb.Error, UnicodeError, MemoryError) as error:
            say({"error": (str(error) or "out of memory").splitlines()[0], "failure": "tool_failed"})


def follow(lines: queue.SimpleQueue[str]) -> None:
    """Take in what is asked, and end with whoever asks, in the middle of a query too."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def opened(path: Path, memory_mb: int) -> duckdb.DuckDBPyConnection:
    database = _folder(path) if path.is_dir() else duckdb.connect(str(path), read_only=True)
    database.execute(f"SET memory_limit = '{memory_mb}MB'; SET threads = 1")
    database.execute("SET temp_directory = ''; SET max_temp_directory_size = '0B'")
    database.execute("SET enable_external_access = false; SET lock_configuration = true")
    return database


def answer(database: duckdb.DuckDBPyConnection, query: str, rows: int) -> str:
    """Raises PermissionError for what is no single SELECT."""
    cursor = database.cursor()
    try:
        statements = cursor.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise PermissionError("only one SELECT is answered")
        cursor.execute(statements[0])
        found = cursor.fetchmany(rows + 1)
        return _shown([one[0] for one in cursor.description or ()], found, rows)
    finally:
        cursor.close()


def _folder(folder: Path) -> duckdb.DuckDBPyConnection:
    """A view for each file, under the file's name; a folder's Parquet files are one view under the folder's.

    What leads out of the folder is left out: its columns are nobody's to see either.
    """
    database = duckdb.connect(":memory:")
    root = folder.resolve()
    database.execute(f"SET allowed_directories = [{_quoted(f'{root}/')}]")
    for path in sorted(folder.iterdir()):
        parts = sorted(path.glob("**/*.parquet")) if path.is_dir() else []
        reader = "read_parquet" if parts else READERS.get(path.suffix)
        if reader and all(one.resolve().is_relative_to(root) for one in (path, *parts)):
            source = str(path.resolve() / "**/*.parquet" if parts else path.resolve())
            view = path.stem.replace('"', '""')
            database.execute(f'CREATE VIEW "{view}" AS SELECT * FROM {reader}({_quoted(source)})')
    return database


def tables(database: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Each table and its columns, in the order of names: what a provider caches stays the same."""
    return database.execute(
        "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position)"
        " FROM information_schema.columns WHERE table_schema = 'main' GROUP BY 1 ORDER BY 1"
    ).fetchall()


def _shown(names: Sequence[str], rows: Sequence[Sequence[Any]], limit: int) -> str:
    """As CSV: the fewest tokens that still name the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows[:limit])
    more = f"(only the first {limit} rows)\n" if len(rows) > limit else ""
    return text.getvalue()[:LONGEST] + more


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    main()
