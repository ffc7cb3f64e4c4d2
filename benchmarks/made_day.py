"""A day of made-up facts, written straight into parts as ingest would write them, of any size.

A few thousand tasks are told fact by fact; each task of the day is one of them with an id, a time, amounts and
durations of its own. About 8.3 facts a task, in the order in which they would arrive; half a per cent arrive twice, one
in a hundred out of order, and some tasks are rated or shared out hours after their end.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import facts, ledger, parts, schema
from accounting.files.ledger import LocalStore
from broker.events import (
    Allotted,
    Attempted,
    Escalated,
    Event,
    Fact,
    Finished,
    Parked,
    Rated,
    Routed,
    Submitted,
    encode_fact,
)

DAY = "2026-01-01"
TOLD = 3_000  # tasks that are told
BLOCK = 25_000  # tasks that are made at once
TWICE, ASTRAY = 0.005, 0.01
CHAIN = ("local", "rented", "midtier", "frontier")
ENGINES = ("llamacpp", "openai", "openai", "anthropic")
MODELS = (
    "smollm2-135m-instruct",
    "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "gpt-4o-mini",
    "claude-sonnet-4-5",
)
NANO_A_TOKEN = (3, 880, 300, 9_000)
TYPES = ("intent", "email-triage", "summary", "extract", "draft", "review")
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint8).reshape(256, 2)


def make(root: Path, events: int, *, part_events: int, seed: int = 1) -> LocalStore:
    """The ledger that has such a day; made once, and found again."""
    store = LocalStore(root / f"{events}-{part_events}-{seed}")
    if not (store.root / "made").exists():
        for number, table in enumerate(_parts(events, part_events, seed)):
            store.put(f"{ledger.partition(ledger.EVENTS, DAY)}/{number:013d}-0.parquet", parts.encode(table))
        (store.root / "made").touch()
    return store


def _parts(events: int, part_events: int, seed: int) -> Iterator[Any]:
    """Tables of rows that arrive one after another, each in the order of a part."""
    chance = np.random.default_rng(seed)
    told = _Told(random.Random(seed))
    tasks = round(events / told.mean / (1 + TWICE))
    blocks = -(-tasks // BLOCK)
    block_us = ledger.US_PER_DAY // blocks
    waiting = schema.EVENTS.empty_table()
    for number in range(blocks):
        first_us = ledger.midnight_us(DAY) + number * block_us
        count = min(BLOCK, tasks - number * BLOCK)
        made = told.tasks(chance, count, first_us, block_us)
        again = made.take(pa.array(np.flatnonzero(chance.random(made.num_rows) < TWICE)))
        waiting = pa.concat_tables([waiting, made, again]).combine_chunks()
        arrives = _arrival(waiting, chance)
        is_last = number == blocks - 1
        ready = len(arrives) if is_last else int((arrives < first_us + block_us).sum())
        order = np.argsort(arrives, kind="stable")
        start = 0
        while ready - start >= part_events or (is_last and start < ready):
            chosen = waiting.take(pa.array(order[start : start + part_events]))
            yield chosen
            start += part_events
        waiting = waiting.take(pa.array(np.sort(order[start:])))


def _arrival(table: Any, chance: np.random.Generator) -> Any:
    at_us = schema.micros(table["at"]).to_numpy()
    astray = chance.random(len(at_us)) < ASTRAY
    return at_us + np.where(astray, chance.integers(0, 1_800_000_000, len(at_us)), 0)


class _Told:
    """Tasks told fact by fact, as rows with times since their submission."""

    def __init__(self, chance: random.Random) -> None:
        stories = [list(_story(number, chance)) for number in range(TOLD)]
        flat = [event for one in stories for event in one]
        made = facts.in_order(facts.columns([encode_fact(event.fact) for event in flat]))
        made["seq"] = pa.array([event.seq for event in flat])
        made["workspace"] = pa.array([event.workspace for event in flat])
        self.rows = pa.table(made)
        self.at_us = np.array([event.at_us for event in flat])
        self.sizes = np.array([len(one) for one in stories])
        self.mean = float(self.sizes.mean())
        self.starts = np.cumsum(self.sizes) - self.sizes

    def tasks(self, chance: np.random.Generator, count: int, first_us: int, span_us: int) -> Any:
        which = chance.integers(0, TOLD, count)
        sizes = self.sizes[which]
        whose = np.repeat(np.arange(count), sizes)
        within = np.arange(len(whose)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = self.rows.take(pa.array(self.starts[which][whose] + within))
        submitted_us = np.sort(chance.integers(first_us, first_us + span_us, count))
        ids = _uuid7(submitted_us // 1000, chance)
        task_id, begun = ids.take(pa.array(whose)), submitted_us[whose]
        pace = chance.uniform(0.5, 2.0, count)[whose]  # each task has its own
        at = self.at_us[self.starts[which][whose] + within]
        made = {name: rows[name].combine_chunks() for name in rows.schema.names}
        made["task_id"] = task_id
        made["at"] = pa.array(begun + (at * pace).astype(np.int64)).cast(schema.TIME)
        made["submitted_at"] = pa.array(begun).cast(schema.TIME)
        for name in ("started_at", "ended_at"):
            made[name] = _scaled(schema.micros(made[name]), pace, begun).cast(schema.TIME)
        for name in ("queue_wait_ms", "latency_ms", "time_to_first_token_ms"):
            made[name] = pc.round(pc.multiply(made[name], pace), 3)
        for name in ("cost_usd", "gate_usd", "marginal_usd", "value_usd"):
            exact = pa.array(schema.nanos(made[name]), mask=~made[name].is_valid().to_numpy(False))
            made[name] = schema.money(_scaled(exact, pace, 0))
        for name in ("input_tokens", "output_tokens"):
            made[name] = _scaled(made[name], pace, 0)
        for name in ("attempt_id", "parent_attempt_id"):
            known = pc.fill_null(pc.not_equal(made[name], ""), False)
            number = pc.if_else(known, made[name], "0").cast(pa.int64()).to_numpy()
            epoch = (number * 300 * pace).astype(np.int64)  # milliseconds since the submission
            ids = pc.binary_join_element_wise(task_id, pa.array(epoch).cast(schema.TEXT), "-")
            made[name] = pc.if_else(known, ids, made[name])
        return pa.table({name: made[name] for name in schema.EVENTS.names}, schema=schema.EVENTS)


def _scaled(column: Any, pace: Any, offset: Any) -> Any:
    known = column.is_valid().to_numpy(False)
    whole = (column.fill_null(0).to_numpy() * pace).astype(np.int64) + offset
    return pa.array(whole, mask=~known)


def _uuid7(millis: Any, chance: np.random.Generator) -> Any:
    """Text of UUIDs of version 7: the time, and 74 bits of chance."""
    raw = chance.integers(0, 256, (len(millis), 16), dtype=np.uint8)
    raw[:, :6] = millis.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 2:]
    raw[:, 6] = raw[:, 6] & 0x0F | 0x70
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = _HEX[raw].reshape(-1, 32)
    dash = np.full((len(raw), 1), ord("-"), dtype=np.uint8)
    text = np.hstack(
        [
            digits[:, :8],
            dash,
            digits[:, 8:12],
            dash,
            digits[:, 12:16],
            dash,
            digits[:, 16:20],
            dash,
            digits[:, 20:],
        ]
    )
    offsets = np.arange(0, text.size + 1, 36, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(raw), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text))
    )


def _story(number: int, chance: random.Random) -> Iterator[Event]:
    """One task from submission to end; ids of its attempts are their number alone, times count from 0."""
    task_type = chance.choice(TYPES)
    workspace = f"ws-{min(199, int(chance.expovariate(1 / 20)))}"
    at_us = seq = 0

    def said(fact: Fact, after_us: int = 0) -> Event:
        nonlocal at_us, seq
        at_us += after_us
        seq += 1
        return Event(workspace, "", seq, at_us, 0, fact)

    yield said(
        Submitted(
            chance.choice(("sync", "async", "async")), f"wf-{chance.randrange(12)}", f"pl-{chance.randrange(30)}",
            f"u-{chance.randrange(5_000)}", task_type if chance.random() < 0.3 else "",
            value_nano=chance.randrange(10**9) if chance.random() < 0.1 else None,
        )
    )  # fmt: skip
    skipped = (("rented", "no key"),) if chance.random() < 0.1 else ()
    yield said(
        Routed(
            task_type, "extractive", "embedding", "which intent is this message", round(chance.random(), 4), CHAIN,
            "local", "cheapest of the chain", skipped, chance.randrange(40),
        ),
        chance.randrange(500, 4_000),
    )  # fmt: skip
    calls: list[Attempted] = []
    for hop, lane in enumerate(CHAIN):
        yield from _rung(hop, chance, calls, said)
        passed = calls[-1].verdict == "pass"
        if passed or hop == len(CHAIN) - 1:
            break
        yield said(Escalated(lane, CHAIN[hop + 1], calls[-1].failure or "the gate said fail"))
    if passed or chance.random() < 0.7:
        yield said(Finished("succeeded" if passed else "failed", passed, calls[-1].lane))
    else:
        yield said(Parked("human", "the chain is at its end"))
    if chance.random() < 0.08:
        yield said(Rated(chance.random() < 0.8), chance.randrange(10**9, 10**10))
    for call in calls:
        if call.node:
            yield said(Allotted(call.attempt_id, chance.randrange(3_000)), 10**9)


def _rung(hop: int, chance: random.Random, calls: list[Attempted], said: Any) -> Iterator[Event]:
    purpose = "task"
    for _ in range(3):
        wait_us, took_us = chance.randrange(300, 3_000_000), int(chance.lognormvariate(13, 1))
        read, written = chance.randrange(50, 4_000), chance.randrange(5, 600)
        failure = "" if chance.random() < 0.95 else chance.choice(("timeout", "rate_limited", "bad_request"))
        verdict = "" if failure else "pass" if chance.random() < 0.36 else "fail"
        event = said(None, wait_us + took_us + chance.randrange(200, 900))
        local = hop == 0
        call = Attempted(
            str(len(calls) + 1), hop, CHAIN[hop], ENGINES[hop], MODELS[hop], purpose,
            event.at_us - took_us, event.at_us, wait_us / 1000, took_us / 1000,
            None if chance.random() < 0.005 else (read + 4 * written) * NANO_A_TOKEN[hop],
            read if local else None, "" if local else f"book:{CHAIN[hop]}:2026-01-01", "rev-2026-01" if local else "",
            str(len(calls)) if purpose != "task" else "", took_us / 5000 if chance.random() < 0.8 else None,
            read, read // 2 if chance.random() < 0.3 else 0, 0, written, 0, chance.random() < 0.1,
            "" if failure else "choice", verdict, failure, "expected one of the choices" if verdict == "fail" else "",
            chance.random() > 0.002, chance.randrange(60), False, 0, f"node-{chance.randrange(8)}" if local else "",
        )  # fmt: skip
        calls.append(call)
        yield Event(event.workspace, "", event.seq, event.at_us, 0, call)
        if verdict == "pass" or chance.random() < 0.65:
            return
        purpose = "retry" if failure else "reprompt"
