"""Limits and switches, as operators set and read them."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import redis

from broker.ask import AT_ONCE
from broker.settings.budgets import BudgetRow
from broker.state import Intent
from broker.store import Store
from tests.broker.tasks import call, done, take, task


def test_nodes_start_and_switches_work_when_redis_is_full(store: Store, client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)
    store.limits.declare([BudgetRow(scope="fleet", period="day", usd=Decimal(5))])
    store.limits.override("fleet", "month", 7)
    store.lanes.announce(["local"])
    store.limits.kill("workspace:acme")
    client.config_set("maxmemory", 0)
    assert [(row.period, row.limit_nano) for row in store.limits.states()] == [
        ("day", 5 * 10**9),
        ("month", 7),
    ]
    assert store.limits.killed() == ["workspace:acme"]


def test_limits_are_told_with_their_own_spend_and_nothing_is_read_of_who_has_none(
    store: Store, client: redis.Redis
) -> None:
    many = AT_ONCE + 200
    scopes = [f"user:u{number:04}" for number in range(many)]
    store.limits.declare([BudgetRow(scope=scope, period="day", usd=Decimal(5)) for scope in scopes])
    store.limits.override("user:u0007", "total", 900)
    store.submit([replace(task(f"t{number}"), user=f"u{number:04}") for number in range(many)])
    claims = sorted(take(store, want=many), key=lambda claim: claim.task.user)
    named = [(f"user:{claim.task.user}", f"pipeline:{claim.task.user}", "workspace:acme") for claim in claims]
    rows = list(enumerate(zip(claims, named, strict=True)))
    store.begin([Intent(claim, spent, call(claim, spent), own) for spent, (claim, own) in rows])
    store.commit([replace(done(claim, spent), scopes=own) for spent, (claim, own) in rows[1::2]])
    store.limits.kill("user:u0007")
    client.config_resetstat()
    states = store.limits.states()
    stats: Any = client.info("commandstats")
    assert not {"cmdstat_hgetall", "cmdstat_hkeys"} & set(stats)
    days = [one for one in states if one.period == "day"]
    assert [one.scope for one in days] == scopes
    assert [(one.spent_nano, one.reserved_nano) for one in days] == [
        (spent, 0) if spent % 2 else (0, spent) for spent in range(many)
    ]
    (raised,) = (one for one in states if one.period == "total")
    assert raised.overridden
    assert (raised.scope, raised.limit_nano, raised.spent_nano) == ("user:u0007", 900, 7)
    assert [one.scope for one in states if one.killed] == ["user:u0007"] * 2
    assert [store.limits.state(one.scope, one.period) for one in states[:12]] == states[:12]
    assert store.limits.state("workspace:acme", "day") is None
    store.limits.declare([])
    assert store.limits.states() == [raised]
