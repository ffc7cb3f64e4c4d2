"""A lane's provider batches over a real Redis and a real socket: what joins, is settled, and survives a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import keys
from broker.batches import Batch, State
from broker.events import Attempted
from broker.lock import Lock
from broker.state import Record
from broker.task import Task
from laneway.cli.lanes import batch_rows
from laneway.cli.story import story
from tests.accounting.reference import fold
from tests.batch_provider import BatchProvider, batch_provider
from tests.workers.nodes import Node
from workers import batch_settle
from workers.batch import Batches
from workers.batch_send import BatchSender
from workers.batch_settle import BatchKeeper
from workers.endpoints import Endpoints
from workers.engines import Engine
from workers.shell import broker_of

#: 10 tokens in at $1 and 100 out at $2 a million, at half price.
LINE_NANO = (10 * 1 + 100 * 2) * 1000 // 2
TOML = """
[fleet]
lease_s = 0.3
cpu_usd_per_hour = "0"
max_starts = 9

[lanes.midtier]
engine = "openai"
model = "m"
base_url = "URL/v1"
dialect = "openai"
max_tokens = 200
price = { input_mtok = "1", output_mtok = "2", batch_discount = "0.5" }
batches = true
batch_fill_s = 0

[types.general]
chain = ["midtier", "human"]
"""
CLAUDE = (
    TOML.replace('"openai"\nmodel', '"anthropic"\nmodel')
    .replace("URL/v1", "URL")
    .replace('dialect = "openai"\n', "")
)


OPEN: list[Engine] = []


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    with batch_provider() as provider:
        yield provider
        while OPEN:
            OPEN.pop().close()


class BatchNode(Node):
    """``anew`` is the next process of the lane, after the death of this one."""

    def __init__(
        self,
        client: redis.Redis,
        folder: Path,
        toml: str,
        provider: BatchProvider,
        endpoints: Endpoints | None = None,
    ) -> None:
        super().__init__(client, folder, toml.replace("URL", provider.url), "midtier", endpoints)
        self.provider = provider
        if endpoints is None:
            OPEN.append(self.endpoints.first.engine)
        door = self.endpoints.first.engine.batches()
        assert door is not None
        batches = Batches(self.jobs, door)
        self.door, self.book = door, batches.book
        self.sender, self.keeper = BatchSender(batches, folder / "batches"), BatchKeeper(batches)

    def anew(self) -> BatchNode:
        """The locks of the dead have run out; only the connections to the provider are still good."""
        locks: Any = self.client.keys("laneway:batch:*:lock")
        if locks:
            self.client.delete(*locks)
        return BatchNode(self.client, self.folder, self.toml, self.provider, self.endpoints)

    def submit(self, *prompts: str, mode: str = "async", **more: Any) -> None:
        at = int(self.client.incrby("at", len(prompts))) - len(prompts) + 1
        tasks = [
            Task(f"t{at + n}", "acme", ({"role": "user", "content": prompt},), mode=mode, **more)
            for n, prompt in enumerate(prompts)
        ]
        self.give(*tasks)

    def tick(self) -> None:
        """A round of everything that a node does by the clock."""
        self.sender.send()
        self.keeper.look()

    def records(self) -> dict[str, Record]:
        found: Any = self.client.keys("laneway:task:*")
        refs = [key.decode().removeprefix("laneway:task:") for key in found]
        return {record.task.prompt: record for record in self.store.records.many(refs)}

    def statuses(self) -> dict[str, str]:
        return {prompt: record.status for prompt, record in self.records().items()}

    def depth(self, name: str) -> int:
        return self.store.waiting(f"lane-midtier-{name}")

    def ledger(self) -> Any:
        """Of each task its row and its attempts, as the nightly files have them."""
        events = self.events()
        ids = {event.task_id for event in events}
        return [fold(event for event in events if event.task_id == one) for one in ids]

    def at_rest(self) -> None:
        """Nothing is reserved, and what is counted as spent is what the ledger has."""
        held: Any = self.client.hgetall(keys.held_key(self.store.limits.windows()["day"]))
        assert {int(amount) for amount in held.values()} <= {0}
        used: Any = self.client.hgetall(keys.used_key("total"))
        assert int(used.get(b"fleet", 0)) == sum(one.task.cost.total for one in self.ledger())


@pytest.fixture(params=[TOML, CLAUDE], ids=["openai", "anthropic"])
def node(
    request: pytest.FixtureRequest, client: redis.Redis, tmp_path: Path, provider: BatchProvider
) -> BatchNode:
    return BatchNode(client, tmp_path, request.param, provider)


def test_what_waits_is_sent_together_and_settled_at_the_batch_price(node: BatchNode) -> None:
    node.submit("a", "b", "c")
    assert node.depth("batch") == 3
    node.tick()
    (batch,) = node.provider.batches.values()
    assert len(batch.lines) == 3
    assert node.statuses() == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}
    for one in node.ledger():
        (call,) = [row for row in one.attempts if row.is_call]
        assert (call.batch, call.cost_nano, call.settled, call.model) == (True, LINE_NANO, True, "the-model")
        assert one.task.batch
    assert node.book.all() == []
    assert node.provider.forgotten
    node.at_rest()


def test_a_task_goes_where_its_deadline_leaves_time(node: BatchNode) -> None:
    node.submit("no deadline")
    node.submit("tomorrow", deadline_s=86_400)
    node.submit("within the hour", deadline_s=1800)
    node.submit("at once", deadline_s=300)
    node.submit("somebody waits", mode="sync", deadline_s=86_400)
    assert (node.depth("batch"), node.depth("async"), node.depth("sync")) == (2, 1, 2)


def test_the_earliest_deadlines_are_sent_first_and_what_is_due_overflows_to_the_sync_queue(
    client: redis.Redis, tmp_path: Path, provider: BatchProvider
) -> None:
    one_a_batch = TOML + "\n"
    node = BatchNode(
        client,
        tmp_path,
        one_a_batch.replace("batch_fill_s = 0", "batch_fill_s = 0\nbatch_lines = 2"),
        provider,
    )
    provider.ended = False
    for prompt, hours in (("late", 9), ("none", None), ("soon", 2), ("sooner", 1.5)):
        node.submit(prompt, deadline_s=hours and hours * 3600)
    node.submit("due", deadline_s=3700)
    waiting: Any = client.zrange("laneway:queue:lane-midtier-batch", 0, 0)
    due = waiting[0].decode()
    client.zadd("laneway:queue:lane-midtier-batch", {due: node.store.clock.now_us() + 1})
    node.sender.send()
    assert [json_prompt(body) for _, body in provider.batches["batch_1"].lines] == ["sooner", "soon"]
    assert node.depth("sync") == 1
    node.sender.send()
    assert [json_prompt(body) for _, body in provider.batches["batch_2"].lines] == ["late", "none"]


def json_prompt(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_a_batch_is_sent_when_enough_waits_or_some_for_long_enough(
    client: redis.Redis, tmp_path: Path, provider: BatchProvider
) -> None:
    toml = TOML.replace("batch_fill_s = 0", "batch_fill_s = 300\nbatch_lines = 3")
    node = BatchNode(client, tmp_path, toml, provider)
    node.submit("a", "b")
    node.sender.send()
    assert provider.batches == {}
    node.submit("c")
    node.sender.send()
    assert len(provider.batches["batch_1"].lines) == 3


def test_what_comes_after_a_batch_waits_as_long_again(
    client: redis.Redis, tmp_path: Path, provider: BatchProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("workers.batch_send.time.monotonic", lambda: now_s)
    node = BatchNode(
        client, tmp_path, TOML.replace("batch_fill_s = 0", "batch_fill_s = 300\nbatch_lines = 3"), provider
    )
    node.submit("a", "b", "c", "d")
    node.sender.send()
    assert [len(batch.lines) for batch in provider.batches.values()] == [3]
    for now_s in (1299.0, 1300.0):
        node.sender.send()
        assert len(provider.batches) == 1 + (now_s == 1300.0)
    node.submit("e")
    node.sender.send()
    now_s = 1310.0
    node.sender.send()
    assert len(provider.batches) == 2, "it is not sent alone because another one had waited"


def test_a_full_redis_is_emptied_by_batches_too(node: BatchNode, client: redis.Redis) -> None:
    node.submit("a")
    client.config_set("maxmemory", 1)
    node.tick()
    assert node.statuses() == {"a": "succeeded"}
    client.config_set("maxmemory", 0)
    node.at_rest()


def test_lines_that_were_not_worked_on_go_back_and_cost_nothing(node: BatchNode) -> None:
    node.provider.expire = "late"
    node.submit("a", "late")
    node.tick()
    assert node.statuses() == {"a": "succeeded", "late": "queued"}
    assert node.records()["late"].cost_nano == 0
    node.at_rest()
    node.provider.expire = ""
    node.tick()
    assert node.statuses()["late"] == "succeeded"
    assert node.records()["late"].cost_nano == LINE_NANO
    node.at_rest()


def test_what_no_batch_ever_comes_to_is_called_for_singly(node: BatchNode) -> None:
    node.provider.expire = "late"
    node.submit("late")
    for _ in range(3):
        assert (node.depth("batch"), node.depth("async")) == (1, 0)
        node.tick()
    assert (node.depth("batch"), node.depth("async")) == (0, 1)
    node.at_rest()


def test_a_line_that_failed_climbs_and_costs_nothing(node: BatchNode) -> None:
    node.provider.fail = "long"
    node.submit("a", "long")
    node.tick()
    assert node.statuses() == {"a": "succeeded", "long": "parked"}
    assert node.records()["long"].progress.attempts[0].failure == "context_overflow"
    assert node.records()["long"].cost_nano == 0
    node.at_rest()


def test_lines_that_come_twice_or_from_strangers_are_settled_once(node: BatchNode) -> None:
    node.provider.twice, node.provider.strangers = "[ab]", 3
    node.submit("a", "b", "c")
    node.tick()
    assert set(node.statuses().values()) == {"succeeded"}
    assert sum(one.task.cost.total for one in node.ledger()) == 3 * LINE_NANO
    node.at_rest()


def test_looking_again_and_again_bills_nothing(node: BatchNode) -> None:
    node.provider.ended = False
    node.submit("a")
    for _ in range(5):
        node.tick()
    assert node.statuses() == {"a": "running"}
    assert node.records()["a"].cost_nano == 0
    node.provider.ended = True
    for _ in range(3):
        node.tick()
    assert node.records()["a"].cost_nano == LINE_NANO
    node.at_rest()


def test_a_task_in_a_batch_is_in_place_though_no_lease_holds_it(node: BatchNode, client: redis.Redis) -> None:
    node.provider.ended = False
    node.submit("a")
    node.tick()
    client.zadd(keys.OPEN, {"acme/t1": 0})
    client.delete("laneway:swept")
    kept = node.store.keep([], [])
    assert (kept.recovered, kept.replaced) == (0, 0)
    node.provider.ended = True
    node.tick()
    assert node.statuses() == {"a": "succeeded"}


def test_operators_see_what_is_in_a_batch(node: BatchNode) -> None:
    node.provider.ended = False
    node.submit("a", "b")
    node.tick()
    (row,) = batch_rows(node.store)
    assert (row["lane"], row["state"], row["lines"], row["left"]) == ("midtier", "sent", 2, 2)
    assert row["provider_id"] == "batch_1"
    now = story(node.records()["a"])["now"]
    assert (now["batch"], now["where"]) == (row["id"], f"in batch {row['id']} of lane midtier")


def test_a_cancelled_task_in_a_batch_ends_when_its_line_is_settled_and_its_cost_is_booked(
    node: BatchNode,
) -> None:
    node.provider.ended = False
    node.submit("a")
    node.tick()
    assert node.store.cancel("acme/t1") == "cancelling"
    node.provider.ended = True
    node.tick()
    assert node.statuses() == {"a": "cancelled"}
    assert node.records()["a"].cost_nano == LINE_NANO
    node.at_rest()


def test_near_a_deadline_the_batch_is_stopped_and_the_rest_is_called_for_singly(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.provider.ended = False
    node.submit("a", deadline_s=3700)
    node.submit("b")
    node.tick()
    (batch,) = node.book.all()
    assert "POST /v1/batches/batch_1/cancel" not in " ".join(node.provider.asked).replace("/messages", "")
    node.book.write(replace(batch, due_us=node.store.clock.now_us() + 60_000_000), over=batch.state)
    node.keeper.look()
    assert node.provider.batches["batch_1"].cancelled
    node.keeper.look()
    assert set(node.statuses().values()) == {"queued"}
    assert node.book.all() == []
    node.at_rest()


def test_a_batch_under_a_budget_takes_in_what_fits_at_the_batch_price(
    client: redis.Redis, tmp_path: Path, provider: BatchProvider
) -> None:
    worst = BatchNode(client, tmp_path, TOML, provider)
    worst.submit("probe a")
    (job,), _ = worst.jobs.prepare(worst.store.fetch("lane-midtier-batch", 1, idle=True).claims, batch=True)
    (single,), _ = worst.jobs.prepare([job.claim])
    assert job.worst_nano is not None
    assert single.worst_nano is not None
    assert job.worst_nano == -(-single.worst_nano // 2)
    client.flushall()
    limit = f"{2.5 * job.worst_nano / 1e9:.9f}"
    node = BatchNode(
        client,
        tmp_path,
        TOML + f'\n[[budgets]]\nscope = "fleet"\nperiod = "total"\nusd = "{limit}"\n',
        provider,
    )
    node.submit("probe a", "probe b", "probe c")
    node.sender.send()
    assert len(provider.batches["batch_1"].lines) == 2
    assert Counter(node.statuses().values()) == {"running": 2, "budget_exceeded": 1}
    node.keeper.look()
    node.at_rest()


def test_a_provider_that_takes_nothing_gets_its_tasks_singly(
    client: redis.Redis, tmp_path: Path, provider: BatchProvider
) -> None:
    node = BatchNode(client, tmp_path, TOML, provider)
    provider.refuse = "token_limit_exceeded"
    node.submit("a", "b")
    node.tick()
    assert (node.depth("async"), node.book.all()) == (2, [])
    node.at_rest()


def test_a_key_that_is_refused_gives_everything_back(node: BatchNode) -> None:
    node.provider.status = 401
    node.submit("a", "b")
    node.tick()
    assert (node.depth("async"), node.book.all()) == (2, [])
    node.at_rest()


def test_a_batch_whose_reply_was_lost_is_found_and_paid_once(node: BatchNode) -> None:
    node.provider.lose = ["create"]
    node.submit("a", "b")
    node.tick()
    node = node.anew()
    node.tick()
    node.tick()
    assert len(node.provider.batches) == 1
    assert set(node.statuses().values()) == {"succeeded"}
    assert sum(one.task.cost.total for one in node.ledger()) == 2 * LINE_NANO
    node.at_rest()


def test_what_was_taken_apart_while_its_sender_stood_still_is_not_sent(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.submit("a", "b")
    write = node.book.write
    during: list[bool] = []

    def late(batch: Batch, *, over: State | None, under: Lock | None = None) -> bool:
        if batch.state == "sending":
            other = node.anew()
            close = other.book.close

            def woken(apart: Batch) -> None:
                during.append(write(batch, over=over, under=under))
                close(apart)

            monkeypatch.setattr(other.book, "close", woken)
            other.keeper.look()
        return write(batch, over=over, under=under)

    monkeypatch.setattr(node.book, "write", late)
    node.sender.send()
    assert during == [False], "its lines are with others already"
    assert node.provider.batches == {}
    assert (node.book.all(), node.depth("batch")) == ([], 2)
    monkeypatch.undo()
    node.tick()
    assert set(node.statuses().values()) == {"succeeded"}
    assert sum(one.task.cost.total for one in node.ledger()) == 2 * LINE_NANO
    node.at_rest()


@pytest.mark.parametrize("lost", ["all of it", "that it was to leave"])
def test_a_batch_that_redis_loses_while_it_is_sent_is_booked_beside_the_one_that_its_tasks_go_into(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    node.submit("a", "b")
    before = dumped(node.client)
    send, write = node.door.send, node.book.write

    def noted(batch: Batch, *, over: State | None, under: Lock | None = None) -> bool:
        if batch.state == "sending" and lost == "that it was to leave":
            before.clear()
            before.update(dumped(node.client))
        return write(batch, over=over, under=under)

    def sent(batch_id: str, path: Path, lines: int) -> str:
        provider_id = send(batch_id, path, lines)
        node.client.flushdb()
        for key, (value, ttl_ms) in before.items():
            node.client.restore(key, ttl_ms, value)
        return provider_id

    monkeypatch.setattr(node.book, "write", noted)
    monkeypatch.setattr(node.door, "send", sent)
    node.sender.send()
    monkeypatch.undo()
    for _ in range(3):
        node.tick()
    assert set(node.statuses().values()) == {"succeeded"}
    assert len(node.provider.batches) == 2
    assert sum(one.task.cost.total for one in node.ledger()) == node.provider.answered() * LINE_NANO
    assert node.book.all() == []
    node.at_rest()


def dumped(client: redis.Redis) -> dict[bytes, tuple[bytes, int]]:
    """Everything in it, as it can be put back: the value of each key, and for how long it lives."""
    found: Any = client.keys()
    rows: Any = {key: (client.dump(key), max(0, int(client.pttl(key)))) for key in found}
    return {key: row for key, row in rows.items() if row[0] is not None}


def test_a_batch_that_is_not_to_be_found_stands_unsettled_and_is_put_right_when_it_turns_up(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.provider.lose, node.provider.hidden, node.provider.expire = ["create"], True, "late"
    node.submit("a", "late")
    node.tick()
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    node.keeper.look()
    assert set(node.statuses().values()) == {"queued"}
    assert sum(one.task.unsettled_calls for one in node.ledger()) == 2
    assert all(record.cost_nano > LINE_NANO for record in node.records().values())
    node.at_rest()

    node.provider.hidden = False
    for _ in range(3):
        node.keeper.look()
    assert node.book.all() == []
    costs = {prompt: record.cost_nano for prompt, record in node.records().items()}
    assert costs == {"a": LINE_NANO, "late": 0}
    assert sum(one.task.unsettled_calls for one in node.ledger()) == 0
    node.at_rest()


@pytest.mark.parametrize("gone_on", [False, True], ids=["waits", "has gone on"])
def test_a_call_of_a_lost_batch_that_turns_up_is_settled_as_what_it_was_begun_as(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch, gone_on: bool
) -> None:
    node.provider.lose, node.provider.hidden = ["create"], True
    node.submit("a")
    node.tick()
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    node.keeper.look()
    if gone_on:
        node.anew().tick()
        assert node.statuses() == {"a": "succeeded"}
    node.provider.hidden = False
    for _ in range(5):
        node.keeper.look()
    calls = [event.fact for event in node.events() if isinstance(event.fact, Attempted)]
    calls = [one for one in calls if one.attempt_id == calls[0].attempt_id]
    assert [(one.settled, one.purpose, one.parent_attempt_id) for one in calls] == [
        (False, "task", ""),
        (True, "task", ""),
    ]
    costs = [one.cost_nano for one in node.records()["a"].progress.attempts]
    assert costs == [LINE_NANO] * (1 + gone_on)
    node.at_rest()


def test_another_programs_batch_of_as_many_lines_is_left_alone(
    client: redis.Redis, tmp_path: Path, provider: BatchProvider
) -> None:
    node = BatchNode(client, tmp_path, CLAUDE, provider)
    provider.lose = ["create"]
    node.submit("a", "b")
    node.sender.send()
    (ours,) = provider.batches.values()
    provider.make([(f"theirs-{line}", body) for line, body in ours.lines], {})
    node.keeper.look()
    assert node.book.all()[0].provider_id == "batch_2"
    for _ in range(3):
        node.keeper.look()
    assert provider.forgotten == ["batch_1"]
    assert set(node.statuses().values()) == {"succeeded"}
    assert sum(one.task.cost.total for one in node.ledger()) == 2 * LINE_NANO
    node.at_rest()


def test_a_lost_batch_that_turns_up_unfinished_is_stopped(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.provider.lose, node.provider.hidden, node.provider.ended = ["create"], True, False
    node.submit("a")
    node.tick()
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    node.keeper.look()
    node.provider.hidden = False
    for _ in range(3):
        node.keeper.look()
    assert node.provider.batches["batch_1"].cancelled
    assert (node.book.all(), node.records()["a"].cost_nano) == ([], 0)
    node.at_rest()


def test_what_the_provider_has_no_more_of_a_batch_is_given_up_and_its_tasks_go_on(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    monkeypatch.setattr(batch_settle, "GIVEN_UP_S", 0)
    for gone in ("GET .*/batches/batch_1", "GET .*/(content|results)"):
        node.provider.gone = gone
        node.submit(gone)
        node.tick()
        assert node.statuses()[gone] == "queued"
        node.keeper.look()
        assert node.book.all() == []
        node.at_rest()
        node.provider.gone = ""
        node.tick()
        assert node.statuses()[gone] == "succeeded"
        node.at_rest()


def test_a_batch_of_which_nothing_is_heard_for_a_month_is_given_up(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lost_replies in ([], ["create"]):
        node.provider.lose = lost_replies
        node.submit("a")
        node.sender.send()
        node.provider.status = 500
        node.keeper.look()
        assert set(node.statuses().values()) == {"running"}
        monkeypatch.setattr(batch_settle, "KEPT_S", 0)
        node.keeper.look()
        assert set(node.statuses().values()) == {"queued"}
        node.keeper.look()
        assert node.book.all() == []
        node.at_rest()
        node.provider.status = 200
        monkeypatch.undo()
        node.client.flushall()


def test_a_wrong_address_loses_no_batch(node: BatchNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    node.submit("a")
    node.sender.send()
    node.provider.gone = ".*"
    node.keeper.look()
    assert node.statuses() == {"a": "running"}
    node.provider.gone = ""
    node.keeper.look()
    assert node.records()["a"].cost_nano == LINE_NANO


def test_tasks_of_a_lost_batch_go_on_though_its_keeper_died_over_it(node: BatchNode) -> None:
    node.provider.lose, node.provider.hidden = ["create"], True
    node.submit("a")
    node.tick()
    (batch,) = node.book.all()
    node.book.write(replace(batch, state="lost"), over="sending")
    node.anew().keeper.look()
    assert node.statuses() == {"a": "queued"}
    node.at_rest()


def test_batches_that_are_switched_off_are_looked_after_to_their_end(node: BatchNode) -> None:
    node.submit("a")
    node.sender.send()
    node.submit("b")
    off = BatchNode(
        node.client,
        node.folder,
        node.toml.replace("batches = true", "batches = false"),
        node.provider,
        node.endpoints,
    )
    broker = broker_of("midtier", off.settings, off.store, off.endpoints, off.toolbox)
    for clock in broker.clocks:
        broker.get_actor(clock).fn()
    assert node.statuses() == {"a": "succeeded", "b": "queued"}
    assert (off.depth("batch"), off.depth("async")) == (0, 1)
    assert off.book.all() == []
    node.at_rest()


def test_an_answer_that_cannot_be_read_costs_its_worst_case_and_no_other_line_waits_for_it(
    node: BatchNode,
) -> None:
    node.provider.torn, node.provider.odd, node.provider.expire = "torn", b'{"custom_id": "t', "late"
    node.submit("a", "torn", "late", "b")
    node.tick()
    assert node.statuses() == {"a": "succeeded", "b": "succeeded", "torn": "queued", "late": "queued"}
    assert (node.records()["a"].cost_nano, node.records()["late"].cost_nano) == (LINE_NANO, 0)
    assert node.records()["torn"].cost_nano > LINE_NANO
    assert sum(one.task.unsettled_calls for one in node.ledger()) == 1
    node.at_rest()
    node.keeper.look()
    assert node.book.all() == []


def test_a_download_that_ends_early_loses_no_answer(node: BatchNode) -> None:
    node.provider.cut, node.provider.fail = True, "long"
    node.submit("a", "b", "long", "c")
    node.tick()
    assert set(node.statuses().values()) <= {"succeeded", "parked", "running"}
    assert node.provider.forgotten == []
    node.provider.cut = False
    node.keeper.look()
    assert Counter(node.statuses().values()) == {"succeeded": 3, "parked": 1}
    assert sum(one.task.cost.total for one in node.ledger()) == 3 * LINE_NANO
    node.at_rest()


def test_what_is_wrong_with_one_batch_is_told_and_holds_up_no_other(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.provider.ended = False
    for prompt in ("first", "second"):
        node.submit(prompt)
        node.sender.send()
    node.provider.ended = True
    monkeypatch.setattr(node.door, "read", failing_once(node.door.read))
    with pytest.raises(ExceptionGroup):
        node.keeper.look()
    assert node.statuses() == {"first": "running", "second": "succeeded"}
    node.keeper.look()
    assert node.statuses()["first"] == "succeeded"
    node.at_rest()


def failing_once(deed: Callable[..., Any]) -> Callable[..., Any]:
    errors = iter([RuntimeError("a defect of ours")])

    def failing(*args: Any) -> Any:
        for error in errors:
            raise error
        return deed(*args)

    return failing


def test_answers_wait_for_a_type_that_the_configuration_has_lost(node: BatchNode) -> None:
    node.provider.ended = False
    node.submit("a")
    node.tick()
    known = node.jobs.settings
    node.jobs.settings = known.model_copy(update={"types": {}})
    node.provider.ended = True
    node.keeper.look()
    assert node.statuses() == {"a": "running"}
    node.jobs.settings = known
    node.keeper.look()
    assert node.statuses() == {"a": "succeeded"}
    node.at_rest()


def test_lines_of_a_lost_batch_wait_for_their_type_too(
    node: BatchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.provider.lose, node.provider.hidden, node.provider.expire = ["create"], True, "a"
    node.submit("a")
    node.tick()
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    node.keeper.look()
    known = node.jobs.settings
    node.jobs.settings = known.model_copy(update={"types": {}})
    node.provider.hidden = False
    for _ in range(3):
        node.keeper.look()
    assert len(node.book.all()) == 1
    node.jobs.settings = known
    node.keeper.look()
    assert node.book.all() == []
    assert node.records()["a"].cost_nano == 0


class Death(BaseException):
    """kill -9, as far as a process can do it to itself."""


def fused(node: BatchNode, after: int, *, inside: bool) -> Callable[[], int]:
    """The node dies at its ``after``-th deed: before it, or with ``inside`` when it was done but nobody heard of it."""
    deeds = 0

    def fuse(deed: Callable[..., Any]) -> Callable[..., Any]:
        def lit(*args: Any, **more: Any) -> Any:
            nonlocal deeds
            deeds += 1
            if deeds == after and not inside:
                raise Death
            done = deed(*args, **more)
            if deeds == after:
                raise Death
            return done

        return lit

    for owner, names in (
        (node.store, ("fetch", "begin", "commit", "claims", "release_held")),
        (node.book, ("write", "close", "settled", "holders")),
        (node.door, ("send", "standing", "results", "cancel", "forget", "find")),
    ):
        for name in names:
            setattr(owner, name, fuse(getattr(owner, name)))
    return lambda: deeds


@pytest.mark.parametrize("inside", [False, True], ids=["before", "after"])
def test_whichever_step_a_node_dies_at_every_line_is_paid_once_and_every_task_ends(
    node: BatchNode, inside: bool, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of a batch, with a death at each of its deeds in turn, and another node going on."""
    monkeypatch.setattr(batch_settle, "LOST_S", 0)
    step, steps = 0, 1
    while step < steps:
        step += 1
        client.flushall()
        node.provider.batches.clear()
        node.provider.files.clear()
        node.provider.expire = "late"
        node = node.anew()
        node.submit("a", "b", "late", "c")
        deeds = fused(node, step, inside=inside)
        try:
            for _ in range(2):
                node.tick()
            steps = 0
        except Death:
            steps = step + 1
        assert deeds() >= step or steps == 0
        node.provider.expire = ""
        for _ in range(200):
            node = node.anew()
            while not node.store.keep([], []).recovered and client.zcard(keys.LEASES):
                client.delete("laneway:swept")
            node.tick()
            lost = [one for one in node.book.all() if one.state == "lost"]
            if set(node.statuses().values()) == {"succeeded"} and node.book.all() == lost:
                break
        assert set(node.statuses().values()) == {"succeeded"}, f"died at step {step}"
        calls = [row for one in node.ledger() for row in one.attempts if row.is_call]
        paid = sum(row.cost_nano for row in calls if row.settled)
        assert paid == node.provider.answered() * LINE_NANO, f"died at step {step}"
        assert all(row.settled for row in calls) or lost, f"died at step {step}"
        node.at_rest()
    assert step > 15
