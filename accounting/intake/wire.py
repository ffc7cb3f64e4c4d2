"""Reads stream entries as the producers' scripts wrote them, quickly and without trust.

Many entries are taken apart at once and their facts turned into columns; groups of facts, which are columns already, as
they are. Where something in them is wrong, groups too are taken apart fact by fact, and the facts halved until the one
that is wrong stands alone, so that its neighbours pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import facts, ledger, schema
from broker.clock import utc_day
from broker.events import named

#: A fact is late that is written so long after the midnight that ended its task's day, or later; and how many late
#: entries are held back of one reading.
LATE_US, MOST_LATE = ledger.US_PER_DAY, 1_000
#: Facts that are taken apart at once: enough for columns to pay, few enough for their values to stay near at hand.
HANDFUL = 16_000
Numbers = npt.NDArray[np.int64]
_REF = r"(?s)^[^/]+/."  # a workspace and a task's id


class Flaw(NamedTuple):
    """What is wrong with the entry of this number, or with one fact of it."""

    entry: int
    why: str


class _Page(NamedTuple):
    """Facts of one handful, in the order of the stream; ``columns`` are theirs kind by kind."""

    refs: Any
    seq: Numbers
    at_us: Numbers
    submitted_us: Numbers
    columns: list[facts.Columns]


class _Group(NamedTuple):
    """Facts that were packed together and that rows from ``start`` on name."""

    start: int
    size: int
    packed: bytes
    pieces: list[facts.Piece]


class _Handful:
    """Facts that are taken apart at once: rows in the order of the stream.

    ``shares`` has of each entry its number, its time and how many rows it has.
    """

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.shares: list[tuple[int, int, int]] = []
        self.groups: list[_Group] = []

    def add(self, number: int, entry: bytes | None, *, late: bool) -> bool:
        """False: it is ``late`` (all its facts are), which it may not be, and is not here. Raises what unpacking raises
        where it is no entry."""
        at, rows, *group = msgpack.unpackb(entry, use_list=False, raw=True)  # Lua tells no text from bytes
        if not _is_whole(at):
            raise ValueError("a time that is none")
        if not late and _are_late(int(at), rows):
            return False
        if group:
            if pieces := facts.group_pieces(group[0], rows):
                self.groups.append(_Group(len(self.rows), len(rows), group[0], pieces))
            else:  # it is of another version, or not whole
                rows = named(rows, group[0])
        self.shares.append((number, int(at), len(rows)))
        self.rows.extend(rows)
        return True

    def one_by_one(self) -> list[Any]:
        """The rows with facts of their own."""
        rows = list(self.rows)
        for group in self.groups:
            within = slice(group.start, group.start + group.size)
            rows[within] = named(rows[within], group.packed)
        return rows


class Gathered:
    """The facts of stream entries, as columns. ``entries`` is how many entries there were so far, ``late`` are the
    numbers of those that are to be written later, together: a few facts of each of many days that are over. Without
    ``hold`` no entry is late."""

    def __init__(self, entries: Iterable[bytes | None] = (), *, hold: bool = False) -> None:
        self.entries = 0
        self.late: list[int] = []
        self._hold = hold
        self.flaws: list[Flaw] = []
        self._handful = _Handful()
        self._pages: list[_Page] = []
        self._facts = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: bytes | None) -> None:
        """None: there are no bytes where they should be."""
        number = self.entries
        self.entries += 1
        try:
            if not self._handful.add(number, entry, late=not self._hold or len(self.late) == MOST_LATE):
                self.late.append(number)
        except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
            self.flaws.append(Flaw(number, f"not an entry: {error}"))
        if len(self._handful.rows) >= HANDFUL:
            self._take_apart()

    def size(self) -> int:
        """Facts, flaws and late entries so far."""
        return self._facts + len(self._handful.rows) + len(self.flaws) + len(self.late)

    def by_day(self) -> Iterator[tuple[str, Any]]:
        """The facts as rows of ``events``, day by day of their tasks' submission, in no order that says anything."""
        self._take_apart()
        if not self._pages:
            return
        refs = pa.chunked_array([page.refs for page in self._pages]).unify_dictionaries().combine_chunks()
        workspaces, ids = _tasks(refs.dictionary)
        made, places = facts.together(self._columns())
        codes = refs.indices.to_numpy()[places]
        seq, at_us, submitted_us = (
            np.concatenate([getattr(page, name) for page in self._pages])[places]
            for name in ("seq", "at_us", "submitted_us")
        )
        made |= {
            "workspace": workspaces.take(pa.array(codes)),
            "task_id": pa.DictionaryArray.from_arrays(pa.array(codes), ids),
            "seq": pa.array(seq),
            "at": pa.array(at_us).cast(schema.TIME),
            "submitted_at": pa.array(submitted_us).cast(schema.TIME),
        }
        table = pa.table({name: made[name] for name in schema.EVENTS.names})
        days = submitted_us // ledger.US_PER_DAY
        numbers = np.unique(days).tolist()
        for number in numbers:
            of_day = table if len(numbers) == 1 else table.take(pa.array(np.flatnonzero(days == number)))
            yield utc_day(number * ledger.US_PER_DAY), of_day

    def _columns(self) -> list[facts.Columns]:
        """Those of all pages, their places counted through."""
        starts = np.cumsum([0, *(len(page.refs) for page in self._pages)]).tolist()
        return [
            one._replace(places=one.places + start)
            for page, start in zip(self._pages, starts, strict=False)
            for one in page.columns
        ]

    def _take_apart(self) -> None:
        handful, self._handful = self._handful, _Handful()
        if not handful.rows:
            return
        entries, times, counts = (np.array(one, dtype=np.int64) for one in zip(*handful.shares, strict=True))
        at_us = np.repeat(times, counts)
        try:
            self._add(handful.rows, at_us, handful.groups)
        except ValueError:
            self._halve(handful.one_by_one(), at_us, np.repeat(entries, counts))

    def _halve(self, rows: Sequence[Any], at_us: Numbers, entries: Numbers) -> None:
        try:
            self._add(rows, at_us)
        except ValueError as error:
            if len(rows) == 1:
                self.flaws.append(Flaw(int(entries[0]), str(error)))
                return
            middle = len(rows) // 2
            self._halve(rows[:middle], at_us[:middle], entries[:middle])
            self._halve(rows[middle:], at_us[middle:], entries[middle:])

    def _add(self, rows: Sequence[Any], at_us: Numbers, groups: Sequence[_Group] = ()) -> None:
        self._pages.append(_page(rows, at_us, groups))
        self._facts += len(rows)


def _are_late(at_us: int, rows: Sequence[Any]) -> bool:
    latest_us = at_us - at_us % ledger.US_PER_DAY - LATE_US
    try:
        return bool(rows) and rows[0][1] < latest_us and all(row[1] < latest_us for row in rows)
    except (TypeError, LookupError):  # it is no entry, which is told of where it is taken apart
        return False


def _page(rows: Sequence[Any], at_us: Numbers, groups: Sequence[_Group]) -> _Page:
    """Raises ValueError where any row is not ``[ref, submitted_us, seq, fact]``; a group's have numbers for facts."""
    if set(map(type, rows)) != {tuple} or set(map(len, rows)) != {4}:
        raise ValueError("not a task, two numbers and a fact")
    refs, submitted, seq, told = zip(*rows, strict=True)
    pieces = [piece.moved(group.start) for group in groups for piece in group.pieces]
    grouped = np.zeros(len(rows), dtype=np.bool_)
    for piece in pieces:
        grouped[piece.places] = True
    alone = np.flatnonzero(~grouped)
    blobs = [told[at] for at in alone.tolist()]
    if not set(map(type, blobs)) <= {bytes}:
        raise ValueError("a fact that is not bytes")
    pieces += facts.pieces(blobs, alone)
    return _Page(_coded(refs), _wholes(seq), at_us, _wholes(submitted), facts.arranged(pieces))


def _coded(refs: Sequence[Any]) -> Any:
    """The tasks, each once. Raises ValueError where one of them is no text, or none."""
    if set(map(type, refs)) != {bytes}:
        raise ValueError("a task that is not text")
    made = pa.array(refs, pa.binary()).dictionary_encode()
    names = made.dictionary.cast(schema.TEXT)
    if not pc.all(pc.match_substring_regex(names, _REF)).as_py():
        raise ValueError("it names no task")
    return pa.DictionaryArray.from_arrays(made.indices, names)


def _tasks(refs: Any) -> tuple[Any, Any]:
    """Workspaces (each once) and ids of tasks."""
    parts = pc.list_flatten(pc.split_pattern(refs, "/", max_splits=1)).take
    first = pa.array(np.arange(len(refs)) * 2)
    return parts(first).dictionary_encode(), parts(pc.add(first, 1))


def _is_whole(number: Any) -> bool:
    """Lua writes a large integer as a double; both are the same number here."""
    return type(number) in (int, float) and 0 <= number < facts.LIMIT and number == int(number)


def _wholes(numbers: Sequence[Any]) -> Numbers:
    """As ``_is_whole``, of many. No double is beyond 2^53, so that none loses anything beside an integer."""
    try:
        made = np.array(numbers)
    except (ValueError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if made.dtype.kind not in "iuf" or made.ndim != 1 or not ((made >= 0) & (made < facts.LIMIT)).all():
        raise ValueError("a number that is no count and no time")
    whole = made.astype(np.int64)
    if (whole != made).any():
        raise ValueError("a number that is no count and no time")
    return whole


def written_us(entry: bytes | None) -> int | None:
    """When a script wrote the entry, in microseconds since the epoch; None where it does not say so."""
    unpacker = msgpack.Unpacker(raw=True)
    try:
        unpacker.feed(entry)
        unpacker.read_array_header()
        at_us = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return int(at_us) if _is_whole(at_us) else None


def tables(entries: Iterable[bytes | None], limit: int) -> list[Any]:
    """The first facts of these entries, about so many, as rows of ``events`` in no order; without what is flawed."""
    gathered = Gathered()
    for entry in entries:
        gathered.add(entry)
        if gathered.size() >= limit:
            break
    return [table for _, table in gathered.by_day()]
