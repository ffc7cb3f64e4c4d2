"""A call that was lost with its worker, on a real Redis: it is one of its task's calls, with what was booked for it."""

from pathlib import Path
from typing import Any

import pytest
import redis

from broker.call import Usage
from broker.errors import CallNeverMade
from broker.money import dollars
from broker.state import Record
from broker.task import Task
from tests.workers.nodes import Node

TOML = """
[fleet]
cpu_usd_per_hour = "0"
[lanes.local]
engine = "echo"
price = { input_mtok = "1", output_mtok = "1" }
echo = { reply = "no" }

[types.general]
chain = ["local", "human"]
gate = { kind = "regex", pattern = "^yes$" }
reprompts = 5
"""
QUEUE = "lane-local-sync"


class LosingNode(Node):
    def submit(self, **budget: Any) -> None:
        self.give(Task("t", "acme", ({"role": "user", "content": "say yes"},), budget=budget))

    def worked(self) -> Record:
        self.work()
        return self.record()

    def lose(self) -> int:
        """What a call that a worker took along stands at."""
        claims = self.store.fetch(QUEUE, 1, idle=True).claims
        (job,), _ = self.jobs.prepare(claims)
        assert self.store.begin([self.jobs.intent(job)]) == ["go"]
        self.store.release(claims, "its worker was lost")
        assert job.worst_nano
        return job.worst_nano


@pytest.fixture
def node(client: redis.Redis, tmp_path: Path) -> LosingNode:
    return LosingNode(client, tmp_path, TOML, "local")


def test_a_task_whose_only_call_was_lost_waits_for_a_higher_limit_as_money_was_spent(
    node: LosingNode,
) -> None:
    node.submit()
    worst = node.lose()
    node.store.parked.raise_limits("acme/t", worst + 1)
    record = node.worked()
    assert (record.status, record.cost_nano) == ("parked", worst)
    assert node.store.parked.raise_limits("acme/t", 10 * worst) == "parked"
    record = node.worked()
    assert [(one.failure, one.purpose) for one in record.progress.attempts] == [
        ("worker_lost", "task"),
        ("", "retry"),
    ]
    assert record.cost_nano == sum(one.cost_nano or 0 for one in record.progress.attempts)


def test_a_lost_call_is_one_of_the_calls_that_a_task_may_make(node: LosingNode) -> None:
    node.submit(llm_calls=1)
    node.lose()
    record = node.worked()
    assert record.status == "parked"
    assert "1 model calls" in record.progress.why


def test_a_lost_call_that_was_never_made_counts_in_no_limit(node: LosingNode) -> None:
    node.submit(llm_calls=1, failures=1)
    claims = node.store.fetch(QUEUE, 1, idle=True).claims
    (job,), _ = node.jobs.prepare(claims)
    node.store.begin([node.jobs.intent(job)])
    node.store.release(claims, "its worker was lost")
    now_us = node.store.clock.now_us()
    move = node.jobs.settled(job, CallNeverMade("nobody came to it", usage=Usage()), now_us, now_us)
    assert node.store.commit([move]) == ["late"]
    assert node.record().cost_nano == 0
    record = node.worked()
    assert [(one.purpose, one.verdict) for one in record.progress.attempts] == [("task", "fail")]


def test_a_lost_retry_counts_in_what_retries_may_cost(node: LosingNode) -> None:
    node.submit()
    node.work()
    lost = node.lose()
    lost += node.lose()
    node.store.parked.raise_limits("acme/t", None, {"retry_usd": str(dollars(lost + 1000))})
    record = node.worked()
    assert [one.purpose for one in record.progress.attempts] == ["task", "reprompt", "reprompt", "reprompt"]
    assert record.status == "parked"
    assert "gate failed on local" in record.progress.why


def test_a_dead_letter_whose_workers_were_lost_is_called_for_again_when_it_is_replayed(
    node: LosingNode,
) -> None:
    node.submit(failures=3)
    while node.record().status != "failed":
        node.lose()
    assert node.store.dead_letters.replay("acme/t")
    assert node.worked().progress.attempts[-1].verdict == "fail"
