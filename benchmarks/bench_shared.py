"""What a second node takes off a large day's rollup.

    python -m benchmarks.bench_shared [EVENTS]

A day of so many events (three million by default; benchmarks/made_day.py) is rolled by this process alone and then
together with one accounting node, a process of its own on the same machine; pairs in turn, medians. Beside the clock
the processor's seconds: of the coordinator, which is how long the whole takes on a machine of its own, and of both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from accounting.files.ledger import LocalStore
from accounting.rollup import rollup
from accounting.rollup.offers import Offers
from accounting.rollup.rollup import Progress
from benchmarks import made_day
from benchmarks.bench_idle import cpu_s, tree
from benchmarks.bench_path import dramatiq, processes
from broker import embedded

ROUNDS = 7
PART_EVENTS = 100_000
LEASE_S = 15.0
START_S = 3.0  # in which a node is up, and rests


def main(events: int = 3_000_000, rounds: int = ROUNDS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = made_day.make(Path(folder), events, part_events=PART_EVENTS)
        rollup.rollup(store, made_day.DAY)
        with node(Path(folder), store) as client:
            offers = Offers(client, LEASE_S)
            pairs = [(timed(store, None), timed(store, offers)) for _ in range(rounds)]
    print(f"a day of {events:,} events, median of {rounds} pairs")
    for what, found in zip(("one node", "two nodes"), zip(*pairs, strict=True), strict=True):
        clock, own, both, nodes = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"{what:<10} {clock:>6.2f} s, {own:>6.2f} CPU-seconds of the coordinator, {both:>6.2f} of all, {nodes:.0f}"
            f" took part"
        )
    for at, what in ((0, "by the clock"), (1, "by the coordinator's processor")):
        ratio = statistics.median(alone[at] / shared[at] for alone, shared in pairs)
        print(f"two nodes are {ratio:.2f} times one, {what}")


@contextmanager
def node(folder: Path, store: LocalStore) -> Iterator[redis.Redis]:
    """An accounting node over the ledger, until the end of the block."""
    server = embedded.start(folder / "redis")
    config = folder / "laneway.toml"
    config.write_text(f'[fleet]\nledger = "{store.root}"\nvar = "{folder / "var"}"\n', encoding="utf-8")
    os.environ |= {"LANEWAY_CONFIG": str(config), "LANEWAY_REDIS_URL": server.url}
    try:
        with processes(dramatiq("accounting.node", threads=6)):
            time.sleep(START_S)
            yield redis.Redis.from_url(server.url)
    finally:
        embedded.stop(server)


def timed(store: LocalStore, offers: Offers | None) -> tuple[float, float, float, int]:
    """Seconds on the clock, of this process, of it and its children; how many nodes took part."""
    all_of_it = tree(os.getpid())
    told: list[Progress] = []
    clock, own, both = time.perf_counter(), time.process_time(), cpu_s(all_of_it)
    rollup.rollup(store, made_day.DAY, offers=offers, tell=told.append)
    return (
        time.perf_counter() - clock,
        time.process_time() - own,
        cpu_s(all_of_it) - both,
        told[-1].nodes,
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
