"""Reads stream entries as the producers' scripts wrote them, quickly and without trust.

Many entries are taken apart at once and their facts turned into columns. Where something in them is wrong they are
halved until the one fact that is wrong stands alone, so that its neighbours pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from accounting import facts, ledger, schema
from broker.events import Event, decode_entry

#: Facts that are taken apart at once: enough for columns to pay, few enough to leave the garbage collector asleep.
HANDFUL = 8_000
Numbers = npt.NDArray[np.int64]


class Flaw(NamedTuple):
    """What is wrong with the entry of this number, or with one fact of it."""

    entry: int
    why: str


class _Page(NamedTuple):
    """Facts of one handful, in the order of the stream; ``columns`` are theirs kind by kind."""

    refs: tuple[bytes, ...]
    seq: Numbers
    at_us: Numbers
    submitted_us: Numbers
    columns: list[facts.Columns]


class Gathered:
    """The facts of stream entries, as columns. ``entries`` is how many entries there were so far."""

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        self.entries = 0
        self.flaws: list[Flaw] = []
        self._items: list[Any] = []
        self._shares: list[
            tuple[int, int, int]
        ] = []  # of each entry: its number, its time, how many items it has
        self._pages: list[_Page] = []
        self._facts = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: bytes | None) -> None:
        """None: there are no bytes where they should be."""
        number = self.entries
        self.entries += 1
        try:
            at, items = msgpack.unpackb(entry, use_list=False, raw=True)  # Lua tells no text from bytes
            self._shares.append((number, _wholes((at,))[0], len(items)))
            self._items.extend(items)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            self.flaws.append(Flaw(number, f"not an entry: {error}"))
        if len(self._items) >= HANDFUL:
            self._take_apart()

    def size(self) -> int:
        """Facts and flaws so far."""
        return self._facts + len(self._items) + len(self.flaws)

    def by_day(self) -> Iterator[tuple[str, Any]]:
        """The facts as rows of ``events``, day by day of their tasks' submission."""
        self._take_apart()
        if not self._pages:
            return
        refs = chain.from_iterable(page.refs for page in self._pages)
        known: dict[bytes, int] = {}
        codes = np.array([known.setdefault(ref, len(known)) for ref in refs], dtype=np.int32)
        tasks = _Tasks.of(known)
        seq, at_us, submitted_us = (
            np.concatenate([getattr(page, name) for page in self._pages])
            for name in ("seq", "at_us", "submitted_us")
        )
        days = submitted_us // ledger.US_PER_DAY
        order = np.argsort(days, kind="stable")
        made = facts.together(self._columns(), order) | {
            "workspace": tasks.workspace.take(pa.array(codes[order])),
            "task_id": pa.DictionaryArray.from_arrays(pa.array(codes[order]), tasks.task_id),
            "seq": pa.array(seq[order]),
            "at": pa.array(at_us[order]).cast(schema.TIME),
            "submitted_at": pa.array(submitted_us[order]).cast(schema.TIME),
        }
        table = pa.table({name: made[name] for name in schema.EVENTS.names})
        numbers, starts = np.unique(days[order], return_index=True)
        for number, start, end in zip(numbers.tolist(), starts, [*starts[1:], len(order)], strict=True):
            yield ledger.day_of(number * ledger.US_PER_DAY), table.slice(start, end - start)

    def _columns(self) -> list[facts.Columns]:
        """Those of all pages, their places counted through."""
        starts = np.cumsum([0, *(len(page.refs) for page in self._pages)]).tolist()
        return [
            one._replace(places=one.places + start)
            for page, start in zip(self._pages, starts, strict=False)
            for one in page.columns
        ]

    def _take_apart(self) -> None:
        entries, times, counts = (
            (np.array(one, dtype=np.int64) for one in zip(*self._shares, strict=True))
            if self._shares
            else (np.zeros(0, dtype=np.int64),) * 3
        )
        items, self._items, self._shares = self._items, [], []
        self._halve(items, np.repeat(times, counts), np.repeat(entries, counts))

    def _halve(self, items: Sequence[Any], at_us: Numbers, entries: Numbers) -> None:
        if not items:
            return
        try:
            self._pages.append(_page(items, at_us))
            self._facts += len(items)
        except ValueError as error:
            if len(items) == 1:
                self.flaws.append(Flaw(int(entries[0]), str(error)))
                return
            middle = len(items) // 2
            self._halve(items[:middle], at_us[:middle], entries[:middle])
            self._halve(items[middle:], at_us[middle:], entries[middle:])


def _page(items: Sequence[Any], at_us: Numbers) -> _Page:
    """Raises ValueError where any item is not ``[ref, submitted_us, seq, fact]``."""
    if set(map(type, items)) != {tuple} or set(map(len, items)) != {4}:
        raise ValueError("not a task, two numbers and a fact")
    refs, submitted, seq, blobs = zip(*items, strict=True)
    for ref in set(refs):
        _named(ref)
    if set(map(type, blobs)) != {bytes}:
        raise ValueError("a fact that is not bytes")
    return _Page(refs, _wholes(seq), at_us, _wholes(submitted), facts.columns(blobs))


def _named(ref: Any) -> tuple[str, str]:
    """The workspace and id of a task."""
    if type(ref) is not bytes:
        raise ValueError("a task that is not text")
    workspace, slash, task_id = ref.decode().partition("/")
    if not (workspace and slash and task_id):
        raise ValueError("it names no task")
    return workspace, task_id


def _wholes(numbers: Sequence[Any]) -> Numbers:
    """Lua writes a large integer as a double; both are the same number here."""
    try:
        whole = tuple(map(int, numbers))
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if whole != tuple(numbers) or not 0 <= min(whole) <= max(whole) < facts.LIMIT:
        raise ValueError("a number that is no count and no time")
    return np.array(whole, dtype=np.int64)


class _Tasks(NamedTuple):
    """Columns of the tasks that facts are about, each task once."""

    workspace: Any
    task_id: Any

    @classmethod
    def of(cls, refs: Iterable[bytes]) -> _Tasks:
        workspaces, ids = zip(*map(_named, refs), strict=True)
        return cls(pa.array(workspaces, schema.TEXT).dictionary_encode(), pa.array(ids, schema.TEXT))


def readable(entry: bytes) -> list[Event]:
    """The entry's events; none where it is not whole."""
    try:
        return list(decode_entry(entry))
    except (ValueError, TypeError, AttributeError, OverflowError, msgpack.UnpackException):
        return []
