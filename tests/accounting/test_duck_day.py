"""The nightly files have the rows that DuckDB's SQL finds in the same facts (benchmarks/duck_day.py)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from accounting.files import ledger, parts, schema
from accounting.files.ledger import LocalStore
from accounting.intake import wire
from accounting.rollup import rollup
from benchmarks import duck_day, made_day
from broker.events import (
    Allotted,
    Attempted,
    Event,
    Fact,
    Finished,
    Parked,
    Rated,
    Resumed,
    Routed,
    Submitted,
)
from tests.accounting import golden
from tests.accounting.folding import shuffled
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, day_of_stories, entry, story

KEYS = {
    ledger.TASKS: (schema.TASKS, ("workspace", "task_id", "submitted_at")),
    ledger.ATTEMPTS: (
        schema.ATTEMPTS,
        ("attempt_id", "task_id", "settled_at", "hop", "started_at", "cost_usd", "settled"),
    ),
    ledger.DAILY: (schema.DAILY, ("workspace", "pipeline", "task_type", "lane", "model")),
}


def differences(store: LocalStore, folder: Path) -> list[str]:
    """What differs between our files of the day and DuckDB's: a line each."""
    rollup.rollup(store, DAY)
    folder.mkdir()
    duck_day.roll(f"{store.root}/events/date={DAY}/*.parquet", folder)
    found = []
    for name, (columns, keys) in KEYS.items():
        ours = rows(store.root / name / f"date={DAY}" / f"{name}.parquet", keys)
        theirs = rows(folder / f"{name}.parquet", keys)
        assert ours
        assert set(ours[0]) == set(theirs[0]) == set(columns.names)
        found += [] if len(ours) == len(theirs) else [f"{name}: {len(ours)} rows and {len(theirs)}"]
        for mine, other in zip(ours, theirs, strict=False):
            found += [
                f"{name} {[mine[key] for key in keys]}: {column} is {mine[column]!r} and {other[column]!r}"
                for column in mine
                if not alike(column, mine[column], other[column])
            ]
    return found


def rows(path: Path, keys: Iterable[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path, partitioning=None).to_pylist()
    return sorted(found, key=lambda row: [str(row[key]) for key in keys])


def alike(column: str, one: object, other: object) -> bool:
    """The same to the last bit, but for sums of real numbers, which depend on the order of adding."""
    if column == "queue_wait_ms":
        return one == pytest.approx(other, rel=1e-9, abs=1e-9)
    return type(one) is type(other) and one == other


def filled(folder: Path, lots: Iterable[Iterable[Event]]) -> LocalStore:
    """A ledger with the events, each lot a part of its own."""
    store = LocalStore(folder)
    for number, lot in enumerate(lots):
        for day, table in wire.Gathered([entry([event]) for event in lot]).by_day():
            store.put(f"{ledger.partition(ledger.EVENTS, day)}/{number:013d}-0.parquet", parts.encode(table))
    return store


def test_a_made_day_has_the_same_rows(tmp_path: Path) -> None:
    store = made_day.make(tmp_path, 20_000, part_events=5_000)
    assert differences(store, tmp_path / "duck") == []


def test_stories_in_any_order_and_several_times_have_the_same_rows(tmp_path: Path) -> None:
    events = [event for one in [*day_of_stories(400), *golden.stories()] for event in one]
    store = filled(tmp_path / "ledger", shuffled(events, random.Random(3), 5))
    assert differences(store, tmp_path / "duck") == []


def test_a_task_that_says_each_thing_twice_has_the_same_rows(tmp_path: Path) -> None:
    """An id in two workspaces and used again, attempts told again, shares without their call, a number said twice."""
    routed = Routed("intent", "extractive", "regex", "intent", 1.0, CHAIN, "local", "first rung", (), 2)
    again: list[Fact] = [
        Submitted("async", "w", "p", "u", value_nano=5),
        routed,
        attempted("a", cost_nano=9, settled=False, gate="choice", gate_cost_nano=3),
        Allotted("a", 4),
        Parked("human", "spent"),
        Resumed("ann", ""),
        Allotted("nobody's", 8),
        Routed("email", "generative", "embedding", "", 0.5, CHAIN, "midtier", "cheapest", (), 5, "whole"),
        attempted("a", cost_nano=11, hop=1, lane="midtier", model="gpt-4o-mini", time_to_first_token_ms=3.0),
        attempted(
            "b", cost_nano=None, hop=1, lane="midtier", model="gpt-4o-mini", purpose="tool", batch=True
        ),
        attempted("c", hop=0, lane="frontier", model="gpt-4o", purpose="never-heard-of", started_us=NOON_US),
        attempted("d", lane="", model="", engine="gate", purpose="judge", input_tokens=7),
        Allotted("a", 6),
        Allotted("b", 6),
        Rated(ok=False, value_nano=7),
        Finished("failed", None, "midtier"),
        Rated(ok=None, value_nano=None),
    ]
    stories = [
        story("t", again),
        story("t", again[:9], workspace="globex"),
        story("t", again[3:12], at_us=NOON_US + 1),
        story("only-calls", [one for one in again if isinstance(one, Attempted)]),
        story("ended-nowhere", [Submitted("sync"), Finished("", True)]),
        [*story("clash", again), Event("acme", "clash", 2, NOON_US + 90_000_000, NOON_US, routed)],
        story("long", [Submitted("sync"), *(attempted(f"l-{number}", hop=number) for number in range(90))]),
    ]
    store = filled(tmp_path / "ledger", stories)
    assert differences(store, tmp_path / "duck") == []
