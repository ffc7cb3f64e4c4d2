"""Exact nearest-rank percentiles of more values than memory should hold, by looking at them twice.

The first look counts values in buckets, sixteen to each power of two. That tells in which bucket each rank lies, and
the second look keeps the values of those buckets alone. Each percentile is a value that is really there: the smallest
one that at least so many per cent of all do not exceed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import mul
from typing import Any

import numpy as np
import pyarrow as pa

from accounting.files import schema
from accounting.reports.sums import Sums

_BITS_DROPPED = 48  # of the 52 bits of a float's fraction: four stay
DENSE = 1 << 21  # counters that may stand in an array of their own
MOST_CELLS = 1 << 12
MOST_SORTED = 1 << 22  # values at once
HISTOGRAM_KEYS, HELD_KEYS = ("key", "bucket"), ("key", "value")
HISTOGRAM, HELD = (*HISTOGRAM_KEYS, "count", "sum"), (*HELD_KEYS, "count")


def ordered(values: Any) -> Any:
    """Floats as integers in the same order."""
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))


def buckets_of(values: Any) -> Any:
    """Never falling with the value. Integers above 2^53 are rounded to a float first, which keeps that true."""
    return ordered(values.astype(np.float64)) >> _BITS_DROPPED


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows told apart by some columns at once. ``cell`` is of each row the number of its own, less than ``count``;
    ``columns`` are the keys of each column as an array, and of each cell the place of its own among them."""

    cell: Any
    count: int
    columns: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What ranks are made from: the values of some rows, and the cells of their columns; five bytes a row and more."""

    values: Any
    cells: tuple[Cells, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        keys = sum(one.nbytes for some in self.cells for pair in some.columns.values() for one in pair)
        return int(self.values.nbytes + sum(some.cell.nbytes for some in self.cells) + keys)


def seen(values: Any, columns: Mapping[str, tuple[Any, Any]]) -> Seen:
    """``columns`` have an array of keys, which are numbers (``rows.Names``), and of each row the place of its own. They
    are taken together as long as their cells are few: what is done for a row is then done once for all of them."""
    bundles: list[dict[str, tuple[Any, Any]]] = [{}]
    count = 1
    for name, (keys, codes) in columns.items():
        count *= max(1, len(keys))
        if count > MOST_CELLS and bundles[-1]:
            bundles.append({})
            count = max(1, len(keys))
        bundles[-1][name] = (keys, codes)
    return Seen(_small(values), tuple(map(_cells, bundles)))


def _cells(bundle: Mapping[str, tuple[Any, Any]]) -> Cells:
    shape = [max(1, len(keys)) for keys, _ in bundle.values()]
    cell: Any = None
    for size, (_, codes) in zip(shape, bundle.values(), strict=True):
        if cell is None:
            cell = codes.astype(np.int32)
        elif size > 1:
            cell *= size
            cell += codes
    count = prod(shape)
    places = np.unravel_index(np.arange(count), shape)
    found = {name: (keys, place) for (name, (keys, _)), place in zip(bundle.items(), places, strict=True)}
    return Cells(cell.astype(np.min_scalar_type(count)), count, found)


def only(some: Seen, columns: Container[str]) -> Seen:
    """Those of the columns alone."""
    cells = (
        replace(rows, columns={name: one for name, one in rows.columns.items() if name in columns})
        for rows in some.cells
    )
    return replace(some, cells=tuple(rows for rows in cells if rows.columns))


def _small(values: Any) -> Any:
    fits = not len(values) or (values.min() >= -(2**31) and values.max() < 2**31)
    return values.astype(np.int32) if fits else values


def histograms(some: Seen) -> dict[str, Any]:
    """By column: how many values, and what sum of them, each bucket of each key has."""
    if not len(some.values):
        return {column: _table(HISTOGRAM, [], [], [], []) for one in some.cells for column in one.columns}
    buckets, bucket = _bucketed(some.values)
    width, values = len(buckets), some.values.astype(np.int64)
    made, ones = {}, np.ones(len(values), dtype=np.int64)
    for rows in some.cells:
        found, counts, sums = _added(_places(rows.cell, width, bucket), rows.count * width, ones, values)
        cell, at = np.divmod(found, width)
        for column, (keys, places) in rows.columns.items():
            mine, *added = found, counts, sums
            if len(keys) < rows.count:  # else each cell is a key
                mine, *added = _added(places[cell] * width + at, len(keys) * width, counts, sums)
            made[column] = _table(HISTOGRAM, keys[mine // width], buckets[mine % width], *added)
    return made


def _bucketed(values: Any) -> tuple[Any, Any]:
    """The buckets that there are, and of each value the place of its own: one of 0 is far from all others."""
    buckets = buckets_of(values)
    buckets -= (least := int(buckets.min()))
    there = np.zeros(int(buckets.max()) + 1, dtype=bool)
    there[buckets] = True
    return np.flatnonzero(there) + least, (np.cumsum(there) - 1)[buckets]


def _places(cell: Any, width: int, bucket: Any) -> Any:
    made = cell.astype(np.int64)
    made *= width
    made += bucket
    return made


def _added(places: Any, size: int, counts: Any, values: Any) -> tuple[Any, Any, Any]:
    """Each of so many places that comes, its counts and its values added up."""
    found = None
    if size > DENSE:
        found, places = np.unique(places, return_inverse=True)
        size = len(found)
    count, value = (_added_at(places, size, some) for some in (counts, values))
    if found is None:
        found = np.flatnonzero(count)
        count, value = count[found], value[found]
    return found, count, value


def _added_at(places: Any, size: int, amounts: Any) -> Any:
    made = np.zeros(size, dtype=np.int64)
    np.add.at(made, places, amounts)
    return made


def held(some: Seen, ranks: Mapping[str, Ranks]) -> dict[str, Any]:
    """By column: the values that may be asked for, each with how often it is there."""
    if not len(some.values):
        return {column: _table(HELD, [], [], []) for one in some.cells for column in one.columns}
    buckets, bucket = _bucketed(some.values)
    made = {}
    for rows in some.cells:
        kept = np.flatnonzero(_may_be_asked(rows, buckets, bucket, ranks))
        cell, values, at = rows.cell[kept], some.values[kept], buckets[bucket[kept]]
        for column, (keys, places) in rows.columns.items():
            mine = keys[places[cell]]
            those = np.flatnonzero(ranks[column].ask(mine, at))
            pairs = pa.table({"key": mine[those], "value": values[those]})
            found = pairs.group_by(["key", "value"], use_threads=False).aggregate([([], "count_all")])
            counted = found["value"].cast(schema.COUNT), found["count_all"]
            made[column] = _table(HELD, found["key"], *counted)
    return made


def _may_be_asked(rows: Cells, buckets: Any, bucket: Any, ranks: Mapping[str, Ranks]) -> Any:
    """Of each row whether any of its columns may ask for its value."""
    width = len(buckets)
    if rows.count * width > DENSE:
        asked = (
            ranks[column].ask(keys[places[rows.cell]], buckets[bucket])
            for column, (keys, places) in rows.columns.items()
        )
        return np.logical_or.reduce(list(asked))
    wanted = np.zeros((rows.count, width), dtype=bool)
    for column, (keys, places) in rows.columns.items():
        wanted |= ranks[column].ask(keys[:, None], buckets)[places]
    return wanted.ravel()[_places(rows.cell, width, bucket)]


@dataclass(frozen=True, slots=True)
class _Spots:
    """Where ranks lie, one for each of the ``keys``: in a bucket, after so many of its values. ``above_sum`` is that of
    all dearer buckets of the key."""

    keys: Any
    bucket: Any
    after: Any
    above_sum: Any


class Ranks:
    """What is asked of the values of each key: percentiles in whole per cent, and sums of the greatest so many."""

    def __init__(self, histograms: Any, percents: Sequence[int], greatest: Sequence[int] = ()) -> None:
        """``histograms`` are the sums of all that ``histograms`` gave of a column."""
        keys, buckets, counts, sums = _sorted(histograms)
        ends, sums_so_far = np.cumsum(counts), np.cumsum(sums)
        last = np.flatnonzero(np.diff(keys, append=-1))  # of each key
        known, upto = keys[last], np.append(0, ends[last])
        count = np.diff(upto)

        def spots(those: Any, rank: Any) -> _Spots:
            at = upto[those] + rank
            place = np.searchsorted(ends, at, side="right")
            after = at - (ends[place] - counts[place])
            return _Spots(known[those], buckets[place], after, sums_so_far[last[those]] - sums_so_far[place])

        every = np.arange(len(known))
        self._percents = {one: spots(every, np.maximum(0, -(-count * one // 100) - 1)) for one in percents}
        self._greatest = {
            one: spots(those, count[those] - one)
            for one in greatest
            for those in (np.flatnonzero(count >= one),)
            if one > 0
        }
        self._buckets = []
        for some in (*self._percents.values(), *self._greatest.values()):
            self._buckets.append(np.full(keys.max(initial=0) + 1, np.iinfo(np.int64).min))
            self._buckets[-1][some.keys] = some.bucket

    def ask(self, keys: Any, buckets: Any) -> Any:
        """Of each key and bucket whether a rank of the key lies in the bucket, so that its values are needed. What is
        said of a bucket that has no value of the key does not matter."""
        made = np.zeros(np.broadcast_shapes(keys.shape, buckets.shape), dtype=bool)
        for wanted in self._buckets:
            made |= wanted.take(keys, mode="clip") == buckets
        return made

    def answers(self, held: Any, names: Any) -> Answers:
        """``held`` are the sums of all that ``held`` gave of the column, ``names`` those of its keys."""
        keys, values, counts = _sorted(held)
        buckets, ends = buckets_of(values), np.cumsum(counts)
        least = int(buckets.min(initial=0))
        width = int(buckets.max(initial=0)) - least + 1
        order = keys * width + buckets - least

        def asked(some: _Spots) -> tuple[Any, Any, Any]:
            """The row of each value, how many values of its bucket are there up to it, and the first row beyond."""
            bucket = some.keys * width + some.bucket - least
            low, high = np.searchsorted(order, bucket), np.searchsorted(order, bucket, side="right")
            before = ends[low] - counts[low]
            place = np.searchsorted(ends, before + some.after, side="right")
            return place, ends[place] - before, high

        columns = [values[asked(some)[0]].tolist() for some in self._percents.values()]
        known = next(iter(self._percents.values())).keys if columns else keys[:0]
        percents = _by_name(names, known, self._percents, columns)
        greatest: dict[str, dict[int, tuple[int, int]]] = {}
        for count, some in self._greatest.items():
            spots = (some.keys, *asked(some), some.after, some.above_sum)
            for key, place, upto, high, after, above_sum in zip(
                *(one.tolist() for one in spots), strict=True
            ):
                above = sum(map(mul, values[place + 1 : high].tolist(), counts[place + 1 : high].tolist()))
                value = int(values[place])
                found = value, (upto - after) * value + above + above_sum
                greatest.setdefault(names[key].as_py(), {})[count] = found
        return Answers(percents, greatest)


@dataclass(frozen=True, slots=True)
class Answers:
    """Key → percentile → value; key → so many of the greatest → the least of them, and their sum."""

    percents: Mapping[str, Mapping[int, int]]
    greatest: Mapping[str, Mapping[int, tuple[int, int]]]

    def percent(self, key: str, percent: int) -> int | None:
        return self.percents.get(key, {}).get(percent)


def in_order(kept: Sequence[Seen], column: str, names: Any, percents: Sequence[int]) -> Answers:
    """The percentiles of a column by putting its values in order, those of some keys at a time."""
    count = np.zeros(len(names), dtype=np.int64)
    for some in kept:
        count += np.bincount(_keys_of(some, column), minlength=len(names))
    found: dict[str, dict[int, int]] = {}
    ends = np.cumsum(count)
    first = 0
    while first < len(names):
        done = int(ends[first] - count[first])
        end = max(first + 1, int(np.searchsorted(ends, done + MOST_SORTED, side="right")))
        values = _of_keys(kept, column, first, end)
        there = first + np.flatnonzero(count[first:end])
        start = ends[there] - count[there] - done
        columns = [
            values[start + np.maximum(0, -(-count[there] * one // 100) - 1)].tolist() for one in percents
        ]
        found |= _by_name(names, there, percents, columns)
        first = end
    return Answers(found, {})


def _of_keys(kept: Sequence[Seen], column: str, first: int, end: int) -> Any:
    """The values of these keys, ascending for each key."""
    keys, values = [], []
    for some in kept:
        mine = _keys_of(some, column)
        those = np.flatnonzero((mine >= first) & (mine < end))
        keys.append(mine[those])
        values.append(some.values[those])
    key, value = np.concatenate(keys), np.concatenate(values).astype(np.int64)
    least, most = int(value.min(initial=0)), int(value.max(initial=0))
    bits = (most - least).bit_length()
    if bits + (end - first).bit_length() > 62:
        return value[np.lexsort((value, key))]
    both = (key.astype(np.int64) - first << bits) + (value - least)
    both.sort()  # a third of the time that it takes to find the places of an order
    return (both & (1 << bits) - 1) + least


def _keys_of(some: Seen, column: str) -> Any:
    [(rows, keys, places)] = [(rows, *rows.columns[column]) for rows in some.cells if column in rows.columns]
    return keys[places][rows.cell]


def _by_name(
    names: Any, keys: Any, percents: Iterable[int], columns: Sequence[Sequence[int]]
) -> dict[str, dict[int, int]]:
    rows = zip(names.take(pa.array(keys)).to_pylist(), *columns, strict=True)
    return {name: dict(zip(percents, row, strict=True)) for name, *row in rows}


def added(tables: Iterable[Any], keys: Sequence[str]) -> Any:
    sums = Sums(keys)
    for table in tables:
        sums.add(table)
    return sums.table()


def _table(names: Sequence[str], *columns: Any) -> Any:
    kinds = [pa.int32(), *[schema.COUNT] * (len(names) - 1)]
    return pa.table(list(columns), schema=pa.schema(zip(names, kinds, strict=True)))


def _sorted(table: Any) -> list[Any]:
    """The columns, by key and then by the second one."""
    columns = [table[name].to_numpy().astype(np.int64) for name in table.column_names]
    order = np.lexsort((columns[1], columns[0]))
    return [column[order] for column in columns]
