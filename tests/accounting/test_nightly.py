"""When the night's work is due, and that it leaves nothing behind."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis

from accounting.actor import Accounting
from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.rollup import machines, nightly, rollup
from accounting.rollup.offers import Offers
from broker import keys
from broker.clock import Clock, utc_day
from broker.errors import LedgerError
from broker.events import Finished, Submitted
from broker.keys import EVENTS
from broker.machine_days import MachineDays
from broker.money import nano
from broker.settings import Settings, parse
from broker.state import Move
from broker.store import Store as State
from broker.task import DISPATCH, Outcome, Task
from tests.accounting.rolling import query
from tests.accounting.stories import DAY, NOON_US, attempted, day_of_stories, entry, publish, story

HOUR_US = 3_600_000_000
TOML = """
[lanes.local]
engine = "echo"
hardware = { price_usd = 3000, life_years = 4, watts = 200, usd_per_kwh = "0.30" }

[types.general]
chain = ["local"]
"""


@pytest.mark.parametrize(
    ("now_us", "last_day", "at", "due"),
    [
        (NOON_US, None, "00:15", True),
        (NOON_US, "2025-12-31", "00:15", True),
        (NOON_US, "2026-01-01", "00:15", False),
        (NOON_US, "2025-12-31", "12:00", True),
        (NOON_US - 1, "2025-12-31", "12:00", False),
        (NOON_US - 12 * HOUR_US, "2025-12-31", "00:15", False),
        (NOON_US - 12 * HOUR_US, "2025-12-31", "00:00", True),
        (NOON_US, "2026-01-02", "00:15", False),
        (NOON_US, "2026-01-03", "00:15", True),
    ],
)
def test_due(now_us: int, last_day: str | None, at: str, due: bool) -> None:
    assert nightly.due(now_us, last_day, at) is due


@pytest.mark.parametrize(
    ("shared", "days"),
    [
        (None, ["2026-03-08", "2026-03-09"]),
        ("2026-03-09", ["2026-03-08", "2026-03-09"]),
        ("2026-03-08", ["2026-03-08", "2026-03-09"]),
        ("2026-03-06", ["2026-03-07", "2026-03-08", "2026-03-09"]),
        ("2026-04-01", ["2026-03-08", "2026-03-09"]),
    ],
)
def test_machines_are_shared_out_for_the_last_days_and_those_that_were_missed(
    shared: str | None, days: list[str]
) -> None:
    assert nightly.days_to_share("2026-03-10", shared) == days


def test_of_days_that_were_missed_for_long_the_last_thirty_are_shared_out() -> None:
    days = nightly.days_to_share("2026-03-10", "2020-01-01")
    assert (len(days), days[0], days[-1]) == (30, "2026-02-08", "2026-03-09")


@pytest.mark.parametrize(
    ("half", "days"),
    [
        (["2026-03-09"], []),
        (["2026-03-07", "2026-03-05"], ["2026-03-05", "2026-03-07"]),
        (["2026-02-08"], ["2026-02-08"]),
        (["2026-02-07", "2026-03-10"], []),
    ],
)
def test_what_a_night_left_half_shared_is_shared_out_again_within_thirty_days(
    half: list[str], days: list[str]
) -> None:
    found = nightly.days_to_share("2026-03-10", "2026-03-09", half)
    assert found == ["2026-03-08", "2026-03-09", *days]


def test_a_day_whose_second_sharing_was_killed_on_the_way_is_shared_out_to_its_end_by_a_later_night(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that settled late changes what all others have; a night that was killed had told some of them alone."""
    monkeypatch.setattr(machines, "SLICE_ROWS", 20)
    settings = parse(TOML)
    state = State(client, settings.fleet)
    now_us = state.clock.now_us()

    def made(names: Iterable[str], took_us: int) -> None:
        state.submit([Task(name, "acme", ({"role": "user", "content": "hi"},)) for name in names])
        claims = state.fetch(DISPATCH, 100, idle=True).claims
        said = {"ended_us": now_us, "started_us": now_us - took_us, "cost_nano": 100, "node": "mac-1"}
        state.commit(
            [
                Move(
                    claim, "succeeded", claim.progress, cost_nano=100, outcome=Outcome("succeeded"),
                    scopes=("fleet",), attempts=(attempted(claim.attempt_id, **said),),
                )
                for claim in claims
            ]
        )  # fmt: skip

    def night(days: int) -> dict[str, int]:
        """So many days later: what each machine's day did cost that it shares out."""
        at_us = now_us + days * ledger.US_PER_DAY
        with monkeypatch.context() as patch:
            patch.setattr(Clock, "now_us", lambda _: at_us)
            return {
                one.machine: one.cost_nano
                for one in nightly.run(client, store, quarantine, settings).machines
            }

    def borne() -> int:
        [(total,)] = query(f"select sum(cost_usd) from '{store.root}/tasks/*/*.parquet'")
        used: Any = client.hget(keys.used_key("total"), "fleet")
        assert int(used) == nano(total)
        return nano(total)

    made([f"t{number}" for number in range(60)], 10**6)
    assert night(1)["mac-1"] == borne()
    made(["late"], 60 * 10**6)
    allot = MachineDays.allot
    told: list[int | None] = []

    def killed(*asked: Any) -> Any:
        told.append(allot(*asked) if not told else sys.exit())
        return told[0]

    with monkeypatch.context() as patch:
        patch.setattr(MachineDays, "allot", killed)
        with pytest.raises(SystemExit):
            night(2)
    assert night(3)["mac-1"] == borne()
    assert night(4) == {}, "it is shared out no further time"


def test_the_night_remembers_how_far_machines_were_shared_out(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    settings = parse(TOML)
    state = State(client, settings.fleet)
    today = utc_day(state.clock.now_us())
    yesterday, first = ((date.fromisoformat(today) - timedelta(days=back)).isoformat() for back in (1, 6))
    at_us = ledger.midnight_us(first) + HOUR_US
    one = attempted("a-1", started_us=at_us, ended_us=at_us + 10**6, node="mac-1")
    publish(client, [entry(story("t", [Submitted("sync"), one], at_us=at_us))])
    assert nightly.run(client, store, quarantine, settings).machines == ()
    assert client.get(nightly.SHARED) == yesterday.encode()
    client.set(nightly.SHARED, (date.fromisoformat(first) - timedelta(days=1)).isoformat())
    assert [day.calls for day in nightly.run(client, store, quarantine, settings).machines] == [1]


def test_what_cannot_be_read_of_one_day_stops_no_other(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    settings = parse(TOML)
    state = State(client, settings.fleet)
    today = utc_day(state.clock.now_us())
    days = [(date.fromisoformat(today) - timedelta(days=back)).isoformat() for back in (1, 2)]
    for day in days:
        at_us = ledger.midnight_us(day) + HOUR_US
        one = attempted(f"{day}-1", started_us=at_us, ended_us=at_us + 10**6, node="mac-1")
        publish(client, [entry(story(day, [Submitted("sync"), one], at_us=at_us))])
        ingest.drain_all(client, store, quarantine)
    [damaged] = (store.root / "events" / f"date={days[1]}").iterdir()
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"?")
    with pytest.raises(LedgerError, match=f"date={days[1]}"):
        nightly.run(client, store, quarantine, settings)
    assert ledger.days(store, "tasks") == (days[0],)
    assert client.hkeys(ingest.DIRTY) == [days[1].encode()]
    damaged.write_bytes(whole)
    assert [day.calls for day in nightly.run(client, store, quarantine, settings).machines] == [1, 1]
    assert ledger.days(store, "tasks") == (days[1], days[0])


def test_a_night_that_cannot_have_all_facts_is_not_done(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "PATIENCE_S", 0.1)
    settings = Settings.model_validate({"fleet": {"rollup_at_utc": "00:00"}})
    publish(client, map(entry, day_of_stories(5)))
    client.set(ingest.LOCK, "somebody who was killed", px=60_000)
    with pytest.raises(LedgerError, match="another process holds the stream"):
        nightly.run_if_due(client, store, quarantine, settings, None)
    assert ledger.days(store, "tasks") == ()
    client.delete(ingest.LOCK)
    assert nightly.run_if_due(client, store, quarantine, settings, None)
    assert ledger.days(store, "tasks") == (DAY,)


def test_the_night_drains_and_rolls_everything_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    settings = Settings.model_validate({"fleet": {"ingest_flush_events": 100, "rollup_at_utc": "00:00"}})
    publish(client, map(entry, day_of_stories(60)))
    done_on = nightly.run_if_due(client, store, quarantine, settings, None)
    assert done_on is not None
    assert client.xlen(EVENTS) == 0
    assert not client.exists(ingest.DIRTY)
    assert ledger.days(store, "tasks") == (DAY,)
    publish(client, map(entry, day_of_stories(1, 5)))
    assert nightly.run_if_due(client, store, quarantine, settings, done_on) == done_on
    assert client.xlen(EVENTS) == 1
    night = nightly.run(client, store, quarantine, settings)
    assert night.ingested.entries == 1
    assert [day.day for day in night.rolled] == [DAY]


def test_a_large_day_of_the_night_is_offered_to_the_other_nodes(
    client: redis.Redis,
    store: LocalStore,
    quarantine: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings.model_validate({"fleet": {"rollup_at_utc": "00:00"}})
    one, other = (Accounting(settings, State(client, settings.fleet), store, quarantine) for _ in range(2))

    class Quick(Offers):
        def make(self, offer: str, spans: int) -> None:
            super().make(offer, spans)
            other.help_others(threading.Event())

    publish(client, map(entry, day_of_stories(60)))
    monkeypatch.setattr(rollup, "SLICE_ROWS", 50)
    one.offers = Quick(client, settings.fleet.lease_s)
    with caplog.at_level(logging.INFO):
        one.nightly()
    assert f"folded 8 spans of {DAY}" in caplog.text
    assert ledger.days(store, "tasks") == (DAY,)
    assert not client.exists(ingest.DIRTY)


#: A dollar of wear a day; 90 seconds at 200 watts are 5 Wh, which are 0.18 cents.
OWN = """
[lanes.local]
engine = "echo"
threads = 1
hardware = { price_usd = 1460, life_years = 4, watts = 200, usd_per_kwh = "0.36" }

[types.general]
chain = ["local"]
"""


@pytest.mark.parametrize(
    ("days_ago", "calls", "costs"),
    [(0, [], "0.002"), (1, [1], "1.0018"), (2, [1], "1.0018"), (3, [], "0.002")],
)
def test_the_night_shares_out_what_the_machines_of_the_last_two_days_did_cost(
    days_ago: int, calls: list[int], costs: str, client: redis.Redis, store: LocalStore, quarantine: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One call, booked at a fifth of a cent when it ended."""
    settings = parse(OWN)
    State(client, settings.fleet).submit([Task("t", "acme", ({"role": "user", "content": "hi"},))])
    client.hset(keys.task_key("acme/t"), mapping={"submitted": NOON_US, "seq": 3})
    client.delete(EVENTS)
    call = attempted(
        "t-1", node="mac-1", started_us=NOON_US, ended_us=NOON_US + 90_000_000, cost_nano=2_000_000
    )
    publish(client, [entry(story("t", [Submitted("sync"), call, Finished("succeeded", True)]))])
    monkeypatch.setattr(Clock, "now_us", lambda _: NOON_US + days_ago * ledger.US_PER_DAY)
    night = nightly.run(client, store, quarantine, settings)
    assert [one.calls for one in night.machines] == calls
    for files in ("attempts", "tasks"):
        assert query(f"select cost_usd from '{store.root}/{files}/*/*.parquet'") == [(Decimal(costs),)]
