"""The facts of a day, those of some tasks at a time: whole tasks, however many facts and parts the day has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import facts, parts, schema
from accounting.files.parts import BUCKETS, Part, Span

#: Facts that are read before their columns are cut to what they say, which is half of them, and that are laid at once.
PIECE_ROWS = 300_000
PIECE_PARTS = 500  # that are read before: a table takes 150 kB, however few facts it has
#: Buckets that are read of a part at once where it has to be laid: some row groups together take a fifth less time.
GROUP_BUCKETS = 64
SELDOM = 8  # a text that comes in fewer rows than so many on average is laid as it is
_ID = "task_id"
_REST = tuple(name for name in facts.IDENTITY if name != _ID)
_MANY_RUNS = 600  # of two or three a row group, more than any of our own slices has


class Lot(NamedTuple):
    """Facts of some tasks: texts as dictionaries, money as nano-dollars, times as microseconds, no column in chunks.

    ``identity`` has ``facts.IDENTITY`` of all of them: first those of the ``others``, then those of the ``calls``.
    These two have what facts of their kinds say, row by row in the same order.
    """

    identity: Any
    others: Any
    calls: Any


class Lots:
    """The facts of a day, span by span, in the ``columns`` that are named.

    Row groups that lie within a span are read as they are. Wider ones, of parts that were written before much had
    come or of a day of very many spans, would be read again for each span: they are read once, when the first of
    their spans is asked for, and their facts are laid by span in a temporary file, at 56 bytes. ``tell`` hears of each
    quarter of the day how many of how many such parts are read by then. Raises LedgerError where a part cannot be read.
    """

    def __init__(
        self,
        found: Sequence[Part],
        spans: Sequence[Span],
        columns: Sequence[str],
        tell: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._width = BUCKETS // len(spans)  # of a span
        self._spans, self._columns, self._tell = spans, columns, tell
        self._parts: dict[int, list[Part]] = {}  # by how many buckets are read of them at once
        for part in found:
            width = self._width if part.width <= self._width else max(part.width, GROUP_BUCKETS)
            self._parts.setdefault(width, []).append(part)
        self._laid: dict[Span, _Laid] = {}

    def read(self, number: int) -> Lot:
        """The facts of one span. Raises LedgerError where a part cannot be read."""
        pieces = [_joined([parts.as_read(tuple(self._columns)).empty_table()])]
        for width, some in self._parts.items():
            if width == self._width:
                pieces += self._pieces(some, self._spans[number])
            else:
                pieces += self._laid_of(width, some, number)
        return _together(pieces)

    def close(self) -> None:
        for laid in self._laid.values():
            laid.close()

    def _laid_of(self, width: int, some: Sequence[Part], number: int) -> Iterator[Lot]:
        """What parts whose row groups are so many buckets wide have of the span; the group that it lies in is laid."""
        spans = width // self._width
        low = number // spans * width
        group = (low, low + width)
        if group not in self._laid:
            self._laid[group] = _Laid(self._pieces(some, group, self._tell), group, spans)
        laid = self._laid[group]
        yield from laid.of(number % spans)
        if not laid.left:
            self._laid.pop(group).close()

    def _pieces(
        self, found: Sequence[Part], span: Span, tell: Callable[[int, int], None] = lambda *_: None
    ) -> Iterator[Lot]:
        """What these parts have of the span, some parts at a time."""
        tables: list[Any] = []
        for number, part in enumerate(found, 1):
            tables.append(parts.read(part, span, self._columns))
            tell(number, len(found))
            rows = sum(table.num_rows for table in tables)
            if number == len(found) or rows >= PIECE_ROWS or len(tables) == PIECE_PARTS:
                piece = _joined(tables)
                yield piece
                del piece  # whoever took it may have let it go by now


class _Laid:
    """Facts of a group of spans in a file that has no name, so that nothing is left of it, those of each together.

    Each lot becomes three Arrow files in it: the ids of its tasks, the others, and the calls. These have a task's
    number among the ids of the span in place of its id, which is as long as all else that most facts say. ``left`` are
    the spans that were not asked for so far.
    """

    def __init__(self, lots: Iterable[Lot], group: Span, spans: int) -> None:
        (self._low, high), self._spans = group, spans
        self._width = (high - self._low) // spans
        self.left = set(range(spans))
        self._tables: list[tuple[int, list[int]]] = []  # where each ends, and its batch of each span
        with ExitStack() as stack:
            self._file = stack.enter_context(tempfile.TemporaryFile(prefix="laneway-"))
            sink = pa.PythonFile(self._file, "w")
            for lot in lots:
                self._lay(sink, lot)
                del lot  # before the next one is read
            self._file.flush()
            stack.pop_all()  # it stays open until these are closed

    def close(self) -> None:
        self._file.close()

    def of(self, span: int) -> Iterator[Lot]:
        """The facts of one span, in as many pieces as they came in."""
        self.left.discard(span)
        tables = iter([self._read(number, span) for number in range(len(self._tables))])
        for tasks, *both in zip(tables, tables, tables, strict=True):
            ids = schema.in_one(tasks[_ID])
            both = [_with_ids(table, ids) for table in both]
            identity = pa.concat_tables([table.select(facts.IDENTITY) for table in both])
            yield Lot(identity, *(table.drop_columns(list(facts.IDENTITY)) for table in both))

    def _lay(self, sink: Any, lot: Lot) -> None:
        ids = schema.in_one(lot.identity[_ID])
        spans = (parts.buckets_of(ids.dictionary) - self._low) // self._width
        tasks, cuts = self._in_order(spans)
        numbers = np.empty(len(spans), dtype=np.int32)
        numbers[tasks] = np.arange(len(spans)) - cuts[spans[tasks]]
        self._write(sink, pa.table({_ID: ids.dictionary.take(pa.array(tasks))}), cuts)
        whose, others = ids.indices.to_numpy(), lot.others.num_rows
        for said, start, end in ((lot.others, 0, others), (lot.calls, others, len(whose))):
            mine = whose[start:end]
            columns = {name: _as_laid(lot.identity[name].slice(start, end - start)) for name in _REST}
            columns |= {_ID: numbers[mine], **{name: _as_laid(said[name]) for name in said.column_names}}
            rows, cuts = self._in_order(spans[mine])
            self._write(sink, pa.table(columns).take(pa.array(rows)), cuts)

    def _in_order(self, spans: Any) -> tuple[Any, Any]:
        """Places by span, and where among them those of each begin, and the last one's end."""
        places = np.argsort(spans.astype(np.uint8), kind="stable")  # of which numpy counts the values
        return places, np.append(0, np.cumsum(np.bincount(spans, minlength=self._spans)))

    def _write(self, sink: Any, table: Any, cuts: Any) -> None:
        batches: list[int] = []
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        with pa.ipc.new_file(sink, table.schema, options=options) as file:
            for start, end in pairwise(cuts.tolist()):
                batches.append(max(batches, default=-1) + 1 if start < end else -1)
                file.write_table(table.slice(start, end - start))
        self._tables.append((sink.tell(), batches))

    @cached_property
    def _files(self) -> list[Any]:
        source, options = pa.PythonFile(self._file, "r"), pa.ipc.IpcReadOptions(use_threads=False)
        return [pa.ipc.open_file(source, footer_offset=end, options=options) for end, _ in self._tables]

    def _read(self, number: int, span: int) -> Any:
        file, batch = self._files[number], self._tables[number][1][span]
        return file.schema.empty_table() if batch < 0 else pa.Table.from_batches([file.get_batch(batch)])


def _with_ids(table: Any, ids: Any) -> Any:
    """The facts as they were before they were laid; ``ids`` are those of the span's tasks."""
    whose = pa.DictionaryArray.from_arrays(schema.in_one(table[_ID]), ids)
    wanted = parts.as_read(tuple(table.column_names))
    return pa.table(
        {one.name: whose if one.name == _ID else _coded(table[one.name], one.type) for one in wanted}
    )


def _as_laid(column: Any) -> Any:
    """Words go along with each of the columns that has them: not where there are nearly as many as rows."""
    column = schema.in_one(column)
    is_coded = pa.types.is_dictionary(column.type)
    return column.cast(schema.TEXT) if is_coded and len(column.dictionary) * SELDOM > len(column) else column


def _coded(column: Any, kind: Any) -> Any:
    is_laid = pa.types.is_dictionary(kind) and column.type != kind
    return column.dictionary_encode() if is_laid else column


def _joined(tables: list[Any]) -> Lot:
    """All their facts, without the columns in which those of a kind say nothing. The tables are let go on the way."""
    others, calls = [tables[0].slice(0, 0)], [tables[0].slice(0, 0)]
    for table in tables:
        for is_call, piece in _apart(table):
            (calls if is_call else others).append(piece)
    said = [name for name in tables[0].column_names if name not in facts.IDENTITY]
    of_others, of_calls = (
        [name for name in said if name in those] for those in (facts.OTHER_COLUMNS, facts.CALL_COLUMNS)
    )
    whole = [
        pa.concat_tables([*others, *calls]).select(facts.IDENTITY),
        pa.concat_tables(others).select(of_others),
        pa.concat_tables(calls).select(of_calls),
    ]
    for pieces in (tables, others, calls):
        pieces.clear()
    return _lot(whole)


def _together(pieces: list[Lot]) -> Lot:
    """All their facts. The pieces are let go on the way."""
    identity = [one.identity.slice(0, one.others.num_rows) for one in pieces]
    identity += [one.identity.slice(one.others.num_rows) for one in pieces]
    tables = [pa.concat_tables(those) for those in (identity, *list(zip(*pieces, strict=True))[1:])]
    identity.clear()
    pieces.clear()
    return _lot(tables)


def _lot(tables: list[Any]) -> Lot:
    """Its three tables, each let go when the lot has it."""
    return Lot(*(_in_one(tables.pop(0)) for _ in range(len(tables))))


def _apart(table: Any) -> Iterator[tuple[bool, Any]]:
    """Runs of facts that are calls, and of facts that are not. Those of one kind stand together in a row group."""
    pieces = [chunk.indices.to_numpy() == _code(chunk.dictionary) for chunk in table["kind"].chunks]
    are_calls = np.concatenate([np.zeros(0, dtype=np.bool_), *pieces])
    edges = [0, *(np.flatnonzero(are_calls[1:] != are_calls[:-1]) + 1).tolist(), len(are_calls)]
    if len(edges) > _MANY_RUNS:  # of another hand
        for is_call in (False, True):
            yield is_call, table.filter(pa.array(are_calls == is_call))
        return
    for start, end in pairwise(edges):
        if start < end:
            yield bool(are_calls[start]), table.slice(start, end - start)


def _code(kinds: Any) -> int:
    return int(pc.index(kinds, facts.CALL).as_py())


def _in_one(table: Any) -> Any:
    """The table without chunks; column by column, so that the pieces of each are let go at once."""
    made = {}
    for name in table.column_names:
        column = table[name]
        table = table.drop_columns(name)
        is_coded = pa.types.is_dictionary(column.type)
        made[name] = _plain((column.unify_dictionaries() if is_coded else column).combine_chunks())
    return pa.table(made)


def _plain(column: Any) -> Any:
    """Money and times as integers."""
    if column.type == schema.MONEY:
        missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        return pa.array(schema.nanos(column), mask=missing)
    return schema.micros(column) if column.type == schema.TIME else column
