"""One process at a time has a lock, and nobody has it for ever."""

import threading

import redis

from broker.errors import RedisUnavailable
from broker.lock import Lock, kept

KEY = "laneway:test:lock"


def test_one_has_it_at_a_time_and_gives_it_back(client: redis.Redis) -> None:
    with Lock(client, KEY, 60_000) as lock, Lock(client, KEY, 60_000) as other:
        assert (lock.mine, other.mine, lock.held()) == (True, False, True)
        assert client.get(KEY) == lock.token.encode()
    assert not client.exists(KEY)


def test_it_runs_out_unless_it_is_renewed(client: redis.Redis) -> None:
    with Lock(client, KEY, 60_000) as lock:
        client.pexpire(KEY, 5000)
        assert lock.held()
        assert client.pttl(KEY) > 50_000


def test_the_dead_have_it_no_longer_than_it_lasts_though_the_clock_was_set_back(client: redis.Redis) -> None:
    client.set(KEY, "somebody who was killed", px=7 * 3_600_000)
    with Lock(client, KEY, 60_000) as lock:
        assert not lock.mine
    assert 50_000 < client.pttl(KEY) <= 60_000
    client.pexpire(KEY, 20_000)
    with Lock(client, KEY, 60_000) as lock:
        assert not lock.mine
    assert client.pttl(KEY) <= 20_000, "nobody who asks prolongs it"


def test_what_ran_out_is_lost_for_good_and_not_taken_from_whoever_has_it_now(client: redis.Redis) -> None:
    with Lock(client, KEY, 60_000) as lock:
        client.set(KEY, "another")
        assert not lock.held()
        client.set(KEY, lock.token)  # as a Redis that was set back would have it
        assert not lock.held()
        client.set(KEY, "another")
    assert client.get(KEY) == b"another"


def test_a_full_redis_refuses_no_lock(client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)
    try:
        with Lock(client, KEY, 60_000) as lock:
            assert lock.mine
            assert lock.held()
    finally:
        client.config_set("maxmemory", 0)


def test_a_lease_is_renewed_until_the_end_of_the_block_also_where_redis_was_away() -> None:
    again = threading.Semaphore(0)

    def renew() -> None:
        again.release()
        raise RedisUnavailable("away", mend="wait")

    before = threading.active_count()
    with kept(renew, 0.001):
        assert again.acquire(timeout=10)
        assert again.acquire(timeout=10)
    assert threading.active_count() == before
