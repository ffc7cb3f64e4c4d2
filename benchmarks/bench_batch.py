"""A provider's batch of 10,000 lines: how fast it is filled and sent, and how fast its answers are settled.

One process fills and settles, over a real Redis and a provider on a socket that answers at once. Filling is claiming,
reserving under a budget, writing the file, the upload; settling is reading the answers, gates, commits with facts.
Memory is that of the filling and settling process, for one size of batch and for another ten times as large.
"""

from __future__ import annotations

import gc
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from benchmarks.bench_idle import rss_mb
from broker import embedded
from broker.hands import Hands
from broker.settings import parse
from broker.store import Store
from broker.task import DISPATCH, Task
from dispatcher.actor import Dispatcher
from dispatcher.classify import Classifier
from dispatcher.embedding import HashEmbedder
from workers.batch import Batches
from workers.batch_send import BatchSender
from workers.batch_settle import BatchKeeper
from workers.endpoints import Endpoints
from workers.jobs import Jobs
from workers.toolbox import Toolbox

LINES = 10_000
ROUNDS = 5
TOML = """
[lanes.midtier]
engine = "openai"
model = "m"
base_url = "URL/v1"
dialect = "openai"
price = { input_mtok = "1", output_mtok = "2", batch_discount = "0.5" }
batches = true
batch_fill_s = 0
batch_lines = 50000

[types.question]
patterns = ["(?i)^question"]
chain = ["midtier", "human"]
gate = { kind = "choice", choices = ["refund", "card"] }

[types.general]
chain = ["human"]

[[budgets]]
scope = "fleet"
period = "month"
usd = "100000"
"""


def fleet(server: embedded.Embedded, url: str, folder: Path) -> tuple[Batches, Dispatcher]:
    settings = parse(TOML.replace("URL", url), folder=folder)
    store = Store(redis.Redis.from_url(server.url), settings.fleet)
    store.limits.declare(settings.budgets)
    endpoints = Endpoints.build("midtier", settings.lanes["midtier"], folder)
    endpoints.open()
    door = endpoints.first.engine.batches()
    assert door is not None
    jobs = Jobs("midtier", settings, store, endpoints, Hands(), Toolbox.open(settings, "midtier", store))
    dispatcher = Dispatcher(settings, store, Classifier.build(settings, HashEmbedder()))
    return Batches(jobs, door), dispatcher


def waiting(dispatcher: Dispatcher, lines: int) -> None:
    store = dispatcher.store
    for start in range(0, lines, 500):
        store.submit(
            [
                Task(
                    f"t{time.monotonic_ns()}-{start + n}",
                    f"w{n % 5}",
                    ({"role": "user", "content": f"question {start + n}: which intent is this, please?"},),
                    mode="async",
                )
                for n in range(500)
            ]
        )
        while claims := store.fetch(DISPATCH, 100, idle=True).claims:
            dispatcher.work(claims)


def one_round(batches: Batches, dispatcher: Dispatcher, lines: int) -> tuple[float, float]:
    """Lines a second filled, and settled."""
    waiting(dispatcher, lines)
    sender, keeper = BatchSender(batches, Path(tempfile.gettempdir())), BatchKeeper(batches)
    before = time.perf_counter()
    sender.send()
    filled = time.perf_counter() - before
    assert [one.lines for one in batches.book.all()] == [lines]
    before = time.perf_counter()
    keeper.look()
    settled = time.perf_counter() - before
    assert batches.book.all() == []
    batches.store.client.xtrim("laneway:events", maxlen=0)
    return lines / filled, lines / settled


def main(lines: int = LINES, rounds: int = ROUNDS) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    provider = subprocess.Popen([sys.executable, "-m", "benchmarks.batch_server", str(port)])
    with tempfile.TemporaryDirectory() as name:
        server = embedded.start(Path(name))
        try:
            batches, dispatcher = fleet(server, f"http://127.0.0.1:{port}", Path(name))
            sizes = []
            for size in (lines // 10, lines // 10, lines):
                one_round(batches, dispatcher, size)
                gc.collect()
                sizes.append(rss_mb(os.getpid()))
            rates = [one_round(batches, dispatcher, lines) for _ in range(rounds)]
        finally:
            provider.terminate()
            embedded.stop(server)
    fills, settles = (statistics.median(column) for column in zip(*rates, strict=True))
    both = statistics.median(1 / (1 / fill + 1 / settle) for fill, settle in rates)
    print(
        f"provider batch of {lines:,} lines: filled and sent {fills:,.0f} lines/s, settled {settles:,.0f} lines/s,"
        f" the whole way {both:,.0f} lines/s"
    )
    print(f"memory: {sizes[1]:.0f} MB after {lines // 10:,} lines, {sizes[2]:.0f} MB after {lines:,}")


if __name__ == "__main__":
    main()
