"""A made-up month of large days, straight to Parquet through the ledger's own schema.

    python -m benchmarks.month [TASKS] [DAYS]

Such a month takes minutes to make, so it stays under the system's folder for temporary files and is made once. Seven
days are different, the others are links to them: what a day costs to read does not depend on its date. A task climbs
from ``local`` over ``midtier`` to ``frontier``; its parts sum to its cost, its row to those of its attempts, and
``daily`` to both, as after a rollup.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import LocalStore
from accounting.rollup import drafts
from broker.purpose import PART_OF

TASKS, DAYS, DIFFERENT = 1_000_000, 30, 7
NEVER = ("rated", "satisfied", "part_tasks", "part_judged", "part_successes")
MADE = 6  # changes when other rows are made
FIRST = date(2026, 1, 1)
LANES = ("local", "midtier", "frontier")
MODELS = ("smollm2", "gpt-4o-mini", "gpt-4o")
NANO_PER_TOKEN = np.array([20, 300, 5_000])
SLOWNESS = np.array([1.0, 4.0, 9.0])
TYPES = ("intent", "extraction", "triage", "summary", "research", "reasoning", "rewrite", "general")
WORKSPACES = tuple(f"workspace-{number:02}" for number in range(40))
WORKFLOWS = tuple(f"workflow-{number:02}" for number in range(60))
PIPELINES = ("triage", "digest", "search", "")
USERS = tuple(f"u-{number}" for number in range(20_000))
PURPOSES = ("task", "retry", "reprompt", "embed")
TASK, RETRY, REPROMPT, EMBED = range(len(PURPOSES))


def month(tasks: int = TASKS, days: int = DAYS) -> LocalStore:
    """The ledger of such a month, made where it is not there yet."""
    root = Path(tempfile.gettempdir()) / f"laneway-month-{MADE}-{tasks}-{days}"
    store = LocalStore(root)
    for number in range(days):
        day = (FIRST + timedelta(days=number)).isoformat()
        if number < DIFFERENT:
            _write(store, day, tasks, number)
        else:
            _link(store, FIRST + timedelta(days=number % DIFFERENT), day)
    return store


def days_of(store: LocalStore) -> tuple[str, str]:
    days = ledger.days(store, ledger.TASKS)
    return days[0], days[-1]


def _write(store: LocalStore, day: str, tasks: int, seed: int) -> None:
    if ledger.days(store, ledger.DAILY).count(day):
        return
    chance = np.random.default_rng(seed)
    told = _tasks(chance, tasks, ledger.midnight_us(day))
    calls = _calls(chance, told)
    daily = _daily(told, calls)
    for dataset, columns, rows in (
        (ledger.TASKS, schema.TASKS, _summed(told, calls)),
        (ledger.ATTEMPTS, schema.ATTEMPTS, calls),
        (ledger.DAILY, schema.DAILY, daily),
    ):
        table = pa.table([_column(rows[field.name], field.type) for field in columns], schema=columns)
        store.put(f"{ledger.partition(dataset, day)}/{dataset}.parquet", drafts.encode(table))


def _link(store: LocalStore, source: date, day: str) -> None:
    for dataset in (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY):
        target = store.root / ledger.partition(dataset, day) / f"{dataset}.parquet"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(store.root / ledger.partition(dataset, source.isoformat()) / target.name, target)


def _column(values: Any, kind: Any) -> Any:
    if kind == schema.MONEY:
        return schema.money(values if isinstance(values, pa.Array) else pa.array(values))
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _names(chance: Any, names: tuple[str, ...], count: int, skew: float = 1.0) -> Any:
    """Names of which the first come most often."""
    weights = 1 / np.arange(1, len(names) + 1) ** skew
    codes = chance.choice(len(names), count, p=weights / weights.sum()).astype(np.int32)
    return pa.DictionaryArray.from_arrays(codes, pa.array(names))


def _tasks(chance: Any, count: int, midnight_us: int) -> dict[str, Any]:
    raw = chance.bytes(16 * count)
    ids = sorted(raw[place : place + 16].hex() for place in range(0, 16 * count, 16))
    homes = np.sort(chance.choice(len(WORKSPACES), count))  # rows are sorted by workspace, then id
    hops = chance.choice(3, count, p=[0.78, 0.15, 0.07])
    begun = midnight_us + chance.integers(0, ledger.US_PER_DAY, count)
    judged = chance.random(count) < 0.9
    good = chance.random(count) < 0.93
    by = chance.choice(3, count, p=[0.5, 0.4, 0.1])
    nothing, zero = pa.nulls(count, schema.TEXT), np.zeros(count, dtype=np.int64)
    lanes = pa.array(LANES)
    return {
        "task_id": pa.array(ids),
        "submitted_at": begun,
        "started_at": begun + 2_000,
        "finished_at": begun + 900_000,
        "workspace": pa.DictionaryArray.from_arrays(homes.astype(np.int32), pa.array(WORKSPACES)),
        "workflow": _names(chance, WORKFLOWS, count),
        "pipeline": _names(chance, PIPELINES, count),
        "user_id": _names(chance, USERS, count, 0.5),
        "task_type": _names(chance, TYPES, count),
        "category": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array(["generative"])),
        "mode": _names(chance, ("sync", "async"), count),
        "status": pa.array(["failed", "succeeded"]).take(pa.array((good | ~judged).astype(np.int8))),
        "succeeded": pa.array(good, mask=~judged),
        "classified_by": pa.array(["regex", "embedding", "default"]).take(pa.array(by)),
        "confidence": chance.random(count),
        "first_lane": lanes.take(pa.array(zero)),
        "final_lane": lanes.take(pa.array(hops)),
        "lanes": pa.array([LANES[: one + 1] for one in range(3)]).take(pa.array(hops)),
        "models": pa.array([MODELS[: one + 1] for one in range(3)]).take(pa.array(hops)),
        "hops": hops,
        "retried": chance.random(count) < 0.12,
        "embedded": by == 1,
        "tool_calls": zero,
        "avoided_usd": zero,
        "batch": chance.random(count) < 0.2,
        "latency_ms": chance.lognormal(6, 1, count),
        "unpriced_calls": zero,
        "unsettled_calls": zero,
        "value_usd": pa.nulls(count, pa.int64()),
        "parent_task_id": nothing,
        "root_task_id": nothing,
    }


def _calls(chance: Any, told: dict[str, Any]) -> dict[str, Any]:
    """The rows of attempts in the order of the file: a task's hops, and what routing it cost at the end of hop 0."""
    counts = told["hops"] + 1 + told["retried"] + told["embedded"]
    task = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(task)) - starts[task]
    machine = told["embedded"][task] & (place == 0)
    number = place - told["embedded"][task]
    again = told["retried"][task] & (number == 1)
    hop = np.where(machine, 0, number - (told["retried"][task] & (number >= 1)))
    count = len(task)
    purpose = np.where(machine, EMBED, np.where(again, RETRY + (chance.random(count) < 0.4), TASK))
    tokens_in = np.where(machine, 0, chance.lognormal(6.5, 0.8, count).astype(np.int64))
    cached = np.where(chance.random(count) < 0.3, tokens_in // 2, 0)
    tokens_out = np.where(machine, 0, chance.lognormal(4, 1, count).astype(np.int64))
    cost = np.where(machine, 1, (tokens_in + 4 * tokens_out - cached) * NANO_PER_TOKEN[hop] // 10)
    latency = np.where(machine, 0, (tokens_out + 20) * SLOWNESS[hop] * chance.lognormal(0, 0.3, count))
    last = np.append(task[1:] != task[:-1], True)
    good = told["succeeded"].fill_null(True).to_numpy(zero_copy_only=False)[task]
    began = told["submitted_at"][task] + 1_000_000 * (hop + again)
    lanes, models = pa.array((*LANES, "")), pa.array((*MODELS, ""))
    rung = pa.array(np.where(machine, len(LANES), hop))
    nothing = pa.nulls(count, schema.TEXT)
    numbers = pa.array(place).cast(schema.TEXT)
    return {
        "attempt_id": pc.binary_join_element_wise(told["task_id"].take(pa.array(task)), numbers, "-"),
        "parent_attempt_id": nothing,
        "task_id": told["task_id"].take(pa.array(task)),
        "workspace": told["workspace"].take(pa.array(task)),
        "task": task,
        "starts": starts,
        "hop": hop,
        "lane": lanes.take(rung),
        "engine": pa.array(["llamacpp", "openai", "openai", "dispatcher"]).take(rung),
        "model": models.take(rung),
        "model_revision": nothing,
        "purpose": pa.array(PURPOSES).take(pa.array(purpose)),
        "started_at": began,
        "ended_at": began + (latency * 1000).astype(np.int64),
        "settled_at": began + (latency * 1000).astype(np.int64) + 1_000,
        "queue_wait_ms": np.where(machine, 0, np.round(chance.lognormal(2, 1, count), 3)),
        "latency_ms": np.round(latency, 3),
        "time_to_first_token_ms": pa.array(np.round(latency / 5, 3), mask=machine),
        "input_tokens": tokens_in - cached,
        "cached_input_tokens": cached,
        "cache_write_tokens": np.zeros(count, np.int64),
        "cache_write_1h_tokens": np.zeros(count, np.int64),
        "output_tokens": tokens_out,
        "reasoning_tokens": np.zeros(count, np.int64),
        "cost_usd": cost,
        "marginal_usd": cost,
        "price_ref": pa.array(["config:local", "book:mini", "book:4o", None]).take(rung),
        "batch": told["batch"][task],
        "gate": pa.array(["choice", None]).take(pa.array(machine.astype(np.int8))),
        "verdict": pa.array(["fail", "pass", None]).take(pa.array(np.where(machine, 2, last & good))),
        "failure": pa.array(["timeout", None]).take(pa.array((chance.random(count) > 0.02).astype(np.int8))),
        "settled": np.ones(count, dtype=bool),
    }


def _summed(told: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    """The rows of tasks, with what their attempts came to."""

    def total(values: Any) -> Any:
        return np.add.reduceat(values, calls["starts"])

    purpose = calls["purpose"].to_numpy(zero_copy_only=False)
    cost = calls["cost_usd"]
    parts = {part: np.zeros(len(told["hops"]), np.int64) for part in schema.PARTS}
    for name in PURPOSES:
        parts[f"{PART_OF[name]}_usd"] = total(np.where(purpose == name, cost, 0))
    called = purpose != "embed"
    spent = total(cost)
    tokens = {name: total(calls[name]) for name in schema.TOKENS}
    wait = total(calls["queue_wait_ms"])
    counts = {"attempts": total(called.astype(np.int64)), "llm_calls": total(called.astype(np.int64))}
    share = np.divide(spent - parts["inference_usd"], spent, out=np.zeros(len(spent)), where=spent > 0)
    first = calls["time_to_first_token_ms"].take(pa.array(calls["starts"] + told["embedded"]))
    return {
        **told, **counts, **tokens, **parts, "cost_usd": spent, "overhead_share": share, "queue_wait_ms": wait,
        "time_to_first_token_ms": first,
    }  # fmt: skip


def _daily(told: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    """As the rollup has it: a call under its own lane and model, the task and its routing under the last ones."""
    names = ("workspace", "pipeline", "task_type")
    task = pa.array(calls["task"])
    machine = pc.equal(calls["lane"], "")
    final = told["final_lane"].take(task)
    last = pa.array(MODELS).take(pa.array(told["hops"])).take(task)
    purpose = calls["purpose"].to_numpy(zero_copy_only=False)
    ends = np.zeros(len(purpose), dtype=bool)
    ends[np.append(calls["starts"][1:], len(purpose)) - 1] = True
    verdict = told["succeeded"].take(task)
    rows = {name: told[name].take(task).cast(schema.TEXT) for name in names}
    rows |= {
        "lane": pc.if_else(machine, final, calls["lane"]),
        "model": pc.if_else(machine, last, calls["model"]),
    }
    sums = {
        "tasks": ends,
        "judged": ends & verdict.is_valid().to_numpy(zero_copy_only=False),
        "successes": ends & verdict.fill_null(False).to_numpy(zero_copy_only=False),
        "attempts": ~machine.to_numpy(zero_copy_only=False),
        "visits": ~machine.to_numpy(zero_copy_only=False) & (purpose == "task"),
        **{name: calls[name] for name in schema.TOKENS},
        "cost_usd": calls["cost_usd"],
        **{part: np.zeros(len(purpose), np.int64) for part in schema.PARTS},
        **dict.fromkeys(NEVER, np.zeros(len(purpose), np.int64)),
    }
    for name in PURPOSES:
        sums[f"{PART_OF[name]}_usd"] = np.where(purpose == name, calls["cost_usd"], 0)
    table = pa.table(rows | {name: pa.array(values).cast(pa.int64()) for name, values in sums.items()})
    summed = table.group_by(list(rows)).aggregate([(name, "sum") for name in sums])
    summed = summed.rename_columns([name.removesuffix("_sum") for name in summed.schema.names])
    summed = summed.sort_by([(name, "ascending") for name in rows]).combine_chunks()
    return {name: summed[name].combine_chunks() for name in summed.schema.names}


if __name__ == "__main__":
    made = month(*(int(argument) for argument in sys.argv[1:3]))
    print(made.root)
