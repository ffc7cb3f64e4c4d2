"""A fleet of real processes: what a producer submits comes back, whatever happens in between."""

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from accounting.files import ledger
from accounting.intake import ingest
from broker.keys import LEASES, OPEN
from tests.e2e.conftest import LiveFleet

pytestmark = pytest.mark.e2e

ECHO = """
[fleet]
ledger = "ledger"
lease_s = 1.5
ingest_flush_s = 1

[lanes.local]
engine = "echo"
price = { input_mtok = "1", output_mtok = "2" }
threads = 4
batch = 20
echo = { replies = { "capital of France" = "Paris", "gone wrong" = "nonsense" } }

[lanes.frontier]
engine = "echo"
price = { input_mtok = "10", output_mtok = "20" }
echo = { reply = "Paris" }

[types.general]
chain = ["local", "human"]

[types.question]
patterns = ["(?i)^question:"]
chain = ["local", "frontier", "human"]
reprompts = 1
gate = { kind = "regex", pattern = "^Paris$" }
"""


def test_a_task_comes_back_with_its_answer_its_cost_and_its_story(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(ECHO)
    for module in ("dispatcher.node", "workers.lane_local", "workers.lane_frontier"):
        fleet.start(module)
    good = fleet.client.submit("question: the capital of France?", workspace="acme")
    climbs = fleet.client.submit("question: gone wrong", workspace="acme", mode="async")
    plain = fleet.client.submit("hello there")
    parked = fleet.client.submit("question: gone wrong", gate={"kind": "choice", "choices": ["Rome"]})

    result = good.result()
    assert (result.status, result.output, result.lane) == ("succeeded", "Paris", "local")
    assert result.cost_usd > 0
    result = climbs.result()
    assert (result.status, result.output, result.lanes) == ("succeeded", "Paris", ("local", "frontier"))
    assert [one["purpose"] for one in result.attempts] == ["task", "reprompt", "task"]
    assert plain.result().output == "hello there"
    result = parked.result()
    assert (result.status, result.lane) == ("parked", "human")
    assert len(result.attempts) == 4


def test_a_deadly_task_is_a_dead_letter_and_its_neighbours_succeed(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(
        ECHO.replace('echo = { reply = "Paris" }', 'echo = { reply = "Paris", kill_on = "poison" }').replace(
            'chain = ["local", "human"]', 'chain = ["frontier", "human"]'
        )
    )
    fleet.start("dispatcher.node")
    stop = threading.Event()

    def supervise() -> None:
        while not stop.wait(0.1):
            running = fleet.processes.get("workers.lane_frontier")
            if running is None or running.poll() is not None:
                fleet.start("workers.lane_frontier")

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        handles = fleet.client.submit_many(
            [{"prompt": f"good {n}"} for n in range(10)] + [{"prompt": "poison"}]
        )
        results = {result.task_id: result for result in fleet.client.results(handles, timeout_s=60)}
    finally:
        stop.set()
        supervisor.join()
    statuses = [results[handle.task_id].status for handle in handles]
    assert statuses == ["succeeded"] * 10 + ["failed"]
    (letter,) = fleet.store.dead_letters.all()
    assert letter.id == f"default/{handles[-1].task_id}"
    assert letter.starts == 3


def test_a_task_takes_at_most_six_round_trips_and_a_batch_far_fewer(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(ECHO.replace("lease_s = 1.5", "lease_s = 60"))
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    fleet.client.submit("question: warm up, the capital of France?").result()

    def asked() -> int:
        """Commands that come over connections alone: no script calls any of these."""
        stats = fleet.store.client.info("commandstats")
        sent = ("evalsha", "blpop", "blmpop", "hgetall")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in sent)

    before = asked()
    handles = fleet.client.submit_many(
        {"prompt": f"question: {n}, the capital of France?"} for n in range(1000)
    )
    assert sum(result.status == "succeeded" for result in fleet.client.results(handles, timeout_s=60)) == 1000
    assert asked() - before <= 1000 + 600  # 1,000 are the reader's own HGETALLs, sent as a few pipelines
    fleet.store.client.config_resetstat()
    for n in range(20):
        fleet.client.submit(f"question: {n}, the capital of France?")
        fleet.wait_until(lambda: not fleet.store.client.exists(OPEN), "the task ends")
    scripts = fleet.store.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    # Submit, fetch, commit, fetch, begin, commit; and at most one fetch that finds the queue empty after each.
    assert scripts / 20 <= 9


def test_a_deadline_that_passed_in_the_queue_costs_nothing(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(ECHO)
    handle = fleet.client.submit("too late", deadline_s=0.2)
    fleet.wait_until(
        lambda: fleet.store.clock.now_us() - fleet.client.record(handle.task_id).submitted_us > 300_000,
        "it passes",
    )
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    result = handle.result()
    assert (result.status, result.attempts) == ("failed", ())
    assert "deadline of 0.2 s" in result.reason


def test_what_waits_on_a_lane_that_has_gone_goes_on_along_its_chain(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(
        ECHO.replace("lease_s = 1.5", "lease_s = 1.5\nlane_absent_s = 1").replace(
            '["local", "human"]', '["local", "frontier", "human"]'
        )
    )
    fleet.start("dispatcher.node")
    fleet.store.lanes.announce(["local"])
    handle = fleet.client.submit("hello")
    fleet.wait_until(
        lambda: fleet.store.lanes.queues(["lane-local-sync"])[0].depth == 1, "it waits on its first lane"
    )
    fleet.start("workers.lane_frontier")
    result = handle.result(timeout_s=40)
    assert (result.status, result.lane) == ("succeeded", "frontier")
    assert fleet.client.record(handle.task_id).progress.skipped == ()


def test_a_cancelled_call_settles(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(
        ECHO.replace('reply = "Paris"', "latency_ms = 60000").replace('["local", "human"]', '["frontier"]')
    )
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_frontier")
    handle = fleet.client.submit("slow")
    fleet.wait_until(lambda: fleet.client.record(handle.task_id).status == "running", "the task runs")
    assert handle.cancel() == "cancelling"
    assert handle.result(timeout_s=20).status == "cancelled"
    assert len(handle.result().attempts) <= 1


@pytest.mark.slow
def test_two_thousand_tasks_survive_kill_9_of_anything(live: Callable[[str], LiveFleet]) -> None:
    """Every task reaches one end, no stale attempt overwrites it, each fact is in the files exactly once."""
    fleet = live(ECHO)
    modules = ["dispatcher.node", "workers.lane_local", "workers.lane_frontier", "accounting.node"]
    for module in modules:
        fleet.start(module)
    handles = fleet.client.submit_many(
        [
            {
                "prompt": "question: gone wrong" if n % 10 == 0 else f"task {n}",
                "task_id": f"t{n}",
                "workspace": f"w{n % 3}",
            }
            for n in range(2000)
        ]
    )
    rng = random.Random(7)
    ended: dict[str, str] = {}
    reader = threading.Thread(
        target=lambda: ended.update(
            {one.task_id: one.status for one in fleet.client.results(handles, timeout_s=120)}
        )
    )
    reader.start()
    kills = 0
    while reader.is_alive() and kills < 12:
        victim = rng.choice(modules)
        fleet.kill(victim, worker_only=rng.random() < 0.3)
        kills += 1
        fleet.start(victim)
        reader.join(timeout=rng.uniform(0.3, 1.5))
    killed_at = time.monotonic()
    reader.join()
    assert Counter(ended.values()) == {"succeeded": 2000}
    assert time.monotonic() - killed_at < 60
    assert fleet.store.client.zcard(LEASES) == fleet.store.client.zcard(OPEN) == 0
    _facts_are_exactly_once(fleet)


def _facts_are_exactly_once(fleet: LiveFleet) -> None:
    fleet.signal("accounting.node", signal.SIGTERM)
    fleet.processes["accounting.node"].wait(30)
    files = ledger.open_store(fleet.settings)
    quarantine = ledger.LocalStore(fleet.folder / "quarantine")
    drained: list[ingest.Ingested] = []

    def drain() -> bool:
        drained.append(ingest.drain_all(fleet.store.client, files, quarantine))
        return not drained[-1].busy

    fleet.wait_until(drain, "the lock of a killed writer runs out", timeout_s=90)
    assert sum(one.flaws for one in drained) == 0
    pyarrow_dataset = pytest.importorskip("pyarrow.dataset")
    rows = (
        pyarrow_dataset.dataset(Path(fleet.settings.fleet.ledger) / "events", format="parquet")
        .to_table()
        .to_pylist()
    )
    identities = Counter((row["workspace"], row["task_id"], row["seq"]) for row in rows)
    assert max(identities.values()) == 1
    finished = Counter(row["task_id"] for row in rows if row["kind"] == "finished")
    assert (len(finished), set(finished.values())) == (2000, {1})
    booked: Counter[str] = Counter()
    for task_id, row in {
        (row["task_id"], row["attempt_id"] or row["seq"]): row
        for row in sorted(rows, key=lambda row: row["seq"])
    }.items():
        booked[task_id[0]] += int((row["cost_usd"] or 0) * 10**9)
    for number in range(0, 2000, 97):
        assert fleet.client.record(f"t{number}").cost_nano == booked[f"t{number}"]


def test_the_command_line_of_a_broken_lane_says_what_to_do(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(ECHO)
    process = fleet.start("workers.lane_midtier")
    assert process.wait(30) != 0
    assert "the configuration has no lane 'midtier'" in fleet.log("workers.lane_midtier")
    assert "add a table [lanes.midtier]" in fleet.log("workers.lane_midtier")


def test_async_work_leaves_threads_for_sync_work(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(
        ECHO.replace("batch = 20\necho = { replies", "batch = 1\necho = { latency_ms = 300, replies")
    )
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local", threads=4)
    fleet.client.submit_many([{"prompt": f"slow {n}", "mode": "async"} for n in range(60)])
    fleet.wait_until(
        lambda: bool(fleet.store.lanes.queues(["lane-local-async"])[0].in_flight), "async work runs"
    )
    waits = []
    for n in range(5):
        result = fleet.client.submit(f"quick {n}").result()
        waits.append(result.attempts[-1]["queue_wait_ms"])
    assert max(waits) < 200, json.dumps(waits)
    assert fleet.store.lanes.queues(["lane-local-async"])[0].depth > 0
