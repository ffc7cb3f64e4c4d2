"""Limits that hold across processes, and what becomes of the tasks that meet them."""

from collections import Counter
from collections.abc import Callable

import pytest

from broker.money import nano
from laneway.client import Budget
from tests.e2e.conftest import PRICED, LiveFleet

pytestmark = pytest.mark.e2e


def test_concurrent_calls_never_take_a_scope_above_its_limit(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(PRICED + '\n[[budgets]]\nscope = "workspace:acme"\nperiod = "day"\nusd = "0.5"\n')
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    fleet.start("workers.lane_local", name="second")
    handles = fleet.client.submit_many([{"prompt": f"task {n}", "workspace": "acme"} for n in range(120)])
    results = list(fleet.client.results(handles, timeout_s=60))
    statuses = Counter(result.status for result in results)
    assert set(statuses) == {"succeeded", "budget_exceeded"}
    state = {(row.scope, row.period): row for row in fleet.store.limits.states()}[("workspace:acme", "day")]
    spent = sum(nano(result.cost_usd) for result in results)
    assert state.spent_nano == spent
    assert spent <= nano("0.5")
    assert state.reserved_nano == 0
    assert statuses["succeeded"] > 10
    refused = next(result for result in results if result.status == "budget_exceeded")
    assert "the call may cost $" in refused.reason
    assert "workspace:acme per day" in refused.reason


def test_a_task_s_own_limit_parks_it_with_its_state_and_a_raise_pays_the_remainder_only(
    live: Callable[[str], LiveFleet],
) -> None:
    fleet = live(PRICED)
    for module in ("dispatcher.node", "workers.lane_local", "workers.lane_frontier"):
        fleet.start(module)
    handle = fleet.client.submit("say six", type="picky", budget=Budget(hard_usd="0.2"))
    parked = handle.result()
    assert (parked.status, parked.lanes) == ("parked", ("local",))
    assert "the task's own limit" in parked.reason
    assert fleet.client.store.parked.raise_limits(f"default/{handle.task_id}", nano("5")) == "parked"
    done = handle.result()
    assert (done.status, done.lanes) == ("succeeded", ("local", "frontier"))
    assert done.attempts[0] == parked.attempts[0]


def test_a_task_with_no_room_at_all_ends_before_anything_is_spent(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(PRICED)
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    result = fleet.client.submit("hello", budget={"hard_usd": "0.000001"}).result()
    assert (result.status, result.attempts) == ("budget_exceeded", ())


def test_a_switch_holds_across_the_fleet_and_async_work_waits_for_it(
    live: Callable[[str], LiveFleet],
) -> None:
    fleet = live(PRICED)
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    fleet.store.limits.kill("workspace:acme")
    now = fleet.client.submit("hello", workspace="acme").result()
    assert (now.status, now.reason) == ("budget_exceeded", "workspace:acme is switched off")
    later = fleet.client.submit("hello", workspace="acme", mode="async")
    other = fleet.client.submit("hello", workspace="other").result()
    assert other.status == "succeeded"
    fleet.wait_until(lambda: fleet.store.lanes.queues(["lane-local-async"])[0].later == 1, "it waits")
    assert fleet.client.record(later.task_id).status == "queued"
    fleet.store.limits.unkill("workspace:acme")
    assert fleet.client.submit("hello", workspace="acme").result().status == "succeeded"


def test_a_lane_without_a_price_is_not_used_under_a_limit(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(PRICED.replace('price = { input_mtok = "1000", output_mtok = "1000" }\n', ""))
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    result = fleet.client.submit("hello", budget={"hard_usd": "1"}).result()
    assert (result.status, result.attempts) == ("parked", ())
    assert "no known price" in result.reason
    free = fleet.client.submit("hello").result()
    assert (free.status, free.attempts[0]["cost_usd"]) == ("succeeded", None)
