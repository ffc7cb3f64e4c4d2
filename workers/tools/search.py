"""Full-text search over the text files of a folder: SQLite's FTS5 and its BM25 over passages.

The index is in memory and follows the folder. What leads out of the folder is not in it.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from broker.errors import ConfigError, ToolError
from broker.settings.tools import SearchTool
from workers.tools import Function

PASSAGE_CHARS = 1_200
LARGEST_FILE = 20_000_000  # bytes
LOOK_EVERY_S = 30.0
MOST_WORDS = 100
_WORD = re.compile(r"\w+")


class Search:
    def __init__(self, name: str, row: SearchTool) -> None:
        self._name, self._row = name, row
        if not row.folder.is_dir():
            raise ConfigError(
                f"tools.{name}.folder: {row.folder} is no folder", mend="give the folder of its files"
            )
        self._root = row.folder.resolve()
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(file UNINDEXED, text, tokenize='porter unicode61')"
        )
        self._known: dict[str, tuple[int, int]] = {}
        self._looked = 0.0
        self._follow()

    def functions(self) -> Sequence[Function]:
        described = self._row.description or (
            "Finds the passages of our files that say most of the words that are asked for."
        )
        parameters = {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "a few telling words"}},
            "required": ["query"],
            "additionalProperties": False,
        }
        return [Function(self._name, described, parameters, reads_only=True)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        words = dict.fromkeys(_WORD.findall(arguments["query"]))
        if not 0 < len(words) <= MOST_WORDS:
            raise ToolError(f"the query has {len(words) or 'no'} words; give a few", failure="bad_arguments")
        asked = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            self._follow()
            found = self._index.execute(
                "SELECT file, text FROM passages WHERE passages MATCH ? ORDER BY rank, rowid LIMIT ?",
                (asked, self._row.results),
            ).fetchall()
        return "\n\n".join(f"[{file}]\n{text}" for file, text in found) or "Nothing was found."

    def close(self) -> None:
        self._index.close()

    def _follow(self) -> None:
        """Take in what has changed in the folder since it was looked at."""
        if self._looked and time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        files = dict(self._files())
        for name in [name for name, state in self._known.items() if files.get(name) != state]:
            self._index.execute("DELETE FROM passages WHERE file = ?", (name,))
        for name, state in files.items():
            if self._known.get(name) != state:
                text = (self._root / name).read_text(errors="replace")
                rows = [(name, passage) for passage in passages(text)]
                self._index.executemany("INSERT INTO passages VALUES (?, ?)", rows)
        self._index.commit()
        self._known, self._looked = files, time.monotonic()

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in sorted(self._root.glob(self._row.glob)):
            real = path.resolve()
            if real.is_file() and real.is_relative_to(self._root) and path.is_relative_to(self._root):
                state = real.stat()
                if state.st_size <= LARGEST_FILE:
                    yield str(path.relative_to(self._root)), (state.st_mtime_ns, state.st_size)


def passages(text: str) -> Iterator[str]:
    """Pieces of about ``PASSAGE_CHARS``, cut between paragraphs where that can be, else between lines."""
    held = ""
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in _lines(paragraph) if len(paragraph) > PASSAGE_CHARS else [paragraph]:
            if held and len(held) + len(piece) > PASSAGE_CHARS:
                yield held
                held = ""
            held = f"{held}\n\n{piece}" if held else piece
    if held.strip():
        yield held


def _lines(paragraph: str) -> Iterator[str]:
    held = ""
    for line in paragraph.splitlines():
        for start in range(0, max(1, len(line)), PASSAGE_CHARS):
            piece = line[start : start + PASSAGE_CHARS]
            if held and len(held) + len(piece) > PASSAGE_CHARS:
                yield held
                held = ""
            held = f"{held}\n{piece}" if held else piece
    if held:
        yield held
