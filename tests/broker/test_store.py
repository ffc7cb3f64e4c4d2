"""Task state over a real Redis: what one record's scripts allow and what they refuse."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from broker import embedded, keys
from broker.ask import AT_ONCE
from broker.errors import RedisFull, RedisUnavailable, TaskTooLarge, UnknownTask
from broker.events import Attempted, Finished
from broker.settings.fleet import Fleet
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Progress
from tests.awaited import eventually
from tests.broker.tasks import LEASE_S, Q, call, done, facts, take, task


def test_a_task_id_submitted_twice_is_one_task_and_with_another_content_a_conflict(store: Store) -> None:
    assert store.submit([task("a"), task("a")]) == ["new", "same"]
    assert store.submit([task("a"), task("a", text="other")]) == ["same", "conflict"]
    assert store.submit([task("a", "another-workspace", "other")]) == ["new"]
    assert [claim.ref for claim in take(store)] == ["acme/a", "another-workspace/a"]
    assert store.records.find("a") == ["acme/a", "another-workspace/a"]


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


def test_what_was_taken_but_never_begun_comes_back_without_counting_a_start(store: Store) -> None:
    store.submit([task("a")])
    for _ in range(5):
        (claim,) = take(store)
        store.release([claim])
    assert take(store)
    assert store.dead_letters.all() == []


def test_a_task_whose_place_was_lost_is_put_back(store: Store, client: redis.Redis) -> None:
    store.submit([task("a")])
    client.delete(keys.queue_key(DISPATCH))
    client.zadd(keys.OPEN, {"acme/a": 0})
    eventually(lambda: store.keep([], []).replaced)  # one sweep a third of a lease
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


def test_on_a_queue_that_both_modes_share_no_async_task_goes_before_a_sync_one(store: Store) -> None:
    store.submit([replace(task(f"a{n}"), mode="async", priority=5) for n in range(300)])
    take(store, want=100)
    store.submit([task("sync", priority=-5), task("other", "another")])
    assert [claim.task.task_id for claim in take(store, want=3)] == ["other", "sync", "a100"]


def test_a_backlog_of_one_priority_does_not_hold_up_the_same_workspace_s_next_one(store: Store) -> None:
    store.submit([replace(task(f"a{n}"), mode="async") for n in range(300)])
    store.submit([task("mine"), *(task(f"b{n}", "b") for n in range(10))])
    assert "mine" in [claim.task.task_id for claim in take(store, want=2)]


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
