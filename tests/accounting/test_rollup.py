"""The nightly files: the same facts give the same bytes, they sum, and no reader sees half a day."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from accounting.files import ledger, schema
from accounting.files.ledger import Data, LocalStore
from accounting.intake import ingest
from accounting.reports import report
from accounting.rollup import daily, rollup
from broker.errors import LedgerError
from broker.events import Event, Fact, Finished, Rated, Submitted
from broker.keys import EVENTS, LATE
from tests.accounting.rolling import query
from tests.accounting.stories import DAY, NOON_US, attempted, day_of_stories, entry, publish, story

ORACLE = """
with facts as (
    select distinct on (workspace, task_id, seq) * from '{events}'
), calls as (
    select distinct on (workspace, task_id, attempt_id) * from facts where kind = 'attempted'
    order by workspace, task_id, attempt_id, seq desc
), money as (
    select * from calls union all select * from facts where kind = 'routed'
)
select workspace, task_id, coalesce(sum(cost_usd), 0), count(*) filter (kind = 'attempted')
from money group by all order by all
"""


def files_of(store: LocalStore, day: str = DAY) -> dict[str, bytes]:
    names = (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY)
    return {name: (store.root / name / f"date={day}" / f"{name}.parquet").read_bytes() for name in names}


def fill(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, stories: Sequence[Sequence[Event]]
) -> None:
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine, limit=500)


@pytest.fixture
def filled(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> LocalStore:
    fill(client, store, quarantine, day_of_stories(300))
    return store


def test_columns_are_those_of_the_contract(filled: LocalStore) -> None:
    rollup.rollup(filled, DAY)
    known = {ledger.TASKS: schema.TASKS, ledger.ATTEMPTS: schema.ATTEMPTS, ledger.DAILY: schema.DAILY}
    for name, columns in known.items():
        part = pq.ParquetFile(filled.root / name / f"date={DAY}" / f"{name}.parquet")
        assert part.schema_arrow.equals(columns)
        physical = {column.name: column.physical_type for column in part.schema}
        assert {kind for column, kind in physical.items() if column.endswith("_usd")} == {"INT64"}
        assert part.metadata.row_group(0).column(0).compression == "ZSTD"


def test_duckdb_finds_the_same_sums_in_the_events(filled: LocalStore) -> None:
    rolled = rollup.rollup(filled, DAY)
    oracle = query(ORACLE.format(events=f"{filled.root}/events/*/*.parquet"))
    ours = query(
        f"select workspace, task_id, cost_usd, attempts from '{filled.root}/tasks/*/*.parquet' order by all"
    )
    assert ours == oracle
    assert len(ours) == 300 == rolled.tasks
    assert Decimal(rolled.cost_nano).scaleb(-9) == sum(row[2] for row in oracle)


def test_tasks_attempts_and_daily_sum_to_the_nano_dollar(filled: LocalStore) -> None:
    rollup.rollup(filled, DAY)
    files = [f"{filled.root}/{name}/*/*.parquet" for name in ("tasks", "attempts", "daily")]
    sums = [query(f"select sum(cost_usd) from '{one}'") for one in files]
    assert sums[0] == sums[1] == sums[2]
    assert sums[0][0][0] > 0
    parts = " + ".join(schema.PARTS)
    for name in ("tasks", "daily"):
        assert query(
            f"select count(*) from '{filled.root}/{name}/*/*.parquet' where cost_usd <> {parts}"
        ) == [(0,)]
    assert query(f"select sum(tasks), sum(successes) from '{filled.root}/daily/*/*.parquet'") == query(
        f"select count(*), count(*) filter (succeeded) from '{filled.root}/tasks/*/*.parquet'"
    )


def test_order_and_repetition_give_the_same_bytes(
    client: redis.Redis, store: LocalStore, tmp_path: Path, quarantine: LocalStore
) -> None:
    events = [event for one in day_of_stories(300) for event in one]
    fill(client, store, quarantine, [[event] for event in events])
    rollup.rollup(store, DAY)
    chance = random.Random(1)
    scattered = [[event] for event in events for _ in range(chance.randint(1, 5))]
    chance.shuffle(scattered)
    other = LocalStore(tmp_path / "other")
    fill(client, other, quarantine, scattered)
    rollup.rollup(other, DAY, slice_rows=700)
    assert files_of(other) == files_of(store)


def test_a_day_in_slices_is_the_day_in_one_piece(filled: LocalStore) -> None:
    rollup.rollup(filled, DAY)
    whole = files_of(filled)
    for rows in (1, 97, 1_000):
        assert rollup.rollup(filled, DAY, slice_rows=rows).written == ()
    assert files_of(filled) == whole


def test_what_happens_after_midnight_re_rolls_the_day_of_submission(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    facts: list[Fact] = [Submitted("sync"), attempted("t-1"), Finished("succeeded", None)]
    fill(client, store, quarantine, [story("t", facts)])
    assert [one.day for one in rollup.rollup_dirty(client, store)] == [DAY]
    assert rollup.rollup_dirty(client, store) == ()
    two_days_later = Event("acme", "t", 4, NOON_US + 2 * 86_400_000_000, NOON_US, Rated(ok=True))
    fill(client, store, quarantine, [[two_days_later]])
    [again] = rollup.rollup_dirty(client, store)
    assert again.day == DAY
    assert [path.split("/")[0] for path in again.written] == ["tasks", "daily"]
    assert query(f"select succeeded from '{store.root}/tasks/*/*.parquet'") == [(True,)]


def test_unchanged_files_are_not_written_again(filled: LocalStore) -> None:
    assert len(rollup.rollup(filled, DAY).written) == 3
    times = [path.stat().st_mtime_ns for path in sorted(filled.root.rglob("*.parquet"))]
    assert rollup.rollup(filled, DAY).written == ()
    assert [path.stat().st_mtime_ns for path in sorted(filled.root.rglob("*.parquet"))] == times


def test_a_day_that_was_touched_meanwhile_stays_dirty(
    client: redis.Redis, filled: LocalStore, quarantine: LocalStore
) -> None:
    class Touched(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            written = super().put(path, data, over=over)
            if path.startswith("tasks"):
                fill(client, filled, quarantine, [story("late", [Submitted("sync")])])
            return written

    rollup.rollup_dirty(client, Touched(filled.root))
    assert client.hkeys(ingest.DIRTY) == [DAY.encode()]
    [again] = rollup.rollup_dirty(client, filled)
    assert again.tasks == 301
    assert not client.exists(ingest.DIRTY)


def test_a_day_that_the_other_stream_touched_meanwhile_under_the_same_id_stays_dirty(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """Each stream gives its own ids: what was read at one entry of the one is not what came with the other's."""

    class Touched(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            if path.startswith("tasks"):
                client.xadd(LATE, {"b": entry(story("late", [Submitted("sync")]))}, id="5-0")
                ingest.drain(client, store, quarantine, key=LATE)
            return super().put(path, data, over=over)

    client.xadd(EVENTS, {"b": entry(story("t", [Submitted("sync")]))}, id="5-0")
    ingest.drain(client, store, quarantine)
    rollup.rollup_dirty(client, Touched(store.root))
    [again] = rollup.rollup_dirty(client, store)
    assert again.tasks == 2


def test_a_day_whose_latest_part_is_not_in_sight_yet_stays_dirty(
    client: redis.Redis, filled: LocalStore, quarantine: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    """As another machine sees a folder that both mount, for as long as it goes by what it has listed before."""

    class Before(LocalStore):
        def list(self, folder: str) -> tuple[str, ...]:
            found = super().list(folder)
            return tuple(name for name in found if folder != f"events/date={DAY}" or name in seen)

    seen = filled.list(f"events/date={DAY}")
    fill(client, filled, quarantine, [story("late", [Submitted("sync")])])
    assert [day.tasks for day in rollup.rollup_dirty(client, Before(filled.root))] == [300]
    assert "see that all nodes have the same fleet.ledger" in caplog.text
    assert [day.tasks for day in rollup.rollup_dirty(client, filled)] == [301]
    assert not client.exists(ingest.DIRTY)


def test_of_a_dirty_day_that_was_dropped_it_is_said_how_to_forget_it(
    client: redis.Redis, filled: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(filled.root / ledger.partition(ledger.EVENTS, DAY))
    rollup.rollup_dirty(client, filled)
    [said] = caplog.text.split("redis-cli ")[1:]
    verb, key, day = said.split()
    assert (verb, client.hdel(key, day)) == ("HDEL", 1)
    assert rollup.rollup_dirty(client, filled) == ()


def test_a_damaged_day_stays_dirty_and_stops_no_other(
    client: redis.Redis, filled: LocalStore, quarantine: LocalStore
) -> None:
    fill(client, filled, quarantine, [story("next", [Submitted("sync")], at_us=NOON_US + 86_400_000_000)])
    victim = next(iter(filled.root.glob(f"events/date={DAY}/*.parquet")))
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(LedgerError, match="damaged"):
        rollup.rollup_dirty(client, filled)
    assert client.hkeys(ingest.DIRTY) == [DAY.encode()]
    assert ledger.days(filled, "tasks") == ("2026-01-02",)


def test_a_day_whose_events_were_removed_keeps_its_nightly_files_and_says_so(
    client: redis.Redis, filled: LocalStore, quarantine: LocalStore
) -> None:
    rollup.rollup_dirty(client, filled)
    before = files_of(filled)
    for part in (filled.root / "events" / f"date={DAY}").iterdir():
        part.unlink()
    fill(client, filled, quarantine, [story("late", [Submitted("sync")])])
    with pytest.raises(
        LedgerError, match=r"tells of 1 tasks and tasks/.* of 300: parts of the former are gone"
    ):
        rollup.rollup_dirty(client, filled)
    assert files_of(filled) == before
    (filled.root / "tasks" / f"date={DAY}" / "tasks.parquet").unlink()
    assert [one.tasks for one in rollup.rollup_dirty(client, filled)] == [1]


def test_a_day_of_absurd_amounts_stays_dirty_and_stops_no_other(
    client: redis.Redis, filled: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, filled, quarantine, [story("next", [Submitted("sync")], at_us=NOON_US + 86_400_000_000)])
    monkeypatch.setattr(daily, "LARGEST", 1)
    with pytest.raises(LedgerError, match="cannot be folded: the facts of some tasks sum to more"):
        rollup.rollup_dirty(client, filled)
    assert client.hkeys(ingest.DIRTY) == [DAY.encode()]
    assert ledger.days(filled, "tasks") == ("2026-01-02",)


def test_absurd_amounts_of_several_slices_do_not_turn_over_into_likely_ones(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """Each task's fits into its row and each slice's into an integer; of both together only 0.6 of 19 was left."""
    calls = [attempted(f"call-{number}", cost_nano=10**16 - 1) for number in range(95)]
    fill(client, store, quarantine, [story(f"task-{number}", calls) for number in range(20)])
    with pytest.raises(
        LedgerError, match=f"{DAY} cannot be rolled: the cost_usd of its tasks sum to what no day"
    ):
        rollup.rollup(store, DAY, slice_rows=400)
    assert not ledger.days(store, "tasks")


def test_an_id_too_long_for_statistics_and_a_stray_file_do_no_harm(
    client: redis.Redis, filled: LocalStore, quarantine: LocalStore
) -> None:
    fill(client, filled, quarantine, [story("x" * 5_000, [Submitted("sync")])])
    (filled.root / "events" / f"date={DAY}" / "notes.txt").write_text("not a part")
    assert rollup.rollup(filled, DAY, slice_rows=500).tasks == 301


@pytest.mark.parametrize(
    "name", ["2026-01-01.bak", "2026-01-01 (copy)", "20260102", "2026-02-30", "2026-W05-1", ""]
)
def test_a_folder_whose_name_is_no_day_is_none_of_the_ledger(name: str, filled: LocalStore) -> None:
    rollup.rollup(filled, DAY)
    before = report.build(filled, since=DAY, until="2026-02-28")
    for dataset in ledger.DATASETS:
        shutil.copytree(filled.root / ledger.partition(dataset, DAY), filled.root / f"{dataset}/date={name}")
    assert report.build(filled, since=DAY, until="2026-02-28") == before
    assert ledger.days(filled, ledger.EVENTS) == (DAY,)


def test_a_day_without_events_has_no_tasks(store: LocalStore) -> None:
    rolled = rollup.rollup(store, DAY)
    assert (rolled.tasks, rolled.written) == (0, ())
    assert ledger.days(store, "tasks") == ()


def test_leftovers_of_killed_writers_are_tidied(store: LocalStore) -> None:
    store.put("events/x", b"1")
    old, new = store.root / ".tmp" / "1-a.draft", store.root / ".tmp" / "2-b.draft"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert store.tidy() == 1
    assert new.exists()
    assert store.list(".") == ("events",)


def test_a_place_that_cannot_be_looked_at_is_told_where_it_is_tidied(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot list"):
        LocalStore(tmp_path / ("x" * 300)).tidy()


def test_a_day_that_another_node_rolled_meanwhile_is_not_rolled_again(
    client: redis.Redis, filled: LocalStore
) -> None:
    """As at night, when all nodes begin at the same time and wait for the lock one after another."""

    class Late(LocalStore):
        def exclusive(self, name: str) -> Any:
            if name == rollup.LOCK:
                others.extend(rollup.rollup_dirty(client, filled))
            return super().exclusive(name)

    others: list[rollup.RolledDay] = []
    assert rollup.rollup_dirty(client, Late(filled.root)) == ()
    assert [day.day for day in others] == [DAY]
