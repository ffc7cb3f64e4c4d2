"""The batch seam: a provider that takes many calls as one file, at a discount, and answers within a day.

An engine that has it gives a ``BatchDoor``; ``tests/conformance/test_batches.py`` runs over all of them. What becomes
of the tasks is ``workers/batch.py``'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from broker.call import Call, Reply
from broker.errors import EngineError

#: How long one request about a batch may take, an upload of all its lines included.
ASK_S = 600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a batch stands with its provider. ``ended``: no line of it will be answered any more. ``answered``: so many
    answers are there at least, once it has ended. ``refused`` is why the provider took none of it, "" where it did."""

    ended: bool
    answered: int
    refused: str = ""


class BatchDoor(Protocol):
    """One provider's batches. Every method but ``line`` and ``read`` asks the provider and raises EngineError."""

    line_limit: int
    bytes_limit: int

    def line(self, line_id: str, call: Call) -> bytes:
        """The call as a line of the file, its end included. ``line_id``: at most 64 of A-Z a-z 0-9 _ -.

        Raises CallRejected for what the provider has no form for.
        """

    def send(self, name: str, path: Path, lines: int) -> str:
        """Hand in the file; gives the provider's id. ``name`` is ours, by which ``find`` knows it again."""

    def find(self, name: str, lines: int, since_s: float, known: Set[str]) -> str | None:
        """The provider's id of a batch that was sent without its answer having come; None where it has none.

        ``since_s``: when it was sent, in seconds since the epoch. ``known`` are ids that are not meant. It may be
        another's where the provider takes no name; its results tell.
        """

    def standing(self, provider_id: str) -> Standing: ...

    def results(self, provider_id: str, answered: int) -> Iterator[tuple[str, Any]]:
        """Of each line, in any order, its id and the provider's words; None for one that expired or was cancelled
        before its turn, which may also be missing. What cannot be read comes under the id "".

        Raises EngineConnectionLost in the end where fewer than ``answered`` came, which is what its standing says.
        """

    def read(self, result: Any, call: Call) -> Reply | EngineError:
        """What a line came to: ``result``, as ``results`` gave it, as an answer to the call or as an error."""

    def cancel(self, provider_id: str) -> None:
        """Have no further line worked on. What was answered stays."""

    def forget(self, provider_id: str) -> None:
        """All is read: the provider may delete its files."""


def rows_of(chunks: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Of each line of a file that comes in pieces its ``custom_id`` and what it holds, "" and the text where it names
    no line of a batch. Only a line feed ends a line: an answer may hold all else that ends one elsewhere."""
    for line in filter(bytes.strip, _lines(chunks)):
        text = line.decode(errors="replace")
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        name = row.get("custom_id") if isinstance(row, dict) else None
        yield (name, row) if isinstance(name, str) and name.isascii() else ("", text)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """One at a time: a file of answers may be hundreds of megabytes."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest
