"""Asynchronous work through a provider's batches, by real processes, with kill -9 in the middle."""

from collections.abc import Callable, Iterator

import pytest

from broker.batches import BatchBook
from tests.batch_provider import BatchProvider, batch_provider
from tests.e2e.conftest import LiveFleet

pytestmark = pytest.mark.e2e

TOML = """
[fleet]
lease_s = 1.5

[lanes.midtier]
engine = "openai"
model = "m"
base_url = "URL/v1"
dialect = "openai"
price = { input_mtok = "1", output_mtok = "2", batch_discount = "0.5" }
batches = true
batch_lines = 40
batch_fill_s = 0.5
batch_poll_s = 0.3

[types.general]
chain = ["midtier", "human"]
gate = { kind = "regex", pattern = "fine" }
"""
TASKS = 120


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    with batch_provider() as provider:
        yield provider


def test_batches_outlive_the_processes_that_sent_them(
    live: Callable[[str], LiveFleet], provider: BatchProvider
) -> None:
    fleet = live(TOML.replace("URL", provider.url))
    provider.ended, provider.twice = False, "7"
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_midtier")
    rows = [{"prompt": f"task {n}", "mode": "async", "workspace": f"w{n % 2}"} for n in range(TASKS)]
    handles = fleet.client.submit_many(rows)
    book = BatchBook(fleet.store)
    fleet.wait_until(lambda: len(provider.batches) == 3, "three batches are with the provider")
    fleet.wait_until(lambda: all(one.provider_id for one in book.all()), "their names are known")
    fleet.kill("workers.lane_midtier")
    provider.ended = True
    fleet.start("workers.lane_midtier")
    fleet.wait_until(
        lambda: fleet.store.records.one(f"w0/{handles[0].task_id}").status == "succeeded",
        "settling begins",
        90,
    )
    fleet.kill("workers.lane_midtier")
    fleet.start("workers.lane_midtier")
    results = list(fleet.client.results(handles, timeout_s=120))
    assert [one.status for one in results] == ["succeeded"] * TASKS
    assert sum(len(held.lines) for held in provider.batches.values()) == TASKS
    assert {(one.attempts[0]["batch"], one.attempts[0]["cost_usd"]) for one in results} == {
        (True, "0.000105")
    }
    fleet.wait_until(lambda: book.all() == [], "nothing is left open", 90)
    held = fleet.store.client.hvals(f"laneway:held:{fleet.store.limits.windows()['day']}")
    assert {int(amount) for amount in held} == {0}
