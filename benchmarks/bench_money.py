"""Reserve and settle: pairs a second on one Redis, and how long one pair takes, with 32 callers at once.

Each pair is the whole step that a paid call takes: the worst case reserved in three limited scopes or in none with the
intent recorded (begin), then settled with its facts and the task's end (commit). 32 threads in 4 processes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from benchmarks.bench_idle import percentile
from broker import embedded
from broker.events import Attempted, Finished
from broker.scopes import scopes_of
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Claim, Outcome, Progress, Task

PROCESSES, THREADS, PAIRS = 4, 8, 600
SCOPES = ("fleet", "workspace:acme", "lane:local")


def store_at(url: str) -> Store:
    return Store(redis.Redis.from_url(url), Fleet(lease_s=300))


def pair(store: Store, claim: Claim) -> None:
    """One paid call's money, with no call between."""
    lost = Attempted(claim.attempt_id, 0, "local", "echo", "m", "task", 1, 2, 0.0, 0.0, 5000, settled=False)
    scopes = scopes_of(claim.task, "local")
    if store.begin([Intent(claim, 5000, lost, scopes)]) != ["go"]:
        raise RuntimeError(f"{claim.ref} was refused")
    done = Attempted(claim.attempt_id, 0, "local", "echo", "m", "task", 1, 2, 0.0, 0.0, 3000)
    store.commit(
        [
            Move(
                claim,
                "succeeded",
                Progress(attempts=(done,)),
                cost_nano=3000,
                outcome=Outcome("succeeded", "", "ok"),
                attempts=(done,),
                facts=(Finished("succeeded", True),),
                scopes=scopes,
            )
        ]
    )


def worker(url: str, barrier: object, out: object) -> None:
    store = store_at(url)
    claims = [list(store.fetch(DISPATCH, PAIRS, idle=True).claims) for _ in range(THREADS)]
    taken: list[float] = []

    def caller(mine: list[Claim]) -> None:
        for claim in mine:
            before = time.perf_counter()
            pair(store, claim)
            taken.append(time.perf_counter() - before)

    threads = [threading.Thread(target=caller, args=(mine,)) for mine in claims]
    barrier.wait()  # type: ignore[attr-defined]
    started = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.put((started, time.time(), taken))  # type: ignore[attr-defined]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        server = embedded.start(Path(name))
        try:
            store = store_at(server.url)
            rows = [BudgetRow(scope=scope, period="day", usd="1000000") for scope in SCOPES]
            store.limits.declare(rows)
            tasks = [Task(f"t{n}", "acme", ()) for n in range(PROCESSES * THREADS * PAIRS)]
            for start in range(0, len(tasks), 500):
                store.submit(tasks[start : start + 500])
            context = multiprocessing.get_context("spawn")
            barrier, out = context.Barrier(PROCESSES), context.Queue()
            workers = [
                context.Process(target=worker, args=(server.url, barrier, out)) for _ in range(PROCESSES)
            ]
            for one in workers:
                one.start()
            spans = [out.get() for _ in workers]
            for one in workers:
                one.join()
            spent = next(row for row in store.limits.states() if row.scope == "workspace:acme")
        finally:
            embedded.stop(server)
    seconds = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    times = [one * 1000 for _, _, taken in spans for one in taken]
    if (spent.spent_nano, spent.reserved_nano) != (3000 * len(times), 0):
        sys.exit(f"the counters are off: {spent}")
    print(
        f"reserve + settle, {PROCESSES * THREADS} callers in {PROCESSES} processes, {len(SCOPES)} limited scopes:"
        f" {len(times) / seconds:,.0f} pairs/s, p50 {percentile(times, 0.5):.1f} ms,"
        f" p99 {percentile(times, 0.99):.1f} ms (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )


if __name__ == "__main__":
    main()
