"""The whole path of a task against three bare hops of stock dramatiq, side by side in one run.

Ours: submit → dispatch (regular expression) → echo lane → gate → result and facts, with two worker processes (one
dispatches, one serves the lane). Stock: three actors that do nothing but send to the next one, no state at all, with
two worker processes of the stock Redis broker. Both over servers of the same kind with the same settings, in turn.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from broker import embedded
from broker.keys import OPEN
from broker.settings import parse
from laneway.client import Client

TASKS = 6_000
PAIRS = 7
TOML = """
[fleet]
lease_s = 15

[lanes.local]
engine = "echo"
price = { input_mtok = "1", output_mtok = "2" }
threads = 4
batch = 100

[types.general]
chain = ["local", "human"]

[types.question]
patterns = ["(?i)^question:"]
chain = ["local", "human"]
gate = { kind = "regex", pattern = "question" }
"""

BUDGETS = "".join(
    f"""
[[budgets]]
scope = "{scope}"
period = "{period}"
usd = "1000"
"""
    for scope, period in (
        ("fleet", "month"),
        ("lane:local", "day"),
        *((f"workspace:w{n}", "day") for n in range(5)),
    )
)


@contextmanager
def processes(*commands: list[str], **environment: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Started with the environment on top of ours, killed at the end."""
    env = os.environ | environment
    started = [
        subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
        for command in commands
    ]
    try:
        yield started
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def dramatiq(module: str, *, workers: int = 1, threads: int = 4) -> list[str]:
    return [
        sys.executable, "-m", "dramatiq", module, "--processes", str(workers), "--threads", str(threads),
    ]  # fmt: skip


@contextmanager
def fleet(toml: str = TOML, *modules: list[str]) -> Iterator[Client]:
    """A client of a fresh fleet in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = embedded.start(folder)
        (folder / "laneway.toml").write_text(toml)
        settings = parse(toml, folder=folder).model_copy(update={"redis_url": server.url})
        commands = modules or (dramatiq("dispatcher.node", threads=2), dramatiq("workers.lane_local"))
        try:
            with processes(
                *commands, LANEWAY_REDIS_URL=server.url, LANEWAY_CONFIG=str(folder / "laneway.toml")
            ):
                client = Client(settings)
                client.submit("question: ready?").result(timeout_s=60)
                yield client
        finally:
            embedded.stop(server)


def ours(client: Client, tasks: int = TASKS) -> float:
    """Tasks per second."""
    rows = [{"prompt": f"question: number {n} of many?", "workspace": f"w{n % 5}"} for n in range(tasks)]
    before = time.perf_counter()
    client.submit_many(rows)
    while client.store.client.zcard(OPEN):
        time.sleep(0.005)
    return tasks / (time.perf_counter() - before)


def stock(client: redis.Redis, tasks: int = TASKS) -> float:
    """Tasks per second of three no-op hops."""
    from benchmarks.stock_hops import first

    before = time.perf_counter()
    for _ in range(tasks):
        first.send()
    while client.hlen("dramatiq:default.msgs"):
        time.sleep(0.005)
    return tasks / (time.perf_counter() - before)


def main(pairs: int = PAIRS) -> None:
    with tempfile.TemporaryDirectory() as name:
        server = embedded.start(Path(name))
        os.environ["HOPS_URL"] = server.url
        hops = dramatiq("benchmarks.stock_hops", workers=2)
        try:
            with processes(hops):
                stock_client = redis.Redis.from_url(server.url)
                for what, toml in (("", TOML), (", budgets on three scopes of each task", TOML + BUDGETS)):
                    with fleet(toml) as client:
                        ours(client, 1000)
                        stock(stock_client, 200)
                        rates = [(ours(client), stock(stock_client, TASKS // 4)) for _ in range(pairs)]
                    tell(what, rates)
        finally:
            embedded.stop(server)


def tell(what: str, rates: list[tuple[float, float]]) -> None:
    mine, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(one / other for one, other in rates)
    print(
        f"full path{what}: {mine:,.0f} tasks/s, stock dramatiq's three no-op hops {theirs:,.0f}/s: {ratio:.2f}x",
        flush=True,
    )


if __name__ == "__main__":
    main()
