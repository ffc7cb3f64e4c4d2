"""What a released version wrote to the stream gives the same rows in every later one."""

from __future__ import annotations

import json
from pathlib import Path

import msgpack
import pytest
import redis

from accounting import ingest, rollup
from accounting.ledger import LocalStore
from broker.events import KINDS, decode_entry
from tests.accounting.golden import DATASETS, rows
from tests.accounting.stories import publish

DAYS = sorted((Path(__file__).parents[1] / "data").glob("golden-day-*"))


@pytest.mark.parametrize("folder", DAYS, ids=lambda folder: folder.name)
def test_golden_day(folder: Path, client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> None:
    entries = msgpack.unpackb((folder / "entries.msgpack").read_bytes())
    publish(client, entries)
    assert ingest.drain_all(client, store, quarantine).flaws == 0
    rollup.rollup_dirty(client, store)
    for dataset in DATASETS:
        expected = [
            json.loads(line)
            for line in (folder / f"{dataset}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        found = rows(store, dataset)
        known = [{name: row[name] for name in expected[0]} for row in found]
        assert sorted(map(json.dumps, known)) == sorted(map(json.dumps, expected))


def test_a_golden_day_has_every_kind_of_fact() -> None:
    assert DAYS
    entries = [one for folder in DAYS for one in msgpack.unpackb((folder / "entries.msgpack").read_bytes())]
    assert {type(event.fact) for one in entries for event in decode_entry(one)} == set(KINDS[:9])
