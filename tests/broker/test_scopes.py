"""The scopes that a call's money counts in, and when the windows of their limits open anew."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.clock import utc_day
from broker.scopes import next_window_s, scopes_of
from broker.task import Task

DAY_S = 86_400.0


def at(moment: str) -> int:
    """Microseconds since the epoch of a time in UTC."""
    return round(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1_000_000)


def test_money_counts_in_each_scope_that_a_task_names_the_widest_first() -> None:
    words = ({"role": "user", "content": "hi"},)
    whole = Task("t", "acme", words, workflow="support", pipeline="triage", user="u-1")
    assert scopes_of(whole, "local") == (
        "fleet", "workspace:acme", "workflow:support", "pipeline:triage", "user:u-1", "lane:local",
    )  # fmt: skip
    assert scopes_of(Task("t", "acme", words), "") == ("fleet", "workspace:acme")
    assert scopes_of(Task("t", "acme", words, user="u-1"), "x") == (
        "fleet",
        "workspace:acme",
        "user:u-1",
        "lane:x",
    )


@pytest.mark.parametrize(
    ("period", "moment", "opens_s"),
    [
        ("day", "2026-01-31T00:00:00", DAY_S),
        ("day", "2026-01-31T23:59:59.5", 0.5),
        ("day", "2026-12-31T12:00:00", DAY_S / 2),
        ("month", "2026-01-01T00:00:00", 31 * DAY_S),
        ("month", "2026-01-31T18:00:00", DAY_S / 4),
        ("month", "2026-02-01T00:00:00", 28 * DAY_S),
        ("month", "2028-02-28T00:00:00", 2 * DAY_S),
        ("month", "2026-12-31T00:00:00", DAY_S),
        ("month", "2026-04-30T23:59:59", 1.0),
        ("total", "2026-01-31T00:00:00", None),
        ("", "2026-01-31T00:00:00", None),
    ],
)
def test_the_next_window_opens_at_midnight_in_utc(period: str, moment: str, opens_s: float | None) -> None:
    assert next_window_s(period, at(moment)) == opens_s


def test_a_day_is_that_of_utc() -> None:
    assert [utc_day(at(one)) for one in ("2026-01-31T00:00:00", "2026-01-31T23:59:59")] == ["2026-01-31"] * 2
    assert utc_day(at("2026-02-01T00:00:00") - 1) == "2026-01-31"
