"""What takes its worker along or cannot be read becomes a dead letter, and its neighbours go on."""

from collections.abc import Callable

import msgpack
import pytest
import redis

from broker import keys
from broker.state import Intent
from broker.store import Store
from broker.task import DISPATCH
from tests.broker.tasks import call, done, lose, lose_a_call, take, task


def test_a_dead_letter_has_the_calls_that_were_lost(store: Store) -> None:
    store.submit([task("a")])
    while not store.dead_letters.all():
        lose_a_call(store)
    record = store.records.one("acme/a")
    assert record.status == "failed"
    assert sum(one.cost_nano or 0 for one in record.progress.attempts) == record.cost_nano == 1500
    assert not any(one.settled for one in record.progress.attempts)


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
