"""Questions to a database in SQL, read only: DuckDB over its own file, or over the tables in a folder.

Three locks: one statement and that a SELECT, a configuration that nobody can change any more, and no way out of the
database or the folder.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from broker.errors import ConfigError, ToolError
from broker.settings import SqlTool
from workers.tools import Function

MEMORY = "512MB"
READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".json": "read_json", ".jsonl": "read_json"}
TOLD_TABLES = 40


class Sql:
    def __init__(self, name: str, row: SqlTool) -> None:
        self._name, self._row = name, row
        path = row.database
        if not path.exists():
            raise ConfigError(
                f"tools.{name}.database: {path} is not there", mend="give a .duckdb file or a folder"
            )
        try:
            self._database = _folder(path) if path.is_dir() else duckdb.connect(str(path), read_only=True)
            self._database.execute(f"SET memory_limit = '{MEMORY}'; SET threads = 1")
            self._database.execute("SET enable_external_access = false; SET lock_configuration = true")
            self._tables = _tables(self._database)
        except duckdb.Error as error:
            raise ConfigError(
                f"tools.{name}.database: {path} cannot be read: {error}", mend="see that DuckDB can open it"
            ) from error

    def functions(self) -> Sequence[Function]:
        described = self._row.description or "Answers one SELECT in DuckDB's SQL."
        parameters = {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "one SELECT"}},
            "required": ["query"],
            "additionalProperties": False,
        }
        described = f"{described} Tables: {'; '.join(self._tables)}"
        return [Function(self._name, described, parameters, reads_only=True)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        cursor = self._database.cursor()
        try:
            statements = cursor.extract_statements(arguments["query"])
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise ToolError("only one SELECT is answered", failure="refused")
            alarm = threading.Timer(self._row.timeout_s, cursor.interrupt)
            alarm.start()
            try:
                cursor.execute(statements[0])
                found = cursor.fetchmany(self._row.rows + 1)
            finally:
                alarm.cancel()
            return _shown([one[0] for one in cursor.description or ()], found, self._row.rows)
        except duckdb.InterruptException as error:
            raise ToolError(f"it took more than {self._row.timeout_s:g} s", failure="tool_timeout") from error
        except (duckdb.Error, UnicodeError) as error:
            raise ToolError(str(error).splitlines()[0]) from error
        finally:
            cursor.close()

    def close(self) -> None:
        self._database.close()


def _folder(folder: Path) -> duckdb.DuckDBPyConnection:
    """A view for each file, under the file's name; a folder's Parquet files are one view under the folder's."""
    database = duckdb.connect(":memory:")
    database.execute(f"SET allowed_directories = [{_quoted(str(folder.resolve()) + '/')}]")
    for path in sorted(folder.iterdir()):
        parts = sorted(path.glob("**/*.parquet")) if path.is_dir() else []
        reader = "read_parquet" if parts else READERS.get(path.suffix)
        if reader:
            source = str(path.resolve() / "**/*.parquet" if parts else path.resolve())
            view = path.stem.replace('"', '""')
            database.execute(f'CREATE VIEW "{view}" AS SELECT * FROM {reader}({_quoted(source)})')
    return database


def _tables(database: duckdb.DuckDBPyConnection) -> list[str]:
    """Each table with its columns, in the order of names: what a provider caches stays the same."""
    columns = database.execute(
        "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position)"
        " FROM information_schema.columns WHERE table_schema = 'main' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    told = [f"{table}({listed})" for table, listed in columns[:TOLD_TABLES]]
    return [*told, *(table for table, _ in columns[TOLD_TABLES:])]


def _shown(names: Sequence[str], rows: Sequence[Sequence[Any]], limit: int) -> str:
    """As CSV: the fewest tokens that still name the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows[:limit])
    more = f"(only the first {limit} rows)\n" if len(rows) > limit else ""
    return text.getvalue() + more


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
