"""What is a trend and what is a spike: a made-up clock; and the watch over a real Redis."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import redis

from accounting.alerting.alerts import decode
from accounting.alerting.tell import NEW
from accounting.alerting.trend import Ended, p95, per_success, trends
from accounting.alerting.watch import ENDS, Watch
from broker import keys
from broker.events import Finished
from broker.settings.fleet import Fleet
from broker.state import Move
from broker.store import Store
from broker.task import DISPATCH, Outcome, Progress, Task

MINUTE = 60_000_000
NOW = 1000 * MINUTE
Price = Callable[[int], int]


def ends(
    minutes: range, cost: Price, *, each: int = 4, failing: int = 0, task_type: str = "x"
) -> list[Ended]:
    """``each`` ends in every minute so long ago, the first ``failing`` of them without success."""
    return [
        Ended(NOW - ago * MINUTE - 1 - place, task_type, cost(ago), place >= failing)
        for ago in minutes
        for place in range(each)
    ]


def test_tasks_that_are_too_dear_for_five_minutes_are_told_of() -> None:
    (alert,) = trends(ends(range(5), lambda _: 400), NOW, 300)
    assert (alert.scope, alert.period, alert.used_nano, alert.limit_nano) == ("type:x", "p95", 400, 300)
    assert trends(ends(range(5), lambda _: 400), NOW, None) == []


@pytest.mark.parametrize(
    "seen",
    [
        ends(range(5), lambda ago: 9000 if ago == 2 else 200),
        ends(range(5), lambda ago: 200 if ago == 2 else 9000),
        ends(range(1), lambda _: 9000, each=500),
        ends(range(2), lambda _: 9000),
        ends(range(0, 5, 2), lambda _: 9000, each=1),
        ends(range(5, 30), lambda _: 9000),
        [],
    ],
    ids=[
        "one dear minute", "one cheap minute", "a flood in one minute", "two minutes", "a handful", "long over",
        "nothing",
    ],
)  # fmt: skip
def test_a_spike_is_no_trend(seen: list[Ended]) -> None:
    assert trends(seen, NOW, 300) == []


def test_one_type_s_trend_is_not_another_s() -> None:
    seen = [*ends(range(5), lambda _: 400), *ends(range(5), lambda _: 200, task_type="y")]
    assert [alert.scope for alert in trends(seen, NOW, 300)] == ["type:x"]


def test_the_price_of_a_success_that_rises_is_told_of_whatever_a_task_costs() -> None:
    before = ends(range(6, 60), lambda _: 100)
    (alert,) = trends([*before, *ends(range(5), lambda _: 100, failing=2)], NOW, None)
    assert (alert.period, alert.used_nano, alert.limit_nano) == ("rising", 200, 100)
    (alert,) = trends([*before, *ends(range(5), lambda _: 100, failing=4)], NOW, None)
    assert alert.used_nano == 5 * 4 * 100
    assert trends([*before, *ends(range(5), lambda _: 120)], NOW, None) == []
    assert trends([*before, *ends(range(5), lambda ago: 900 if ago == 1 else 100)], NOW, None) == []
    assert trends([*ends(range(50, 53), lambda _: 100), *ends(range(5), lambda _: 900)], NOW, None) == []


@pytest.mark.parametrize(("now", "risen"), [(3 * 10**16 + 3, False), (3 * 10**16 + 4, True)])
def test_a_success_has_risen_by_more_than_half_to_the_nano_dollar(now: int, risen: bool) -> None:
    before = ends(range(6, 60), lambda _: 2 * 10**16 + 2)
    found = trends([*before, *ends(range(5), lambda _: now)], NOW, None)
    assert [(alert.used_nano, alert.limit_nano) for alert in found] == [(now, 2 * 10**16 + 2)] * risen


def test_what_no_gate_judged_has_no_price_of_a_success() -> None:
    unjudged = [
        Ended(one.at_us, one.task_type, one.cost_nano, None) for one in ends(range(60), lambda ago: 999 - ago)
    ]
    assert trends(unjudged, NOW, None) == []
    assert per_success(unjudged) is None


def test_the_95th_of_a_hundred() -> None:
    costs = [Ended(0, "x", cost, True) for cost in range(1, 101)]
    assert [p95(costs), p95(costs[:20]), p95(costs[:1])] == [95, 19, 1]
    assert [p95(costs[:21]), p95(costs[:10]), p95(costs[1:3])] == [20, 10, 3], "the next whole rank"


def test_the_watch_sees_ends_as_they_come_and_tells_of_a_trend_once(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(client, Fleet())
    watch = Watch(store, Decimal("0.0000003"))
    watch.round()
    finish(store, "before anybody looked", 9)
    watch.round()
    assert list(watch.ended) == []
    for number in range(8):
        finish(store, f"t{number}", 400)
    assert watch.round() == []  # all in one minute
    assert [(one.task_type, one.cost_nano, one.succeeded) for one in watch.ended] == [
        ("picky", 400, True)
    ] * 8
    now_us = store.clock.now_us()
    spread = [Ended(now_us - place % 4 * MINUTE, "picky", 400, True) for place in range(8)]
    watch.ended.clear()
    watch.ended.extend(spread)
    monkeypatch.setattr(store.clock, "now_us", lambda: now_us)
    assert [alert.period for alert in watch.round()] == ["p95"]
    assert watch.round() == []
    item = client.lindex(NEW, 0)
    assert isinstance(item, bytes)
    assert decode(item).scope == "type:picky"


def test_the_watch_sees_a_task_with_its_parts_as_one(client: redis.Redis) -> None:
    store = Store(client, Fleet())
    watch = Watch(store, None)
    watch.round()
    store.submit([Task("seen", "acme", ({"role": "user", "content": "hi"},))])
    watch.round()
    (whole,) = store.fetch(DISPATCH, 1, idle=True).claims
    finish(store, "part", 30, family=((whole.ref, -1),))
    done = Outcome("succeeded", output="ok")
    told = Progress(task_type="picky")
    fact = Finished("succeeded", True)
    store.commit([Move(whole, "succeeded", told, cost_nano=10, outcome=done, facts=(fact,))])
    watch.round()
    assert [one.cost_nano for one in watch.ended] == [40]


def test_the_watch_reads_no_more_of_the_stream_than_it_looks_at(client: redis.Redis) -> None:
    store = Store(client, Fleet())
    watch = Watch(store, None)
    finish(store, "first", 9)
    watch.round()
    store.submit([Task(f"t{n}", "acme", ({"role": "user", "content": "hi"},)) for n in range(200)])
    claims = store.fetch(DISPATCH, 200, idle=True).claims
    done, told, fact = (
        Outcome("succeeded", output="ok"),
        Progress(task_type="picky"),
        Finished("succeeded", True),
    )
    store.commit([Move(one, "succeeded", told, outcome=done, facts=(fact,)) for one in claims])
    newest: Any = client.xrevrange(keys.EVENTS, count=1)
    entry = newest[0][1]  # two hundred ends
    for _ in range(199):
        client.xadd(keys.EVENTS, entry)
    before: Any = client.info("stats")
    watch.round()
    after: Any = client.info("stats")
    assert len(watch.ended) == ENDS
    read = after["total_net_output_bytes"] - before["total_net_output_bytes"]
    assert read < 100 * len(entry[b"b"])


def finish(store: Store, task_id: str, cost: int, family: tuple[tuple[str, int], ...] = ()) -> None:
    store.submit([Task(task_id.replace(" ", "-"), "acme", ({"role": "user", "content": "hi"},))])
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    progress = Progress(task_type="picky", family=family)
    outcome = Outcome("succeeded", output="ok")
    store.commit(
        [
            Move(
                claim,
                "succeeded",
                progress,
                cost_nano=cost,
                outcome=outcome,
                facts=(Finished("succeeded", True),),
            )
        ]
    )


def some(*counts: int, cost: int = 400, judged: bool = True) -> list[Ended]:
    """So many ends in the last minute, the one before it, and so on."""
    made = [
        one
        for ago, count in enumerate(counts)
        for one in ends(range(ago, ago + 1), lambda _: cost, each=count)
    ]
    return made if judged else [replace(one, succeeded=None) for one in made]


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (some(2, 2, 1), 1),
        (some(2, 1, 1), 0),
        (some(3, 3), 0),
        (some(0, 0, 2, 2, 1), 1),
        (some(0, 0, 0, 3, 3, 3), 0),
        (some(2, 2, 2, cost=301), 1),
        (some(2, 2, 2, cost=300), 0),
        (some(2, 2, 2, judged=False), 1),
    ],
)  # fmt: skip
def test_three_minutes_and_five_ends_above_the_limit_are_the_least_that_is_told_of(
    seen: list[Ended], told: int
) -> None:
    assert [alert.period for alert in trends(seen, NOW, 300)] == ["p95"] * told


HOUR = ends(range(5, 65), lambda _: 100)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (HOUR, some(2, 2, 2, cost=151), 1),
        (HOUR, some(2, 2, 2, cost=150), 0),
        (HOUR, [*some(2, 2, cost=900), *ends(range(2, 3), lambda _: 150)], 0),
        (HOUR, some(2, 2, 1), 1),
        (HOUR, some(2, 1, 1), 0),
        (HOUR, some(3, 3), 0),
        (HOUR, [*some(3, 3), *some(0, 0, 9, judged=False)], 0),
        (HOUR, [*some(2, 1, 1), *some(9, judged=False)], 0),
        (ends(range(5, 9), lambda _: 100, each=5), some(2, 2, 2), 1),
        (ends(range(5, 9), lambda _: 100, each=5)[1:], some(2, 2, 2), 0),
        (ends(range(5, 9), lambda _: 100, each=6, failing=1), some(2, 2, 2), 1),
        (ends(range(5, 9), lambda _: 100, each=5, failing=1), some(2, 2, 2), 0),
        (ends(range(61, 65), lambda _: 100, each=5), some(2, 2, 2), 1),
        (ends(range(62, 66), lambda _: 100, each=5), some(2, 2, 2), 0),
        (ends(range(65, 600), lambda _: 100), some(2, 2, 2), 0),
    ],
)  # fmt: skip
def test_a_success_at_more_than_one_and_a_half_times_what_twenty_of_the_hour_before_cost_is_told_of(
    before: list[Ended], now: list[Ended], told: int
) -> None:
    assert [alert.period for alert in trends([*before, *now], NOW, None)] == ["rising"] * told


def test_a_trend_that_goes_on_is_told_of_again_after_an_hour(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(client, Fleet())
    watch = Watch(store, Decimal("0.0000003"))
    watch.ended.extend(some(2, 2, 2))
    monkeypatch.setattr(store.clock, "now_us", lambda: NOW)
    assert [alert.period for alert in watch.round()] == ["p95"]
    [mark] = client.keys("*type:x|p95")
    assert 3_590 < client.ttl(mark) <= 3_600
    client.delete(mark)
    assert [alert.period for alert in watch.round()] == ["p95"]


def test_the_watch_holds_ends_for_as_long_as_an_hour_before_the_five_minutes_asks_for(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(client, Fleet())
    watch = Watch(store, None)
    monkeypatch.setattr(store.clock, "now_us", lambda: NOW)
    ages_us = (66 * MINUTE, 65 * MINUTE + 1, 65 * MINUTE - 1, 10 * MINUTE, 0)
    watch.ended.extend(Ended(NOW - age_us, "x", 1, True) for age_us in ages_us)
    watch.round()
    assert [NOW - one.at_us for one in watch.ended] == [65 * MINUTE - 1, 10 * MINUTE, 0]
