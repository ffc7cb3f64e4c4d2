"""How the facts of a day lie in its parts, and how they are read again, some of its tasks at a time.

A task is in one of 256 buckets, by a hash of its id. A part is cut into stripes of so many buckets each, one row group
a stripe, so that a rollup takes the same stripe out of every part and has whole tasks, however many facts the day has.
Within a stripe facts of one kind stand together, which makes the many columns that only one kind has small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accounting import facts, ledger, schema
from accounting.ledger import Store
from broker.errors import LedgerError

BUCKETS = 256
STRIPE_ROWS = 3_000  # on average at least: 32 bytes an event; with 1,500 it is 36
_STRIPES = (
    b"laneway.stripes"  # how many the part was cut into; one without rows has no group, and is not counted
)
_FIRSTS = b"laneway.buckets"  # the first bucket of each row group
_FIRST_NEW = "unpriced"  # a column that version 1 has not
_STATISTICS = ("workspace", "task_id", "seq", "at", "submitted_at", "kind")
_DELTA = (
    "started_at", "ended_at", "seq", "cost_usd", "input_tokens", "output_tokens", "cached_input_tokens",
)  # fmt: skip
#: Hardly a value comes twice.
_PLAIN = (
    "at", "submitted_at", "queue_wait_ms", "latency_ms", "time_to_first_token_ms", "attempt_id", "fact",
)  # fmt: skip


def bucket_of(task_id: str) -> int:
    return crc32(task_id.encode()) >> 24


def buckets_of(task_ids: Any) -> npt.NDArray[np.int64]:
    hashes = map(crc32, task_ids.cast(pa.binary()).to_pylist())
    return np.fromiter(hashes, dtype=np.int64, count=len(task_ids)) >> 24


def encode(table: Any) -> bytes:
    """Rows of ``events`` as a part. The same rows in the same order give the same bytes for the same version."""
    ids = _coded(table["task_id"])
    codes = ids.indices.to_numpy()
    stripes = 1
    while stripes < BUCKETS and stripes * 2 * STRIPE_ROWS <= len(codes):
        stripes *= 2
    stripe = (buckets_of(ids.dictionary) * stripes // BUCKETS)[codes]
    kinds = pc.index_in(table["kind"].cast(schema.TEXT), facts.NAMES).to_numpy()
    submitted_us = schema.micros(table["submitted_at"]).to_numpy()
    order = np.lexsort((table["seq"].to_numpy(), codes, submitted_us, kinds, stripe))
    made = table.select(schema.EVENTS.names).take(pa.array(order)).cast(schema.EVENTS)
    return _written(made, np.searchsorted(stripe[order], np.arange(stripes + 1)))


def _written(made: Any, cuts: npt.NDArray[np.int64]) -> bytes:
    stripes = len(cuts) - 1
    filled = [number for number in range(stripes) if cuts[number] < cuts[number + 1]]
    columns = {
        name: f"{name}.list.element" for name in schema.EVENTS.names if made[name].type == schema.TEXTS
    }
    plain = {*_DELTA, *_PLAIN}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema.EVENTS,
        compression="zstd",
        use_dictionary=[columns.get(name, name) for name in schema.EVENTS.names if name not in plain],
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED") | dict.fromkeys(_PLAIN, "PLAIN"),
        write_statistics=list(_STATISTICS),
        store_decimal_as_integer=True,
    ) as writer:
        for number in filled:
            rows = int(cuts[number + 1] - cuts[number])
            writer.write_table(made.slice(int(cuts[number]), rows), row_group_size=rows)
        firsts = " ".join(str(number * BUCKETS // stripes) for number in filled)
        writer.add_key_value_metadata({_FIRSTS: firsts, _STRIPES: str(stripes)})
    return bytes(sink.getvalue())


def _coded(column: Any) -> Any:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


@dataclass(frozen=True, slots=True)
class Part:
    """``firsts`` has the first bucket of each row group, ``width`` is how many buckets each has.

    ``old``: of version 1, which has the bytes of the wire instead of most columns.
    """

    path: str
    meta: Any
    firsts: tuple[int, ...]
    width: int
    old: bool

    def groups(self, low: int, high: int) -> list[int]:
        """Those that have rows of a bucket from ``low`` to below ``high``."""
        return [at for at, first in enumerate(self.firsts) if first < high and low < first + self.width]

    def is_cut_at(self, low: int, high: int) -> bool:
        return low % self.width == 0 and high % self.width == 0


def of_day(store: Store, day: str) -> list[Part]:
    """The day's parts with their footers. Raises LedgerError where one cannot be read."""
    folder = ledger.partition(ledger.EVENTS, day)
    return [_part(store, f"{folder}/{name}") for name in store.list(folder) if name.endswith(".parquet")]


def _part(store: Store, path: str) -> Part:
    try:
        meta = pq.read_metadata(store.open(path))
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from error
    said = meta.metadata or {}
    old = _FIRST_NEW not in meta.schema.names
    if _FIRSTS not in said:  # of version 1, or of another hand
        return Part(path, meta, (0,) * meta.num_row_groups, BUCKETS, old)
    return Part(path, meta, tuple(map(int, said[_FIRSTS].split())), BUCKETS // int(said[_STRIPES]), old)


def spans(parts: Sequence[Part], rows: int) -> list[tuple[int, int]]:
    """The buckets in as few equal spans as leave about so many rows in each."""
    total = sum(part.meta.num_rows for part in parts)
    count = 1
    while count < BUCKETS and total > count * rows:
        count *= 2
    width = BUCKETS // count
    return [(low, low + width) for low in range(0, BUCKETS, width)]


def read(store: Store, parts: Sequence[Part], span: tuple[int, int], columns: Sequence[str]) -> Any:
    """These columns of all facts in the span, texts as dictionaries, as one table without chunks.

    Raises LedgerError where a part cannot be read.
    """
    pieces = [piece for part in parts if (piece := _within(store, part, span, columns)).num_rows]
    if not pieces:
        return _wanted(tuple(columns)).empty_table()
    table = pa.concat_tables(pieces)
    del pieces
    made = {}
    for name in table.column_names:  # one after another, so that the pieces of each are let go at once
        column = table[name]
        table = table.drop_columns(name)
        made[name] = (
            column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column
        ).combine_chunks()
    return pa.table(made)


def whole(store: Store, part: Part) -> Any:
    """All rows of the part, in all columns. Raises LedgerError where it cannot be read."""
    groups = range(part.meta.num_row_groups)
    return _read(store, part, groups, schema.EVENTS.names).cast(schema.EVENTS)


def _read(store: Store, part: Part, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """The columns of these row groups, of whatever version the part is."""
    wanted = _wanted(tuple(columns))
    texts = [field.name for field in wanted if pa.types.is_dictionary(field.type)]
    asked = list(facts.OLD_COLUMNS if part.old else columns)
    try:
        file = pq.ParquetFile(
            store.open(part.path), metadata=part.meta, read_dictionary=None if part.old else texts
        )
        table = file.read_row_groups(list(groups), columns=asked, use_threads=False)
        if part.old:
            table = facts.upgraded(table)
        return table if table.schema.equals(wanted) else table.select(wanted.names).cast(wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(part.path, error) from error
    except ValueError as error:
        raise LedgerError(
            f"{part.path} holds a fact that this version cannot read: {error}",
            mend="roll the day with the version that wrote it, or a newer one",
        ) from error


@cache
def _wanted(columns: tuple[str, ...]) -> Any:
    """The columns as they are read, in the order in which parts have them."""
    return pa.schema([_kept(field) for field in schema.EVENTS if field.name in columns])


def _kept(field: Any) -> Any:
    """The field as it is read: ids that hardly come twice in a column as they are, other texts as dictionaries."""
    if field.type != schema.TEXT or field.name in _PLAIN:
        return field
    return field.with_type(pa.dictionary(pa.int32(), schema.TEXT))


def _within(store: Store, part: Part, span: tuple[int, int], columns: Sequence[str]) -> Any:
    """The part's facts of these buckets."""
    low, high = span
    table = _read(store, part, part.groups(low, high), columns)
    if part.is_cut_at(low, high) or not table.num_rows:
        return table
    ids = _coded(table["task_id"].unify_dictionaries())
    buckets = buckets_of(ids.dictionary)
    return table.filter(pa.array(((low <= buckets) & (buckets < high))[ids.indices.to_numpy()]))


def _damaged(path: str, error: Exception) -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {error}", mend="put the file back from a copy, then roll the day again"
    )
