"""How many events a second go from the stream into Parquet, and from Parquet into a day's files.

    python -m benchmarks.bench_ledger [TASKS]

A made-up day of tasks (4.9 events each: submitted, routed, one to four attempts, escalations, an end), eight tasks a
stream entry, over an embedded Redis of its own. The medians of seven rounds; each round starts with an empty ledger.
Seconds on the clock and of the processor: on a busy machine the second tells more.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

from accounting import ingest, report, rollup
from accounting.ledger import LocalStore
from broker import embedded
from tests.accounting.stories import DAY, entry, publish, random_story

ROUNDS = 7
TASKS_AN_ENTRY = 8


def main(tasks: int = 40_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.start(Path(folder) / "var")
        try:
            client = redis.Redis.from_url(server.url)
            _run(client, Path(folder), tasks)
        finally:
            embedded.stop(server)


def _run(client: redis.Redis, folder: Path, tasks: int) -> None:
    entries, events = _entries(tasks)
    print(f"{tasks:,} tasks, {events:,} events, {len(entries):,} stream entries, median of {ROUNDS} rounds")
    ingests, rollups, reports = [], [], []
    for number in range(ROUNDS):
        store = LocalStore(folder / f"ledger-{number}")
        quarantine = LocalStore(folder / "quarantine")
        publish(client, entries)
        ingests.append(_timed(lambda: ingest.drain_all(client, store, quarantine)))  # noqa: B023 - called at once
        rollups.append(_timed(lambda: rollup.rollup(store, DAY)))  # noqa: B023 - called at once
        reports.append(_timed(lambda: report.build(store, since=DAY, until=DAY)))  # noqa: B023 - called at once
    _tell("ingest, stream to durable Parquet", "events", events, ingests)
    _tell("rollup, Parquet to tasks, attempts, daily", "events", events, rollups)
    _tell("report of the day", "tasks", tasks, reports)
    size = sum(path.stat().st_size for path in store.root.glob("events/*/*.parquet"))
    print(f"{size / events:.1f} bytes an event in Parquet")


def _entries(tasks: int) -> tuple[list[bytes], int]:
    chance = random.Random(1)
    entries, events = [], 0
    for first in range(0, tasks, TASKS_AN_ENTRY):
        together = [
            event
            for number in range(first, min(first + TASKS_AN_ENTRY, tasks))
            for event in random_story(number, chance)
        ]
        events += len(together)
        entries.append(entry(together))
    return entries, events


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def _tell(what: str, unit: str, count: int, rounds: list[tuple[float, float]]) -> None:
    clock, processor = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    print(f"{what:<45} {count / clock:>9,.0f} {unit}/s   {count / processor:>9,.0f} {unit} a CPU-second")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
