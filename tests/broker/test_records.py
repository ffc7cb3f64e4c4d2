"""How long a record is kept, and what becomes of one that nobody can read."""

from dataclasses import replace
from typing import Any

import pytest
import redis

from broker import keys
from broker.errors import ResultGone
from broker.settings.fleet import Fleet
from broker.state import Intent
from broker.store import Store
from broker.task import DISPATCH, Outcome, Progress
from tests.awaited import eventually
from tests.broker.tasks import LEASE_S, call, done, take, task


def test_a_result_goes_after_its_time_and_its_id_stays_the_same_task(
    store: Store, client: redis.Redis
) -> None:
    brief = Store(client, Fleet(lease_s=LEASE_S, result_ttl_s=1))

    def swept() -> bool:
        brief.keep([], [])
        return not client.zcard(keys.RESULTS)

    brief.submit([task("a"), task("dead")])
    ended, dead = sorted(take(brief), key=lambda claim: claim.ref)
    brief.commit([done(ended), replace(done(dead), cause="it cannot be read")])
    assert store.records.one("acme/a").outcome == Outcome("succeeded", output="ok")
    eventually(swept)
    with pytest.raises(ResultGone, match=r"has ended \(succeeded\)"):
        store.records.one("acme/a")
    assert store.watch("late", ["acme/a"]) == 0
    assert store.submit([task("a"), task("a", text="other")]) == ["same", "conflict"]
    assert take(store) == []
    assert store.records.one("acme/dead").outcome == Outcome("succeeded", output="ok")
    assert store.dead_letters.drop("acme/dead")
    eventually(swept)
    with pytest.raises(ResultGone):
        store.records.one("acme/dead")


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
