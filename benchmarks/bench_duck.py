"""A day's rollup, ours against the same in DuckDB's SQL (benchmarks/duck_day.py).

    python -m benchmarks.bench_duck [EVENTS] [FOLDER]

A day of so many events (a million by default; benchmarks/made_day.py, made in the folder for temporary files, or once
in FOLDER) is rolled by both in turn, by each in a process of its own: the memory is that of the rollup alone. DuckDB
has one thread and then two; ours has one. Medians of a few rounds, one of a large day, with
their ratios; the processor's seconds, because other work on the machine counts less in them, and how much of that there
was. What importing the code takes is not counted. That both make the same rows is told by a test
(tests/accounting/test_duck_day.py).
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.rollup import rollup
from benchmarks import duck_day, made_day

ROUNDS = 5
LARGE = 3_000_000  # events; a day of so many or more is rolled once
PART_EVENTS = 100_000
OURS, DUCK, DUCK_TWO = "laneway", "duckdb", "duckdb, 2 threads"


class Figures(NamedTuple):
    """Seconds on the clock and of the processor, and the most memory that the process had."""

    clock_s: float
    cpu_s: float
    peak_mib: float


def main(events: int = 1_000_000, kept: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = made_day.make(Path(kept or scratch), events, part_events=PART_EVENTS)
        load = os.getloadavg()[0]
        rounds = [
            {who: alone(who, store.root, Path(scratch)) for who in (OURS, DUCK, DUCK_TWO)}
            for _ in range(ROUNDS if events < LARGE else 1)
        ]
    print(f"a day of {events:,} events, median of {len(rounds)} rounds; load {load:.1f} before, ", end="")
    print(f"{os.getloadavg()[0]:.1f} after, on {os.cpu_count()} cores")
    for who in rounds[0]:
        clock, cpu, peak = (
            statistics.median(column) for column in zip(*(one[who] for one in rounds), strict=True)
        )
        print(f"{who:<18} {clock:7.2f} s   {cpu:7.2f} CPU-seconds   {peak:7,.0f} MiB at most")
    for who in (DUCK, DUCK_TWO):
        pairs = [[theirs / ours for ours, theirs in zip(one[OURS], one[who], strict=True)] for one in rounds]
        clock, cpu, peak = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{who} takes {clock:.2f} times our clock, {cpu:.2f} times our processor, {peak:.2f} times our memory"
        )


def alone(who: str, root: Path, scratch: Path) -> Figures:
    """One rollup in a process of its own, into a folder that has nothing yet."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        (Path(folder) / ledger.EVENTS).symlink_to(root / ledger.EVENTS)
        command = [sys.executable, "-m", "benchmarks.bench_duck", who, folder]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Figures(*json.loads(told))


def _roll(who: str, folder: Path) -> None:
    clock, cpu = time.perf_counter(), time.process_time()
    if who == OURS:
        rollup.rollup(LocalStore(folder), made_day.DAY)
    else:
        events = f"{folder}/{ledger.partition(ledger.EVENTS, made_day.DAY)}/*.parquet"
        duck_day.roll(events, folder, threads=2 if who == DUCK_TWO else 1)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    print(json.dumps((clock, cpu, _peak_mib())))


def _peak_mib() -> float:
    """Of this program. Linux counts what the process that started it had in ``ru_maxrss``, too."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].isdigit():
        _roll(sys.argv[1], Path(sys.argv[2]))
    else:
        main(int((sys.argv[1:2] or ["1000000"])[0]), *sys.argv[2:3])
