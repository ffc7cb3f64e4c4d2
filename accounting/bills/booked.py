"""What the ledger booked of a provider's calls, by model, in the kinds of tokens that the provider tells apart."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from accounting.bills.reprice import NOT_BY_TOKEN, Calls, Finder, Kind, held, in_days
from accounting.bills.usage_files import CACHED, INPUT, LONG, OUTPUT, WRITE
from accounting.files import ledger
from accounting.files.ledger import Store
from broker.pricebook import book
from broker.prices import TokenPrice
from broker.settings import Settings
from broker.tariff import seller

COLUMNS = {
    INPUT: ("input_tokens",),
    CACHED: ("cached_input_tokens",),
    WRITE: ("cache_write_tokens",),
    LONG: ("cache_write_1h_tokens",),
    OUTPUT: ("output_tokens", "reasoning_tokens"),
}


_DATED = re.compile(r"-(20\d{6}|20\d\d-\d\d-\d\d)$")


class Key(NamedTuple):
    """``batch`` None: the file does not tell."""

    model: str
    batch: bool | None


class TokenKind(NamedTuple):
    """Of tokens. ``batch`` None: the file does not tell; ``place`` is their class."""

    batch: bool | None
    place: int


@dataclass(slots=True)
class Ours:
    """What the ledger says of the same. ``tokens`` are those of settled calls whose price is known by now, ``pico``
    what they came to and ``unpriced_pico`` what of this calls did that were booked without a price; ``unknown`` are
    tokens of calls that have none yet."""

    calls: int = 0
    tokens: dict[TokenKind, int] = field(default_factory=lambda: defaultdict(int))
    pico: dict[TokenKind, int] = field(default_factory=lambda: defaultdict(int))
    unknown: dict[TokenKind, int] = field(default_factory=lambda: defaultdict(int))
    booked_nano: int = 0
    unsettled: int = 0
    unsettled_nano: int = 0
    unpriced: int = 0
    unpriced_pico: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider tells apart: classes of tokens, and calls of batches from others by the line (``lines``) or in
    its tokens alone (``tokens``)."""

    places: frozenset[int]
    lines: bool
    tokens: bool

    def kind(self, place: int, *, batch: bool) -> TokenKind:
        """Where it has tokens of the class."""
        known = WRITE if place == LONG and WRITE in self.places else INPUT
        return TokenKind(batch if self.tokens else None, place if place in self.places else known)


def known_as(model: str, provider: str) -> str:
    """The one name for all names of a model: its key in the book without the provider, else as it is written but for a
    date at its end, which providers write where it was called without one."""
    key = book().find(model, provider)
    return key.partition("/")[2] if key else _DATED.sub("", model.lower())


def booked(
    store: Store,
    settings: Settings,
    provider: str,
    span: tuple[str, str],
    lanes: frozenset[str],
    told: Told,
) -> tuple[dict[Key, Ours], dict[Key, TokenPrice]]:
    """The calls that ended within the days, by model; and what a model's tokens cost in batches or not: calls of ours
    first, else what their price list says.

    A task may wait for months before a call of it, so that all days before are looked at too; a call is settled when
    it has ended, and what was settled before these days is not read.
    """
    begin_us = ledger.midnight_us(span[0])
    end_us = ledger.midnight_us(span[1]) + ledger.US_PER_DAY
    sellers = {name: {seller(door) for door in lane.doors()} for name, lane in settings.lanes.items()}
    sold = lanes | {name for name, sold_by in sellers.items() if sold_by == {provider}}
    found: dict[Key, Ours] = defaultdict(Ours)
    paid: dict[Key, TokenPrice] = {}
    listed: dict[Key, TokenPrice] = {}
    for day in (one for one in ledger.days(store, ledger.ATTEMPTS) if one <= span[1]):
        finds, lists = Finder(settings.lanes, None), Finder(settings.lanes, max(day, span[0]))
        for calls in in_days(store, [day], begin_us):
            mine = np.array([_is_theirs(kind, provider, sold) for kind in calls.kinds], dtype=bool)
            chosen = mine[calls.code] & (calls.ended_us >= begin_us) & (calls.ended_us < end_us)
            # A provider counts no call that it turned away.
            chosen &= ~calls.settled | (sum(calls.tokens.values()) > 0)
            places = [finds.of(kind) for kind in calls.kinds]
            rows, at = held(calls, places)
            for code, row, batch, settled, priced, sums in _grouped(calls, at, chosen):
                model = known_as(calls.kinds[code].model, provider)
                price = rows[row] if places[code] is not None else None
                if price is not None:
                    paid.setdefault(Key(model, batch), price)
                if (whole := lists.of(calls.kinds[code])) is not None:
                    listed.setdefault(Key(model, False), whole)
                    listed.setdefault(Key(model, True), whole.batch or whole)
                one = found[Key(model, batch if told.lines else None)]
                _add(one, price, sums, told, batch=batch, settled=settled, priced=priced)
    return dict(found), listed | paid


def _is_theirs(kind: Kind, provider: str, sold: frozenset[str]) -> bool:
    if not kind.lane or kind.ref.startswith(NOT_BY_TOKEN):
        return False
    return kind.ref.startswith(f"book:{provider}/") or kind.lane in sold


def _grouped(
    calls: Calls, at: Any, chosen: Any
) -> Iterator[tuple[int, int, bool, bool, bool, dict[str, int]]]:
    """The chosen calls that have all in common which their price hangs on, with their sums."""
    keys = {
        "code": calls.code,
        "row": at,
        "batch": calls.batch,
        "settled": calls.settled,
        "priced": calls.priced,
    }
    sums = {**calls.tokens, "booked": np.where(calls.priced, calls.booked, 0)}
    table = pa.table({name: one[chosen] for name, one in (keys | sums).items()})
    grouped = table.group_by(list(keys), use_threads=False).aggregate(
        [("code", "count"), *((name, "sum") for name in sums)]
    )
    for row in grouped.to_pylist():
        amounts = {name: row[f"{name}_sum"] for name in sums} | {"calls": row["code_count"]}
        yield row["code"], row["row"], row["batch"], row["settled"], row["priced"], amounts


def _add(
    one: Ours,
    price: TokenPrice | None,
    sums: Mapping[str, int],
    told: Told,
    *,
    batch: bool,
    settled: bool,
    priced: bool,
) -> None:
    one.calls += sums["calls"]
    if not settled:
        one.unsettled += sums["calls"]
        one.unsettled_nano += sums["booked"]
        return
    one.booked_nano += sums["booked"]
    one.unpriced += 0 if priced else sums["calls"]
    for place, names in COLUMNS.items():
        tokens, kind = sum(sums[name] for name in names), told.kind(place, batch=batch)
        if price is None:
            one.unknown[kind] += tokens
            continue
        pico = tokens * figures_of(price)[place]
        one.tokens[kind] += tokens
        one.pico[kind] += pico
        one.unpriced_pico += 0 if priced else pico


def figures_of(price: TokenPrice) -> dict[int, int]:
    return {
        INPUT: price.input_pico,
        CACHED: price.cached_input_pico,
        WRITE: price.cache_write_pico,
        LONG: price.cache_write_1h_pico,
        OUTPUT: price.output_pico,
    }
