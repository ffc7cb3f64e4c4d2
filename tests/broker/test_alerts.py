"""Who watches budgets is told once a level and window, of money that is spent and not of what is only reserved."""

from decimal import Decimal
from typing import Any

import msgpack
import pytest
import redis

from broker import keys
from broker.events import Attempted, Finished
from broker.scopes import LOG_LEVEL, OPERATIONS_LEVEL, USED_UP
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Claim, Outcome, Progress, Task

SCOPE = "workspace:acme"


@pytest.fixture(params=[0, 1000], ids=["alone", "among a thousand limits"])
def store(client: redis.Redis, request: pytest.FixtureRequest) -> Store:
    store = Store(client, Fleet(lease_s=1.0))
    store.limits.override(SCOPE, "day", 1000)
    others = [f"workspace:other-{n}" for n in range(request.param)]
    store.limits.declare([BudgetRow(scope=scope, period="day", usd=Decimal(1)) for scope in others])
    return store


def told(store: Store) -> list[tuple[str, str, int, int]]:
    raw: Any = store.client.lrange("laneway:alerts", 0, -1)
    return [(row[2], row[3], row[5], row[6]) for row in map(msgpack.unpackb, raw)]


def begin(store: Store, worst: int) -> tuple[Claim, str]:
    task = Task(f"t{store.client.incr('count')}", "acme", ({"role": "user", "content": "hi"},))
    store.submit([task])
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    lost = Attempted(claim.attempt_id, 0, "x", "echo", "m", "task", 1, 2, 0.0, 0.0, worst, settled=False)
    return claim, store.begin([Intent(claim, worst, lost, (SCOPE,))])[0]


def end(
    store: Store,
    claim: Claim,
    cost: int,
    soft: int | None = None,
    status: str = "succeeded",
    overrun: bool = False,
    word: str = "moved",
) -> None:
    call = Attempted(claim.attempt_id, 0, "x", "echo", "m", "task", 1, 2, 0.0, 0.0, cost)
    facts = (Finished("succeeded", True),) if status == "succeeded" else ()
    outcome = Outcome("succeeded", output="ok") if status == "succeeded" else None
    move = Move(
        claim, status, Progress(), DISPATCH,
        cost_nano=cost, outcome=outcome, attempts=(call,), facts=facts, scopes=(SCOPE,), soft_nano=soft,
        overrun=overrun,
    )  # fmt: skip
    assert store.commit([move]) == [word]


def spend(store: Store, cost: int) -> None:
    claim, word = begin(store, cost)
    assert word == "go"
    end(store, claim, cost)


def test_each_level_is_told_once_a_window(store: Store) -> None:
    for cost in (400, 150, 150, 50, 60):
        spend(store, cost)
    assert told(store) == [(SCOPE, "day", 50, 550), (SCOPE, "day", 80, 810)]
    store.limits.override(SCOPE, "month", 1000)
    spend(store, 10)
    assert told(store)[2:] == [(SCOPE, "month", 50, 820), (SCOPE, "month", 80, 820)]


@pytest.mark.parametrize("store", [1000], indirect=True)
def test_a_calls_money_reads_nothing_of_the_limits_of_others(store: Store) -> None:
    store.client.config_resetstat()
    claim, word = begin(store, 600)
    assert word == "go"
    end(store, claim, 600)
    assert told(store) == [(SCOPE, "day", 50, 600)]
    stats: Any = store.client.info("commandstats")
    assert "cmdstat_hgetall" not in stats
    assert begin(store, 401)[1] == f"over|{SCOPE}|day|400|1000"
    store.limits.kill(SCOPE)
    assert begin(store, 1)[1] == f"killed|{SCOPE}"


def test_what_is_only_reserved_is_no_alert(store: Store) -> None:
    claims = [begin(store, 100)[0] for _ in range(10)]
    assert begin(store, 1)[1] == f"over|{SCOPE}|day|0|1000"
    for claim in claims:
        end(store, claim, 1)
    assert told(store) == []


def test_what_was_reserved_before_midnight_is_only_reserved_after_it(store: Store) -> None:
    store.limits.override(SCOPE, "total", 1000)
    claim, _ = begin(store, 900)
    day = store.limits.windows()["day"]
    for key in (keys.used_key, keys.held_key):  # as if it had begun on another day
        store.client.rename(key(day), key("2020-02-02"))
    store.client.hset(keys.task_key(claim.ref), "held", "2020-02-02")
    (total,) = (one for one in store.limits.states() if one.period == "total")
    assert (total.spent_nano, total.reserved_nano) == (0, 900)
    assert begin(store, 200)[1] == f"over|{SCOPE}|total|100|1000"
    assert told(store) == []
    end(store, claim, 10)
    (total,) = (one for one in store.limits.states() if one.period == "total")
    assert (total.spent_nano, total.reserved_nano) == (10, 0)


def test_a_budget_is_used_up_when_a_call_was_refused_with_most_of_it_spent(store: Store) -> None:
    spend(store, 850)
    assert [row[2] for row in told(store)] == [LOG_LEVEL, OPERATIONS_LEVEL]
    assert begin(store, 200)[1].startswith("over|")
    assert begin(store, 200)[1].startswith("over|")
    assert told(store)[2:] == [(SCOPE, "day", USED_UP, 850)]


def test_one_giant_call_that_is_refused_does_not_use_a_budget_up(store: Store) -> None:
    spend(store, 100)
    assert begin(store, 950)[1].startswith("over|")
    assert told(store) == []


def test_a_task_that_passes_its_soft_limit_is_told_of_once(store: Store) -> None:
    claim, _ = begin(store, 30)
    end(store, claim, 20, soft=50, status="queued")
    assert told(store) == []
    for _ in range(2):
        (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
        end(store, claim, 40, soft=50, status="queued")
    assert told(store) == [(f"task:{claim.ref}", "soft", 100, 60)]


def test_a_scope_that_an_overrun_closes_is_told_of_once(store: Store) -> None:
    claims = [begin(store, 10)[0] for _ in range(2)]
    for claim in claims:
        end(store, claim, 20, overrun=True)
    assert begin(store, 1)[1] == f"closed|{SCOPE}|day"
    assert told(store) == [(SCOPE, "closed", 100, 30)]
    store.limits.unkill(SCOPE)
    claim, word = begin(store, 1)
    assert word == "go"
    end(store, claim, 2, overrun=True)
    assert told(store)[1:] == [(SCOPE, "closed", 100, 42)]


def test_an_overrun_that_is_settled_late_closes_its_scope_too(store: Store) -> None:
    claim, _ = begin(store, 10)
    store.release([claim], "its worker was lost")
    end(store, claim, 30, overrun=True, word="late")
    assert begin(store, 1)[1] == f"closed|{SCOPE}|day"
    assert told(store) == [(SCOPE, "closed", 100, 30)]
    assert store.limits.states()[0].spent_nano == 30


def test_an_overrun_of_yesterday_that_is_settled_today_leaves_closed_what_today_closed(store: Store) -> None:
    old, _ = begin(store, 10)
    store.client.hset(keys.task_key(old.ref), "held", "2020-02-02")
    today, _ = begin(store, 10)
    end(store, today, 20, overrun=True)
    end(store, old, 20, overrun=True)
    assert begin(store, 1)[1] == f"closed|{SCOPE}|day"
    assert told(store) == [(SCOPE, "closed", 100, 30)]


def test_a_replayed_dead_letter_has_its_deadline_left_as_it_died(store: Store) -> None:
    task = Task("late", "acme", ({"role": "user", "content": "hi"},), deadline_s=0.5)
    store.submit([task])
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    dead = Move(claim, "failed", Progress(), outcome=Outcome("failed"), cause="it cannot be read")
    assert store.commit([dead]) == ["moved"]
    for moment in ("submitted", "finished"):  # as if an hour had passed since
        store.client.hincrby(keys.task_key("acme/late"), moment, -3600 * 10**6)
    assert store.dead_letters.replay("acme/late")
    (again,) = store.fetch(DISPATCH, 1, idle=True).claims
    assert again.waited_us >= 3600 * 10**6
