"""When the night's work is due, and that it leaves nothing behind."""

from __future__ import annotations

import logging
import threading

import pytest
import redis

from accounting import ingest, ledger, nightly, rollup
from accounting.actor import Accounting
from accounting.ledger import LocalStore
from accounting.offers import Offers
from broker.keys import EVENTS
from broker.settings import Settings
from broker.store import Store as State
from tests.accounting.stories import DAY, NOON_US, day_of_stories, entry, publish

HOUR_US = 3_600_000_000


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
    ],
)
def test_due(now_us: int, last_day: str | None, at: str, due: bool) -> None:
    assert nightly.due(now_us, last_day, at) is due


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
