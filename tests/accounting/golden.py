"""Makes the golden day of a released version: `python -m tests.accounting.golden FOLDER`, once, never again.

``entries.msgpack`` are stream entries as that version wrote them; the JSON lines are the rows that they must give for
ever. ``events-2.parquet`` is what version 2 of the schema made of them.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pyarrow.parquet as pq
import redis

from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from broker import embedded
from broker.events import DeadLettered, Escalated, Event, Finished, Parked, Rated, Resumed, Routed, Submitted
from broker.keys import EVENTS
from tests.accounting.stories import CHAIN, attempted, entry, random_story, story

DATASETS = (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY)


def stories() -> list[list[Event]]:
    """Every kind of fact, with what a day has: a late settlement, a person, a dead letter, two workspaces."""
    chance = random.Random(11)
    routed = Routed(
        "intent", "extractive", "regex", "intent", 1.0, CHAIN, "local", "first rung", (("rented", "off"),), 2
    )
    lost = attempted(
        "late-1", lane="midtier", model="gpt-4o-mini", cost_nano=990_000, settled=False, failure="lost"
    )
    settled = attempted(
        "late-1", lane="midtier", model="gpt-4o-mini", cost_nano=120_000, price_ref="book:2026-01-01"
    )
    person = attempted(
        "asked-2", hop=1, lane="human", engine="human", model="", purpose="human", cost_nano=2 * 10**9
    )
    return [
        *(random_story(number, chance) for number in range(20)),
        story(
            "late",
            [Submitted("async", "w", "p", "u"), routed, lost, Finished("failed", False, "midtier"), settled],
        ),
        story(
            "asked",
            [
                Submitted("sync", value_nano=5 * 10**9, parent="late"),
                routed,
                attempted("asked-1", verdict="fail", gate="choice", gate_cost_nano=7),
                Escalated("local", "human", "the gate said fail"),
                Parked("human", "last rung"),
                Resumed("ann", "human"),
                person,
                Finished("succeeded", True, "human"),
                Rated(ok=True, comment="right"),
            ],
            workspace="globex",
        ),
        story(
            "dead",
            [Submitted("sync"), routed, DeadLettered("killed its worker", 3), Finished("failed", False)],
        ),
        story(
            "parked",
            [Submitted("sync"), routed, attempted("parked-1", cost_nano=None), Parked("budget", "spent")],
        ),
        story("waits", [Submitted("async", task_type="email")]),
    ]


def rows(store: LocalStore, dataset: str) -> list[dict[str, Any]]:
    """The data set's rows as JSON's types."""
    tables = [
        pq.read_table(path, partitioning=None) for path in sorted(store.root.glob(f"{dataset}/*/*.parquet"))
    ]
    plain = json.dumps([row for table in tables for row in table.to_pylist()], default=_text)
    made: list[dict[str, Any]] = json.loads(plain)
    return made


def _text(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def write(folder: Path, store: LocalStore, entries: Iterable[bytes]) -> None:
    folder.mkdir(parents=True)
    (folder / "entries.msgpack").write_bytes(msgpack.packb(list(entries)))
    for dataset in DATASETS:
        lines = "".join(json.dumps(row) + "\n" for row in rows(store, dataset))
        (folder / f"{dataset}.jsonl").write_text(lines, encoding="utf-8")


def main(folder: Path) -> None:
    entries = [entry(one) for one in stories()]
    with tempfile.TemporaryDirectory() as scratch:
        server = embedded.start(Path(scratch))
        client = redis.Redis.from_url(server.url)
        store = LocalStore(Path(scratch) / "ledger")
        for one in entries:
            client.xadd(EVENTS, {"b": one})
        ingest.drain_all(client, store, LocalStore(Path(scratch) / "quarantine"))
        rollup.rollup_dirty(client, store)
        write(folder, store, entries)
        embedded.stop(server)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
