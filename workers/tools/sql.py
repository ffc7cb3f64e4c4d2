"""Questions to a database in SQL, read only: DuckDB over its own file, or over the tables in a folder.

It is asked in processes of its own (``sql_process.py``), which a query that is too long or too large ends with.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from broker.errors import ConfigError, ToolError, ToolUnavailable
from broker.settings.tools import SqlTool
from workers.tools import Function

MEMORY_MB = 512
PROCESSES = 4  # at most, made as they are needed
START_S = 30.0
TOLD_TABLES = 40


class Sql:
    def __init__(self, name: str, row: SqlTool) -> None:
        self._name, self._row = name, row
        if find_spec("duckdb") is None:
            raise ToolUnavailable("the package duckdb is not installed", mend="pip install 'laneway[tools]'")
        if not row.database.exists():
            raise ConfigError(
                f"tools.{name}.database: {row.database} is not there", mend="give a .duckdb file or a folder"
            )
        self._lock, self._free = threading.Lock(), threading.BoundedSemaphore(PROCESSES)
        self._idle: list[_Process] = []
        first = _Process(row.database)
        if "error" in first.said:
            first.end()
            raise ConfigError(
                f"tools.{name}.database: {row.database} cannot be read: {first.said['error']}",
                mend="see that DuckDB can open it",
            )
        self._tables = _told(first.said["tables"])
        self._idle.append(first)

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
        asked = {"query": arguments["query"], "rows": self._row.rows}
        if not self._free.acquire(timeout=self._row.timeout_s):
            raise ToolError("the database is busy; try again later", failure="tool_hangs")
        try:
            said = self._asked(asked)
        finally:
            self._free.release()
        if "error" in said:
            raise ToolError(said["error"], failure=said.get("failure", "tool_failed"))
        return str(said["text"])

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _asked(self, asked: Mapping[str, object]) -> Mapping[str, Any]:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Process(self._row.database)
        try:
            said = process.asked(
                asked, time.monotonic() + self._row.timeout_s
            )  # a process's start is not the query's
        except TimeoutError as error:
            process.end()
            raise ToolError(f"it took more than {self._row.timeout_s:g} s", failure="tool_timeout") from error
        except (EOFError, OSError) as error:
            process.end()
            raise ToolError("the query took too much memory, and ended the database's process") from error
        with self._lock:
            self._idle.append(process)
        return said


class _Process:
    """One of them, used by one thread at a time. ``said`` is what it began with."""

    def __init__(self, database: Path) -> None:
        command = [sys.executable, "-m", "workers.tools.sql_process", str(database), str(MEMORY_MB)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        try:
            self.said: Mapping[str, Any] = json.loads(self._line(time.monotonic() + START_S))
        except (TimeoutError, EOFError, ValueError) as error:
            self.end()
            raise ToolUnavailable(
                f"the database's process does not start: {type(error).__name__}",
                mend="see the log of this node",
            ) from error

    def asked(self, what: Mapping[str, object], until: float) -> Mapping[str, Any]:
        """Its answer. Raises TimeoutError, and EOFError or OSError where it has ended."""
        line = json.dumps(what).encode() + b"\n"
        assert self._child.stdin is not None
        while line:
            line = line[self._child.stdin.write(line) or 0 :]
        answer: Mapping[str, Any] = json.loads(self._line(until))
        return answer

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        self._selector.close()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def _out(self) -> Any:
        return self._child.stdout

    def _line(self, until: float) -> bytes:
        held = bytearray()
        while not held.endswith(b"\n"):
            if not self._selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            piece = self._out.read(2**16)
            if not piece:
                raise EOFError
            held += piece
        return bytes(held)


def _told(tables: Sequence[Sequence[str]]) -> list[str]:
    told = [f"{table}({listed})" for table, listed in tables[:TOLD_TABLES]]
    return [*told, *(table for table, _ in tables[TOLD_TABLES:])]
