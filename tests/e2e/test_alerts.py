"""A budget runs out in a fleet of real processes: people are told, and the switch is pulled."""

import json
from collections.abc import Callable

import pytest

from tests.e2e.conftest import PRICED, LiveFleet

pytestmark = pytest.mark.e2e

ALERTS = """
[[budgets]]
scope = "workspace:acme"
period = "day"
usd = "0.6"

[alerts]
command = ["/bin/sh", "-c", "cat >> news.jsonl; echo >> news.jsonl"]
kill_switch = true
"""


def test_a_budget_that_runs_out_tells_people_and_is_switched_off(live: Callable[[str], LiveFleet]) -> None:
    fleet = live(PRICED + ALERTS)
    news = fleet.folder / "news.jsonl"
    fleet.config.write_text(fleet.config.read_text().replace("news.jsonl", str(news)))
    for module in ("dispatcher.node", "workers.lane_local", "accounting.node"):
        fleet.start(module)
    handles = fleet.client.submit_many([{"prompt": f"task {n}", "workspace": "acme"} for n in range(60)])
    list(fleet.client.results(handles, timeout_s=30))

    def pulled() -> bool:
        """One call after another: those that left together may all have been refused before any of them was paid."""
        fleet.client.submit("one more", workspace="acme").result()
        return fleet.store.limits.killed() == ["workspace:acme"]

    fleet.wait_until(pulled, "the switch is pulled")
    fleet.wait_until(lambda: news.exists() and len(news.read_text().splitlines()) >= 2, "people are told")
    told = {row["level"]: row for row in map(json.loads, news.read_text().splitlines())}
    assert set(told) == {80, 100}
    assert told[100]["switched_off"] is True
    assert "50% spent" in fleet.log("accounting.node")
    assert fleet.client.submit("hello", workspace="acme").result().reason == "workspace:acme is switched off"
