"""How the facts of a day lie in its parts, and how they are read again, some of its tasks at a time.

A task is in one of 256 buckets, by a hash of its id. A part is cut into stripes of so many buckets each, one row group
a stripe, so that a rollup takes the same stripe out of every part and has whole tasks, however many facts the day has.
Within a stripe facts of one kind stand together, which makes the many columns that only one kind has small.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accounting.files import facts, ledger, reading, schema
from accounting.files.ledger import Store
from broker.errors import LedgerError

Span = tuple[int, int]  # of buckets: the first, and the first beyond
BUCKETS = 256
#: On average at least. Smaller ones are larger files: 30 bytes an event at 3,000, 28 from here on.
STRIPE_ROWS = 12_500
#: How many stripes the part was cut into; one without rows has no group, and is not counted.
_STRIPES = b"laneway.stripes"
_FIRSTS = b"laneway.buckets"  # the first bucket of each row group
_FIRST_NEW = "unpriced"  # a column that version 1 has not
_NEW = ("root_task_id", "avoided_usd")  # that version 2 has not
#: At most; a larger part has larger ones. A further stripe costs more, in the footer and to be found, than it saves.
MOST_STRIPES = 8
#: As ingest names them, by the first and the last entry of the stream that are in it: when these came in, by Redis's
#: clock. Names of another form say nothing.
_NAMED = re.compile(r"\d+-\d+-(?P<last_ms>\d+)-\d+(-late)?\.parquet")
_STATISTICS = ("workspace", "task_id", "seq", "at", "submitted_at", "kind")
#: Integers near to those above them, or mostly the same: such a page is so small that nothing is left to compress.
_DELTA = (
    "started_at", "ended_at", "seq", "cost_usd", "value_usd", "gate_usd", "marginal_usd", "avoided_usd",
    *schema.TOKENS,
    "cache_write_1h_tokens", "hop", "starts",
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


def encode(table: Any, *, stripes: int | None = None) -> bytes:
    """Rows of ``events`` as a part. The same rows in the same order give the same bytes for the same version.

    ``stripes`` is how many it is cut into, a power of two up to BUCKETS; None: as many as its size bears.
    """
    ids = _coded(table["task_id"])
    codes = ids.indices.to_numpy()
    stripes = stripes or _stripes(len(codes))
    stripe = (buckets_of(ids.dictionary) * stripes // BUCKETS)[codes]
    kinds = pc.index_in(table["kind"].cast(schema.TEXT), facts.NAMES).to_numpy()
    submitted_us = schema.micros(table["submitted_at"]).to_numpy()
    order = np.lexsort((table["seq"].to_numpy(), codes, submitted_us, kinds, stripe))
    made = table.select(schema.EVENTS.names).take(pa.array(order)).cast(schema.EVENTS)
    return _written(made, np.searchsorted(stripe[order], np.arange(stripes + 1)))


def _stripes(rows: int) -> int:
    stripes = 1
    while stripes < MOST_STRIPES and stripes * 2 * STRIPE_ROWS <= rows:
        stripes *= 2
    return stripes


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
        data_page_version="2.0",  # what gets no smaller by it is not compressed, which is half of the pages
        store_decimal_as_integer=True,
        write_page_checksum=True,  # half of the pages are not compressed: nothing else sees a bit that turned
    ) as writer:
        for number in filled:
            rows = int(cuts[number + 1] - cuts[number])
            writer.write_table(made.slice(int(cuts[number]), rows), row_group_size=rows)
        firsts = " ".join(str(number * BUCKETS // stripes) for number in filled)
        writer.add_key_value_metadata({_FIRSTS: firsts, _STRIPES: str(stripes)})
    return bytes(sink.getvalue())


def _coded(column: Any) -> Any:
    column = schema.in_one(column)
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


#: Texts that come often, by their names in the files: they are read as dictionaries.
_TEXTS = [field.name for field in schema.EVENTS if field.type == schema.TEXT and field.name not in _PLAIN]


@dataclass(frozen=True, slots=True)
class Part:
    """``firsts`` has the first bucket of each row group, ``width`` is how many buckets each has."""

    store: Store
    path: str
    rows: int
    firsts: tuple[int, ...]
    width: int

    def groups(self, low: int, high: int) -> list[int]:
        """Those that have rows of a bucket from ``low`` to below ``high``."""
        return [at for at, first in enumerate(self.firsts) if first < high and low < first + self.width]


def of_day(store: Store, day: str) -> list[Part]:
    """The day's parts with their footers. Raises LedgerError where one cannot be read."""
    return [_part(store, path) for path in ledger.files(store, ledger.EVENTS, day)]


def since(store: Store, day: str, at_us: int, columns: Sequence[str]) -> Iterator[Any]:
    """These columns of the day's parts that may hold a fact which came in at that time or later, part by part, the
    latest first. Others, as their names say, are not opened. Raises LedgerError as ``read`` does."""
    for path in reversed(ledger.files(store, ledger.EVENTS, day)):
        named = _NAMED.fullmatch(path.rpartition("/")[2])
        if named is None or (int(named["last_ms"]) + 1) * 1000 > at_us:
            with _told(path):
                file = _opened(store, path)
                table = _rows(file, range(file.num_row_groups), columns)
            yield table


def before(store: Store, day: str, at_us: int, columns: Sequence[str]) -> Iterator[Any]:
    """These columns of the day's parts that may hold a fact which was written before that time, part by part. Of others
    the footer alone is read, which says so. Raises LedgerError as ``read`` does."""
    for path in ledger.files(store, ledger.EVENTS, day):
        table = None
        with _told(path):
            file = _opened(store, path)
            if _written_us(file.metadata) < at_us:
                table = _rows(file, range(file.num_row_groups), columns)
        if table is not None:
            yield table


def _written_us(meta: Any) -> int:
    """When its first fact was written; 0 where it does not say so."""
    at = meta.schema.names.index("at")
    told = [meta.row_group(group).column(at).statistics for group in range(meta.num_row_groups)]
    return min((int(one.min_raw) if one is not None and one.has_min_max else 0 for one in told), default=0)


def _part(store: Store, path: str) -> Part:
    try:
        meta = pq.read_metadata(store.open(path))
        said = meta.metadata or {}
        firsts: tuple[int, ...] = (0,) * meta.num_row_groups  # of version 1, or of another hand
        width = BUCKETS
        if _FIRSTS in said:
            firsts, width = tuple(map(int, said[_FIRSTS].split())), BUCKETS // int(said[_STRIPES])
        return Part(store, path, meta.num_rows, firsts, width)
    except (*reading.BROKEN, ValueError) as error:
        raise _damaged(path, error) from error


def _opened(store: Store, path: str) -> Any:
    source = store.open(path)
    meta = pq.read_metadata(source)
    there = frozenset(meta.schema.names)  # which is made anew each time
    texts = None if _is_old(meta) else [name for name in _TEXTS if name in there]
    return reading.opened(source, meta=meta, texts=texts)


def _is_old(meta: Any) -> bool:
    """Of version 1, which has the bytes of the wire instead of most columns."""
    return _FIRST_NEW not in meta.schema.names


def spans(parts: Sequence[Part], rows: int) -> list[Span]:
    """The buckets in as few equal spans as leave about so many rows in each."""
    total = sum(part.rows for part in parts)
    count = 1
    while count < BUCKETS and total > count * rows:
        count *= 2
    width = BUCKETS // count
    return [(low, low + width) for low in range(0, BUCKETS, width)]


def whole(part: Part) -> Any:
    """All rows of the part, in all columns. Raises LedgerError where it cannot be read."""
    return read(part, (0, BUCKETS), schema.EVENTS.names).cast(schema.EVENTS)


def read(part: Part, span: Span, columns: Sequence[str]) -> Any:
    """These columns of the row groups that have rows of the span, of whatever version the part is.

    Raises LedgerError where it cannot be read, LedgerChanged where another file has taken its place.
    """
    with _told(part.path):
        file = _opened(part.store, part.path)
        if (file.metadata.num_rows, file.metadata.num_row_groups) != (part.rows, len(part.firsts)):
            raise ledger.replaced(part.path)
        return _rows(file, part.groups(*span), columns)


def _rows(file: Any, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """Raises one of reading.BROKEN for a damaged file, ValueError for a fact of a newer version."""
    wanted = as_read(tuple(columns))
    old = _is_old(file.metadata)
    asked = list(facts.OLD_COLUMNS if old else columns)
    table = reading.rows_of(file, groups, asked)
    if old:
        table = facts.upgraded(table)
    for name in (one for one in _NEW if one in columns and one not in table.column_names):
        table = table.append_column(wanted.field(name), pa.nulls(table.num_rows, wanted.field(name).type))
    table = table if table.schema.equals(wanted) else table.select(wanted.names).cast(wanted)
    if missing := [name for name in facts.IDENTITY if name in columns and table[name].null_count]:
        raise KeyError(f"facts without {missing[0]}")
    if "kind" in columns:
        _refuse_unknown(table["kind"])
    return table


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What reading a part raises, as a LedgerError."""
    try:
        yield
    except reading.BROKEN as error:
        raise _damaged(path, error) from error
    except ValueError as error:
        raise LedgerError(
            f"{path} holds a fact that this version cannot read: {error}",
            mend="roll the day with the version that wrote it, or a newer one",
        ) from error


def _refuse_unknown(kinds: Any) -> None:
    """Raises ValueError for a kind of facts that a newer version has."""
    for chunk in kinds.chunks:
        unknown = chunk.dictionary.filter(pc.invert(pc.is_in(chunk.dictionary, facts.NAMES)))
        if len(unknown):
            raise ValueError(f"its kind is {unknown[0].as_py()!r}")


@cache
def as_read(columns: tuple[str, ...]) -> Any:
    """The columns as they are read, in the order in which parts have them."""
    return pa.schema([_kept(field) for field in schema.EVENTS if field.name in columns])


def _kept(field: Any) -> Any:
    """The field as it is read: ids that hardly come twice in a column as they are, other texts as dictionaries."""
    return field.with_type(pa.dictionary(pa.int32(), schema.TEXT)) if field.name in _TEXTS else field


def _damaged(path: str, error: Exception) -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {error}", mend="put the file back from a copy, then roll the day again"
    )
