"""What people do with tasks, at the same time."""

import pytest
import redis

from broker.state import Record
from broker.store import Store
from tests.broker.tasks import take, task


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
