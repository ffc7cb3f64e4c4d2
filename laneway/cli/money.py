"""`laneway rollup`: from facts to files."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import click

from accounting.files import ledger
from accounting.intake import aside
from accounting.intake.ingest import Ingested, drain_all, held_s
from accounting.rollup.offers import Offers
from accounting.rollup.rollup import Laying, Progress, RolledDay, Tell, rollup_dirty
from accounting.rollup.rollup import rollup as roll
from broker.ask import ask
from broker.connect import connect
from broker.errors import LedgerError, RedisUnavailable
from broker.settings import Settings, load
from broker.store import Store
from laneway.cli.options import date_option, json_option, since_option
from laneway.cli.output import emit, price, progress, say, usd

BRIEF_S = 1.0  # that a writer at work may take without a word of ours


@click.command()
@date_option
@since_option
@json_option
def rollup(date: str | None, since: str | None, as_json: bool) -> None:
    """Write the nightly files of a day again.

    First whatever waits in Redis goes into the ledger; without a Redis the ledger is rolled as it is. With no day
    named, every day with news is rolled. The same facts give the same bytes, so a file that would not change is left
    alone. A large day is folded together with the nodes that keep the ledger; how far it is, is told on standard error.
    """
    if date and since:
        raise click.UsageError("give --date or --since, not both")
    settings = load()
    files = ledger.open_store(settings)
    files.check()
    try:
        store = connect(settings)
    except RedisUnavailable as error:
        click.echo(f"the ledger is rolled as it is: {error.message}", err=True)
        drained, rolled = None, _roll(files, date, since, None)
    else:
        drained = _drain(settings, store, files)
        offers = Offers(store.client, settings.fleet.lease_s)
        tell, laying = _progress()
        rolled = (
            _roll(files, date, since, offers)
            if date or since
            else ask(lambda: rollup_dirty(store.client, files, offers=offers, tell=tell, laying=laying))
        )
    if as_json:
        emit(
            {
                "ledger": settings.fleet.ledger,
                "ingested": None if drained is None else asdict(drained),
                "days": [_rolled_row(day) for day in rolled],
            }
        )
    else:
        _tell(settings.fleet.ledger, drained, rolled)


def _drain(settings: Settings, store: Store, files: ledger.Store) -> Ingested:
    """All that waits in Redis. A writer that was killed keeps its lock for a while, and that is waited for."""
    first = _drained(settings, store, files, BRIEF_S)
    if not first.busy:
        return first
    left_s = ask(lambda: held_s(store.client))
    click.echo(f"another writer holds the ledger: waiting for up to {left_s:.0f} s", err=True)
    second = _drained(settings, store, files, left_s + BRIEF_S)
    if second.busy:
        left_s = ask(lambda: held_s(store.client))
        raise LedgerError("another writer holds the ledger", mend=f"try again in {math.ceil(left_s)} s")
    return replace(first + second, busy=False)


def _drained(settings: Settings, store: Store, files: ledger.Store, patience_s: float) -> Ingested:
    quarantine, limit = aside.place(settings), settings.fleet.ingest_flush_events
    return ask(lambda: drain_all(store.client, files, quarantine, limit=limit, patience_s=patience_s))


def _roll(
    files: ledger.Store, date: str | None, since: str | None, offers: Offers | None
) -> tuple[RolledDay, ...]:
    days = [date] if date else [day for day in ledger.days(files, ledger.EVENTS) if day >= (since or "")]
    tell, laying = _progress()
    rolled, failures = [], []
    for day in days:
        try:
            rolled.append(roll(files, day, offers=offers, tell=tell, laying=laying))
        except LedgerError as failure:
            failures.append(failure)
    if failures:
        raise ledger.together(failures) from failures[0]
    return tuple(rolled)


def _progress() -> tuple[Tell, Laying]:
    """What says how far the work is, where it takes long."""
    say_now = progress()

    def tell(now: Progress) -> None:
        by = f"by {now.nodes} nodes" if now.nodes > 1 else "by this node"
        say_now(f"{now.day}: {now.done} of {now.spans} spans, {by}")

    def laying(day: str, done: int, count: int) -> None:
        say_now(f"{day}: {done} of {count} small parts are read")

    return tell, laying


def _rolled_row(day: RolledDay) -> dict[str, Any]:
    return {
        "date": day.day,
        "events": day.events,
        "tasks": day.tasks,
        "attempts": day.attempts,
        "cost_usd": usd(day.cost_nano),
        "written": list(day.written),
    }


def _tell(place: str, drained: Ingested | None, rolled: tuple[RolledDay, ...]) -> None:
    if drained is not None:
        say(f"ingested    {drained.events} events, {drained.parts} files")
        if drained.flaws:
            say(f"set aside   {drained.flaws} facts that cannot be read, in {aside.FOLDER}")
    for day in rolled:
        say(f"{day.day}  {day.tasks} tasks, {day.attempts} attempts, {price(usd(day.cost_nano))}")
        for path in day.written:
            say(f"  written   {place}/{path}")
        if not day.written:
            say("  unchanged" if day.events else "  no events of that day")
    if not rolled:
        say("nothing new to roll")
