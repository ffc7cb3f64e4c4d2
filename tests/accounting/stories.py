"""Made-up days: tasks with their facts, and the stream entries that carry them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import msgpack
import redis

from broker.events import (
    Attempted,
    Escalated,
    Event,
    Fact,
    Finished,
    Rated,
    Routed,
    Submitted,
    encode_fact,
    encode_group,
)
from broker.keys import EVENTS

NOON_US = 1_767_268_800_000_000  # 2026-01-01 12:00 UTC
DAY = "2026-01-01"
CHAIN = ("local", "midtier", "frontier")
MODELS = {"local": "smollm2", "midtier": "gpt-4o-mini", "frontier": "gpt-4o"}
PRICES = {"local": 900, "midtier": 1_100_000, "frontier": 22_000_000}


def attempted(attempt_id: str, **said: object) -> Attempted:
    """A plain attempt; what a test is about is said by name."""
    fields: dict[str, object] = {
        "hop": 0, "lane": "local", "engine": "echo", "model": "smollm2", "purpose": "task",
        "started_us": NOON_US + 1_000, "ended_us": NOON_US + 91_000, "queue_wait_ms": 1.0, "latency_ms": 90.0,
        "cost_nano": 1_000,
    }  # fmt: skip
    return Attempted(attempt_id, **{**fields, **said})  # type: ignore[arg-type]


def story(
    task_id: str, facts: Sequence[Fact], *, at_us: int = NOON_US, workspace: str = "acme"
) -> list[Event]:
    """The facts in order, a millisecond apart."""
    return [
        Event(workspace, task_id, seq, at_us + seq * 1_000, at_us, fact) for seq, fact in enumerate(facts, 1)
    ]


def random_story(number: int, chance: random.Random, *, at_us: int = NOON_US) -> list[Event]:
    """A task that climbs until a gate is content, with the odd retry, lost call and missing price."""
    task_id = f"{number:08x}-{chance.getrandbits(32):08x}"
    task_type = chance.choice(["intent", "email", "summary"])
    pipeline = chance.choice(["triage", "digest", ""])
    at_us += number * 1_000
    facts: list[Fact] = [
        Submitted("sync", workflow="support", pipeline=pipeline, user=f"u-{number % 7}"),
        Routed(task_type, "generative", "embedding", "", 0.8, CHAIN, "local", "cheapest", cost_nano=3),
    ]
    epoch = 0
    for hop, lane in enumerate(CHAIN):
        purposes = [
            "task",
            *(["retry"] if chance.random() < 0.2 else []),
            *(["reprompt"] if chance.random() < 0.1 else []),
        ]
        for purpose in purposes:
            epoch += 1
            begun = at_us + epoch * 100_000
            facts.append(
                Attempted(
                    f"{task_id}-{epoch}", hop, lane, "echo", MODELS[lane], purpose, begun, begun + 90_000,
                    queue_wait_ms=chance.choice([0.5, 2.0]), latency_ms=90.0 + chance.random(),
                    cost_nano=None if chance.random() < 0.01 else PRICES[lane] + chance.randrange(500),
                    time_to_first_token_ms=20.0, input_tokens=chance.randrange(2_000),
                    output_tokens=chance.randrange(200),
                    gate="choice", verdict="fail", settled=chance.random() > 0.02, gate_cost_nano=chance.randrange(3),
                )
            )  # fmt: skip
        if chance.random() < 0.8 or hop == 2:
            break
        facts.append(Escalated(lane, CHAIN[hop + 1], "the gate said fail"))
    facts.append(Finished("succeeded", chance.random() < 0.9, lane))
    if chance.random() < 0.05:
        facts.append(Rated(ok=chance.random() < 0.5, value_nano=2_000_000_000))
    workspace = chance.choice(["acme", "globex"])
    return story(task_id, facts, at_us=at_us, workspace=workspace)


def entry(events: Iterable[Event]) -> bytes:
    """The bytes of one stream entry, as the scripts pack it."""
    events = list(events)
    rows = [
        [f"{event.workspace}/{event.task_id}", event.submitted_us, event.seq, encode_fact(event.fact)]
        for event in events
    ]
    packed: bytes = msgpack.packb([events[0].at_us, rows])
    return packed


def grouped_entry(events: Iterable[Event]) -> bytes:
    """The same of facts that their caller packed together."""
    events = list(events)
    rows = [
        [f"{event.workspace}/{event.task_id}", event.submitted_us, event.seq, number]
        for number, event in enumerate(events)
    ]
    packed: bytes = msgpack.packb([events[0].at_us, rows, encode_group([event.fact for event in events])])
    return packed


def publish(client: redis.Redis, entries: Iterable[bytes], *, key: str = EVENTS) -> None:
    pipe = client.pipeline(transaction=False)
    for one in entries:
        pipe.xadd(key, {"b": one})
    pipe.execute()


def day_of_stories(tasks: int, seed: int = 7, *, at_us: int = NOON_US) -> list[list[Event]]:
    chance = random.Random(seed)
    return [random_story(number, chance, at_us=at_us) for number in range(tasks)]
