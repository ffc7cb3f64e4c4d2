"""Exact nearest-rank percentiles of more values than memory should hold, by reading them twice.

The first reading counts values in buckets, sixteen to each power of two. That tells in which bucket each rank lies, and
the second reading keeps the values of those buckets alone. Each percentile is a value that is really there: the
smallest one that at least so many per cent of all do not exceed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from accounting import schema
from accounting.reports.rows import coded
from accounting.reports.sums import Sums

_BITS_DROPPED = 48  # of the 52 bits of a float's fraction: four stay
_DENSE = 1 << 22  # counters that may stand in an array of their own
HISTOGRAM_KEYS = ("key", "bucket")
HELD_KEYS = ("key", "value")


def ordered(values: Any) -> Any:
    """Floats as integers in the same order."""
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))


def buckets_of(values: Any) -> Any:
    """Never falling with the value. Integers above 2^53 are rounded to a float first, which keeps that true."""
    return ordered(values.astype(np.float64)) >> _BITS_DROPPED


def histogram(names: Sequence[str], codes: Any, values: Any, buckets: Any) -> Any:
    """How many values, and what sum of them, each bucket of each name has."""
    if not len(values):
        return _table(("key", "bucket", "count", "sum"), [], [], [], [])
    least = buckets.min()
    width = int(buckets.max() - least) + 1
    places = codes.astype(np.int64) * width + (buckets - least)
    if width * len(names) <= _DENSE:
        counts = np.bincount(places, minlength=width * len(names))
        found = np.flatnonzero(counts)
        sums = np.zeros(len(counts), dtype=np.int64)
        np.add.at(sums, places, values)
        counts, sums = counts[found], sums[found]
    else:
        found, back, counts = np.unique(places, return_inverse=True, return_counts=True)
        sums = np.zeros(len(found), dtype=np.int64)
        np.add.at(sums, back, values)
    keys = pa.array(names, schema.TEXT).take(pa.array(found // width))
    return _table(("key", "bucket", "count", "sum"), keys, found % width + least, counts, sums)


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a rank lies: in a bucket, after so many of its values. ``above_sum`` is that of all dearer buckets."""

    bucket: int
    after: int
    above_sum: int


class Ranks:
    """What is asked of the values of each key: percentiles in whole per cent, and sums of the greatest so many."""

    def __init__(self, histograms: Any, percents: Sequence[int], greatest: Sequence[int] = ()) -> None:
        """``histograms`` are the sums of all that ``histogram`` gave."""
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

    def held(self, names: Sequence[str], codes: Any, values: Any, buckets: Any) -> Any:
        """Of a piece of the second reading: the values that may be asked for, each with how often it is there."""
        if not len(values):
            return _table(("key", "value", "count"), [], [], [])
        least = int(buckets.min())
        width = int(buckets.max()) - least + 1
        marks = np.zeros((len(names), width), dtype=bool)
        for place, name in enumerate(names):
            for spot in self._spots.get(name, {}).values():
                if 0 <= spot.bucket - least < width:
                    marks[place, spot.bucket - least] = True
        kept = np.flatnonzero(marks.ravel()[codes.astype(np.int64) * width + (buckets - least)])
        pairs = pa.table({"code": codes[kept].astype(np.int32), "value": values[kept]})
        found = pairs.group_by(["code", "value"], use_threads=False).aggregate([([], "count_all")])
        keys = pa.array(names, schema.TEXT).take(found["code"].combine_chunks())
        return _table(("key", "value", "count"), keys, found["value"], found["count_all"])

    def answers(self, held: Any) -> Answers:
        """``held`` are the sums of all that ``held`` gave."""
        percents: dict[str, dict[int, int]] = {}
        greatest: dict[str, dict[int, tuple[int, int]]] = {}
        for key, values, counts in _by_key(held, "value"):
            buckets = buckets_of(values)
            for (kind, number), spot in self._spots[key].items():
                low, high = (
                    np.searchsorted(buckets, spot.bucket),
                    np.searchsorted(buckets, spot.bucket, side="right"),
                )
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
