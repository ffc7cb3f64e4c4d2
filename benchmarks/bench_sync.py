"""What 100,000 waiting asynchronous tasks do to a synchronous one: the time to its result, with and without them.

One dispatcher and one lane process of eight threads over an engine that takes 100 ms a call. Each fleet is timed twice:
empty, and with a backlog, on which the lane works all the while with the threads that it does not keep for sync tasks.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.bench_idle import percentile
from benchmarks.bench_path import dramatiq, fleet
from laneway.client import Client

BACKLOG = 100_000
SAMPLES = 100
PAIRS = 3
TOML = """
[fleet]
lease_s = 15

[lanes.local]
engine = "echo"
price = { input_mtok = "1", output_mtok = "2" }
threads = 8
sync_threads = 2
echo = { latency_ms = 100 }

[types.general]
chain = ["local", "human"]

[types.question]
patterns = ["(?i)^question:"]
chain = ["local", "human"]
gate = { kind = "regex", pattern = "question" }
"""


def sync_ms(client: Client, samples: int) -> tuple[list[float], list[float]]:
    """Of each sync task: milliseconds to its result, and of them those that it waited for its lane's thread."""
    whole, waits = [], []
    for number in range(samples):
        time.sleep(0.005)
        before = time.perf_counter()
        handle = client.submit(f"question: {number}?")
        handle.result()
        whole.append((time.perf_counter() - before) * 1000)
        waits.append(client.record(handle.task_id).progress.attempts[-1].queue_wait_ms)
    return whole, waits


def backlog(client: Client, tasks: int) -> None:
    for start in range(0, tasks, 5000):
        client.submit_many(
            {"prompt": f"question: {start + n}?", "mode": "async", "workspace": f"w{n % 5}"}
            for n in range(5000)
        )
    while client.store.waiting("dispatch"):
        time.sleep(0.05)


def one_pair(samples: int, tasks: int) -> tuple[float, float, float, float, int]:
    """p95 of results alone and beside the backlog, of waits likewise, and how much of the backlog was left."""
    commands = [dramatiq("dispatcher.node", threads=2), dramatiq("workers.lane_local", threads=8)]
    with fleet(TOML, *commands) as client:
        alone, alone_waits = sync_ms(client, samples)
        backlog(client, tasks)
        beside, beside_waits = sync_ms(client, samples)
        left = client.store.waiting("lane-local-async")
    return (
        percentile(alone, 0.95),
        percentile(beside, 0.95),
        percentile(alone_waits, 0.95),
        percentile(beside_waits, 0.95),
        left,
    )


def main(samples: int = SAMPLES, tasks: int = BACKLOG, pairs: int = PAIRS) -> None:
    rows = [one_pair(samples, tasks) for _ in range(pairs)]
    alone, beside, alone_wait, beside_wait, left = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    ratio = statistics.median(row[1] / row[0] for row in rows)
    print(
        f"sync result p95 alone {alone:.1f} ms, beside {left:,.0f} waiting async tasks {beside:.1f} ms: {ratio:.2f}x;"
        f" its wait for a thread {alone_wait:.1f} and {beside_wait:.1f} ms"
    )


if __name__ == "__main__":
    main()
