"""How many events a second go from the stream into Parquet, and what the rollup of a day costs.

    python -m benchmarks.bench_ledger [EVENTS] [EVENTS A PART]

Ingest: tasks of 4.9 events each (submitted, routed, one to four attempts, escalations, an end), over an embedded
Redis of its own, into durable parts; eight events an entry, one by one, then 500 an entry, packed as a group. Rollup:
a day of so many events (a million by default, 10000000 for a large one; benchmarks/made_day.py) into tasks, attempts
and daily, as a multiple of what DuckDB needs, on one thread and in the same rounds, to decode the columns that the
rollup reads; each rollup in a process of its own, with the memory of that. 7000 events a part are what a day of ten
million has where a part is written each minute. Medians; the processor's seconds, because other work on the machine
counts less in them, beside those on the clock.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import redis

from accounting.files.ledger import LocalStore
from accounting.intake import home, ingest
from accounting.reports import report
from accounting.rollup import rollup
from accounting.rollup.fold import COLUMNS
from benchmarks import made_day
from benchmarks.bench_duck import OURS, alone
from broker import embedded
from tests.accounting.stories import entry, grouped_entry, publish, random_story

ROUNDS = 7
LARGE = 3_000_000  # events; a day of more is rolled three times
TASKS = 40_000
EVENTS_AN_ENTRY = 8
EVENTS_A_GROUP = 500
PART_EVENTS = 100_000
Timed = tuple[float, float]


def main(events: int = 1_000_000, part_events: int = PART_EVENTS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _ingest(Path(folder))
        _day(Path(folder), events, part_events, ROUNDS if events < LARGE else 3)


def _ingest(folder: Path) -> None:
    chance = random.Random(1)
    events = [event for number in range(TASKS) for event in random_story(number, chance)]
    server = embedded.start(folder / "var")
    try:
        client = redis.Redis.from_url(server.url)
        for size, packed in ((EVENTS_AN_ENTRY, entry), (EVENTS_A_GROUP, grouped_entry)):
            entries = [packed(events[start : start + size]) for start in range(0, len(events), size)]
            rounds = [
                _ingested(client, entries, folder / f"ledger-{size}-{number}") for number in range(ROUNDS)
            ]
            length = sum(map(len, entries)) / len(events)
            print(
                f"{len(events):,} events, {size} an entry, {length:.0f} bytes each; median of {ROUNDS} rounds"
            )
            _tell("ingest, stream to durable Parquet", "events", len(events), rounds)
    finally:
        embedded.stop(server)


def _ingested(client: redis.Redis, entries: list[bytes], folder: Path) -> Timed:
    publish(client, entries)
    client.delete(home.HOME)  # each round has a ledger of its own
    return _timed(lambda: ingest.drain_all(client, LocalStore(folder), LocalStore(folder / "bad")))


def _day(folder: Path, events: int, part_events: int, count: int) -> None:
    store = made_day.make(folder, events, part_events=part_events)
    rolled = rollup.rollup(store, made_day.DAY)
    parts = list(store.root.glob("events/*/*.parquet"))
    decodes, rollups, reports = [], [], []
    for _ in range(count):
        decodes.append(_timed(lambda: _decode(store)))
        rollups.append(alone(OURS, store.root, folder))
        reports.append(_timed(lambda: report.build(store, since=made_day.DAY, until=made_day.DAY)))
    print(
        f"a day of {rolled.events:,} events, {rolled.tasks:,} tasks, {rolled.attempts:,} attempts, {len(parts)} parts"
    )
    _tell("DuckDB decodes the columns of it", "events", rolled.events, decodes)
    _tell("rollup to tasks, attempts, daily", "events", rolled.events, [one[:2] for one in rollups])
    _tell("report of the day", "tasks", rolled.tasks, reports)
    ratio = statistics.median(ours[1] / theirs[1] for ours, theirs in zip(rollups, decodes, strict=True))
    peak_gib = max(one.peak_mib for one in rollups) / 1024
    print(f"the rollup is {ratio:.1f} times the decoding, by the processor; {peak_gib:.2f} GiB at most")
    print(f"{sum(path.stat().st_size for path in parts) / rolled.events:.1f} bytes an event in Parquet")


def _decode(store: LocalStore) -> None:
    """A hash over all columns looks at each value; on one thread, whose clock is its processor's."""
    database = duckdb.connect()
    database.execute("set threads = 1")
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    database.execute(f"select bit_xor(hash({columns})) from '{store.root}/events/*/*.parquet'").fetchall()


def _timed(work: Callable[[], object]) -> Timed:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def _tell(what: str, unit: str, count: int, rounds: list[Timed]) -> None:
    clock, processor = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    print(f"{what:<45} {count / clock:>9,.0f} {unit}/s   {count / processor:>9,.0f} {unit} a CPU-second")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
