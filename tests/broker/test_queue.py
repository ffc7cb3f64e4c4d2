"""The consumer of a queue of tasks, without dramatiq's processes around it."""

import time

import redis

from broker.queue import BOOT_S, LaneBroker, TaskQueue
from broker.settings import Fleet
from broker.store import Store
from broker.task import DISPATCH, Task


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
