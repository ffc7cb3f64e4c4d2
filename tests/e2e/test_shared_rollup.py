"""A large day rolled by a fleet of real nodes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from accounting.rollup.offers import OFFERS, Offers
from accounting.rollup.rollup import Progress
from broker.settings import load
from laneway import cli
from laneway.cli import output
from tests.accounting.stories import DAY, day_of_stories, entry, publish
from tests.e2e.conftest import LiveFleet

pytestmark = pytest.mark.e2e

TOML = """
[fleet]
ledger = "ledger"
lease_s = 1.5
rollup_at_utc = "23:59"
"""
NODES = ("one", "two", "three")
ROWS, SPANS = 6, 128  # facts a slice, and what that makes of the day


@pytest.fixture
def fleet(live: Callable[[str], LiveFleet], client: redis.Redis, tmp_path: Path) -> LiveFleet:
    """Three nodes over a ledger of a day that none of them rolls by itself."""
    fleet = live(TOML)
    publish(client, map(entry, day_of_stories(150)))
    ingest.drain_all(client, ledger_of(fleet), LocalStore(tmp_path / "quarantine"), limit=200)
    client.delete(ingest.DIRTY)
    for name in NODES:
        fleet.start("accounting.node", name=name)
    fleet.wait_until(lambda: all("ready for action" in fleet.log(name) for name in NODES), "a start")
    return fleet


def ledger_of(fleet: LiveFleet) -> LocalStore:
    return LocalStore(fleet.folder / "ledger")


def alone(fleet: LiveFleet, folder: Path) -> dict[str, bytes]:
    """What one machine makes of the same facts in another place."""
    shutil.copytree(ledger_of(fleet).root / "events", folder / "events")
    rollup.rollup(LocalStore(folder), DAY)
    return files_in(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name / f"date={DAY}" / f"{name}.parquet").read_bytes() for name in rollup.PUBLISHED
    }


def test_three_nodes_share_a_day_and_make_the_bytes_of_one(fleet: LiveFleet, tmp_path: Path) -> None:
    client = fleet.store.client
    told: list[Progress] = []

    def tell(now: Progress) -> None:
        if now.done == 1:  # the rest is the nodes'
            fleet.wait_until(lambda: not client.zcard(OFFERS), "the end of all spans")
        told.append(now)

    offers = Offers(client, fleet.settings.fleet.lease_s)
    rollup.rollup(ledger_of(fleet), DAY, offers=offers, tell=tell, slice_rows=ROWS)
    assert files_in(ledger_of(fleet).root) == alone(fleet, tmp_path / "alone")
    assert told[-1].nodes == 1 + len(NODES)
    for name in NODES:
        fleet.wait_until(lambda name=name: "spans of 2026-01-01" in fleet.log(name), "its help")  # type: ignore[misc]


def test_nodes_that_are_killed_while_they_fold_cost_their_leases_alone(
    fleet: LiveFleet, tmp_path: Path
) -> None:
    client = fleet.store.client

    def tell(now: Progress) -> None:
        if now.done == 1:
            fleet.wait_until(lambda: bool(client.keys("laneway:rollup:*:done")), "the first help")
            for name in NODES:
                fleet.kill(name)

    offers = Offers(client, fleet.settings.fleet.lease_s)
    rollup.rollup(ledger_of(fleet), DAY, offers=offers, tell=tell, slice_rows=ROWS)
    assert files_in(ledger_of(fleet).root) == alone(fleet, tmp_path / "alone")
    assert ledger_of(fleet).list(".tmp/rollup") == ()


def test_the_command_shares_a_day_and_says_how_far_it_is(
    fleet: LiveFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = fleet.store.client
    last = ledger_of(fleet).list(f"events/date={DAY}")[-1].removesuffix(".parquet")
    client.hset(ingest.DIRTY, DAY, "-".join(last.split("-")[2:]))
    for name, value in fleet.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rollup, "SLICE_ROWS", ROWS)
    monkeypatch.setattr(output, "PROGRESS_S", 0.0)
    load.cache_clear()
    assert cli.run(["rollup", "--json"]) == 0
    load.cache_clear()
    said = capsys.readouterr()
    [day] = json.loads(said.out)["days"]
    assert (day["date"], day["tasks"]) == (DAY, 150)
    lines = [line for line in said.err.splitlines() if line.startswith(DAY)]
    small = [line for line in lines if line.endswith("small parts are read")]
    assert small == [
        f"{DAY}: {number} of {len(small)} small parts are read" for number in range(1, len(small) + 1)
    ]
    lines = lines[len(small) :]
    assert lines[0].startswith(f"{DAY}: 1 of {SPANS} spans, by ")
    assert lines[-1].startswith(f"{DAY}: {SPANS} of {SPANS} spans, by ")
    assert lines[-1].endswith(" nodes")
    assert files_in(ledger_of(fleet).root) == alone(fleet, tmp_path / "alone")
    assert not client.exists(ingest.DIRTY)
