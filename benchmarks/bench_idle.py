"""An idle fleet: how soon a task's lane actor starts (two hops), what sleeping costs, how large the processes are.

Submit → dispatch (regular expression) → the echo lane's actor starts, one task at a time with pauses between; against
two hops of stock dramatiq on an idle queue, in turn.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import redis

from benchmarks.bench_path import TOML, dramatiq, fleet, processes
from broker import embedded

SAMPLES = 60
IDLE_S = 10.0


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in below for one in tree(int(child)))]


def cpu_s(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def pause() -> None:
    time.sleep(random.uniform(0.05, 0.15))  # a queue that has fallen asleep, at no fixed beat


def main(samples: int = SAMPLES) -> None:
    commands = [
        dramatiq("dispatcher.node", threads=2),
        dramatiq("workers.lane_local"),
        dramatiq("accounting.node", threads=2),
    ]
    with fleet(TOML, *commands) as client:
        starts, ends = [], []
        for number in range(samples):
            pause()
            before = time.perf_counter()
            handle = client.submit(f"question: {number}?")
            handle.result()
            ends.append((time.perf_counter() - before) * 1000)
            record = client.record(handle.task_id)
            starts.append((record.progress.attempts[-1].started_us - record.submitted_us) / 1000)
        mine = [pid for pid in tree(os.getpid()) if pid != os.getpid()]
        before_s = cpu_s(mine)
        time.sleep(IDLE_S)
        load = (cpu_s(mine) - before_s) / IDLE_S
        sizes = dict.fromkeys(("dispatcher", "lane", "accounting"), 0.0)
        for pid in mine:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            for name in sizes:
                if f"{name}.node" in command or f"workers.{name}" in command:
                    sizes[name] = max(sizes[name], rss_mb(pid))
    print(
        f"idle, submit to the lane actor's start: p50 {percentile(starts, 0.5):.1f} ms,"
        f" p99 {percentile(starts, 0.99):.1f} ms;"
        f" to the result in the producer's hand: p50 {percentile(ends, 0.5):.1f} ms"
    )
    print(f"idle CPU of {len(mine)} processes: {load:.2%} of a core in all")
    print("RSS: " + ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items()))
    print(f"stock dramatiq, two hops on an idle queue: p50 {statistics.median(stock(samples // 4)):.0f} ms")


def stock(samples: int) -> list[float]:
    """Milliseconds from a send to the empty queue after three hops, of which the last one does nothing."""
    with tempfile.TemporaryDirectory() as name:
        server = embedded.start(Path(name))
        os.environ["HOPS_URL"] = server.url
        try:
            with processes(dramatiq("benchmarks.stock_hops")):
                from benchmarks.stock_hops import second

                client = redis.Redis.from_url(server.url)
                taken = []
                for number in range(samples + 1):
                    time.sleep(random.uniform(0.7, 1.3))  # its backoff grows while the queue is empty
                    before = time.perf_counter()
                    second.send()
                    while client.hlen("dramatiq:default.msgs"):
                        time.sleep(0.001)
                    if number:
                        taken.append((time.perf_counter() - before) * 1000)
                return taken
        finally:
            embedded.stop(server)


if __name__ == "__main__":
    main()
