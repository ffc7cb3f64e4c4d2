"""What a day's calls cost, reckoned again from their tokens: at the prices they were booked at, or at another day's.

Each call's ``price_ref`` names the very figures it was priced with, so its cost can be had again for ever, to the
nano-dollar; one that cannot is told. A call that was booked without a price gets the one that is known by now. At
another day's prices the same calls tell what a change of the price list means.

Calls are taken by the hundred thousand as columns of integers. Each group of calls with the same ref, lane and model
finds its price once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from accounting.files import ledger, reading, schema
from accounting.files.ledger import Store
from broker.clock import utc_day
from broker.money import PICO_PER_NANO, half_even
from broker.pricebook import book
from broker.prices import EPOCH_WEEKDAY, MIN_PER_DAY, US_PER_MIN, Hours, TokenPrice
from broker.settings.lanes import Lane
from broker.tariff import price_at, price_of

CLASSES = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)
NAMES = ("price_ref", "lane", "model")
ROWS = 131_072  # calls at a time
EXAMPLES = 20
LONG = "cache_write_1h_tokens"
#: Refs of what is not paid by the token: a machine's seconds, a person's time, a tool's use.
NOT_BY_TOKEN = ("hardware:", "human:", "fleet:", "tool:")


class Kind(NamedTuple):
    """What calls have in common that finds them their price. ``day`` is the UTC day on which calls without a ref began,
    "" of others: its price would have been theirs."""

    ref: str
    lane: str
    model: str
    day: str = ""


@dataclass(frozen=True, slots=True)
class Priced:
    """Some calls of a kind, what they were booked at and what they come to.

    ``kept`` of them stay at what they were booked at: paid by time, which is also what machines of ours do beside
    calls, or by the use, or booked at the worst case because nobody knows what they used. ``unpriced`` have no price
    now, ``unpriced_before`` had none when they were booked; neither counts as money. ``differ`` come to another amount.
    """

    kind: Kind
    calls: int = 0
    booked_nano: int = 0
    again_nano: int = 0
    kept: int = 0
    unpriced: int = 0
    unpriced_before: int = 0
    differ: int = 0


@dataclass(frozen=True, slots=True)
class Repriced:
    """``at`` is the UTC day whose prices were taken, None: those that the calls were priced with. ``examples`` are ids
    of the first calls that come to another amount."""

    days: tuple[str, ...]
    at: str | None
    kinds: tuple[Priced, ...]
    examples: tuple[str, ...]


def reprice(store: Store, days: Sequence[str], lanes: Mapping[str, Lane], at: str | None = None) -> Repriced:
    """The calls of the tasks that were submitted on these days. Raises LedgerError for a file that cannot be read."""
    sums: dict[Kind, Priced] = {}
    examples: list[str] = []
    for day in days:
        finds = Finder(lanes, at)
        for calls in in_days(store, [day]):
            nanos, known, kept = again(calls, finds)
            for one in _summed(calls, nanos, known, kept):
                kind = one.kind._replace(day="")
                sums[kind] = _both(sums.get(kind, Priced(kind)), one)
            if len(examples) < EXAMPLES:
                odd = np.flatnonzero(_differ(calls, nanos, known))[:EXAMPLES]
                examples += calls.table["attempt_id"].take(pa.array(odd)).to_pylist()
    kinds = tuple(sums[kind] for kind in sorted(sums))
    return Repriced(tuple(days), at, kinds, tuple(examples[:EXAMPLES]))


def _both(one: Priced, other: Priced) -> Priced:
    names = ("calls", "booked_nano", "again_nano", "kept", "unpriced", "unpriced_before", "differ")
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})


class Finder:
    """The price of each kind of call, found once: at a UTC day's prices, None: at those that it was priced with."""

    def __init__(self, lanes: Mapping[str, Lane], at: str | None) -> None:
        self._lanes, self._at = lanes, at
        self._found: dict[Kind, TokenPrice | None] = {}

    def of(self, kind: Kind) -> TokenPrice | None:
        """None where it has none, or is not paid by the token."""
        if kind not in self._found:
            self._found[kind] = self._price(kind)
        return self._found[kind]

    def _price(self, kind: Kind) -> TokenPrice | None:
        if not kind.lane or kind.ref.startswith(NOT_BY_TOKEN):
            return None
        if self._at is None and kind.ref:
            return book().of_ref(kind.ref)
        day = self._at or kind.day
        lane = self._lanes.get(kind.lane)
        if kind.ref.startswith("book:"):
            key = kind.ref.removeprefix("book:").partition("@")[0]
            return price_at(book(), key, day, lane.discounts if lane else ())
        if lane is None:
            return None
        price = price_of(kind.lane, _door(lane, kind.model), day)
        return price if isinstance(price, TokenPrice) else None


def _door(lane: Lane, model: str) -> Lane:
    """The one that the model answered at: providers write a date behind the name that was asked for."""
    named = [one for one in lane.doors() if model.startswith(one.model)]
    return max(named or lane.doors()[:1], key=lambda one: len(one.model))


class Calls(NamedTuple):
    """Some calls as columns. ``code`` is the place of each one's kind in ``kinds``; ``priced`` False: booked without a
    price. Money in nano-dollars."""

    table: Any
    kinds: list[Kind]
    code: Any
    tokens: dict[str, Any]
    batch: Any
    ended_us: Any
    booked: Any
    priced: Any
    settled: Any


def in_days(store: Store, days: Iterable[str], settled_from_us: int = 0) -> Iterator[Calls]:
    """The calls of tasks that were submitted on these days; row groups are passed over that say in their footers that
    all of theirs were settled before. Raises LedgerError for a file that cannot be read."""
    for day in days:
        for path in ledger.files(store, ledger.ATTEMPTS, day):
            yield from _in_file(store, day, path, settled_from_us)


def _in_file(store: Store, day: str, path: str, settled_from_us: int) -> Iterator[Calls]:
    wanted = [*NAMES, *CLASSES, "attempt_id", "batch", "started_at", "ended_at", "cost_usd", "settled"]
    try:
        file = reading.opened(store.open(path), texts=NAMES)
        columns = [one for one in wanted if one in file.schema_arrow.names]
        groups = [
            number
            for number in range(file.metadata.num_row_groups)
            if _last_settled_us(file.metadata, number) >= settled_from_us
        ]
        for group in groups:
            for rows in reading.rows_of(file, [group], columns).to_batches(ROWS):
                yield columns_of(rows)
    except reading.BROKEN as error:
        raise reading.damaged(path, day, error) from error


def _last_settled_us(meta: Any, group: int) -> float:
    """When the last call of a row group was settled; infinity where it does not say."""
    names = meta.schema.names
    said = (
        meta.row_group(group).column(names.index("settled_at")).statistics if "settled_at" in names else None
    )
    return math.inf if said is None or not said.has_min_max else int(said.max_raw)


def columns_of(rows: Any) -> Calls:
    """Rows of ``attempts``. Files from before writes for an hour were told apart have none."""
    kinds, code = _coded(rows)
    missing = np.zeros(len(rows), dtype=np.int64)
    tokens = {name: _ints(rows[name]) if name in rows.schema.names else missing for name in CLASSES}
    tokens["cache_write_tokens"] = tokens["cache_write_tokens"] - tokens[LONG]
    flags = (rows[name].fill_null(False).to_numpy(zero_copy_only=False) for name in ("batch", "settled"))
    batch, settled = flags
    return Calls(
        rows,
        kinds,
        code,
        tokens,
        batch,
        schema.micros(rows["ended_at"]).fill_null(0).to_numpy(zero_copy_only=False),
        schema.nanos(rows["cost_usd"]),
        rows["cost_usd"].is_valid().to_numpy(zero_copy_only=False),
        settled,
    )


def _ints(column: Any) -> Any:
    return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)


def _coded(rows: Any) -> tuple[list[Kind], Any]:
    """The kinds among these rows, and the place of each row's one."""
    codes, words = [], []
    for name in NAMES:
        column = rows[name]
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        words.append([*column.dictionary.to_pylist(), ""])
        empty = len(words[-1]) - 1
        codes.append(column.indices.fill_null(empty).to_numpy(zero_copy_only=False))
    unpriced = np.array([not ref for ref in words[0]])[codes[0]]
    days, place = _days(rows, unpriced)
    codes.append(place)
    words.append(days)
    sizes = [len(one) for one in words]
    code = np.ravel_multi_index(codes, sizes)
    used = np.flatnonzero(np.bincount(code, minlength=int(np.prod(sizes))))
    place = np.zeros(int(np.prod(sizes)), dtype=np.int64)
    place[used] = np.arange(len(used))
    parts = np.unravel_index(used, sizes)
    kinds = [
        Kind(*(word[at] or "" for word, at in zip(words, row, strict=True)))
        for row in zip(*parts, strict=True)
    ]
    return kinds, place[code]


def _days(rows: Any, wanted: Any) -> tuple[list[str], Any]:
    """The UTC days on which the wanted calls began, "" for all others, and the place of each row's one."""
    if not wanted.any():
        return [""], np.zeros(len(rows), dtype=np.int64)
    begun_us = schema.micros(rows["started_at"]).fill_null(0).to_numpy(zero_copy_only=False)
    days, place = np.unique(np.where(wanted, begun_us // ledger.US_PER_DAY, -1), return_inverse=True)
    return ["" if day < 0 else utc_day(int(day) * ledger.US_PER_DAY) for day in days], place


def again(calls: Calls, finds: Finder) -> tuple[Any, Any, Any]:
    """Of each call: nano-dollars, whether a price is known, and whether it is kept at what it was booked at."""
    prices = [finds.of(kind) for kind in calls.kinds]
    otherwise = [not kind.lane or kind.ref.startswith(NOT_BY_TOKEN) for kind in calls.kinds]
    kept = calls.priced & (np.array(otherwise, dtype=bool)[calls.code] | ~calls.settled)
    nanos = priced(calls, prices)
    known = np.array([price is not None for price in prices], dtype=bool)[calls.code] & calls.settled | kept
    return np.where(kept, calls.booked, nanos), known, kept


def priced(calls: Calls, prices: Sequence[TokenPrice | None]) -> Any:
    """Nano-dollars of each call at the price of its kind, rounded half-even as one call is; 0 without one."""
    rows, at = held(calls, prices)
    figures = [
        np.array([getattr(row, name) for row in rows], dtype=np.int64)
        for name in (
            "input_pico",
            "cached_input_pico",
            "cache_write_pico",
            "cache_write_1h_pico",
            "output_pico",
            "output_pico",
        )
    ]
    tokens = [calls.tokens[name] for name in CLASSES]
    if _may_overflow(tokens, figures):  # exact at any size, and slow
        tokens, figures = ([one.astype(object) for one in some] for some in (tokens, figures))
    pico = sum(count * figure[at] for count, figure in zip(tokens, figures, strict=True))
    whole = pico // PICO_PER_NANO
    return half_even(whole, pico - whole * PICO_PER_NANO, PICO_PER_NANO).astype(np.int64)


def _may_overflow(tokens: Iterable[Any], figures: Iterable[Any]) -> bool:
    most = sum(
        int(count.max(initial=0)) * int(figure.max(initial=0))
        for count, figure in zip(tokens, figures, strict=True)
    )
    return most >= 2**62


_NOTHING = TokenPrice("", 0, 0, 0, 0, 0)


def held(calls: Calls, prices: Sequence[TokenPrice | None]) -> tuple[list[TokenPrice], Any]:
    """All rows of the prices, and the place of the one that holds for each call."""
    rows: list[TokenPrice] = []
    singly, batched = np.zeros((2, len(prices)), dtype=np.int64)
    for place, price in enumerate(prices):
        single = price or _NOTHING
        singly[place], batched[place] = len(rows), len(rows) + (single.batch is not None)
        rows += [single] if single.batch is None else [single, single.batch]
    at = np.where(calls.batch, batched[calls.code], singly[calls.code])
    for place, row in enumerate(list(rows)):
        if row.bands:
            mine = np.flatnonzero(at == place)
            for band in reversed(row.bands):  # the first one that fits holds
                at[mine[_fits(calls, mine, band.above, band.hours)]] = len(rows)
                rows.append(band.price)
    return rows, at


def _fits(calls: Calls, mine: Any, above: int, hours: Hours | None) -> Any:
    size = sum(calls.tokens[name][mine] for name in CLASSES[:4])
    fits = size > above
    return fits if hours is None else fits & _at_hours(hours, calls.ended_us[mine])


def _at_hours(hours: Hours, at_us: Any) -> Any:
    """``hours.hold`` of many times."""
    day, minute = np.divmod(at_us // US_PER_MIN, MIN_PER_DAY)
    begun, over = minute >= hours.first, minute >= hours.last
    held = begun & ~over if hours.first < hours.last else begun | ~over
    return held & ((day + EPOCH_WEEKDAY) % 7 <= 4) if hours.workdays else held


def _differ(calls: Calls, nanos: Any, known: Any) -> Any:
    """Those that come to another amount, or whose ref names no price."""
    return calls.priced & (~known | (nanos != calls.booked))


def _summed(calls: Calls, nanos: Any, known: Any, kept: Any) -> Iterator[Priced]:
    counts = {
        "booked_nano": np.where(calls.priced, calls.booked, 0),
        "again_nano": np.where(known, nanos, 0),
        "kept": kept,
        "unpriced": ~known,
        "unpriced_before": ~calls.priced,
        "differ": _differ(calls, nanos, known),
    }
    table = pa.table({"code": calls.code} | {name: one.astype(np.int64) for name, one in counts.items()})
    sums = table.group_by("code", use_threads=False).aggregate(
        [("code", "count"), *((name, "sum") for name in counts)]
    )
    for row in sums.to_pylist():
        yield Priced(
            calls.kinds[row["code"]], row["code_count"], **{name: row[f"{name}_sum"] for name in counts}
        )
