"""A frozen engine: its tasks go on elsewhere within seconds, and it comes back by itself."""

import json
import os
import signal
import time
from collections.abc import Callable

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


def test_a_frozen_engine_drains_its_lane_and_comes_back(live: Callable[[str], LiveFleet]) -> None:
    pytest.importorskip("xllamacpp")
    fleet = live(LANES)
    for module in ("dispatcher.node", "workers.lane_local", "workers.lane_frontier"):
        fleet.start(module)
    try:
        assert fleet.client.submit("Say hello.").result().lane == "local"
        (state,) = (fleet.folder / "var" / "engines").glob("*.json")
        frozen = json.loads(state.read_text())["pid"]
        handles = [fleet.client.submit(f"Tell a very long story about {n} whales.") for n in range(5)]
        fleet.wait_until(
            lambda: fleet.store.queues(["lane-local-sync"])[0].in_flight == 2, "calls are under way"
        )
        os.kill(frozen, signal.SIGSTOP)
        began = time.monotonic()
        results = list(fleet.client.results(handles, timeout_s=30))
        assert time.monotonic() - began < 15, "seconds, where its calls would take a minute to time out"
        assert {(one.status, one.lane) for one in results} == {("succeeded", "frontier")}
        broken_off = [one for one in results if one.lanes == ("local", "frontier")]
        assert len(broken_off) == 2
        assert {one.attempts[0]["failure"] for one in broken_off} == {"connection_lost"}
        passed_over = [fleet.client.record(one.task_id) for one in results if one.lanes == ("frontier",)]
        assert any("makes tokens" in one.progress.why for one in passed_over)
        fleet.wait_until(lambda: fleet.store.lanes_seen()["local"].well == 1, "a new engine serves the lane")
        fleet.wait_until(
            lambda: fleet.client.submit("Say hello.").result().lane == "local", "the dispatcher sees it too"
        )
        assert json.loads(state.read_text())["pid"] != frozen
    finally:
        fleet.stop()
        stop_all(fleet.folder / "var")
