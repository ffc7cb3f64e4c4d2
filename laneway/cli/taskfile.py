"""A file of tasks: one JSON object a line with the keyword arguments of ``submit``."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from broker.errors import BadTask
from laneway.submission import Ids, task_of

STDIN = "-"
SHOWN_PROBLEMS = 5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskFile:
    """``name`` is for messages. ``lines`` can be read again from its start."""

    name: str
    lines: IO[bytes]

    def rows(self, defaults: Mapping[str, Any]) -> Iterator[Row]:
        """Each line's arguments, ``defaults`` for what it does not say. Raises BadTask that names file and line."""
        for number, line in self._numbered():
            yield self._row(number, line, defaults)

    def check(self, defaults: Mapping[str, Any]) -> int:
        """How many tasks there are. Raises BadTask that names file, line and argument of the first few bad ones."""
        good, ids = 0, Ids()
        problems: list[str] = []
        mends: set[str] = set()
        for number, line in self._numbered():
            try:
                row = self._row(number, line, defaults)
                task = task_of(row)
                if "task_id" in row:
                    ids.add(task, f"line {number}")
                good += 1
            except BadTask as error:
                place = "" if error.message.startswith(f"{self.name}:") else f"{self.name}:{number}: "
                problems.append(place + error.message)
                mends.add(error.mend)
            if len(problems) == SHOWN_PROBLEMS:
                break
        if problems:
            mend = mends.pop() if len(mends) == 1 else ""
            raise BadTask(
                "\n  ".join([*problems, "none of its tasks was taken"]), mend=mend or "mend these lines"
            )
        return good

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        self.lines.seek(0)
        for number, line in enumerate(self.lines, 1):
            if line.strip():
                yield number, line

    def _row(self, number: int, line: bytes, defaults: Mapping[str, Any]) -> Row:
        try:
            row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BadTask(
                f"{self.name}:{number}: not a JSON object: {error}",
                mend='write one object a line, as {"prompt": "…"}',
            ) from error
        if not isinstance(row, dict):
            raise BadTask(f"{self.name}:{number}: not a JSON object but {type(row).__name__}")
        return {**defaults, **{name: value for name, value in row.items() if value is not None}}


@contextmanager
def opened(name: str) -> Iterator[TaskFile]:
    """The file, or standard input for ``-``. What cannot be read twice is copied first. Raises BadTask."""
    try:
        with sys.stdin.buffer if name == STDIN else Path(name).open("rb") as source:
            if name != STDIN and source.seekable():
                yield TaskFile(name, source)
                return
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(source, copy)
                yield TaskFile("standard input" if name == STDIN else name, copy)
    except OSError as error:
        if error.filename != name:
            raise
        raise BadTask(
            f"{name} cannot be read: {error.strerror}", mend="name a readable file, or -"
        ) from error


def read_prompt(words: str) -> str:
    """The words themselves, or standard input for ``-``. Raises BadTask."""
    if words != STDIN:
        return words
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise BadTask(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
