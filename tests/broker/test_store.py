"""Task state over a real Redis: what one record's scripts allow and what they refuse."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from broker import embedded, keys
from broker.ask import AT_ONCE
from broker.errors import CallNeverMade, RedisFull, RedisUnavailable, ResultGone, TaskTooLarge, UnknownTask
from broker.events import Attempted, Fact, Finished, Routed, decode_entry
from broker.hands import Hands
from broker.rows import digest
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.state import Intent, Move, Record
from broker.store import Store
from broker.stream import ENTRIES_AT_ONCE, newest_entries
from broker.task import DISPATCH, Claim, Outcome, Progress, Task

LEASE_S = 0.3
Q = "lane-x-sync"


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, Fleet(lease_s=LEASE_S, max_starts=3))


def task(task_id: str, workspace: str = "acme", text: str = "hi", priority: int = 0) -> Task:
    return Task(task_id, workspace, ({"role": "user", "content": text},), priority=priority)


def call(claim: Claim, cost: int, *, settled: bool = True) -> Attempted:
    return Attempted(claim.attempt_id, 0, "x", "echo", "m", "task", 1, 2, 0.0, 0.0, cost, settled=settled)


def take(store: Store, queue: str = DISPATCH, want: int = 10) -> list[Claim]:
    return list(store.fetch(queue, want, idle=True).claims)


def done(claim: Claim, cost: int = 0, text: str = "ok") -> Move:
    return Move(
        claim,
        "succeeded",
        Progress(),
        cost_nano=cost,
        outcome=Outcome("succeeded", output=text),
        attempts=(call(claim, cost),),
        facts=(Finished("succeeded", True),),
    )


def facts(client: Any) -> Iterator[tuple[str, int, Fact]]:
    for _, entry in client.xrange(keys.EVENTS):
        for event in decode_entry(entry[b"b"]):
            yield event.task_id, event.seq, event.fact


def lose(store: Store) -> None:
    """Let the lease of whatever is in hand run out, and have the fleet look after it."""
    client: Any = store.client
    ends = client.zrange(keys.LEASES, -1, -1, withscores=True)
    while client.time()[0] * 10**6 + client.time()[1] <= ends[0][1]:
        time.sleep(0.02)  # the clock that must pass is Redis's own
    while not store.keep([], []).recovered:
        time.sleep(0.02)


def test_a_task_id_submitted_twice_is_one_task_and_with_another_content_a_conflict(store: Store) -> None:
    assert store.submit([task("a"), task("a")]) == ["new", "same"]
    assert store.submit([task("a"), task("a", text="other")]) == ["same", "conflict"]
    assert store.submit([task("a", "another-workspace", "other")]) == ["new"]
    assert [claim.ref for claim in take(store)] == ["acme/a", "another-workspace/a"]
    assert store.records.find("a") == ["acme/a", "another-workspace/a"]


@dataclass(frozen=True, slots=True)
class LaterTask(Task):
    tone: str = ""
    colour: str = ""


def test_a_task_has_the_same_digest_in_each_version_that_knows_all_that_it_says() -> None:
    plain = ("t", "acme", ({"role": "user", "content": "hi"},))
    said: dict[str, Any] = {
        "type": "intent", "mode": "async", "deadline_s": 9.5, "priority": 3, "schema": {"type": "string"},
        "gate": {"kind": "none"}, "tools": ("a",), "parent": "p", "value_nano": 5, "workflow": "w", "pipeline": "x",
        "user": "u", "budget": {"hard_usd": "0.5"}, "guards": ("history",),
    }  # fmt: skip
    for kind in (Task, LaterTask):
        assert digest(kind(*plain)) == "2648fd0d163379027f7e73a623333a5d"
        assert digest(kind(*plain, **said)) == "b4cead3ebe7e388bc325b02146243495"
    later = [LaterTask(*plain), LaterTask(*plain, tone="calm"), LaterTask(*plain, colour="calm")]
    assert len(set(map(digest, later))) == 3


def test_a_long_backlog_of_one_workspace_does_not_hold_up_another(store: Store) -> None:
    store.submit([task(f"b{number}", "big") for number in range(50)])
    first = take(store, want=10)
    store.submit([task(f"s{number}", "small") for number in range(5)])
    turn = [claim.task.workspace for claim in take(store, want=10)]
    assert len(first) == 10
    assert turn.count("small") == 5


def test_a_higher_priority_goes_first_and_equals_in_order(store: Store) -> None:
    store.submit([task("a"), task("b"), task("urgent", priority=5), task("later", priority=-5), task("c")])
    assert [claim.task.task_id for claim in take(store)] == ["urgent", "a", "b", "c", "later"]


def test_a_commit_repeated_after_a_lost_reply_counts_once(store: Store, client: redis.Redis) -> None:
    store.submit([task("a")])
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False))])
    assert store.commit([done(claim, 300)]) == ["moved"]
    assert store.commit([done(claim, 300)]) == ["done before"]
    assert store.records.one("acme/a").cost_nano == 300
    assert [type(fact).__name__ for _, _, fact in facts(client)] == ["Submitted", "Attempted", "Finished"]
    assert client.zcard(keys.LEASES) == client.zcard(keys.OPEN) == 0


def test_a_stale_holder_s_result_is_dropped_and_its_cost_corrects_what_was_booked(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("a")])
    (stale,) = take(store)
    store.begin([Intent(stale, 500, call(stale, 500, settled=False))])
    lose(store)
    assert store.records.one("acme/a").cost_nano == 500
    (fresh,) = take(store)
    assert fresh.epoch > stale.epoch
    store.begin([Intent(fresh, 500, call(fresh, 500, settled=False))])
    assert store.commit([done(stale, 200, "stale")]) == ["late"]
    assert store.commit([done(fresh, 100, "fresh")]) == ["moved"]
    assert store.commit([done(stale, 200, "stale")]) == ["done before"]
    record = store.records.one("acme/a")
    assert record.outcome is not None
    assert record.outcome.output == "fresh"
    assert record.cost_nano == 300
    booked = [fact for _, _, fact in facts(client) if isinstance(fact, Attempted)]
    assert [(fact.attempt_id, fact.cost_nano, fact.settled) for fact in booked] == [
        (stale.attempt_id, 500, False),
        (stale.attempt_id, 200, True),
        (fresh.attempt_id, 100, True),
    ]


def lose_a_call(store: Store, want: int = 1) -> list[Claim]:
    """Claims whose calls are booked as lost."""
    claims = take(store, want=want)
    lost = [replace(call(one, 500, settled=False), failure="worker_lost") for one in claims]
    store.begin([Intent(one, 500, fact) for one, fact in zip(claims, lost, strict=True)])
    store.release(claims, "its worker was lost")
    return claims


@pytest.mark.parametrize("count", [1, 40], ids=["alone", "as a group"])
def test_what_a_lost_call_cost_after_all_stands_in_place_of_its_loss_whatever_was_written_meanwhile(
    store: Store, count: int
) -> None:
    store.submit([task(f"t{number}") for number in range(count)])
    stale = lose_a_call(store, count)
    fresh = take(store, want=count)
    assert all([one.cost_nano for one in claim.progress.attempts] == [500] for claim in fresh)
    assert store.commit([done(claim, 200) for claim in stale]) == ["late"] * count
    store.commit([Move(claim, "queued", claim.progress, queue=Q) for claim in fresh])
    again = take(store, Q, count)
    records = store.records.many([claim.ref for claim in again])
    seen = [(one.progress, one.cost_nano) for one in again] + [
        (one.progress, one.cost_nano) for one in records
    ]
    for progress, cost_nano in seen:
        assert [(call.cost_nano, call.settled, call.failure) for call in progress.attempts] == [
            (200, True, "")
        ]
        assert cost_nano == 200


def test_a_lost_call_that_was_never_made_is_no_call_of_its_task_and_is_booked_as_none(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("a")])
    (claim,) = lose_a_call(store)
    never = replace(call(claim, 0), failure=CallNeverMade.failure)
    assert store.commit([Move(claim, "queued", Progress(), queue=Q, late=(never,))]) == ["late"]
    assert (store.records.one("acme/a").progress.attempts, store.records.one("acme/a").cost_nano) == ((), 0)
    booked = [fact for _, _, fact in facts(client) if isinstance(fact, Attempted)]
    assert [(one.attempt_id, one.cost_nano) for one in booked] == [
        (claim.attempt_id, 500),
        (claim.attempt_id, 0),
    ]


def test_a_late_word_that_tells_of_no_call_leaves_what_was_booked_as_every_book_has_it(
    store: Store, client: redis.Redis
) -> None:
    decision = Routed("general", "", "declared", "", 1.0, ("x",), "x", "", cost_nano=7)
    store.submit([task("a")])
    go_back = going_back(client)
    decided = [
        Move(claim, "queued", Progress(), queue=DISPATCH, cost_nano=7, facts=(decision,), scopes=("fleet",))
        for claim in take(store)
    ]
    go_back()
    assert store.commit(decided) == ["late"], "Redis lost its claim: nothing of it is decided"
    assert store.records.one("acme/a").cost_nano == 0
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False), ("fleet",))])
    store.release([claim], "its worker was lost")
    waits = Move(claim, "queued", Progress(), queue=Q, scopes=("fleet",))
    assert store.commit([waits]) == ["late"]
    assert store.records.one("acme/a").cost_nano == 500
    assert client.hget(keys.used_key("total"), "fleet") == b"500"
    assert store.commit([replace(done(claim, 200), scopes=("fleet",))]) == ["late"], (
        "what is known may come still"
    )
    assert store.records.one("acme/a").cost_nano == 200
    assert client.hget(keys.used_key("total"), "fleet") == b"200"
    booked = [fact.cost_nano for _, _, fact in facts(client) if isinstance(fact, Attempted | Routed)]
    assert booked == [500, 200]


def test_a_dead_letter_has_the_calls_that_were_lost(store: Store) -> None:
    store.submit([task("a")])
    while not store.dead_letters.all():
        lose_a_call(store)
    record = store.records.one("acme/a")
    assert record.status == "failed"
    assert sum(one.cost_nano or 0 for one in record.progress.attempts) == record.cost_nano == 1500
    assert not any(one.settled for one in record.progress.attempts)


def now_us(client: Any) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1_000_000 + int(micros)


def going_back(client: Any) -> Callable[[], None]:
    """Has Redis lose what it wrote since, as a failover or a power loss may."""
    stood = {name: client.dump(name) for name in client.scan_iter()}

    def back() -> None:
        client.flushall()
        for name, data in stood.items():
            client.restore(name, 0, data)
        lost_us = now_us(client)
        while now_us(client) < lost_us + 10_000:  # none is back sooner, and milliseconds tell epochs apart
            time.sleep(0.002)

    return back


def costs_booked(client: Any) -> dict[str, int | None]:
    """By attempt, each of which was booked once."""
    calls = [fact for _, _, fact in facts(client) if isinstance(fact, Attempted)]
    assert len({one.attempt_id for one in calls}) == len(calls)
    return {one.attempt_id: one.cost_nano for one in calls}


@pytest.mark.parametrize(
    "since", [[], ["held"], ["handed on"], ["ended"], ["handed on", "held"], ["handed on", "ended"]], ids=str
)
def test_a_call_whose_claim_redis_has_lost_is_booked_once_whoever_had_the_task_since(
    store: Store, client: redis.Redis, since: list[str]
) -> None:
    store.submit([task("a")])
    go_back = going_back(client)
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False), ("fleet",))])
    go_back()
    costs, held = {claim.attempt_id: 200}, []
    for cost, deed in enumerate(since, 1):
        (other,) = take(store)
        costs[other.attempt_id] = cost
        store.begin([Intent(other, 50, call(other, 50, settled=False), ("fleet",))])
        move = replace(done(other, cost), scopes=("fleet",))
        if deed == "handed on":
            move = replace(move, status="queued", queue=DISPATCH, outcome=None, facts=())
        if deed == "held":
            held.append(move)
        else:
            assert store.commit([move]) == ["moved"]
    paid = replace(done(claim, 200), scopes=("fleet",))
    assert store.commit([paid]) == ["late"]
    assert store.commit([paid]) == ["done before"]
    assert store.commit(held) == ["moved"] * len(held), "who has it is not disturbed"
    assert costs_booked(client) == costs
    assert len(costs) == 1 + len(since)
    assert store.records.one("acme/a").cost_nano == sum(costs.values())
    assert client.hget(keys.used_key("total"), "fleet") == str(sum(costs.values())).encode()


def test_a_task_that_is_put_back_for_ever_keeps_a_short_list_of_what_ended(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("a")])
    turns = []
    for _ in range(800):
        (claim,) = take(store)
        turns.append(Move(claim, "queued", Progress(), DISPATCH))
        assert store.commit(turns[-1:]) == ["moved"]
    assert 1000 < client.hstrlen(keys.task_key("acme/a"), "ended") <= 2000
    assert store.commit(turns) == ["done before"] * len(turns)


@pytest.mark.parametrize("since", ["committed", "lost", "given back"])
def test_what_the_version_before_had_committed_is_done_before_whatever_became_of_its_task(
    store: Store, client: redis.Redis, since: str
) -> None:
    store.submit([task("a")])
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False), ("fleet",))])
    paid = replace(
        done(claim, 200), scopes=("fleet",), status="queued", queue=DISPATCH, outcome=None, facts=()
    )
    assert store.commit([paid]) == ["moved"]
    client.hdel(keys.task_key("acme/a"), "ended")  # it kept no list
    (other,) = take(store)
    if since != "given back":
        store.begin([Intent(other, 50, call(other, 50, settled=False), ("fleet",))])
    if since == "committed":
        store.commit([replace(paid, claim=other, cost_nano=50, attempts=(call(other, 50),))])
    else:
        store.release([other], "its worker was lost" if since == "lost" else "")
    assert store.commit([paid]) == ["done before"]
    assert store.records.one("acme/a").cost_nano == (200 if since == "given back" else 250)


def test_a_call_of_a_task_that_redis_has_lost_is_booked_once_on_the_day_of_its_submission(
    store: Store, client: redis.Redis
) -> None:
    go_back = going_back(client)
    store.submit([task("a")])
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False), ("fleet",))])
    go_back()
    paid = replace(done(claim, 200), scopes=("fleet",))
    assert store.commit([paid]) == ["late"]
    assert store.commit([paid]) == ["done before"]
    entries: Any = client.xrange(keys.EVENTS)
    (event,) = [event for _, entry in entries for event in decode_entry(entry[b"b"])]
    assert (event.task_id, event.submitted_us, event.fact) == ("a", claim.submitted_us, call(claim, 200))
    assert client.hget(keys.used_key("total"), "fleet") == b"200"
    assert 0 < client.ttl(f"laneway:gone:{claim.ref}|{claim.submitted_us}") <= 86400
    assert store.submit([task("a")]) == ["new"]
    (again,) = take(store)
    assert store.commit([done(again, 100)]) == ["moved"]
    assert store.records.one("acme/a").cost_nano == 100, "the same id once more is another task"


def test_a_call_of_a_task_that_redis_has_lost_is_not_that_of_a_later_task_of_its_id(
    store: Store, client: redis.Redis
) -> None:
    """Epochs count from a task's submission: those of the two may be the same."""
    paid = []
    for cost in (200, 30):
        client.delete(keys.task_key("acme/a"), keys.LEASES)
        store.submit([task("a")])
        take(store)
        client.hset(keys.task_key("acme/a"), "epoch", "7")
        claim = Claim(
            task("a"), Progress(), 7, Q, int(client.hget(keys.task_key("acme/a"), "submitted") or 0), 0, 0, 0
        )
        store.begin([Intent(claim, 500, call(claim, 500, settled=False), ("fleet",))])
        paid.append(replace(done(claim, cost), scopes=("fleet",)))
    client.hset(keys.used_key("total"), "fleet", 500)  # Redis has lost what the first had reserved, too
    lost, later = paid
    assert store.begin([Intent(lost.claim, 500, call(lost.claim, 500, settled=False))]) == ["lost"]
    assert store.commit([lost]) == ["late"]
    assert store.commit([lost]) == ["done before"]
    assert store.commit([later]) == ["moved"]
    assert store.records.one("acme/a").cost_nano == 30
    assert client.hget(keys.used_key("total"), "fleet") == b"230"
    entries: Any = client.xrange(keys.EVENTS)
    booked = {
        (event.submitted_us, event.fact.cost_nano)
        for _, entry in entries
        for event in decode_entry(entry[b"b"])
        if isinstance(event.fact, Attempted)
    }
    assert booked == {(lost.claim.submitted_us, 200), (later.claim.submitted_us, 30)}


def test_a_call_whose_task_is_kept_no_longer_stays_booked_as_it_was(client: redis.Redis) -> None:
    store = Store(client, Fleet(lease_s=LEASE_S, idempotency_ttl_s=1, result_ttl_s=1))
    store.submit([task("a")])
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False), ("fleet",))])
    store.release([claim], "its worker was lost")
    (again,) = take(store)
    store.commit([replace(done(again, 1), scopes=("fleet",))])
    while client.exists(keys.task_key("acme/a")):
        time.sleep(0.02)  # the clock that must pass is Redis's own
    assert store.commit([replace(done(claim, 200), scopes=("fleet",))]) == ["done before"]
    assert client.hget(keys.used_key("total"), "fleet") == b"501"


def test_a_step_that_redis_has_lost_is_booked_and_the_one_before_it_counts_as_lost(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("a")])
    (first,) = take(store)
    store.begin([Intent(first, 500, call(first, 500, settled=False), ("fleet",))])
    go_back = going_back(client)
    step = Move(first, "running", Progress(), cost_nano=300, attempts=(call(first, 300),), scopes=("fleet",))
    (second,) = store.step([step])
    store.begin([Intent(second, 500, call(second, 500, settled=False), ("fleet",))])
    go_back()
    assert store.commit([replace(done(second, 200), scopes=("fleet",))]) == ["late"]
    lose(store)
    assert (store.records.one("acme/a").status, store.records.one("acme/a").cost_nano) == ("queued", 700)
    assert store.commit([step]) == ["late"], "it comes again"
    assert store.records.one("acme/a").cost_nano == 500
    assert client.hget(keys.used_key("total"), "fleet") == b"500"
    assert client.hget(keys.held_key("total"), "fleet") == b"0"
    assert len({claim.epoch for claim in (first, second, *take(store))}) == 3


def test_what_was_taken_but_never_begun_comes_back_without_counting_a_start(store: Store) -> None:
    store.submit([task("a")])
    for _ in range(5):
        (claim,) = take(store)
        store.release([claim])
    assert take(store)
    assert store.dead_letters.all() == []


def test_a_task_that_takes_its_worker_along_three_times_is_a_dead_letter_with_all_its_spend(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("poison")])
    for _ in range(3):
        (claim,) = take(store)
        assert store.begin([Intent(claim, 500, call(claim, 500, settled=False))]) == ["go"]
        lose(store)
    assert take(store) == []
    (letter,) = store.dead_letters.all()
    assert (letter.id, letter.cause, letter.starts) == ("acme/poison", "its worker was lost", 3)
    record = store.records.one("acme/poison")
    assert (record.status, record.cost_nano) == ("failed", 1500)
    assert client.ttl(keys.task_key("acme/poison")) == -1
    assert store.dead_letters.replay("acme/poison")
    (again,) = take(store)
    store.commit([done(again, 7)])
    assert store.records.one("acme/poison").cost_nano == 1507
    assert store.dead_letters.all() == []


def test_a_suspect_is_handed_out_alone_and_only_to_a_process_with_nothing_else_in_hand(store: Store) -> None:
    store.submit([task("suspect"), task("innocent")])
    for _ in range(2):
        claims = take(store)
        assert len(claims) == 2
        (suspect,) = [claim for claim in claims if claim.task.task_id == "suspect"]
        store.begin([Intent(suspect, 0, call(suspect, 0))])
        store.release([claim for claim in claims if claim is not suspect])
        lose(store)
    busy = store.fetch(DISPATCH, 10, idle=False)
    assert (busy.claims, busy.alone) == ((), True)
    alone = store.fetch(DISPATCH, 10, idle=True)
    assert [claim.task.task_id for claim in alone.claims] == ["suspect"]
    assert [claim.task.task_id for claim in take(store)] == ["innocent"]


def test_a_failing_actor_gives_its_claims_back_with_the_cause(store: Store) -> None:
    store.submit([task("a")])
    for _ in range(3):
        (claim,) = take(store)
        store.begin([Intent(claim, 0, call(claim, 0))])
        store.release([claim], "KeyError: 'x'")
    assert [letter.cause for letter in store.dead_letters.all()] == ["KeyError: 'x'"]


def test_a_task_whose_place_was_lost_is_put_back(store: Store, client: redis.Redis) -> None:
    store.submit([task("a")])
    client.delete(keys.queue_key(DISPATCH))
    client.zadd(keys.OPEN, {"acme/a": 0})
    while not store.keep([], []).replaced:
        time.sleep(0.02)  # one sweep a third of a lease
    assert [claim.ref for claim in take(store)] == ["acme/a"]


def test_a_lease_that_is_renewed_is_not_lost(store: Store) -> None:
    store.submit([task("a")])
    (claim,) = take(store)
    until = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < until:
        kept = store.keep([(claim.ref, claim.epoch)], [])
        assert (kept.broken, kept.recovered) == (frozenset(), 0)
        time.sleep(LEASE_S / 5)
    assert store.commit([done(claim)]) == ["moved"]


def test_a_lease_that_nobody_could_renew_is_not_lost_to_the_first_process_that_comes_back(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("a")])
    (claim,) = take(store)
    store.begin([Intent(claim, 500, call(claim, 500, settled=False))])
    now_us = store.clock.now_us()
    away_us = round(3 * LEASE_S * 10**6)  # as if Redis had been away: its clock went on
    client.zadd(keys.LEASES, {claim.ref: now_us - away_us + store.lease_us})
    client.set("laneway:swept", now_us - away_us)
    assert store.keep([], []).recovered == 0
    assert store.commit([done(claim, 200)]) == ["moved"]
    assert store.records.one("acme/a").cost_nano == 200


def test_a_lost_claim_comes_back_although_every_sweep_is_late(store: Store, client: redis.Redis) -> None:
    store.submit([task("a")])
    (claim,) = take(store)
    late_us = round(0.6 * store.lease_us)
    recovered, rounds = 0, 0
    while not recovered and rounds < 8:  # as if so much time had passed since the last one
        client.zincrby(keys.LEASES, -late_us, claim.ref)
        client.set("laneway:swept", store.clock.now_us() - late_us)
        recovered, rounds = store.keep([], []).recovered, rounds + 1
    assert recovered == 1


def test_a_clock_that_is_set_back_takes_nothing_from_the_time_that_a_machine_was_on(
    client: redis.Redis,
) -> None:
    store = Store(client, Fleet(lease_s=LEASE_S, node="n"))
    client.hset("laneway:machines", "n", str(store.clock.now_us() + 600_000_000))
    store.keep([], ["x"], node="n")
    assert store.machine_days.uptimes_us(store.limits.windows()["day"]) == {"n": 0}


def test_what_waits_is_cancelled_at_once_and_what_runs_when_it_settles(store: Store) -> None:
    store.submit([task("waits"), task("runs")])
    running = next(claim for claim in take(store) if claim.task.task_id == "runs")
    store.release(list(take(store)))
    store.begin([Intent(running, 500, call(running, 500, settled=False))])
    assert store.cancel("acme/runs") == "cancelling"
    assert store.keep([(running.ref, running.epoch)], []).broken == {(running.ref, running.epoch)}
    assert store.commit([done(running, 300)]) == ["cancelled"]
    record = store.records.one("acme/runs")
    assert (record.status, record.cost_nano) == ("cancelled", 300)
    assert store.cancel("acme/runs") == "cancelled"
    with pytest.raises(UnknownTask):
        store.cancel("acme/nobody")


def test_a_part_that_is_submitted_after_its_parents_cancel_ends_with_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of a part, that comes while the cancel goes down from part to part."""
    store.submit([task("whole"), replace(task("part"), parent="whole"), task("other")])
    claims = take(store)
    store.begin([Intent(claim, 0, call(claim, 0)) for claim in claims])
    listed = store.records.parts

    def parts(ref: str) -> list[str]:
        found = listed(ref)
        store.submit([replace(task(f"late-{ref[5:]}"), parent=ref[5:])])
        return found

    monkeypatch.setattr(store.records, "parts", parts)
    assert store.cancel("acme/whole") == "cancelling"
    assert store.commit([done(claim) for claim in claims]) == ["cancelled", "cancelled", "moved"]
    store.submit([replace(task("latest"), parent="whole"), replace(task("others"), parent="other")])
    words = {claim.task.task_id: store.commit([done(claim)])[0] for claim in take(store)}
    late = dict.fromkeys(("late-whole", "late-part", "latest"), "cancelled")
    assert words == {**late, "others": "moved"}


def test_a_timed_task_is_not_handed_out_before_its_time(store: Store) -> None:
    store.submit([task("a")])
    (claim,) = take(store)
    store.commit([Move(claim, "queued", Progress(), queue=Q, delay_s=0.4)])
    early = store.fetch(Q, 10, idle=True)
    assert early.claims == ()
    assert early.wait_s is not None
    assert 0 < early.wait_s <= 0.4
    while not (late := store.fetch(Q, 10, idle=True)).claims:
        store.wait(Q, late.wait_s or 0.01)
    assert late.claims[0].claimed_us - claim.claimed_us >= 400_000


def test_a_fetch_on_an_empty_queue_sleeps_until_something_comes(store: Store) -> None:
    before = time.monotonic()
    store.wait(DISPATCH, 0.2)
    assert time.monotonic() - before >= 0.19
    store.submit([task("a")])
    store.wait(DISPATCH, 5)
    assert time.monotonic() - before < 3


def test_a_result_goes_after_its_time_and_its_id_stays_the_same_task(
    store: Store, client: redis.Redis
) -> None:
    brief = Store(client, Fleet(lease_s=LEASE_S, result_ttl_s=1))
    brief.submit([task("a"), task("dead")])
    ended, dead = sorted(take(brief), key=lambda claim: claim.ref)
    brief.commit([done(ended), replace(done(dead), cause="it cannot be read")])
    assert store.records.one("acme/a").outcome == Outcome("succeeded", output="ok")
    while client.zcard(keys.RESULTS):
        brief.keep([], [])
    with pytest.raises(ResultGone, match=r"has ended \(succeeded\)"):
        store.records.one("acme/a")
    assert store.watch("late", ["acme/a"]) == 0
    assert store.submit([task("a"), task("a", text="other")]) == ["same", "conflict"]
    assert take(store) == []
    assert store.records.one("acme/dead").outcome == Outcome("succeeded", output="ok")
    assert store.dead_letters.drop("acme/dead")
    while client.zcard(keys.RESULTS):
        brief.keep([], [])
    with pytest.raises(ResultGone):
        store.records.one("acme/dead")


def test_what_a_round_leaves_of_the_lost_and_the_long_ended_the_next_ones_take_at_once(
    client: redis.Redis,
) -> None:
    many = 700
    brief = Store(client, Fleet(result_ttl_s=1))
    brief.submit([task(f"{number:03}") for number in range(2 * many)])
    claims = sorted(take(brief, want=2 * many), key=lambda claim: claim.ref)
    brief.commit([done(claim) for claim in claims[:many]])
    client.zadd(keys.RESULTS, {claim.ref: 1 for claim in claims[:many]})
    client.zadd(keys.LEASES, {claim.ref: 1 for claim in claims[many:]})
    kept = brief.keep([], [])
    recovered, rounds = kept.recovered, 1
    assert 0 < recovered < many
    assert 0 < client.zcard(keys.RESULTS) < many
    while kept.more:
        kept = brief.keep([], [], again=True)
        recovered, rounds = recovered + kept.recovered, rounds + 1
    assert recovered == many
    assert client.zcard(keys.RESULTS) == client.zcard(keys.LEASES) == 0
    assert rounds < 12
    assert client.exists(keys.task_key(claims[0].ref))
    assert not client.hexists(keys.task_key(claims[0].ref), "task")


def test_every_reader_of_an_end_is_told(store: Store) -> None:
    store.submit([task("a")])
    assert store.watch("one", ["acme/a"]) == 0
    (claim,) = take(store)
    assert store.watch("two", ["acme/a", "acme/nobody"]) == 1
    store.commit([done(claim)])
    assert store.watch("three", ["acme/a"]) == 0
    assert [store.next_ends(reader, 1) for reader in ("one", "two", "three")] == [["acme/a"]] * 3


def test_a_reader_of_very_many_ends_holds_redis_up_for_a_thousand_of_them_at_most(
    store: Store, client: redis.Redis
) -> None:
    many = 2 * AT_ONCE + 1
    refs = [f"acme/{number}" for number in range(many)]
    store.submit([task(str(number)) for number in range(0, many, 2)])
    store.watch("other", refs[:1])
    client.config_resetstat()
    assert store.watch("one", refs) == AT_ONCE
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 3
    (*_, last) = sorted(take(store, want=many), key=lambda claim: int(claim.task.task_id))
    store.commit([done(last)])
    assert store.next_ends("one", 1) == [refs[-1]]


def test_strays_and_unreadable_records_become_dead_letters_and_their_neighbours_go_on(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("good"), task("bad")])
    client.hset(keys.task_key("acme/bad"), "task", b"\xff\x00garbage")
    client.zadd(keys.queue_key(DISPATCH), {"no such task \x00\xff": -1})
    client.rpush(f"dramatiq:{DISPATCH}", "m1")
    client.hset(f"dramatiq:{DISPATCH}.msgs", "m1", b"\x93random")
    assert [claim.ref for claim in take(store)] == ["acme/good"]
    causes = sorted(letter.cause.partition(":")[0] for letter in store.dead_letters.all())
    assert causes == ["unreadable message", "unreadable message", "unreadable record"]
    assert store.records.status("acme/bad") == "failed"


def test_a_record_that_nobody_can_read_gives_back_what_it_had_reserved(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("bad"), task("worse")])
    claims = take(store)
    store.begin(
        [Intent(claim, 500, call(claim, 500), ("fleet",), batch="b", line=claim.ref) for claim in claims]
    )
    store.cancel("acme/worse")
    for ref in ("acme/bad", "acme/worse"):
        client.hset(keys.task_key(ref), "task", b"\xff\x00garbage")
    assert store.claims([(claim.ref, claim.epoch) for claim in claims], DISPATCH) == [None, None]
    assert [store.records.status(ref) for ref in ("acme/bad", "acme/worse")] == ["failed", "cancelled"]
    assert [letter.id for letter in store.dead_letters.all()] == ["acme/bad"]
    for window in store.limits.windows().values():
        assert {int(client.hget(key(window), "fleet") or 0) for key in (keys.used_key, keys.held_key)} == {0}


def test_a_part_that_nobody_can_read_gives_back_what_it_had_reserved_of_its_family(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("whole"), replace(task("part"), parent="whole")])
    (claim,) = (claim for claim in take(store) if claim.task.parent)
    claim = replace(claim, progress=Progress(family=(("acme/whole", 1000), ("acme/gone", -1))))
    store.begin([Intent(claim, 500, call(claim, 500), batch="b", line="l")])
    assert store.records.one("acme/whole").family_nano == 500
    client.hset(keys.task_key("acme/part"), "progress", b"\xff\x00garbage")
    assert store.claims([(claim.ref, claim.epoch)], DISPATCH) == [None]
    assert store.records.one("acme/whole").family_nano == 0


def test_two_who_raise_limits_of_a_task_at_the_same_time_both_have_their_way(
    store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.submit([task("a")])
    other, read = Store(client, store.fleet), store.records.many

    def records(refs: list[str]) -> list[Record]:
        found = read(refs)
        other.parked.raise_limits("acme/a", None, {"tokens": 5, "wall_s": 2.5, "retry_usd": "0.5"})
        return found

    monkeypatch.setattr(store.records, "many", records)
    store.parked.raise_limits("acme/a", 7, {"llm_calls": 9, "tokens": 6})
    (claim,) = take(store)
    assert claim.raised == {"tokens": 6, "wall_s": 2.5, "retry_usd": "0.5", "llm_calls": 9}


def test_an_id_is_known_as_long_as_a_task_of_it(store: Store, client: redis.Redis) -> None:
    def left_s() -> Any:
        return client.ttl(keys.ids_key("a"))

    store.submit([task("a"), task("a", workspace="other")])
    one, other = take(store)
    store.commit([done(one)])
    assert left_s() == -1
    store.commit([done(other)])
    assert left_s() > 0
    store.submit([task("a", workspace="third")])
    assert left_s() == -1
    client.hset(keys.task_key("third/a"), "task", b"\xff\x00garbage")
    assert take(store) == []
    assert left_s() == -1, "a dead letter is kept until somebody drops it"
    store.dead_letters.drop("third/a")
    assert left_s() > 0


def test_a_full_redis_refuses_what_is_new_and_lets_the_queues_drain(
    store: Store, client: redis.Redis
) -> None:
    store.submit([task("a"), task("b")])
    (first, _) = take(store)
    client.config_set("maxmemory", 1)
    with pytest.raises(RedisFull):
        store.submit([task("c")])
    store.begin([Intent(first, 0, call(first, 0))])
    assert store.commit([done(first)]) == ["moved"]
    client.config_set("maxmemory", 0)
    assert store.records.one("acme/a").status == "succeeded"
    with pytest.raises(UnknownTask):
        store.records.one("acme/c")


def test_too_large_a_payload_is_refused_before_anything_is_stored(store: Store) -> None:
    with pytest.raises(TaskTooLarge, match="limit"):
        store.submit([task("small"), task("large", text="x" * 300_000)])
    assert take(store) == []


def test_a_redis_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(RedisUnavailable, match="does not answer"):
        Store(redis.Redis(port=1, socket_connect_timeout=0.2), Fleet()).submit([task("a")])


def test_a_redis_that_does_not_do_its_work_at_present_is_told_as_not_there(
    tmp_path: Path,
) -> None:
    server = embedded.start(tmp_path / "var")
    own = redis.Redis.from_url(server.url)
    store = Store(own, Fleet())
    try:
        own.config_set("min-replicas-to-write", 1)
        with pytest.raises(RedisUnavailable, match="NOREPLICAS"):
            store.submit([task("a")])
        own.config_set("replica-serve-stale-data", "no")
        own.replicaof("127.0.0.1", 1)
        with pytest.raises(RedisUnavailable, match="Link with MASTER is down"):
            store.records.status("acme/a")
    finally:
        own.close()
        embedded.stop(server)


def test_what_fails_before_its_call_counts_as_a_start_and_ends_as_a_dead_letter(store: Store) -> None:
    store.submit([task("bad"), task("good")])
    for _ in range(2):
        store.release(take(store), "TypeError: 'x'")
    (first,) = take(store)  # both are suspects now, each handed out alone
    (second,) = take(store)
    bad, good = sorted((first, second), key=lambda claim: claim.task.task_id)
    store.release([bad], "TypeError: 'x'")
    assert store.commit([done(good)]) == ["moved"]
    assert [(letter.id, letter.starts) for letter in store.dead_letters.all()] == [("acme/bad", 3)]


def test_a_worker_that_dies_with_tasks_that_it_never_began_does_not_loop_on_them(store: Store) -> None:
    store.submit([task("deadly")])
    for _ in range(3):
        assert len(take(store)) == 1
        lose(store)
    assert take(store) == []
    assert [letter.id for letter in store.dead_letters.all()] == ["acme/deadly"]


def test_on_a_queue_that_both_modes_share_no_async_task_goes_before_a_sync_one(store: Store) -> None:
    store.submit([replace(task(f"a{n}"), mode="async", priority=5) for n in range(300)])
    take(store, want=100)
    store.submit([task("sync", priority=-5), task("other", "another")])
    assert [claim.task.task_id for claim in take(store, want=3)] == ["other", "sync", "a100"]


def test_a_backlog_of_one_priority_does_not_hold_up_the_same_workspace_s_next_one(store: Store) -> None:
    store.submit([replace(task(f"a{n}"), mode="async") for n in range(300)])
    store.submit([task("mine"), *(task(f"b{n}", "b") for n in range(10))])
    assert "mine" in [claim.task.task_id for claim in take(store, want=2)]


def test_only_the_claim_that_was_asked_about_is_broken_off(store: Store) -> None:
    store.submit([task("a")])
    (stale,) = take(store)
    store.release([stale])
    (fresh,) = take(store)
    hands = Hands()
    hands.take([fresh], DISPATCH, messages=1, hold_s=60)
    hands.break_off(store.keep([(stale.ref, stale.epoch)], []).broken)
    assert hands.broken(stale)
    assert not hands.broken(fresh)


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


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client, key: client.set(key, "a string") if client.delete(key) else None,
        lambda client, key: client.hdel(key, "task"),
        lambda client, key: client.hdel(key, "epoch"),
        lambda client, key: client.hset(key, "epoch", "zz"),
        lambda client, key: client.hset(key, "submitted", "zz"),
        lambda client, key: client.hset(key, "task", msgpack.packb([1, "other", "w", [], None, "sync"])),
        lambda client, key: client.hset(key, "task", msgpack.packb([1, "bad", "acme", 5])),
        lambda client, key: client.hset(key, "progress", msgpack.packb([1, 2, 3])),
    ],
)
def test_a_spoilt_record_is_a_dead_letter_and_its_neighbours_are_handed_out(
    store: Store, client: redis.Redis, spoil: Callable[[redis.Redis, str], object]
) -> None:
    store.submit([task("bad"), task("good")])
    spoil(client, keys.task_key("acme/bad"))
    assert [claim.ref for claim in take(store)] == ["acme/good"]
    assert len(store.dead_letters.all()) == 1
    lose(store)
    assert [claim.ref for claim in take(store)] == ["acme/good"]


def test_a_message_that_is_no_task_is_dropped_as_any_dead_letter(store: Store, client: redis.Redis) -> None:
    client.rpush(f"dramatiq:{DISPATCH}", "stray")
    client.zadd(keys.queue_key(DISPATCH), {"no-slash": -1})
    take(store)
    letters = [letter.id for letter in store.dead_letters.all()]
    assert len(letters) == 2
    assert [store.dead_letters.drop(letter) for letter in letters] == [True, True]
    assert store.dead_letters.all() == []


def test_dropping_what_is_no_dead_letter_leaves_a_task_alone(store: Store, client: redis.Redis) -> None:
    store.submit([task("a")])
    assert not store.dead_letters.drop("acme/a")
    assert client.ttl(keys.task_key("acme/a")) == -1


def test_the_newest_entries_are_read_no_further_than_they_are_asked_for(client: redis.Redis) -> None:
    many = 2 * ENTRIES_AT_ONCE + 7
    places: list[Any] = [client.xadd(keys.EVENTS, {"b": b"%d" % number}) for number in range(many)]
    client.xadd(keys.EVENTS, {"c": b""})
    backwards = [b"%d" % number for number in reversed(range(many))]
    assert list(newest_entries(client, 1000)) == [None, *backwards]
    assert list(newest_entries(client, ENTRIES_AT_ONCE + 3)) == [None, *backwards[: ENTRIES_AT_ONCE + 2]]
    last, first = (places[number].decode() for number in (-3, 3))
    assert list(newest_entries(client, 1000, after=f"({first}", until=last)) == backwards[2:-4]
    client.config_resetstat()
    assert next(newest_entries(client, 1000)) is None
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_xrevrange"]["calls"] == 1


@pytest.mark.parametrize("at_once", [1, 100])
def test_facts_of_many_tasks_at_once_are_those_of_one_after_another(
    at_once: int, store: Store, client: redis.Redis
) -> None:
    """Some tasks are refused, lost or cancelled; a hundred in one call are packed together, one alone is not."""
    tasks = [task(f"{number:02}") for number in range(60)]
    store.submit(tasks[:10])
    for start in range(0, 60, at_once):
        store.submit(tasks[start : start + at_once])
    claims = sorted(take(store, want=100), key=lambda claim: claim.ref)
    store.release(claims[20:30])
    for claim in claims[40:50]:
        store.cancel(claim.ref)
    moves = [done(claim, 7) for claim in claims]
    words = [word for start in range(0, 60, at_once) for word in store.commit(moves[start : start + at_once])]
    words += [
        word for start in range(0, 60, at_once) for word in store.commit(moves[start : start + at_once])
    ]
    cancelled = ["cancelled"] * 10
    first = ["moved"] * 20 + ["done before"] * 10 + ["moved"] * 10 + cancelled + ["moved"] * 10
    assert words == first + ["done before"] * 60
    found: dict[str, list[str]] = {}
    for task_id, seq, fact in facts(client):
        assert seq == len(found.setdefault(task_id, [])) + 1
        told = fact.status if isinstance(fact, Finished) else type(fact).__name__
        found[task_id].append(fact.attempt_id if isinstance(fact, Attempted) else told)
    ends = {"moved": "succeeded", "cancelled": "cancelled"}
    assert found == {
        one.task_id: ["Submitted", *([claim.attempt_id, ends[word]] if word in ends else [])]
        for one, claim, word in zip(tasks, claims, first, strict=True)
    }
    entries: Any = client.xrange(keys.EVENTS)
    forms = {len(msgpack.unpackb(entry[b"b"], raw=True)) for _, entry in entries}
    assert forms == ({2} if at_once == 1 else {2, 3})
