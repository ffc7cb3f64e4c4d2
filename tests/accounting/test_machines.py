"""The calls of a machine sum to what its day did cost, however often the day is shared out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from accounting import ingest, rollup
from accounting.ledger import LocalStore
from accounting.machines import Call, allot, day_cost_nano, shared_out
from broker import keys
from broker.events import Attempted, Finished
from broker.money import nano
from broker.settings import Hardware, Settings, parse
from broker.store import Move, Store
from broker.task import DISPATCH, Claim, Outcome, Progress, Task
from tests.accounting.test_rollup import query

MACHINE = Hardware(
    price_usd=Decimal(3000), life_years=Decimal(4), watts=Decimal(200), idle_watts=Decimal(10),
    usd_per_kwh=Decimal("0.30"),
)  # fmt: skip
WEAR = Decimal(3000) / (365 * 4)
TOML = """
[fleet]
cpu_usd_per_hour = "0"

[lanes.local]
engine = "echo"
threads = 2
hardware = { price_usd = 3000, life_years = 4, watts = 200, idle_watts = 10, usd_per_kwh = "0.30" }

[lanes.local-guided]
engine = "echo"
threads = 4
hardware = { price_usd = 3000, life_years = 4, watts = 200, idle_watts = 10, usd_per_kwh = "0.30" }

[lanes.rented]
engine = "echo"
price = { input_mtok = "1", output_mtok = "1" }

[types.general]
chain = ["local", "local-guided", "rented"]
"""

calls = st.lists(
    st.builds(Call, st.just("acme/t"), st.uuids().map(str), st.integers(0, 10**10), st.integers(0, 10**10)),
    max_size=30,
)


@pytest.mark.parametrize(
    ("on_h", "busy_h", "power"),
    [
        (0, 0, "0"),
        (24, 0, "0.072"),
        (24, 24, "1.44"),
        (24, 6, "0.414"),
        (0, 1, "0.06"),
        (1, 2, "0.06"),
    ],
)
def test_a_day_costs_its_wear_and_the_power_of_the_hours_it_was_on(
    on_h: int, busy_h: int, power: str
) -> None:
    found = day_cost_nano(MACHINE, on_s=on_h * 3600, busy_s=busy_h * 3600)
    assert found == nano(WEAR + Decimal(power))


@given(calls, st.integers(0, 10**13))
def test_parts_and_bookings_sum_to_the_day(made: list[Call], cost: int) -> None:
    parts = shared_out(cost, made)
    assert not made or sum(parts) + sum(call.booked_nano for call in made) == cost


def test_parts_are_in_proportion_to_how_long_each_call_took() -> None:
    made = [Call("a", "1", 3_000_000, 100), Call("a", "2", 1_000_000, 0), Call("b", "3", 0, 0)]
    assert shared_out(1100, made) == [750, 250, 0]


@pytest.fixture
def settings() -> Settings:
    return parse(TOML)


@pytest.fixture
def state(client: redis.Redis, settings: Settings) -> Store:
    return Store(client, settings.fleet)


def made(state: Store, count: int) -> list[Claim]:
    state.submit(
        [Task(f"t{n}", "acme", ({"role": "user", "content": "hi"},), user="u") for n in range(count)]
    )
    return list(state.fetch(DISPATCH, count, idle=True).claims)


def call(claim: Claim, lane: str, took_ms: int, cost: int, node: str = "mac-1") -> Attempted:
    end_us = claim.claimed_us
    return Attempted(
        claim.attempt_id, 0, lane, "echo", "m", "task", end_us - took_ms * 1000, end_us, 0.0, float(took_ms), cost, 7,
        node=node,
    )  # fmt: skip


def end(state: Store, claim: Claim, fact: Attempted) -> None:
    scopes = ("fleet", "workspace:acme", "user:u", f"lane:{fact.lane}")
    move = Move(
        claim, "succeeded", Progress(), cost_nano=fact.cost_nano or 0, outcome=Outcome("succeeded"),
        attempts=(fact,), facts=(Finished("succeeded", True),), scopes=scopes,
    )  # fmt: skip
    state.commit([move])


def test_the_nightly_files_sum_to_the_days_of_the_machines(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.now_us() / 1e6, tz=UTC).date().isoformat()
    claims = made(state, 7)
    facts = [
        call(claims[0], "local", 4000, 1000),
        call(claims[1], "local-guided", 8000, 2000),
        call(claims[2], "local", 2000, 500, node="mac-2"),
        call(claims[3], "rented", 2000, 777, node="mac-1"),
        call(claims[4], "local", 1000, 250, node=""),
        replace(call(claims[5], "local", 1000, 40), purpose="tool"),
        call(claims[6], "local", -1, 0),  # the clock was set back while it ran
    ]
    for claim, fact in zip(claims, facts, strict=True):
        end(state, claim, fact)
    client: Any = state.client
    client.hset(keys.uptime_key(today), mapping={"mac-1": 3600 * 10**6})
    ingest.drain_all(client, store, quarantine)

    first = {one.machine: one for one in allot(store, state, settings, today)}
    assert {name: (one.booked_nano, one.calls) for name, one in first.items()} == {
        "mac-1": (3000, 3),
        "mac-2": (500, 1),
    }
    mac_1 = nano(WEAR + (4 * Decimal(200) + 3596 * Decimal(10)) / 1000 / 3600 * Decimal("0.30"))
    assert first["mac-1"].cost_nano == mac_1
    facts_written = client.xlen(keys.EVENTS)
    assert allot(store, state, settings, today) == list(first.values())
    assert client.xlen(keys.EVENTS) == facts_written, "what is shared out again changes nothing"

    ingest.drain_all(client, store, quarantine)
    rollup.rollup(store, today)
    mine = f"'{store.root}/attempts/*/*.parquet'"
    rows = dict(query(f"select attempt_id, cost_usd from {mine}"))
    assert nano(rows[claims[0].attempt_id] + rows[claims[1].attempt_id]) == mac_1
    assert (nano(rows[claims[5].attempt_id]), nano(rows[claims[6].attempt_id])) == (40, 0)
    assert nano(rows[claims[2].attempt_id]) == first["mac-2"].cost_nano
    assert (nano(rows[claims[3].attempt_id]), nano(rows[claims[4].attempt_id])) == (777, 250)
    assert {nano(one) for (one,) in query(f"select marginal_usd from {mine}")} == {7}
    (total,) = query(f"select sum(cost_usd) from '{store.root}/tasks/*/*.parquet'")[0]
    assert int(client.hget(keys.used_key("total"), "fleet")) == nano(total)
    assert sum(state.record(f"acme/t{n}").cost_nano for n in range(7)) == nano(total)


def test_a_call_that_settles_late_changes_what_the_others_have(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.now_us() / 1e6, tz=UTC).date().isoformat()
    early, late = made(state, 2)
    end(state, early, call(early, "local", 1000, 100))
    ingest.drain_all(state.client, store, quarantine)
    (before,) = allot(store, state, settings, today)
    end(state, late, call(late, "local", 3000, 300))
    ingest.drain_all(state.client, store, quarantine)
    (after,) = allot(store, state, settings, today)
    assert (before.calls, after.calls) == (1, 2)
    costs = [state.record(claim.ref).cost_nano for claim in (early, late)]
    assert sum(costs) == after.cost_nano
    assert abs(costs[1] - 3 * costs[0]) <= 4
    end(state, late, replace(call(late, "local", 3000, 300), node="mac-1"))
    assert sum(state.record(claim.ref).cost_nano for claim in (early, late)) == after.cost_nano


def test_a_machine_is_on_while_its_processes_speak(state: Store, client: redis.Redis) -> None:
    day = state.windows()["day"]
    state.keep([], ["local"], node="p1")
    machine = state.fleet.node
    assert state.uptimes_s(day) == {machine: 0.0}
    client.hincrby("laneway:machines", machine, -3_000_000)
    state.keep([], ["local"], node="p2")
    assert 3 <= state.uptimes_s(day)[machine] < 4
    client.hincrby("laneway:machines", machine, -3_600_000_000)
    state.keep([], ["local"], node="p1")
    assert state.uptimes_s(day)[machine] < 3 + 1 + state.fleet.lease_s, "a gap is time in which it was off"
    state.keep([], [])
    assert set(state.uptimes_s(day)) == {machine}
