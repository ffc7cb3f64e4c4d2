"""Each fact of the stream stands in the files exactly once, whatever happens to the writer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from accounting.actor import Accounting
from accounting.files import ledger, schema
from accounting.files.ledger import Data, LocalStore
from accounting.intake import aside, home, ingest, wire
from accounting.rollup import nightly, rollup
from broker import store as broker_store
from broker.embedded import Embedded
from broker.errors import LedgerError
from broker.events import Event, Fact, Finished, Rated, Submitted, encode_fact
from broker.keys import EVENTS, LATE
from broker.settings import Settings
from tests.accounting.folding import facts_in
from tests.accounting.stories import (
    DAY,
    NOON_US,
    attempted,
    day_of_stories,
    entry,
    grouped_entry,
    publish,
    story,
)


def events_of(store: LocalStore) -> list[tuple[object, ...]]:
    return facts_in(pq.read_table(part, partitioning=None) for part in store.root.glob("events/*/*.parquet"))


def expected(stories: list[list[Event]]) -> list[tuple[object, ...]]:
    return sorted((e.workspace, e.task_id, e.seq, encode_fact(e.fact)) for one in stories for e in one)


def test_every_fact_arrives_and_the_stream_is_empty(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = day_of_stories(200)
    publish(client, map(entry, stories))
    done = ingest.drain_all(client, store, quarantine, limit=300)
    assert done.events == sum(map(len, stories))
    assert done.parts > 3
    assert events_of(store) == expected(stories)
    assert client.xlen(EVENTS) == 0
    assert client.hkeys(ingest.DIRTY) == [DAY.encode()]
    assert not client.exists(ingest.LOCK, ingest.BATCH)


def test_nothing_but_data_files_lies_in_the_data_set(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    publish(client, map(entry, day_of_stories(5)))
    ingest.drain(client, store, quarantine)
    files = [path for path in (store.root / "events").rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".parquet"]
    assert files[0].parent.name == f"date={DAY}"
    assert not list(store.root.glob(".tmp/*.draft"))


def test_columns_types_and_money(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> None:
    facts: list[Fact] = [
        Submitted("sync"),
        attempted("t-1", cost_nano=123_456_789_012, gate_cost_nano=5),
        Finished("failed", False),
    ]
    facts.append(attempted("t-2", cost_nano=None))
    publish(client, [entry(story("t", facts))])
    ingest.drain(client, store, quarantine)
    [part] = store.root.glob("events/*/*.parquet")
    table = pq.read_table(part, partitioning=None)
    assert table.schema.equals(schema.EVENTS)
    physical = {column.name: column.physical_type for column in pq.ParquetFile(part).schema}
    assert physical["cost_usd"] == "INT64"
    assert table["kind"].to_pylist() == ["submitted", "attempted", "attempted", "finished"]
    assert [str(v) for v in table["cost_usd"].to_pylist()] == ["None", "123.456789017", "None", "None"]
    assert table["status"].to_pylist() == [None, None, None, "failed"]
    assert table["unpriced"].to_pylist() == [None, False, True, None]
    assert table["fact"].null_count == 4
    found = (
        duckdb.connect()
        .execute(f"select date, sum(cost_usd) from '{store.root}/events/*/*.parquet' group by 1")
        .fetchall()
    )
    assert [(str(day), str(usd)) for day, usd in found] == [(DAY, "123.456789017")]


def test_a_fact_belongs_to_the_day_of_its_tasks_submission(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    late = story("late", [Submitted("sync")], at_us=NOON_US - 86_400_000_000)
    publish(client, [entry([*late, *story("today", [Submitted("sync")])])])
    done = ingest.drain(client, store, quarantine)
    assert done.days == ("2025-12-31", "2026-01-01")
    assert store.list("events") == ("date=2025-12-31", "date=2026-01-01")


BAD_FACTS = [
    b"",
    b"\xc1",
    msgpack.packb([1, 99, "of a later kind"]),
    msgpack.packb([1, 2, "an attempt of one field"]),
    msgpack.packb([1, 0, {"mode": "sync"}]),
    msgpack.packb([1, 2, *["x"] * 10]),
    encode_fact(attempted("t-1", cost_nano=10**17)),
    encode_fact(attempted("t-1", input_tokens="many")),
    encode_fact(attempted("t-1", settled=1)),
]


@pytest.mark.parametrize("bad", BAD_FACTS, ids=range(len(BAD_FACTS)))
def test_a_bad_fact_is_set_aside_and_its_neighbours_pass(
    bad: bytes,
    client: redis.Redis,
    store: LocalStore,
    quarantine: LocalStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = [
        ["acme/a", NOON_US, 1, encode_fact(Submitted("sync"))],
        ["acme/b", NOON_US, 1, encode_fact(Submitted("sync"))],
    ]
    whole = msgpack.packb([NOON_US, [good[0], ["acme/x", NOON_US, 1, bad], good[1]]])
    publish(client, [whole])
    with caplog.at_level(logging.WARNING):
        done = ingest.drain(client, store, quarantine)
    assert (done.events, done.flaws) == (2, 1)
    assert [row[1] for row in events_of(store)] == ["a", "b"]
    [name] = quarantine.list(".")
    assert quarantine.read(name) == whole
    assert name.removesuffix(".msgpack") in caplog.text
    assert client.xlen(EVENTS) == 0


@pytest.mark.parametrize(
    "bad",
    [b"", b"junk", msgpack.packb([1]), msgpack.packb(7), msgpack.packb(["x", []]), msgpack.packb([1, 5])],
)
def test_a_bad_entry_is_set_aside_whole(
    bad: bytes, client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    publish(client, [bad, entry(story("t", [Submitted("sync")]))])
    client.xadd(EVENTS, {"other": "field"})
    done = ingest.drain(client, store, quarantine)
    assert (done.events, done.flaws) == (1, 2)
    assert bad in [quarantine.read(name) for name in quarantine.list(".")]
    assert client.xlen(EVENTS) == 0


@pytest.mark.parametrize("packed", [entry, grouped_entry])
def test_mutated_bytes_never_stop_the_ingest(
    packed: Callable[[list[Event]], bytes], client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    chance = random.Random(4)
    entries = []
    for one in day_of_stories(500):
        mutated = bytearray(packed(one))
        for _ in range(chance.randrange(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        entries.append(bytes(mutated))
    publish(client, entries)
    done = ingest.drain_all(client, store, quarantine)
    assert done.entries == 500
    assert done.flaws > 100
    assert client.xlen(EVENTS) == 0


def test_two_writers_never_write_at_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    publish(client, map(entry, day_of_stories(5)))
    client.set(ingest.LOCK, "somebody else", px=60_000)
    assert ingest.drain(client, store, quarantine) == ingest.Ingested(busy=True)
    assert client.xlen(EVENTS) == 5
    assert client.get(ingest.LOCK) == b"somebody else"


def test_draining_all_waits_for_its_turn(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    publish(client, map(entry, day_of_stories(5)))
    client.set(ingest.LOCK, "somebody else", px=300)
    assert ingest.drain_all(client, store, quarantine, patience_s=0.1).busy
    done = ingest.drain_all(client, store, quarantine, patience_s=10)
    assert (done.entries, done.busy) == (5, False)


def test_draining_all_ends_while_producers_go_on(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = day_of_stories(10)
    publish(client, map(entry, stories[:5]))

    class Busy(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            publish(client, [entry(story("new", [Submitted("sync")]))])
            return super().put(path, data, over=over)

    home.enter(client, store)
    done = ingest.drain_all(client, Busy(store.root), quarantine)
    assert (done.entries, done.parts, client.xlen(EVENTS)) == (5, 1, 1)
    assert events_of(store) == expected(stories[:5])


def late_stories(tasks: int, seed: int = 8) -> list[list[Event]]:
    """Tasks of nine days before DAY, all of whose facts were written on it."""
    made = day_of_stories(tasks, seed, at_us=NOON_US - 9 * ledger.US_PER_DAY)
    return [[replace(event, at_us=event.at_us + 9 * ledger.US_PER_DAY) for event in one] for one in made]


def test_facts_of_days_that_are_over_wait_to_be_written_together(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    fresh, late = day_of_stories(20), late_stories(30)
    publish(client, [entry(one) for pair in zip(fresh, late[:20], strict=True) for one in pair])
    done = ingest.drain(client, store, quarantine)
    assert (done.entries, done.late, done.days) == (20, 20, (DAY,))
    assert (client.xlen(EVENTS), client.xlen(LATE)) == (0, 20)
    assert events_of(store) == expected(fresh)
    publish(client, map(grouped_entry, late[20:]))
    done = ingest.drain_all(client, store, quarantine)
    assert (done.entries, done.late, done.parts) == (30, 10, 1)
    assert (client.xlen(EVENTS), client.xlen(LATE)) == (0, 0)
    assert events_of(store) == expected([*fresh, *late])


@pytest.mark.parametrize(
    ("days", "held"), [((9, 9), 1), ((2, 2), 1), ((9, 1), 0), ((1, 9), 0), ((1, 1), 0), ((0, 0), 0)]
)
def test_an_entry_waits_where_all_its_facts_are_of_before_yesterday(
    days: tuple[int, int], held: int, client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    midnight_us = ledger.midnight_us(DAY)
    events = [
        Event(
            "acme", f"t{back}", number, midnight_us, midnight_us - (back - 1) * ledger.US_PER_DAY - 1, Rated()
        )
        for number, back in enumerate(days, 1)
    ]
    publish(client, [entry(events)])
    assert ingest.drain(client, store, quarantine).late == held
    ingest.drain_all(client, store, quarantine)
    assert events_of(store) == expected([events])


def test_no_more_wait_than_one_step_of_redis_takes_over(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MOST_LATE", 7)
    stories = late_stories(20)
    publish(client, map(entry, stories))
    done = ingest.drain(client, store, quarantine)
    assert (done.entries, done.late) == (13, 7)
    ingest.drain_all(client, store, quarantine)
    assert events_of(store) == expected(stories)


def test_of_large_facts_fewer_are_written_at_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as their bytes allow, however many events a batch may have; and what a crash left is the same batch."""
    monkeypatch.setattr(ingest, "BATCH_BYTES", 10_000)
    stories = [story(f"t{number}", [Rated(True, None, "x" * 2_000)]) for number in range(12)]
    publish(client, map(entry, stories))

    class Full(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            raise LedgerError("full", mend="make room")

    with pytest.raises(LedgerError):
        ingest.drain(client, Full(store.root), quarantine)
    done = [ingest.drain(client, store, quarantine).events for _ in range(3)]
    assert done == [5, 5, 2]
    assert events_of(store) == expected(stories)


def test_a_crash_loses_nothing_of_what_waits_and_writes_it_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    class Dying(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            super().put(path, data, over=over)
            raise KeyboardInterrupt

    fresh, late = day_of_stories(5), late_stories(5)
    publish(client, map(entry, [*fresh, *late]))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ingest.drain_all(client, Dying(store.root), quarantine)
    ingest.drain(client, store, quarantine)
    assert client.xlen(LATE) == 5
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ingest.drain_all(client, Dying(store.root), quarantine)
    publish(client, [entry(one) for one in late_stories(1, 9)])
    ingest.drain_all(client, store, quarantine)
    assert events_of(store) == expected([*fresh, *late, *late_stories(1, 9)])
    assert not client.exists(ingest.BATCH, f"{ingest.BATCH}-late")
    assert client.xlen(EVENTS) == client.xlen(LATE) == 0


def test_what_waited_has_files_of_its_own(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """Two streams may give the same ids."""
    fresh, late = day_of_stories(1), day_of_stories(2)[1:]
    for stream, one in ((EVENTS, fresh), (LATE, late)):
        client.xadd(stream, {"b": entry(one[0])}, id="5-0")
        client.xadd(stream, {"b": b"nonsense"}, id="5-1")
    assert ingest.drain_all(client, store, quarantine).flaws == 2
    assert events_of(store) == expected([*fresh, *late])
    assert len(list(quarantine.root.iterdir())) == 2 + 1  # and the folder of drafts


def test_what_an_earlier_version_could_not_read_is_given_back_and_counts_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, tmp_path: Path
) -> None:
    stories = day_of_stories(20)
    publish(client, map(entry, stories[:10]))
    ingest.drain_all(client, store, quarantine)
    for number, one in enumerate(stories[5:]):
        quarantine.put(f"7-{number}.msgpack", entry(one))
    quarantine.put("8-0.msgpack", b"nonsense")
    quarantine.put("8-1.msgpack", entry(stories[0]) + b"more")
    assert ingest.drain_all(client, store, quarantine).flaws == 0
    assert aside.entries(quarantine) == ["8-0.msgpack", "8-1.msgpack"]
    assert set(events_of(store)) == set(expected(stories))
    once = LocalStore(tmp_path / "once")
    publish(client, map(entry, stories))
    ingest.drain_all(client, once, quarantine)
    for place in (store, once):
        rollup.rollup(place, DAY)
    for name in rollup.PUBLISHED:
        path = f"{ledger.partition(name, DAY)}/{name}.parquet"
        assert store.read(path) == once.read(path)


def test_what_is_given_back_is_never_in_the_stream_all_at_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = day_of_stories(20)
    entries = [entry(one) for one in stories]
    for number, one in enumerate(entries):
        quarantine.put(f"7-{number}.msgpack", one)
    monkeypatch.setattr(ingest, "BATCH_BYTES", sum(map(len, entries)) // 4)
    waited: list[Any] = []

    class Watched(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            waited.append(client.xlen(EVENTS))
            return super().put(path, data, over=over)

    ingest.drain_all(client, Watched(store.root), quarantine)
    assert max(waited) < 10
    assert aside.entries(quarantine) == []
    assert events_of(store) == expected(stories)


@pytest.mark.parametrize("unreadable", [True, False])
def test_what_was_set_aside_and_cannot_be_read_or_removed_holds_up_nothing_and_is_not_given_back(
    unreadable: bool,
    client: redis.Redis,
    store: LocalStore,
    quarantine: LocalStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stories = day_of_stories(20)
    quarantine.root.mkdir()
    one = quarantine.root / "7-0.msgpack"
    if unreadable:
        one.symlink_to(one)
    else:
        one.write_bytes(entry(stories[0]))
        (quarantine.root / ".tmp").write_text("so that nothing can be written beside it")
    publish(client, map(entry, stories[1:]))
    assert ingest.drain_all(client, store, quarantine).entries == 19
    assert aside.entries(quarantine) == ["7-0.msgpack"]
    assert events_of(store) == expected(stories[1:])
    assert "stays there" in caplog.text


def test_what_waits_is_due_once_an_hour(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    settings = Settings()
    now_ms = client.time()[0] * 1000
    for age_s, due in ((3590, False), (3610, True)):
        client.delete(LATE)
        client.xadd(LATE, {"b": entry(late_stories(1)[0])}, id=f"{now_ms - age_s * 1000}-0")
        assert ingest.due(client, settings, key=LATE) is due
    Accounting(settings, broker_store.Store(client, settings.fleet), store, quarantine).ingest()
    assert events_of(store) == expected(late_stories(1))


def test_a_boundary_whose_entries_redis_lost_is_done_with(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    client.set(ingest.BATCH, "1-0 2-0 2")
    assert ingest.due(client, Settings())
    assert ingest.drain(client, store, quarantine) == ingest.Ingested()
    assert not ingest.due(client, Settings())


def test_a_writer_that_slept_through_its_lock_harms_nobody(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = day_of_stories(30)
    publish(client, map(entry, stories))

    class Overtaken(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            client.delete(ingest.LOCK)
            ingest.drain(client, store, quarantine)
            publish(client, [entry(story("new", [Submitted("sync")]))])
            return super().put(path, data, over=over)

    done = ingest.drain(client, Overtaken(store.root), quarantine)
    assert done.busy
    assert events_of(store) == expected(stories)
    assert client.xlen(EVENTS) == 1


class SlowReader(redis.Redis):
    def xrange(self, *args: Any, **named: Any) -> Any:
        time.sleep(0.1)
        return super().xrange(*args, **named)


class SlowStore(LocalStore):
    def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
        time.sleep(0.1)
        return super().put(path, data, over=over)


def test_a_batch_that_takes_longer_than_the_lock_keeps_it(
    server: Embedded,
    client: redis.Redis,
    store: LocalStore,
    quarantine: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read in pages, set aside and written in parts: each step is shorter than the lock, all of them are longer."""
    monkeypatch.setattr(ingest, "PAGE", 10)
    monkeypatch.setattr(ingest, "LOCK_MS", 400)
    stories = [*day_of_stories(50), *day_of_stories(50, 8, at_us=NOON_US + 86_400_000_000)]
    publish(client, map(entry, stories))
    publish(client, [b"x", b"y", b"z", b"no", b"entries", b"these"])
    slow = SlowReader.from_url(server.url)
    done = ingest.drain(slow, SlowStore(store.root), SlowStore(quarantine.root))
    slow.close()
    assert (done.busy, done.entries, done.flaws, done.parts) == (False, 106, 6, 2)
    assert events_of(store) == expected(stories)
    assert client.xlen(EVENTS) == client.exists(ingest.LOCK, ingest.BATCH) == 0


def test_how_long_a_killed_writer_still_holds_the_ledger(
    client: redis.Redis,
) -> None:
    assert ingest.held_s(client) == 0
    client.set(ingest.LOCK, "somebody who was killed", px=5000)
    assert 4 < ingest.held_s(client) <= 5


@pytest.mark.parametrize("lease_s", [0.5, 600])
def test_whoever_takes_facts_off_the_stream_holds_the_lock_for_half_a_minute_after_each_step(
    lease_s: float, client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    held: list[float] = []

    class Watched(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            if path.startswith("events/"):
                held.append(ingest.held_s(client))
            return super().put(path, data, over=over)

    settings = Settings.model_validate({"fleet": {"lease_s": lease_s, "ingest_flush_events": 1}})
    publish(client, map(entry, day_of_stories(3)))
    accounting = Accounting(
        settings, broker_store.Store(client, settings.fleet), Watched(store.root), quarantine
    )
    accounting.ingest()
    assert len(held) == 3
    publish(client, map(entry, day_of_stories(2, 9)))
    nightly.run(client, Watched(store.root), quarantine, settings)
    assert len(held) == 5
    assert all(29 < one <= 30 for one in held)


def test_a_boundary_whose_entries_redis_lost_is_drawn_anew(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = day_of_stories(10)
    publish(client, map(entry, stories))
    client.set(ingest.BATCH, "1-0 2-0 7")
    ingest.drain(client, store, quarantine)
    assert events_of(store) == expected(stories)


def test_ingest_makes_room_in_a_full_redis(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = day_of_stories(300)
    publish(client, map(entry, stories))
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("anything", "x")
    ingest.drain_all(client, store, quarantine, limit=400)
    client.config_set("maxmemory", 0)
    assert events_of(store) == expected(stories)
    assert client.xlen(EVENTS) == 0
    assert client.hkeys(ingest.DIRTY) == [DAY.encode()]


def test_a_ledger_that_cannot_be_written_keeps_the_stream(
    client: redis.Redis, tmp_path: Path, quarantine: LocalStore
) -> None:
    (tmp_path / "file").write_text("")
    stories = day_of_stories(10)
    publish(client, map(entry, stories))
    with pytest.raises(LedgerError, match="cannot lock"):
        ingest.drain(client, LocalStore(tmp_path / "file"), quarantine)
    assert client.xlen(EVENTS) == 10
    store = LocalStore(tmp_path / "ledger")
    ingest.drain(client, store, quarantine)
    assert events_of(store) == expected(stories)


def test_a_part_is_due_by_number_by_age_and_after_a_crash(client: redis.Redis) -> None:
    settings = Settings.model_validate({"fleet": {"ingest_flush_events": 3, "ingest_flush_s": 3600}})
    assert not ingest.due(client, settings)
    publish(client, [b"x", b"y"])
    assert not ingest.due(client, settings)
    publish(client, [b"z"])
    assert ingest.due(client, settings)
    client.delete(EVENTS)
    client.xadd(EVENTS, {"b": b"old"}, id="1-1")
    assert ingest.due(client, settings)
    client.delete(EVENTS)
    client.set(ingest.BATCH, "1-1 1-1 1")
    assert ingest.due(client, settings)


def test_a_part_is_due_by_when_its_facts_came_in_though_ids_be_ahead_of_a_clock_that_was_set_back(
    client: redis.Redis,
) -> None:
    settings = Settings.model_validate({"fleet": {"ingest_flush_s": 60}})
    seconds: Any = client.time()
    now_s = seconds[0]

    def written(at_s: int) -> bool:
        client.delete(EVENTS)
        at_us = at_s * 1_000_000
        said = replace(story("t", [Submitted("sync")])[0], at_us=at_us)
        client.xadd(EVENTS, {"b": entry([said])}, id=f"{(now_s + 25_200) * 1000}-0")
        return ingest.due(client, settings)

    assert not written(now_s)
    assert written(now_s - 60)
    assert written(now_s + 25_200)  # before the clock was set back


def test_money_columns_survive_the_way_there_and_back() -> None:
    amounts = [0, 1, -1, 999_999_999_999_999_999, None, -999_999_999_999_999_999]
    column = schema.table(pa.schema([("usd", schema.MONEY)]), [(n,) for n in amounts])["usd"]
    assert schema.nanos(column).tolist() == [n or 0 for n in amounts]
    assert schema.nanos(column.slice(3)).tolist() == [n or 0 for n in amounts[3:]]
    assert str(column[3]) == "999999999.999999999"
    assert column[4].as_py() is None
    with pytest.raises(OverflowError):
        schema.table(pa.schema([("usd", schema.MONEY)]), [(10**18,)])
