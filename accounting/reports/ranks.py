"""Exact nearest-rank percentiles of more values than memory should hold, by looking at them twice.

The first look counts values in buckets, sixteen to each power of two. That tells in which bucket each rank lies, and
the second look keeps the values of those buckets alone. Each percentile is a value that is really there: the smallest
one that at least so many per cent of all do not exceed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting import schema
from accounting.reports.rows import coded
from accounting.reports.sums import Sums

_BITS_DROPPED = 48  # of the 52 bits of a float's fraction: four stay
DENSE = 1 << 22  # counters that may stand in an array of their own
MOST_CELLS = 1 << 12
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
    ``columns`` are the names of each column as an array, and of each cell the place of its own among them."""

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
        names = sum(names.nbytes for some in self.cells for names, _ in some.columns.values())
        return int(self.values.nbytes + sum(some.cell.nbytes for some in self.cells)) + int(names)


def seen(values: Any, columns: Mapping[str, tuple[Any, Any]]) -> Seen:
    """``columns`` have an array of names, and of each row the place of its own. They are taken together as long as
    their cells are few: what is done for a row is then done once for all of them."""
    bundles: list[dict[str, tuple[Any, Any]]] = [{}]
    count = 1
    for name, (names, codes) in columns.items():
        count *= max(1, len(names))
        if count > MOST_CELLS and bundles[-1]:
            bundles.append({})
            count = max(1, len(names))
        bundles[-1][name] = (names, codes)
    return Seen(_small(values), tuple(map(_cells, bundles)))


def _cells(bundle: Mapping[str, tuple[Any, Any]]) -> Cells:
    shape = [max(1, len(names)) for names, _ in bundle.values()]
    cell: Any = None
    for size, (_, codes) in zip(shape, bundle.values(), strict=True):
        if cell is None:
            cell = codes.astype(np.int32)
        elif size > 1:
            cell *= size
            cell += codes
    count = prod(shape)
    places = np.unravel_index(np.arange(count), shape)
    found = {name: (names, place) for (name, (names, _)), place in zip(bundle.items(), places, strict=True)}
    return Cells(cell.astype(np.min_scalar_type(count)), count, found)


def _small(values: Any) -> Any:
    fits = not len(values) or (values.min() >= -(2**31) and values.max() < 2**31)
    return values.astype(np.int32) if fits else values


def histograms(some: Seen) -> dict[str, Any]:
    """By column: how many values, and what sum of them, each bucket of each name has."""
    values, buckets = some.values.astype(np.int64), buckets_of(some.values)
    if not len(values):
        return {column: _table(HISTOGRAM, [], [], [], []) for one in some.cells for column in one.columns}
    least = int(buckets.min())
    width = int(buckets.max()) - least + 1
    made, ones = {}, np.ones(len(values), dtype=np.int64)
    for rows in some.cells:
        found, counts, sums = _added(
            _places(rows.cell, width, buckets, least), rows.count * width, ones, values
        )
        cell, bucket = np.divmod(found, width)
        for column, (names, places) in rows.columns.items():
            mine, *added = _added(places[cell] * width + bucket, len(names) * width, counts, sums)
            keys = names.take(pa.array(mine // width))
            made[column] = _table(HISTOGRAM, keys, mine % width + least, *added)
    return made


def _places(cell: Any, width: int, buckets: Any, least: int) -> Any:
    made = cell.astype(np.int64)
    made *= width
    made += buckets
    made -= least
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
    buckets = buckets_of(some.values)
    if not len(buckets):
        return {column: _table(HELD, [], [], []) for one in some.cells for column in one.columns}
    least = int(buckets.min())
    width = int(buckets.max()) - least + 1
    made = {}
    for rows in some.cells:
        marks = {
            column: ranks[column].marks(names, least, width) for column, (names, _) in rows.columns.items()
        }
        wanted = np.zeros((rows.count, width), dtype=bool)
        for column, (_, places) in rows.columns.items():
            wanted |= marks[column][places]
        kept = np.flatnonzero(wanted.ravel()[_places(rows.cell, width, buckets, least)])
        cell, values, bucket = rows.cell[kept], some.values[kept], buckets[kept] - least
        for column, (names, places) in rows.columns.items():
            codes = places[cell]
            mine = np.flatnonzero(marks[column][codes, bucket])
            pairs = pa.table({"code": codes[mine].astype(np.int32), "value": values[mine]})
            found = pairs.group_by(["code", "value"], use_threads=False).aggregate([([], "count_all")])
            keys = names.take(found["code"].combine_chunks())
            made[column] = _table(HELD, keys, found["value"].cast(schema.COUNT), found["count_all"])
    return made


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a rank lies: in a bucket, after so many of its values. ``above_sum`` is that of all dearer buckets."""

    bucket: int
    after: int
    above_sum: int


class Ranks:
    """What is asked of the values of each key: percentiles in whole per cent, and sums of the greatest so many."""

    def __init__(self, histograms: Any, percents: Sequence[int], greatest: Sequence[int] = ()) -> None:
        """``histograms`` are the sums of all that ``histograms`` gave of a column."""
        self._spots: dict[str, dict[tuple[str, int], _Spot]] = {}
        self.counts: dict[str, int] = {}
        for key, buckets, counts, sums in _by_key(histograms, "bucket"):
            ends = np.cumsum(counts)
            self.counts[key] = count = int(ends[-1])
            above = sums.sum() - np.cumsum(sums)
            asked = {("percent", one): max(0, -(-count * one // 100) - 1) for one in percents}
            asked |= {("greatest", one): count - one for one in greatest if 0 < one <= count}
            self._spots[key] = {}
            for name, rank in asked.items():
                place = int(np.searchsorted(ends, rank, side="right"))
                after = rank - int(ends[place - 1]) if place else rank
                self._spots[key][name] = _Spot(int(buckets[place]), after, int(above[place]))
        self._keys = pa.array(list(self._spots), schema.TEXT)
        most = max(map(len, self._spots.values()), default=0)
        rows = [[spot.bucket for spot in spots.values()] for spots in self._spots.values()]
        # As many in each row: the last one stands there again.
        self._buckets = np.array([row + row[-1:] * (most - len(row)) for row in rows], dtype=np.int64)

    def marks(self, names: Any, least: int, width: int) -> Any:
        """Whether a value of each name may be asked for in each of so many buckets from the least one on."""
        made = np.zeros((len(names), width), dtype=bool)
        if self._spots:
            at = pc.index_in(names, value_set=self._keys)
            there = np.flatnonzero(at.is_valid())
            wanted = self._buckets[at.drop_null().to_numpy()] - least
            rows, asked = np.nonzero((wanted >= 0) & (wanted < width))
            made[there[rows], wanted[rows, asked]] = True
        return made

    def answers(self, held: Any) -> Answers:
        """``held`` are the sums of all that ``held`` gave of the column."""
        percents: dict[str, dict[int, int]] = {}
        greatest: dict[str, dict[int, tuple[int, int]]] = {}
        for key, values, counts in _by_key(held, "value"):
            buckets = buckets_of(values)
            for (kind, number), spot in self._spots[key].items():
                low = np.searchsorted(buckets, spot.bucket)
                high = np.searchsorted(buckets, spot.bucket, side="right")
                mine, often = values[low:high], counts[low:high]
                place = int(np.searchsorted(np.cumsum(often), spot.after, side="right"))
                value = int(mine[place])
                if kind == "percent":
                    percents.setdefault(key, {})[number] = value
                    continue
                rest = int(np.cumsum(often)[place]) - spot.after
                above = sum(
                    int(one) * int(many)
                    for one, many in zip(mine[place + 1 :], often[place + 1 :], strict=True)
                )
                greatest.setdefault(key, {})[number] = (value, rest * value + above + spot.above_sum)
        return Answers(percents, greatest)


@dataclass(frozen=True, slots=True)
class Answers:
    """Key → percentile → value; key → so many of the greatest → the least of them, and their sum."""

    percents: Mapping[str, Mapping[int, int]]
    greatest: Mapping[str, Mapping[int, tuple[int, int]]]

    def percent(self, key: str, percent: int) -> int | None:
        return self.percents.get(key, {}).get(percent)


def added(tables: Iterable[Any], keys: Sequence[str]) -> Any:
    sums = Sums(keys)
    for table in tables:
        sums.add(table)
    return sums.table()


def _table(names: Sequence[str], *columns: Any) -> Any:
    kinds = [schema.TEXT, *[schema.COUNT] * (len(names) - 1)]
    return pa.table(list(columns), schema=pa.schema(zip(names, kinds, strict=True)))


def _by_key(table: Any, order: str) -> Iterable[tuple[Any, ...]]:
    """Each key, and the other columns of its rows in ascending order of one of them."""
    rows = table.sort_by([("key", "ascending"), (order, "ascending")]).combine_chunks()
    names, codes = coded(rows["key"])
    others = [rows[name].to_numpy() for name in rows.column_names if name != "key"]
    edges = np.flatnonzero(np.diff(codes)) + 1
    for start, end in zip([0, *edges], [*edges, len(codes)], strict=True):
        if end > start:
            yield names[codes[start]], *(column[start:end] for column in others)
