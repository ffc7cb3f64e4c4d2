"""A task over its soft limit, on a real Redis: its next attempt is on a cheaper lane, and somebody hears of it."""

from pathlib import Path

import msgpack
import pytest
import redis

from broker.hands import Hands
from broker.settings import Settings, parse
from broker.state import Move
from broker.store import Store
from broker.task import DISPATCH, Progress, Task, lane_queue
from workers.endpoints import Endpoints
from workers.jobs import Jobs
from workers.shell import Lane
from workers.toolbox import Toolbox

TOML = """
[lanes.local]
engine = "echo"
price = { input_mtok = "1", output_mtok = "1" }

[lanes.frontier]
engine = "echo"
price = { input_mtok = "100", output_mtok = "100" }
retries = 5
retry_delay_s = 0
echo = { reply = "no" }

[types.picky]
chain = ["local", "frontier", "human"]
gate = { kind = "regex", pattern = "^yes$" }
reprompts = 5
budget = { soft_usd = "0.0000001" }

[types.general]
chain = ["local"]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse(TOML, folder=tmp_path)


def on_frontier(store: Store) -> None:
    store.submit([Task("t", "acme", ({"role": "user", "content": "say yes"},))])
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    progress = Progress(task_type="picky", chain=("local", "frontier", "human"), lane="frontier")
    store.commit([Move(claim, "queued", progress, queue=lane_queue("frontier", "sync"))])


def work(store: Store, settings: Settings, name: str) -> None:
    endpoints = Endpoints.build(name, settings.lanes[name], settings.fleet.var)
    hands, queue = Hands(), lane_queue(name, "sync")
    lane = Lane(Jobs(name, settings, store, endpoints, hands, Toolbox.open(settings, name, store)))
    claims = store.fetch(queue, 1, idle=True).claims
    hands.take(claims, queue, messages=1, hold_s=60)
    lane.work(claims)


def test_the_next_attempt_is_on_the_cheaper_lane_and_who_watches_hears_of_it_once(
    settings: Settings, client: redis.Redis
) -> None:
    store = Store(client, settings.fleet)
    on_frontier(store)
    work(store, settings, "frontier")
    record = store.records.one("acme/t")
    assert (record.progress.lane, record.queue) == ("local", "lane-local-sync")
    assert "over its soft limit" in record.progress.why
    for _ in range(3):
        work(store, settings, "local")
    assert (
        store.records.one("acme/t").progress.lane == "local"
    )  # nothing cheaper is left: it goes on where it is
    told = [msgpack.unpackb(row) for row in store.client.lrange("laneway:alerts", 0, -1)]
    assert [(row[2], row[3]) for row in told] == [("task:acme/t", "soft")]
