"""What a released version wrote to the stream gives the same rows in every later one."""

from __future__ import annotations

import json
from pathlib import Path

import msgpack
import pytest
import redis

from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from broker.events import KINDS, decode_entry
from tests.accounting.golden import DATASETS, rows
from tests.accounting.stories import DAY, publish

DAYS = sorted((Path(__file__).parents[1] / "data").glob("golden-day-*"))


@pytest.mark.parametrize("folder", DAYS, ids=lambda folder: folder.name)
def test_golden_day(folder: Path, client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> None:
    entries = msgpack.unpackb((folder / "entries.msgpack").read_bytes())
    publish(client, entries)
    assert ingest.drain_all(client, store, quarantine).flaws == 0
    rollup.rollup_dirty(client, store)
    has_the_rows_of(folder, store)


@pytest.mark.parametrize("path", sorted(DAYS[0].glob("events-*.parquet")), ids=lambda path: path.stem)
def test_a_part_that_an_earlier_version_wrote(path: Path, store: LocalStore) -> None:
    store.put(f"{ledger.partition(ledger.EVENTS, DAY)}/1-1.parquet", path.read_bytes())
    rollup.rollup(store, DAY)
    has_the_rows_of(path.parent, store)


def test_the_parts_of_a_day_may_be_of_several_versions(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """The same facts, once as an earlier version wrote them and once more as this one does."""
    (path,) = DAYS[0].glob("events-*.parquet")
    store.put(f"{ledger.partition(ledger.EVENTS, DAY)}/1-1.parquet", path.read_bytes())
    publish(client, msgpack.unpackb((path.parent / "entries.msgpack").read_bytes()))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    has_the_rows_of(path.parent, store)


def has_the_rows_of(folder: Path, store: LocalStore) -> None:
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
