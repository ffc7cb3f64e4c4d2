"""Limits and failures of endpoints, counted for the whole fleet in a real Redis."""

from typing import Any

import pytest
import redis

from broker.events import Attempted
from broker.settings.fleet import Fleet
from broker.state import Heard, Intent
from broker.store import Store
from broker.task import DISPATCH, Claim, Task

DOOR = "a-door"


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, Fleet())


def begin(store: Store, count: int = 1, **limits: Any) -> list[str]:
    """The words for so many calls, asked together."""
    number = store.client.incrby("count", count)
    store.submit([Task(f"t{number - n}", "acme", ({"role": "user", "content": "hi"},)) for n in range(count)])
    claims = store.fetch(DISPATCH, count, idle=True).claims
    return store.begin([intent(claim, **limits) for claim in claims])


def intent(claim: Claim, **limits: Any) -> Intent:
    fact = Attempted(claim.attempt_id, 0, "x", "echo", "m", "task", 1, 2, 0.0, 0.0, 0, settled=False)
    return Intent(claim, 0, fact, endpoint=DOOR, **limits)


def waits(words: list[str]) -> list[float]:
    """Seconds to wait, 0 for a call that was let in."""
    return [0 if word == "go" else int(word.split("|")[1]) / 1e6 for word in words]


def age(store: Store, seconds: float) -> None:
    """As if so many seconds had gone by at the endpoint."""
    client: Any = store.client
    key = f"laneway:endpoint:{DOOR}"
    for name in ("req", "tok", "shut", "blocked", "probe"):
        if at := client.hget(key, name):
            client.hset(key, name, f"{float(at) - seconds * 1e6:.0f}")


def test_requests_are_let_in_at_their_rate_after_a_burst_of_ten_seconds(store: Store) -> None:
    found = waits(begin(store, 30, rpm=60))
    assert found[:10] == [0] * 10
    assert all(0.8 < wait <= 1 for wait in found[10:])
    age(store, 2.5)
    assert [wait == 0 for wait in waits(begin(store, 4, rpm=60))] == [True, True, False, False]
    age(store, 3600)
    assert waits(begin(store, 30, rpm=60)).count(0) == 10


@pytest.mark.parametrize("told_tpm", [6000, 0, 600_000])  # what the provider says, if anything
def test_tokens_are_counted_as_they_were_used_and_a_large_call_waits_for_an_unused_limit(
    told_tpm: int, store: Store
) -> None:
    assert waits(begin(store, 1, tpm=6000, tokens=900)) == [0]
    (wait,) = waits(begin(store, 1, tpm=6000, tokens=900))
    assert 7.5 < wait <= 8
    store.heard([Heard(DOOR, True, tokens=-850, tpm=told_tpm)])
    assert waits(begin(store, 1, tpm=6000, tokens=900)) == [0]
    (wait,) = waits(begin(store, 1, tpm=6000, tokens=5000))
    assert 9 < wait <= 9.5
    age(store, 10)
    assert waits(begin(store, 1, tpm=6000, tokens=5000)) == [0]


def test_what_is_refused_uses_nothing_up(store: Store) -> None:
    assert waits(begin(store, 12, rpm=60)).count(0) == 10
    for _ in range(20):
        begin(store, 5, rpm=60)
    age(store, 1.01)
    assert waits(begin(store, 2, rpm=60)).count(0) == 1


def test_a_limit_that_the_provider_told_of_holds_where_the_configuration_says_none(store: Store) -> None:
    assert waits(begin(store, 20)).count(0) == 20
    store.heard([Heard(DOOR, True, rpm=60)])
    assert waits(begin(store, 20)).count(0) == 10
    age(store, 60)
    assert waits(begin(store, 20, rpm=6)).count(0) == 1


def test_a_provider_s_wish_for_quiet_holds_for_all(store: Store) -> None:
    assert store.heard([Heard(DOOR, None, blocked_s=7)]) == [(0, 0.0, 7.0)]
    (wait,) = waits(begin(store))
    assert 6.9 < wait <= 7
    store.heard([Heard(DOOR, True)])
    assert waits(begin(store))[0] > 6, "an answer that was under way does not take the wish back"
    age(store, 7)
    assert waits(begin(store)) == [0]


def test_no_word_of_a_provider_holds_its_calls_up_for_more_than_an_hour(store: Store) -> None:
    assert store.heard([Heard(DOOR, None, blocked_s=999_999_999)]) == [(0, 0.0, 3600.0)]
    age(store, 3600)
    assert waits(begin(store, 1, tpm=6000, tokens=900)) == [0]
    store.heard([Heard(DOOR, True, tokens=100_000_000)])
    (wait,) = waits(begin(store, 1, tpm=6000, tokens=900))
    assert 3600 < wait < 3610


def test_failures_in_a_row_shut_an_endpoint_and_one_call_at_a_time_tries_it(store: Store) -> None:
    for failures in range(1, 5):
        assert store.heard([Heard(DOOR, False)]) == [(failures, 0.0, 0.0)]
        assert begin(store) == ["go"]
    assert store.heard([Heard(DOOR, False)]) == [(5, 10.0, 0.0)]
    (word,) = begin(store)
    assert word.endswith("|1")
    assert 9.9 < waits([word])[0] <= 10
    age(store, 10)
    assert [word.partition("|")[0] for word in begin(store, 3)] == ["go", "busy", "busy"]
    assert store.heard([Heard(DOOR, False)]) == [(6, 20.0, 0.0)]
    age(store, 20)
    assert begin(store) == ["go"]
    assert store.heard([Heard(DOOR, True)]) == [(0, 0.0, 0.0)]
    assert begin(store, 3) == ["go"] * 3


def test_what_is_no_fault_of_the_endpoint_does_not_count(store: Store) -> None:
    for _ in range(4):
        store.heard([Heard(DOOR, False)])
    for _ in range(9):
        assert store.heard([Heard(DOOR, None)])[0][0] == 4
    store.heard([Heard(DOOR, True)])
    assert store.heard([Heard(DOOR, False)]) == [(1, 0.0, 0.0)]


def test_a_call_that_its_budget_refuses_is_not_counted_at_the_endpoint(store: Store) -> None:
    store.limits.kill("fleet")
    store.submit([Task("t", "acme", ({"role": "user", "content": "hi"},))])
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    fact = Attempted(claim.attempt_id, 0, "x", "echo", "m", "task", 1, 2, 0.0, 0.0, 0, settled=False)
    assert store.begin([Intent(claim, 0, fact, ("fleet",), endpoint=DOOR, rpm=6)]) == ["killed|fleet"]
    store.limits.unkill("fleet")
    assert waits(begin(store, 2, rpm=6)).count(0) == 1
