"""A frozen engine: its tasks go on elsewhere within seconds, and it comes back by itself."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import LiveFleet
from workers.engines.launcher import stop_all

pytestmark = pytest.mark.e2e

LANES = """
[lanes.local]
engine = "llamacpp"
context_tokens = 1024
max_tokens = 900
threads = 2

[lanes.frontier]
engine = "echo"
echo = { reply = "elsewhere" }

[types.general]
chain = ["local", "frontier", "human"]
"""


def well(fleet: LiveFleet) -> int:
    """How many nodes serve the lane local."""
    seen = fleet.store.lanes.seen().get("local")
    return seen.well if seen else 0


def frozen(var: Path) -> int:
    """The node's engine process, stopped in the middle of what it does."""
    (state,) = (var / "engines").glob("*.json")
    pid: int = json.loads(state.read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_the_tasks_of_a_frozen_engine_go_to_the_other_node_of_its_lane(
    live: Callable[[str], LiveFleet],
) -> None:
    pytest.importorskip("xllamacpp")
    fleet = live(LANES.replace("max_tokens = 900", "max_tokens = 250"))
    nodes = [fleet.folder / "one", fleet.folder / "two"]
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_frontier")
    for node in nodes:
        fleet.start(
            "workers.lane_local", name=node.name, LANEWAY_FLEET__VAR=str(node), LANEWAY_FLEET__NODE=node.name
        )
    try:
        fleet.wait_until(lambda: well(fleet) == 2, "both nodes serve the lane")
        handles = [fleet.client.submit(f"Tell a long story about {n} whales.") for n in range(4)]
        fleet.wait_until(
            lambda: fleet.store.lanes.queues(["lane-local-sync"])[0].in_flight == 4, "all are under way"
        )
        frozen(nodes[0])
        results = list(fleet.client.results(handles, timeout_s=90))
        assert {(one.status, one.lane) for one in results} == {("succeeded", "local")}
        moved = [one for one in results if one.attempts[0]["failure"] == "connection_lost"]
        assert [one.attempts[0]["node"] for one in moved] == ["one", "one"]
        assert {one.attempts[-1]["node"] for one in moved} <= {"one", "two"}
    finally:
        fleet.stop()
        for node in nodes:
            stop_all(node)


def test_a_frozen_engine_drains_its_lane_and_comes_back(live: Callable[[str], LiveFleet]) -> None:
    pytest.importorskip("xllamacpp")
    fleet = live(LANES)
    for module in ("dispatcher.node", "workers.lane_local", "workers.lane_frontier"):
        fleet.start(module)
    try:
        assert fleet.client.submit("Say hello.").result().lane == "local"
        handles = [fleet.client.submit(f"Tell a very long story about {n} whales.") for n in range(5)]
        fleet.wait_until(
            lambda: fleet.store.lanes.queues(["lane-local-sync"])[0].in_flight == 2, "calls are under way"
        )
        pid = frozen(fleet.folder / "var")
        began = time.monotonic()
        results = list(fleet.client.results(handles, timeout_s=30))
        assert time.monotonic() - began < 15, "seconds, where its calls would take a minute to time out"
        assert {(one.status, one.lane) for one in results} == {("succeeded", "frontier")}
        broken_off = [one for one in results if one.lanes == ("local", "frontier")]
        assert len(broken_off) == 2
        assert {one.attempts[0]["failure"] for one in broken_off} == {"connection_lost"}
        passed_over = [fleet.client.record(one.task_id) for one in results if one.lanes == ("frontier",)]
        assert any("makes tokens" in one.progress.why for one in passed_over)
        fleet.wait_until(lambda: well(fleet) == 1, "a new engine serves the lane")
        fleet.wait_until(
            lambda: fleet.client.submit("Say hello.").result().lane == "local", "the dispatcher sees it too"
        )
        (state,) = (fleet.folder / "var" / "engines").glob("*.json")
        assert json.loads(state.read_text())["pid"] != pid
    finally:
        fleet.stop()
        stop_all(fleet.folder / "var")
