"""The night's work: everything out of the stream, every day with news rolled up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
from broker.clock import US_PER_S, utc_day
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

    ``last_day`` None: not known, so it is done once more, which changes nothing where nothing is new. A day beyond
    tomorrow is one of a clock that was wrong, which no night waits for.
    """
    hours, _, minutes = rollup_at_utc.partition(":")
    today = utc_day(now_us)
    begins_us = ledger.midnight_us(today) + (int(hours) * 60 + int(minutes)) * _US_PER_MINUTE
    tomorrow = utc_day(now_us + ledger.US_PER_DAY)
    return now_us >= begins_us and (last_day is None or not today <= last_day <= tomorrow)


def days_to_share(today: str, shared: str | None, half: Sequence[str] = ()) -> list[str]:
    """The days of machines that a night shares out: the last two, and all since the last one that was; then earlier
    ones of which a night did not come to the end. None of them is older than ``MOST_SHARED_DAYS``.

    ``shared`` is the last day that was shared out, None: not known. ``half`` are days whose sharing began and did not
    end.
    """
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
        ingested += _drained(client, store, quarantine, settings)

    drain()
    machines, failures = _share_out(client, store, settings, drain)
    rolled = rollup.rollup_dirty(client, store, offers=offers)
    if failures:
        raise ledger.together(failures) from failures[0]
    return Night(ingested, rolled, machines)


def _drained(client: redis.Redis, store: Store, quarantine: Store, settings: Settings) -> Ingested:
    """All that waits in the stream. Raises LedgerError where another writer does not let go of it."""
    limit, patience_s = settings.fleet.ingest_flush_events, ingest.PATIENCE_S
    done = ingest.drain_all(client, store, quarantine, limit=limit, patience_s=patience_s)
    if done.busy:
        raise LedgerError(
            "another process holds the stream, or was killed while it did",
            mend=f"wait {ingest.held_s(client):.0f} s for its lock to run out",
        )
    return done


def _share_out(
    client: redis.Redis, store: Store, settings: Settings, told: Callable[[], object]
) -> tuple[tuple[MachineDay, ...], list[LedgerError]]:
    """The days of machines that were shared out, and what stopped others. ``told`` is as in ``allot``.

    Notes up to which day all of them were. One that another node began later is that node's to note.
    """
    state = State(client, settings.fleet)
    note = client.register_script(_NOTE)
    known: Any = client.get(SHARED)
    shared_to = known.decode() if known else None
    days = days_to_share(utc_day(state.clock.now_us()), shared_to, state.machine_days.half_shared())
    machines: list[MachineDay] = []
    failures: list[LedgerError] = []
    all_were = True
    for day in days:
        try:
            shared = allot(store, state, settings, day, told)
        except LedgerError as failure:
            log.error("the machines of %s stay to be shared out: %s", day, failure.message)
            failures.append(failure)
            shared = None
        machines += shared or ()
        all_were = all_were and shared is not None
        if all_were and day >= days[0]:  # the earlier ones, half shared, come last
            note(keys=[SHARED], args=[day])
    return tuple(machines), failures


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
    now_us = clock[0] * US_PER_S + clock[1]
    if not due(now_us, last_day, settings.fleet.rollup_at_utc):
        return last_day
    run(client, store, quarantine, settings, offers=offers)
    return utc_day(now_us)
