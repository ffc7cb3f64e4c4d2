"""A call that was lost with its worker, on a real Redis: it is one of its task's calls, with what was booked for it."""

from pathlib import Path
from typing import Any

import pytest
import redis

from broker.call import Usage
from broker.errors import CallNeverMade
from broker.hands import Hands
from broker.money import dollars
from broker.settings import parse
from broker.state import Move, Record
from broker.store import Store
from broker.task import DISPATCH, Progress, Task
from workers.endpoints import Endpoints
from workers.jobs import Jobs
from workers.shell import Lane
from workers.toolbox import Toolbox

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


class Node:
    def __init__(self, client: redis.Redis, folder: Path) -> None:
        settings = parse(TOML, folder=folder)
        self.store = Store(client, settings.fleet)
        endpoints = Endpoints.build("local", settings.lanes["local"], folder)
        toolbox = Toolbox.open(settings, "local", self.store)
        self.jobs = Jobs("local", settings, self.store, endpoints, Hands(), toolbox)

    def submit(self, **budget: Any) -> None:
        self.store.submit([Task("t", "acme", ({"role": "user", "content": "say yes"},), budget=budget)])
        (claim,) = self.store.fetch(DISPATCH, 1, idle=True).claims
        progress = Progress(task_type="general", chain=("local", "human"), lane="local")
        self.store.commit([Move(claim, "queued", progress, queue=QUEUE)])

    def work(self) -> Record:
        claims = self.store.fetch(QUEUE, 1, idle=True).claims
        self.jobs.hands.take(claims, QUEUE, messages=1, hold_s=60)
        Lane(self.jobs).work(claims)
        self.jobs.hands.drop(claims, QUEUE)
        return self.store.records.one("acme/t")

    def lose(self) -> int:
        """What a call that a worker took along stands at."""
        claims = self.store.fetch(QUEUE, 1, idle=True).claims
        (job,), _ = self.jobs.prepare(claims)
        assert self.store.begin([self.jobs.intent(job)]) == ["go"]
        self.store.release(claims, "its worker was lost")
        assert job.worst_nano
        return job.worst_nano


@pytest.fixture
def node(client: redis.Redis, tmp_path: Path) -> Node:
    return Node(client, tmp_path)


def test_a_task_whose_only_call_was_lost_waits_for_a_higher_limit_as_money_was_spent(node: Node) -> None:
    node.submit()
    worst = node.lose()
    node.store.parked.raise_limits("acme/t", worst + 1)
    record = node.work()
    assert (record.status, record.cost_nano) == ("parked", worst)
    assert node.store.parked.raise_limits("acme/t", 10 * worst) == "parked"
    record = node.work()
    assert [(one.failure, one.purpose) for one in record.progress.attempts] == [
        ("worker_lost", "task"),
        ("", "retry"),
    ]
    assert record.cost_nano == sum(one.cost_nano or 0 for one in record.progress.attempts)


def test_a_lost_call_is_one_of_the_calls_that_a_task_may_make(node: Node) -> None:
    node.submit(llm_calls=1)
    node.lose()
    record = node.work()
    assert record.status == "parked"
    assert "1 model calls" in record.progress.why


def test_a_lost_call_that_was_never_made_counts_in_no_limit(node: Node) -> None:
    node.submit(llm_calls=1, failures=1)
    claims = node.store.fetch(QUEUE, 1, idle=True).claims
    (job,), _ = node.jobs.prepare(claims)
    node.store.begin([node.jobs.intent(job)])
    node.store.release(claims, "its worker was lost")
    now_us = node.store.clock.now_us()
    move = node.jobs.settled(job, CallNeverMade("nobody came to it", usage=Usage()), now_us, now_us)
    assert node.store.commit([move]) == ["late"]
    assert node.store.records.one("acme/t").cost_nano == 0
    record = node.work()
    assert [(one.purpose, one.verdict) for one in record.progress.attempts] == [("task", "fail")]


def test_a_lost_retry_counts_in_what_retries_may_cost(node: Node) -> None:
    node.submit()
    node.work()
    lost = node.lose()
    lost += node.lose()
    node.store.parked.raise_limits("acme/t", None, {"retry_usd": str(dollars(lost + 1000))})
    record = node.work()
    assert [one.purpose for one in record.progress.attempts] == ["task", "reprompt", "reprompt", "reprompt"]
    assert record.status == "parked"
    assert "gate failed on local" in record.progress.why


def test_a_dead_letter_whose_workers_were_lost_is_called_for_again_when_it_is_replayed(node: Node) -> None:
    node.submit(failures=3)
    while node.store.records.one("acme/t").status != "failed":
        node.lose()
    assert node.store.dead_letters.replay("acme/t")
    assert node.work().progress.attempts[-1].verdict == "fail"
