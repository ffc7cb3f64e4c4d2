"""A commit of a claim that is over, or that Redis lost, is booked once and moves nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from broker import keys
from broker.errors import CallNeverMade
from broker.events import Attempted, Routed
from broker.settings.fleet import Fleet
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Claim, Progress
from tests.awaited import eventually
from tests.broker.tasks import LEASE_S, Q, call, done, facts, lose, lose_a_call, now_us, take, task
from tests.events import events_of


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


def going_back(client: Any) -> Callable[[], None]:
    """Has Redis lose what it wrote since, as a failover or a power loss may."""
    stood = {name: client.dump(name) for name in client.scan_iter()}

    def back() -> None:
        client.flushall()
        for name, data in stood.items():
            client.restore(name, 0, data)
        lost_us = now_us(client)
        eventually(
            lambda: now_us(client) >= lost_us + 10_000
        )  # none is back sooner, and milliseconds tell epochs apart

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
    (event,) = events_of(client)
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
    booked = {
        (event.submitted_us, event.fact.cost_nano)
        for event in events_of(client)
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
    eventually(lambda: not client.exists(keys.task_key("acme/a")))
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
