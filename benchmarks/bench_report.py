"""`laneway report` over a month, against a bare reading of the columns that it needs.

    python -m benchmarks.bench_report [TASKS A DAY] [DAYS]

The month is made once (benchmarks/month.py) and kept under the folder for temporary files. Medians of seven rounds in
which the report's process, from its start to its end, and the bare reading by pyarrow take turns. Calls are not read.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from accounting.reports.sums import cost_columns
from accounting.reports.tasks import READ
from benchmarks.month import DAYS, days_of, month

ROUNDS = 7
TASKS_A_DAY = 200_000


def main(tasks: int = TASKS_A_DAY, days: int = DAYS) -> None:
    making = [sys.executable, "-m", "benchmarks.month", str(tasks), str(days)]
    subprocess.run(
        making, check=True, stdout=subprocess.DEVNULL
    )  # what it takes here would count as the report's
    store = month(tasks, days)
    since, until = days_of(store)
    files = sorted((store.root / "tasks").rglob("*.parquet"))
    columns = list(dict.fromkeys((*READ, *cost_columns(None), "workspace")))
    print(f"{days} days of {tasks:,} tasks, median of {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "laneway.toml"
        config.write_text(f'[fleet]\nledger = "{store.root}"\n', encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "laneway",
            "report",
            "--since",
            since,
            "--until",
            until,
            "--no-calls",
        ]
        environment = os.environ | {"LANEWAY_CONFIG": str(config)}

        peaks = []

        def report() -> None:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            peaks.append(used.ru_maxrss)

        def bare() -> None:
            for path in files:
                pq.read_table(path, columns=columns)

        rounds = [(_timed(report), _timed(bare)) for _ in range(ROUNDS)]
    for place, name in enumerate(("laneway report", "the bare reading")):
        clock, processor = (statistics.median(one[place][which] for one in rounds) for which in (0, 1))
        print(f"{name:<18} {clock:6.2f} s   {processor:6.2f} CPU-seconds")
    ratio = statistics.median(told[1] / read[1] for told, read in rounds)
    memory = max(peaks) * (1 if sys.platform == "darwin" else 1024)
    print(f"ratio of the processor's time {ratio:.1f}; the report's memory at most {memory / 2**20:,.0f} MiB")


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), _processor_s()
    work()
    return time.perf_counter() - clock, _processor_s() - processor


def _processor_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
