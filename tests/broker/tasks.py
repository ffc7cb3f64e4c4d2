"""Tasks over a real Redis, as tests make, take, end and lose them."""

from dataclasses import replace
from typing import Any

import redis

from broker import keys
from broker.events import Attempted, Fact, Finished
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Claim, Outcome, Progress, Task
from tests.awaited import eventually
from tests.events import events_of

LEASE_S = 0.3
Q = "lane-x-sync"


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


def now_us(client: Any) -> int:
    """By Redis's own clock, by which leases and records run out."""
    seconds, micros = client.time()
    return int(seconds) * 1_000_000 + int(micros)


def facts(client: redis.Redis) -> list[tuple[str, int, Fact]]:
    return [(event.task_id, event.seq, event.fact) for event in events_of(client)]


def lose(store: Store) -> None:
    """Let the lease of whatever is in hand run out, and have the fleet look after it."""
    client: Any = store.client
    ends = client.zrange(keys.LEASES, -1, -1, withscores=True)
    eventually(lambda: now_us(client) > ends[0][1])
    eventually(lambda: store.keep([], []).recovered)


def lose_a_call(store: Store, want: int = 1) -> list[Claim]:
    """Claims whose calls are booked as lost."""
    claims = take(store, want=want)
    lost = [replace(call(one, 500, settled=False), failure="worker_lost") for one in claims]
    store.begin([Intent(one, 500, fact) for one, fact in zip(claims, lost, strict=True)])
    store.release(claims, "its worker was lost")
    return claims
