"""The night's work: everything out of the stream, every day with news rolled up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from accounting import ingest, ledger, rollup
from accounting.ingest import Ingested
from accounting.ledger import Store
from accounting.machines import MachineDay, allot
from accounting.offers import Offers
from accounting.rollup import RolledDay
from broker.settings import Settings
from broker.store import Store as State

_US_PER_MINUTE = 60_000_000
SHARED_AGAIN_DAYS = 2  # a call that was settled late changes what the day's others have


@dataclass(frozen=True, slots=True)
class Night:
    """``machines`` are the days of machines that were shared out."""

    ingested: Ingested
    rolled: tuple[RolledDay, ...]
    machines: tuple[MachineDay, ...] = ()


def due(now_us: int, last_day: str | None, rollup_at_utc: str) -> bool:
    """Whether the night's work of this UTC day is to be done: its time has come, and it was last done on another day.

    ``last_day`` None: not known, so it is done once more, which changes nothing where nothing is new.
    """
    hours, _, minutes = rollup_at_utc.partition(":")
    today = ledger.day_of(now_us)
    begins_us = ledger.midnight_us(today) + (int(hours) * 60 + int(minutes)) * _US_PER_MINUTE
    return now_us >= begins_us and (last_day is None or last_day < today)


def run(
    client: redis.Redis,
    store: Store,
    quarantine: Store,
    settings: Settings,
    *,
    offers: Offers | None = None,
) -> Night:
    """Drains the stream, shares out what the machines of the last days did cost, and rolls every day with news.

    Large days are shared with other nodes by way of the ``offers``. Raises LedgerError for what could not be written or
    read.
    """
    store.tidy()
    ingested = Ingested()

    def drain() -> None:
        nonlocal ingested
        ingested += ingest.drain_all(client, store, quarantine, limit=settings.fleet.ingest_flush_events)

    drain()
    state = State(client, settings.fleet)
    days = [
        ledger.day_of(state.now_us() - back * ledger.US_PER_DAY) for back in range(SHARED_AGAIN_DAYS, 0, -1)
    ]
    machines = [one for day in days for one in allot(store, state, settings, day, drain)]
    return Night(ingested, rollup.rollup_dirty(client, store, offers=offers), tuple(machines))


def run_if_due(
    client: redis.Redis,
    store: Store,
    quarantine: Store,
    settings: Settings,
    last_day: str | None,
    *,
    offers: Offers | None = None,
) -> str | None:
    """Does the night's work where it is due by Redis's clock. The day on which it was last done."""
    clock: Any = client.time()
    now_us = clock[0] * 1_000_000 + clock[1]
    if not due(now_us, last_day, settings.fleet.rollup_at_utc):
        return last_day
    run(client, store, quarantine, settings, offers=offers)
    return ledger.day_of(now_us)
