"""The night's work: everything out of the stream, every day with news rolled up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import redis

from accounting.files import ledger
from accounting.files.ledger import Store
from accounting.intake import ingest
from accounting.intake.ingest import Ingested
from accounting.rollup import rollup
from accounting.rollup.machines import MachineDay, allot
from accounting.rollup.offers import Offers
from accounting.rollup.rollup import RolledDay
from broker.errors import LedgerError
from broker.keys import PREFIX
from broker.settings import Settings
from broker.store import Store as State

_US_PER_MINUTE = 60_000_000
SHARED_AGAIN_DAYS = 2  # a call that was settled late changes what the day's others have
MOST_SHARED_DAYS = 30  # after nights that were missed; task records live about as long
#: The last day up to which all days of machines were shared out.
SHARED = PREFIX + "shared"

log = logging.getLogger("laneway.nightly")

_NOTE = """#!lua flags=allow-oom
redis.call('SET', KEYS[1], ARGV[1])
"""


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


def days_to_share(today: str, shared: str | None, half: Sequence[str] = ()) -> list[str]:
    """The days of machines that a night shares out: the last ones, and those since the last night that did; then
    earlier ones of which a night did not come to the end. ``shared`` is the last day that was, None: not known;
    ``half`` are days that were shared out by half."""
    last = date.fromisoformat(today) - timedelta(days=1)
    since, earliest = (last - timedelta(days=days - 1) for days in (SHARED_AGAIN_DAYS, MOST_SHARED_DAYS))
    if shared is not None:
        missed = date.fromisoformat(shared) + timedelta(days=1)
        since = max(min(since, missed), earliest)
    left = (day for day in half if earliest.isoformat() <= day < since.isoformat())
    return [*ledger.days_of(since.isoformat(), last.isoformat()), *sorted(left)]


def run(
    client: redis.Redis,
    store: Store,
    quarantine: Store,
    settings: Settings,
    *,
    offers: Offers | None = None,
) -> Night:
    """Drains the stream, shares out what the machines of the last days did cost, and rolls every day with news.

    Large days are shared with other nodes by way of the ``offers``. What cannot be read or written stops no other day;
    raises LedgerError for it at the end, and at once where another writer does not let go of the stream.
    """
    store.tidy()
    ingested = Ingested()

    def drain() -> None:
        nonlocal ingested
        limit, patience_s = settings.fleet.ingest_flush_events, ingest.PATIENCE_S
        done = ingest.drain_all(client, store, quarantine, limit=limit, patience_s=patience_s)
        if done.busy:
            raise LedgerError(
                "another process holds the stream, or was killed while it did",
                mend=f"wait {ingest.held_s(client):.0f} s for its lock to run out",
            )
        ingested += done

    drain()
    state = State(client, settings.fleet)
    machines: list[MachineDay] = []
    failures: list[LedgerError] = []
    whole = True
    known: Any = client.get(SHARED)
    note = client.register_script(_NOTE)
    shared_to = known.decode() if known else None
    days = days_to_share(ledger.day_of(state.clock.now_us()), shared_to, state.machine_days.half_shared())
    for day in days:
        try:
            shared = allot(store, state, settings, day, drain)
        except LedgerError as failure:
            log.error("the machines of %s stay to be shared out: %s", day, failure.message)
            failures.append(failure)
            shared = None
        machines += shared or ()
        whole = (
            whole and shared is not None
        )  # another node that began later notes what it comes to the end of
        if whole and day >= days[0]:
            note(keys=[SHARED], args=[day])
    rolled = rollup.rollup_dirty(client, store, offers=offers)
    if failures:
        raise LedgerError("; ".join(one.message for one in failures), mend=failures[0].mend) from failures[0]
    return Night(ingested, rolled, tuple(machines))


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
