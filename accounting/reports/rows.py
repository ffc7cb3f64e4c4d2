"""Rows of a data set, a piece of some days at a time: only the columns asked for, only the rows that are wanted.

Pieces are a few row groups large and two or so are in hand at once, so that the memory does not grow with the range.
Text is read as codes of a dictionary, which is what makes grouping fast.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accounting.files import ledger, reading, schema
from accounting.files.ledger import Store

MOST_THREADS = 4
MOST_WAITING = 8
_SCHEMAS = {
    ledger.TASKS: schema.TASKS,
    ledger.ATTEMPTS: schema.ATTEMPTS,
    ledger.DAILY: schema.DAILY,
}
Given = TypeVar("Given")
Made = TypeVar("Made")

#: Column → the values that a row may have there.
Where = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some row groups of one file: ``rows`` rows of the day, from ``start`` on. ``source`` opens the file and
    ``meta`` is its footer, so that whoever reads twice reads the same rows, even where the day is published anew
    meanwhile. ``columns`` is the schema of the data set, of which an older file has not all. Without a source there are
    no rows."""

    day: str
    path: str
    columns: Any
    source: Any
    meta: Any
    groups: tuple[int, ...]
    start: int = 0
    rows: int = 0


#: Day, rows of it, and which of the day's rows the first one is → the rows with further columns.
Derive = Callable[[str, Any, int], Any]


def as_it_is(_day: str, rows: Any, _start: int) -> Any:
    return rows


def days_between(store: Store, dataset: str, since: str, until: str) -> tuple[str, ...]:
    return tuple(day for day in ledger.days(store, dataset) if since <= day <= until)


def pieces(store: Store, dataset: str, days: Sequence[str], where: Where) -> tuple[Piece, ...]:
    """All that may hold wanted rows, at least one without any. Raises LedgerError for a file that cannot be read."""
    found = tuple(piece for day in days for piece in _of_day(store, dataset, day, where))
    return found or (_nothing(_SCHEMAS[dataset]),)


def _nothing(columns: Any) -> Piece:
    return Piece("", "", columns, None, None, ())


class Files:
    """The pieces of a data set by day. Each file is opened once, whatever takes its place meanwhile."""

    def __init__(self, store: Store, dataset: str, found: Sequence[Piece] = ()) -> None:
        """``found`` are all pieces of some days."""
        self._store, self._dataset, self._lock = store, dataset, Lock()
        self._pieces: dict[str, list[Piece]] = {}
        for piece in found:
            self._pieces.setdefault(piece.day, []).append(piece)

    def of(self, day: str) -> Sequence[Piece]:
        """At least one, of which the day may have no rows. Raises LedgerError for a file that cannot be read."""
        with self._lock:
            if day not in self._pieces:
                self._pieces[day] = list(pieces(self._store, self._dataset, (day,), {}))
            return self._pieces[day]


def each(
    found: Sequence[Piece],
    columns: Sequence[str],
    where: Where,
    work: Callable[[str, Any], Made],
    derive: Derive = as_it_is,
) -> Iterator[Made]:
    """``work(day, rows)`` over all pieces, some at once. ``derive`` adds columns that ``where`` may name. Raises
    LedgerError for a file that cannot be read."""

    def one(piece: Piece) -> Made:
        return work(piece.day, chosen(derive(piece.day, read(piece, columns), piece.start), where))

    return at_once(one, found)


def at_once(work: Callable[[Given], Made], things: Iterable[Given]) -> Iterator[Made]:
    """``work`` of each thing, in their order, some at the same time. No more than ``MOST_WAITING`` results wait for a
    caller that is slow to take them."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(_threads()) as pool:
        for thing in things:
            waiting.append(pool.submit(work, thing))
            if len(waiting) > MOST_WAITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _of_age(known: Sequence[str], names: Sequence[str], columns: Any) -> tuple[list[str], list[str]]:
    """Those of the names that a file has, and those that it is older than."""
    missing = [name for name in names if name not in known and name in columns.names]
    return [name for name in names if name not in missing], missing


def _with_nulls(table: Any, missing: Sequence[str], columns: Any) -> Any:
    for name in missing:
        table = table.append_column(name, pa.nulls(table.num_rows, columns.field(name).type))
    return table


def _threads() -> int:
    return min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def wider(found: Sequence[Piece], rows: int) -> list[Piece]:
    """Neighbours of one file taken together until each has so many rows."""
    made: list[Piece] = []
    for piece in found:
        if made and made[-1].path == piece.path and made[-1].rows < rows:
            last = made.pop()
            piece = replace(last, groups=last.groups + piece.groups, rows=last.rows + piece.rows)
        made.append(piece)
    return made


def holding(found: Sequence[Piece], where: Where) -> tuple[Piece, ...]:
    """Those of the pieces that may hold wanted rows, at least one without any."""
    kept = [
        piece
        for piece in found
        if piece.source and any(_may_hold(piece.meta.row_group(one), where) for one in piece.groups)
    ]
    return tuple(kept) or (_nothing(found[0].columns),)


def _of_day(store: Store, dataset: str, day: str, where: Where) -> Iterator[Piece]:
    start = 0
    for path in ledger.files(store, dataset, day):
        source = store.pinned(path)
        try:
            meta = pq.read_metadata(source())
        except reading.BROKEN as error:
            raise reading.damaged(path, day, error) from error
        for group in range(meta.num_row_groups):
            rows = meta.row_group(group).num_rows
            if not where or _may_hold(meta.row_group(group), where):
                yield Piece(day, path, _SCHEMAS[dataset], source, meta, (group,), start, rows)
            start += rows


def _may_hold(group: Any, where: Where) -> bool:
    """Whether the group's least and greatest values leave room for a wanted row."""
    for place in range(group.num_columns):
        column = group.column(place)
        wanted, said = where.get(column.path_in_schema), column.statistics
        if wanted is None or said is None or not said.has_min_max:
            continue
        if not any(said.min <= value <= said.max for value in wanted):
            return False
    return True


def read(piece: Piece, columns: Sequence[str]) -> Any:
    """These columns of the piece's rows; null where its file is older than the column."""
    if piece.source is None:
        return piece.columns.empty_table().select(list(columns))
    known = piece.meta.schema.to_arrow_schema()
    there, missing = _of_age(known.names, columns, piece.columns)
    texts = [name for name in there if known.field(name).type == schema.TEXT]
    if piece.columns is schema.TASKS:
        texts = [name for name in texts if name != "task_id"]  # no value comes twice
    try:
        file = reading.opened(piece.source(), meta=piece.meta, texts=texts)
        in_order = [
            name for name in known.names if name in there
        ]  # so that what lies together is got together
        table = reading.rows_of(file, piece.groups, in_order)
    except reading.BROKEN as error:
        raise reading.damaged(piece.path, piece.day, error) from error
    return _with_nulls(table.select(there), missing, piece.columns).unify_dictionaries().combine_chunks()


def chosen(table: Any, where: Where) -> Any:
    """The rows that are wanted."""
    return table.filter(pa.array(fits(table, where))) if where else table


def fits(table: Any, where: Where) -> Any:
    """Of each row whether it has one of the wanted values in each column named."""
    keep = np.ones(table.num_rows, dtype=bool)
    for name, wanted in where.items():
        names, codes = coded(table[name])
        keep &= np.array([one in wanted for one in names], dtype=bool)[codes]
    return keep


def coded(column: Any) -> tuple[list[str], Any]:
    """The column's values, and for each row the place of its own among them. Null is ""."""
    names, codes = worded(column)
    return names.to_pylist(), codes


def worded(column: Any) -> tuple[Any, Any]:
    """The same with the values as an array."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    names, codes = column.dictionary.cast(schema.TEXT).fill_null(""), column.indices
    if codes.null_count:
        codes = codes.fill_null(len(names))
        names = pa.concat_arrays([names, pa.array([""], schema.TEXT)])
    return names, codes.to_numpy(zero_copy_only=False)


def says(column: Any, *words: str) -> Any:
    """Of each row whether it is one of these words."""
    names, codes = worded(column)
    return pc.is_in(names, pa.array(words, schema.TEXT)).to_numpy(zero_copy_only=False)[codes]


class Names:
    """The values of a column, each with a number: the first that came has 0. Thread-safe."""

    def __init__(self) -> None:
        self._known, self._lock = pa.array([], schema.TEXT), Lock()

    def of(self, column: Any) -> tuple[Any, Any]:
        """The numbers of the column's values, and for each row the place of its own among them. Null is ""."""
        names, codes = worded(column)
        return self.numbers(names), codes

    def numbers(self, names: Any) -> Any:
        with self._lock:
            new = names.filter(pc.invert(pc.is_in(names, value_set=self._known)))
            self._known = pa.concat_arrays([self._known, pc.unique(new)]) if len(new) else self._known
            return pc.index_in(names, value_set=self._known).to_numpy()

    def all(self) -> Any:
        """By their numbers."""
        return self._known


def names_of(rows: Any) -> Any:
    """What tells the tasks of the rows apart: their ids are unique within a workspace alone."""
    return pc.binary_join_element_wise(
        *(rows[name].cast(schema.TEXT) for name in ("workspace", "task_id")), "/"
    )
