"""A lane over a provider with limits and failures: no call more than it takes, no worker that sleeps."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.settings.lanes import Lane as LaneSettings
from broker.task import Task
from tests.awaited import eventually
from tests.workers.conftest import ANSWER, Provider
from tests.workers.nodes import Node
from workers.endpoints import Endpoints

TOML = """
[lanes.rented]
engine = "openai"
model = "m"
base_url = "URL/v1"
price = { input_mtok = "1", output_mtok = "2" }
retries = 5
MORE

[lanes.frontier]
engine = "echo"

[types.general]
chain = ["rented", "frontier", "human"]
"""
REFUSAL = b'{"error": {"message": "no"}}'


class CountingNode(Node):
    """Its tasks are t0, t1, … in the order of their submission."""

    count = 0

    def submit(self, count: int = 1, mode: str = "sync", deadline_s: float | None = None) -> None:
        ids = [f"t{self.count + n}" for n in range(count)]
        self.count += count
        said = ({"role": "user", "content": "hi"},)
        self.give(*(Task(one, "acme", said, mode=mode, deadline_s=deadline_s) for one in ids))

    def statuses(self) -> list[str]:
        return [self.record(f"t{n}").status for n in range(self.count)]

    def costs(self) -> list[int]:
        return [self.record(f"t{n}").cost_nano for n in range(self.count)]

    def later_s(self, mode: str = "sync") -> list[float]:
        """For how long each of those that wait for their time still waits."""
        now_us = self.store.clock.now_us()
        rows: Any = self.store.client.zrange(f"laneway:later:lane-rented-{mode}", 0, -1, withscores=True)
        return [(score - now_us) / 1e6 for _, score in rows]


Made = Callable[..., CountingNode]


@pytest.fixture
def made(client: redis.Redis, provider: Provider, tmp_path: Path) -> Iterator[Made]:
    nodes: list[CountingNode] = []
    provider.body = ANSWER

    def make(more: str = "") -> CountingNode:
        toml = TOML.replace("MORE", more).replace("URL", provider.url)
        nodes.append(CountingNode(client, tmp_path, toml))
        nodes[-1].endpoints.pick = random.Random(1).random
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


def refuse(provider: Provider, status: int, **headers: str) -> None:
    provider.status, provider.body, provider.content_type = status, REFUSAL, "application/json"
    provider.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def answer(provider: Provider, **headers: str) -> None:
    provider.status, provider.body, provider.content_type = 200, ANSWER, "text/event-stream"
    provider.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def test_a_provider_that_wants_quiet_is_asked_nothing_more_by_anybody(made: Made, provider: Provider) -> None:
    node, other = made(), made()
    refuse(provider, 429, retry_after="7")
    node.submit(3)
    node.work()
    assert len(provider.asked) == 3, "calls that were let in together"
    node.submit(2)
    other.count = node.count
    other.work()
    assert len(provider.asked) == 3, "the other node hears of it from Redis and asks nothing"
    assert other.hands.resting
    assert all(5 < wait_s <= 7 for wait_s in other.later_s())
    assert len(other.later_s()) == 5


def test_no_call_of_a_handful_leaves_after_its_task_s_deadline_or_cancel(
    made: Made, provider: Provider
) -> None:
    node = made()
    node.submit(2)
    node.submit(deadline_s=0.5)
    routed = node.costs()

    def a_long_call() -> None:
        node.store.cancel("acme/t1")
        node.hands.break_off(node.store.keep(node.hands.to_renew(), []).broken)
        due_us = node.record("t2").submitted_us + 500_000
        eventually(lambda: node.store.clock.now_us() > due_us, 5)

    provider.meanwhile = a_long_call
    node.work()
    assert len(provider.asked) == 1
    assert node.statuses() == ["succeeded", "cancelled", "failed"]
    assert node.costs()[1:] == routed[1:]
    for n in (1, 2):
        record = node.record(f"t{n}")
        assert (record.progress.attempts, record.reserved_nano) == ((), 0)
    assert sum(rate.tries for rate in node.store.lanes.rates().values()) == 1


def test_a_call_that_is_not_made_as_its_lane_died_sends_its_task_along_the_chain(
    made: Made, provider: Provider
) -> None:
    node = made()
    node.submit(2)

    def die() -> None:
        node.endpoints.first.ailing = node.endpoints.first.broken_off = True
        node.store.keep([], ["rented"], node="here", well=False)
        node.lane.jobs.sights.forget()

    provider.meanwhile = die
    node.work()
    assert len(provider.asked) == 1
    record = node.record("t1")
    assert (record.progress.lane, record.progress.attempts, record.progress.retries) == ("frontier", (), 0)


def test_a_call_that_is_not_made_as_its_claim_was_lost_takes_back_what_was_booked_for_it(
    made: Made, provider: Provider
) -> None:
    node = made()
    node.submit(2)
    routed = node.costs()

    def lose() -> None:
        epoch = node.record("t1").epoch
        node.store.release_held([("acme/t1", epoch)], "its worker was lost")
        node.hands.break_off([("acme/t1", epoch)])

    provider.meanwhile = lose
    node.work()
    assert len(provider.asked) == 1
    record = node.record("t1")
    assert (record.status, record.cost_nano, record.progress.attempts) == ("queued", routed[1], ())
    provider.meanwhile = lambda: None
    node.work()
    assert [one.purpose for one in node.record("t1").progress.attempts] == ["task"]


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_clock_that_is_set_during_a_call_makes_it_no_longer(
    made: Made, provider: Provider, step_s: int
) -> None:
    node = made()
    node.submit()
    provider.meanwhile = lambda: node.store.clock.seen(node.store.clock.now_us() + step_s * 1_000_000)
    node.work()
    (call,) = node.record("t0").progress.attempts
    assert 0 < call.latency_ms < 60_000
    assert call.latency_ms == (call.ended_us - call.started_us) / 1000


@pytest.mark.parametrize(
    "end",
    [
        b'{"error":{"message":"busy","code":"rate_limit_exceeded"}}',
        b'{"choices":[{"delta":{},"finish_reason":"insufficient_system_resource"}]}',
    ],
)
def test_an_answer_that_was_broken_off_is_booked_at_its_worst_whatever_broke_it(
    made: Made, provider: Provider, end: bytes
) -> None:
    node = made()
    answer(provider)
    provider.body = b'data: {"choices":[{"delta":{"content":"a word"}}]}\n\ndata: ' + end + b"\n\n"
    node.submit()
    node.work()
    (broken,) = node.record("t0").progress.attempts
    assert not broken.settled
    assert (broken.cost_nano or 0) > 1_000_000


def test_a_sync_task_that_would_wait_too_long_goes_on_along_its_chain_and_an_async_one_waits(
    made: Made, provider: Provider
) -> None:
    node = made()
    refuse(provider, 429, retry_after="300")
    node.submit()
    node.work()
    answer(provider)
    node.submit()
    node.work()
    assert len(provider.asked) == 1
    assert node.record("t1").progress.lane == "frontier"
    assert "take no calls for" in node.record("t1").progress.why
    node.submit(mode="async")
    node.work("async")
    assert [290 < wait_s <= 300 for wait_s in node.later_s("async")] == [True]


def test_a_node_takes_sync_tasks_also_while_its_endpoint_wants_quiet_for_long(
    made: Made, provider: Provider
) -> None:
    """They go on along their chain, and the node asks Redis again within the hour."""
    node = made()
    refuse(provider, 429, retry_after="999999999")
    node.submit()
    node.work()
    node.submit()
    node.work()
    assert node.record("t1").progress.lane == "frontier"
    assert not node.hands.resting
    assert node.endpoints.first.shut_s <= 3600
    node.endpoints.shut(node.endpoints.first, 1e9, broken=False)
    assert node.endpoints.first.shut_s <= 3600


def test_configured_limits_hold_for_all_nodes_together(made: Made, provider: Provider) -> None:
    nodes = [made("requests_per_minute = 24"), made("requests_per_minute = 24")]
    nodes[0].submit(10)
    nodes[1].count = 10
    for node in nodes:
        node.work()
    assert len(provider.asked) == 4, "ten seconds' worth at once"
    assert nodes[0].statuses().count("succeeded") == 4
    waits = nodes[0].later_s()
    assert len(waits) == 6
    assert all(0 < wait_s <= 2.5 for wait_s in waits)


def test_a_limit_is_learnt_from_what_the_provider_says(made: Made, provider: Provider) -> None:
    node = made()
    answer(provider, x_ratelimit_limit_requests="6", x_ratelimit_remaining_requests="5")
    node.submit()
    node.work()
    node.submit(4)
    node.work()
    assert len(provider.asked) == 2


def test_an_endpoint_that_fails_again_and_again_is_left_alone(made: Made, provider: Provider) -> None:
    node = made()
    refuse(provider, 500)
    node.submit(5)
    node.work()
    assert len(provider.asked) == 5
    assert node.endpoints.dead()
    answer(provider)
    node.submit(2)
    node.work()
    assert len(provider.asked) == 5, "it is shut for a while"
    assert node.store.lanes.queues(["lane-rented-sync"])[0].depth == 2, "for other nodes, or the dispatcher"


def test_another_endpoint_takes_the_calls_of_one_that_is_down(made: Made, provider: Provider) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        down = free.getsockname()[1]
    node = made(
        f'retry_delay_s = 0\nendpoints = [{{ base_url = "http://127.0.0.1:{down}/v1" }}, {{ base_url = "URL/v1" }}]'
    )
    node.submit(40)
    while node.store.waiting("lane-rented-sync") or node.later_s():
        node.work(want=1)
    assert node.statuses() == ["succeeded"] * 40
    first, second = node.endpoints.all
    assert first.broken
    assert not second.broken
    records = [node.record(f"t{n}") for n in range(40)]
    failed = [one for record in records for one in record.progress.attempts if one.failure]
    assert len(failed) == 5, "no more once it is shut"
    assert {one.failure for one in failed} == {"connection_lost"}
    assert all(one.cost_nano == 0 for one in failed)


def test_the_cheaper_endpoint_takes_more_of_the_calls(made: Made, provider: Provider) -> None:
    node = made(
        'endpoints = [{ model = "dear", price = { input_mtok = "9", output_mtok = "18" } }, { model = "cheap" }]'
    )
    node.submit(60)
    node.work()
    models = [asked["model"] for asked in provider.asked]
    assert models.count("cheap") > 4 * models.count("dear")
    costs = {
        one.price_ref: one.cost_nano for n in range(60) for one in node.record(f"t{n}").progress.attempts
    }
    assert set(costs.values()) <= {7_000, 63_000}


def test_a_lane_without_a_price_is_told_of_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoints = Endpoints.build("x", LaneSettings(engine="openai", model="nobody-knows-it"), tmp_path)
    for day in ("2026-11-24", "2026-11-24", "2026-11-25"):
        assert endpoints.price(endpoints.first, day) is None
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "'nobody-knows-it': its calls are booked as unpriced; set lanes.x.price" in told[0]
