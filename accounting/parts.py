"""How the facts of a day lie in its parts, and how they are read again, some of its tasks at a time.

A task is in one of 256 buckets, by a hash of its id. A part is cut into stripes of so many buckets each, one row group
a stripe, so that a rollup takes the same stripe out of every part and has whole tasks, however many facts the day has.
Within a stripe facts of one kind stand together, which makes the many columns that only one kind has small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accounting import facts, ledger, schema
from accounting.ledger import LocalStore, Store
from broker.errors import LedgerError

Span = tuple[int, int]  # of buckets: the first, and the first beyond
BUCKETS = 256
STRIPE_ROWS = 3_000  # on average at least: 32 bytes an event; with 1,500 it is 36
_STRIPES = (
    b"laneway.stripes"  # how many the part was cut into; one without rows has no group, and is not counted
)
_FIRSTS = b"laneway.buckets"  # the first bucket of each row group
_FIRST_NEW = "unpriced"  # a column that version 1 has not
AT_ONCE = 16  # parts that are read before their columns are cut to what they say, which is half of them
MOST_STRIPES = (
    32  # a larger part has larger ones: what each costs in a footer and to find is more than its rows
)
HELD_ROWS = 2_000_000  # facts that may be in hand while they are folded span by span, at about 200 bytes
FEW = 10  # parts with one in so many of the day's facts are read again and again without being felt
BUNDLE_ROWS = 250_000
OPEN_FILES = 100  # that are kept open from one slice to the next, each with a footer of two megabytes
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
        store_decimal_as_integer=True,
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
_MANY_RUNS = 600  # of two or three a row group, more than any of our own slices has


@dataclass(frozen=True, slots=True)
class Part:
    """``firsts`` has the first bucket of each row group, ``width`` is how many buckets each has.

    ``file`` is the open file with its footer, which takes two megabytes; None where the day has more parts than are
    kept open.
    """

    store: Store
    path: str
    rows: int
    firsts: tuple[int, ...]
    width: int
    file: Any = None

    def groups(self, low: int, high: int) -> list[int]:
        """Those that have rows of a bucket from ``low`` to below ``high``."""
        return [at for at, first in enumerate(self.firsts) if first < high and low < first + self.width]

    def is_cut_at(self, low: int, high: int) -> bool:
        return low % self.width == 0 and high % self.width == 0


class Lot(NamedTuple):
    """Facts of some buckets, texts as dictionaries, no column in chunks.

    ``identity`` has ``facts.IDENTITY`` of all of them: first those of the ``others``, then those of the ``calls``.
    These two have what facts of their kinds say, row by row in the same order.
    """

    identity: Any
    others: Any
    calls: Any


def of_day(store: Store, day: str) -> list[Part]:
    """The day's parts with their footers. Raises LedgerError where one cannot be read."""
    folder = ledger.partition(ledger.EVENTS, day)
    names = [name for name in store.list(folder) if name.endswith(".parquet")]
    return [_part(store, f"{folder}/{name}", number < OPEN_FILES) for number, name in enumerate(names)]


def _part(store: Store, path: str, stays_open: bool) -> Part:
    try:
        file = _opened(store, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error
    meta = file.metadata
    said = meta.metadata or {}
    firsts: tuple[int, ...] = (0,) * meta.num_row_groups  # of version 1, or of another hand
    width = BUCKETS
    if _FIRSTS in said:
        firsts, width = tuple(map(int, said[_FIRSTS].split())), BUCKETS // int(said[_STRIPES])
    return Part(store, path, meta.num_rows, firsts, width, file if stays_open else None)


def _opened(store: Store, path: str) -> Any:
    source = store.open(path)
    meta = pq.read_metadata(source)
    return pq.ParquetFile(source, metadata=meta, read_dictionary=None if _is_old(meta) else _TEXTS)


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


def fitting(parts: Sequence[Part], spans: Sequence[Span], scratch: Path) -> tuple[list[Part], int]:
    """The same facts in parts of which so many buckets are best read at once, as many as a span has or more.

    A part that was written before much had come has one stripe or two. Where the day is too large to have the facts of
    such a stripe in hand, and each span would read all of them again, these parts are put together and cut anew in
    ``scratch``. Raises LedgerError where a part cannot be read.
    """
    least = BUCKETS // len(spans)
    total = sum(part.rows for part in parts)
    most = least
    while most < BUCKETS and total * most * 2 <= HELD_ROWS * BUCKETS:
        most *= 2
    if _coarser(parts, most) * FEW > total:
        parts = _cut_anew(parts, most, len(spans), scratch)
    width = least
    while _coarser(parts, width) * FEW > total:
        width *= 2
    return list(parts), width


def _coarser(parts: Sequence[Part], width: int) -> int:
    """How many facts are in parts with wider stripes."""
    return sum(part.rows for part in parts if part.width > width)


def _cut_anew(parts: Sequence[Part], width: int, stripes: int, scratch: Path) -> list[Part]:
    coarse = [part for part in parts if part.width > width]
    found = [part for part in parts if part.width <= width]
    near = LocalStore(scratch)
    while coarse:
        tables: list[Any] = []
        while coarse and sum(table.num_rows for table in tables) < BUNDLE_ROWS:
            tables.append(whole(coarse.pop(0)))
        path = f"{len(coarse)}.parquet"
        (scratch / path).write_bytes(encode(pa.concat_tables(tables), stripes=stripes))
        found.append(_part(near, path, len(found) < OPEN_FILES))
    return found


def read(parts: Sequence[Part], span: Span, columns: Sequence[str]) -> Lot:
    """These columns of all facts in the span. Raises LedgerError where a part cannot be read."""
    [lot] = lots(parts, [span], columns)
    return lot


def lots(parts: Sequence[Part], spans: Sequence[Span], columns: Sequence[str]) -> Iterator[Lot]:
    """The same of each of these spans, which stand side by side; what has rows of several is read once.

    Raises LedgerError where a part cannot be read.
    """
    all_of_them = spans[0][0], spans[-1][1]
    none = _joined([_wanted(tuple(columns)).empty_table()])
    pieces = [[none] for _ in spans]
    for start in range(0, len(parts), AT_ONCE):
        some = [_within(part, all_of_them, columns) for part in parts[start : start + AT_ONCE]]
        for mine, piece in zip(pieces, _split(_joined(some), spans), strict=True):
            mine.append(piece)
    while pieces:
        yield _together(pieces.pop(0))


def _together(pieces: list[Lot]) -> Lot:
    """All their facts. The pieces are let go on the way."""
    identity = [one.identity.slice(0, one.others.num_rows) for one in pieces]
    identity += [one.identity.slice(one.others.num_rows) for one in pieces]
    tables = [pa.concat_tables(those) for those in (identity, *list(zip(*pieces, strict=True))[1:])]
    identity.clear()
    pieces.clear()
    return Lot(*(_in_one(tables.pop(0)) for _ in range(len(tables))))


def _split(lot: Lot, spans: Sequence[Span]) -> list[Lot]:
    """The facts of each of these spans, which have all of the lot's."""
    if len(spans) == 1:
        return [lot]
    ids = schema.in_one(lot.identity["task_id"])
    buckets = buckets_of(ids.dictionary)[ids.indices.to_numpy()]
    others = lot.others.num_rows
    made = []
    for low, high in spans:
        those = (low <= buckets) & (buckets < high)
        masks = (those, those[:others], those[others:])
        made.append(Lot(*(table.filter(pa.array(mask)) for table, mask in zip(lot, masks, strict=True))))
    return made


def _joined(tables: list[Any]) -> Lot:
    """All their facts, without the columns in which those of a kind say nothing."""
    others, calls = [tables[0].slice(0, 0)], [tables[0].slice(0, 0)]
    for table in tables:
        for is_call, piece in _apart(table):
            (calls if is_call else others).append(piece)
    said = [name for name in tables[0].column_names if name not in facts.IDENTITY]
    return Lot(
        _in_one(pa.concat_tables([*others, *calls]).select(facts.IDENTITY)),
        _in_one(pa.concat_tables(others).select([name for name in said if name in facts.OTHER_COLUMNS])),
        _in_one(pa.concat_tables(calls).select([name for name in said if name in facts.CALL_COLUMNS])),
    )


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
        made[name] = (
            column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column
        ).combine_chunks()
    return pa.table(made)


def whole(part: Part) -> Any:
    """All rows of the part, in all columns. Raises LedgerError where it cannot be read."""
    groups = range(len(part.firsts))
    return _read(part, groups, schema.EVENTS.names).cast(schema.EVENTS)


def _read(part: Part, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """The columns of these row groups, of whatever version the part is."""
    wanted = _wanted(tuple(columns))
    try:
        file = part.file or _opened(part.store, part.path)
        old = _is_old(file.metadata)
        asked = list(facts.OLD_COLUMNS if old else columns)
        table = file.read_row_groups(list(groups), columns=asked, use_threads=False)
        if old:
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
    return field.with_type(pa.dictionary(pa.int32(), schema.TEXT)) if field.name in _TEXTS else field


def _within(part: Part, span: Span, columns: Sequence[str]) -> Any:
    """The part's facts of these buckets."""
    low, high = span
    table = _read(part, part.groups(low, high), columns)
    if part.is_cut_at(low, high) or not table.num_rows:
        return table
    ids = _coded(table["task_id"].unify_dictionaries())
    buckets = buckets_of(ids.dictionary)
    return table.filter(pa.array(((low <= buckets) & (buckets < high))[ids.indices.to_numpy()]))


def _damaged(path: str, error: Exception) -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {error}", mend="put the file back from a copy, then roll the day again"
    )
