"""The consumer of a queue of tasks, without dramatiq's processes around it."""

import time

import pytest
import redis
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed

from broker import keys
from broker.queue import BOOT_S, LaneBroker, TaskQueue
from broker.settings.fleet import Fleet
from broker.store import Store
from broker.task import DISPATCH, Task
from tests.awaited import eventually


def test_a_worker_takes_nothing_while_it_still_starts(client: redis.Redis) -> None:
    """dramatiq's main process waits for ever for a worker that is killed while it says that it is up."""
    store = Store(client, Fleet())
    broker = LaneBroker(store)
    broker.task_queue(TaskQueue(DISPATCH, messages=1, batch=1, hold_s=60), lambda claims: None)
    store.submit([Task("early", "acme", ({"role": "user", "content": "hello"},))])
    began = time.monotonic()
    consumer = broker.consume(DISPATCH, timeout=1000)
    message = next(consumer)
    assert message is not None
    assert time.monotonic() - began >= BOOT_S
    assert [claim.ref for claim in message.args[0]] == ["acme/early"]
    consumer.close()


def failed_message(broker: LaneBroker) -> tuple[Consumer, MessageProxy]:
    """A message whose actor failed on it, before its claims were given back."""
    broker.task_queue(TaskQueue(DISPATCH, messages=1, batch=1, hold_s=60), lambda claims: None)
    broker.store.submit([Task("a", "acme", ({"role": "user", "content": "hello"},))])
    consumer = broker.consume(DISPATCH, timeout=1000)
    message = next(consumer)
    assert message is not None
    message.stuff_exception(ValueError("no"))
    return consumer, message


def test_claims_stay_in_hand_while_redis_takes_no_writes_and_go_back_when_it_does(
    client: redis.Redis,
) -> None:
    broker = LaneBroker(Store(client, Fleet()))
    consumer, message = failed_message(broker)
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(ConnectionClosed):  # for which dramatiq comes again
            consumer.nack(message)
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert broker.hands.messages() == 1
    consumer.nack(message)
    assert broker.hands.messages() == 0
    assert next(consumer) is not None


def test_claims_that_cannot_be_given_back_take_no_room(client: redis.Redis) -> None:
    broker = LaneBroker(Store(client, Fleet()))
    consumer, message = failed_message(broker)
    client.set(keys.task_key("acme/a"), "no record")
    with pytest.raises(redis.ResponseError):  # for which dramatiq does not come again
        consumer.nack(message)
    assert broker.hands.messages() == 0


def test_claims_that_cannot_be_given_back_keep_no_others(client: redis.Redis) -> None:
    broker = LaneBroker(Store(client, Fleet()))
    broker.task_queue(TaskQueue(DISPATCH, messages=2, batch=1, hold_s=60), lambda claims: None)
    broker.store.submit([Task(name, "acme", ({"role": "user", "content": "hello"},)) for name in "ab"])
    consumer = broker.consume(DISPATCH, timeout=1000)
    messages = [message for message in (next(consumer), next(consumer)) if message is not None]
    assert [claim.ref for message in messages for claim in message.args[0]] == ["acme/a", "acme/b"]
    client.set(keys.task_key("acme/a"), "no record")
    consumer.requeue(messages)
    assert (broker.hands.messages(), broker.store.waiting(DISPATCH)) == (0, 1)


def test_time_in_which_redis_was_away_does_not_count_against_what_is_in_hand(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(client, Fleet(lease_s=0.3))
    broker = LaneBroker(store)
    store.submit([Task("a", "acme", ({"role": "user", "content": "hello"},))])
    claims = store.fetch(DISPATCH, 1, idle=True).claims
    client.config_set("min-replicas-to-write", 1)
    broker.hands.take(claims, DISPATCH, messages=1, hold_s=0.2)
    held_until = time.monotonic() + 0.2
    broker.keeper.before_worker_boot(broker, None)
    try:
        eventually(lambda: time.monotonic() > held_until and "leases not renewed" in caplog.text, 5)
        assert broker.hands.to_renew() == [(claim.ref, claim.epoch) for claim in claims]
    finally:
        client.config_set("min-replicas-to-write", 0)
        broker.keeper.after_worker_shutdown(broker, None)


def test_a_keeper_goes_on_at_once_while_there_is_more_to_clear_away(client: redis.Redis) -> None:
    broker = LaneBroker(Store(client, Fleet(lease_s=600)))
    client.zadd(keys.RESULTS, {f"acme/t{number}": 1 for number in range(2000)})
    broker.keeper.before_worker_boot(broker, None)
    try:
        eventually(lambda: client.zcard(keys.RESULTS) == 0, 20)
    finally:
        broker.keeper.after_worker_shutdown(broker, None)
