"""The whole way from the stream to the report in every place of a ledger, and with writers that die on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from accounting.files import ledger, schema
from accounting.files.ledger import Data, LocalStore, Store
from accounting.intake import home, ingest
from accounting.reports import report
from accounting.rollup import nightly, rollup
from broker.embedded import Embedded
from broker.errors import LedgerChanged
from broker.events import Event, Rated, Submitted, encode_fact
from tests import s3_proxy
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
from tests.conformance.places import Folder, Place, Prefix
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[2]
NEXT_DAY_US = NOON_US + ledger.US_PER_DAY

CHILD = """
import os, signal, sys
from pathlib import Path
import redis
from accounting.intake import home, ingest
from accounting.rollup import rollup
from accounting.files.ledger import LocalStore, open_store
from broker.settings import load

url, aside, step = sys.argv[1:]
client, store, quarantine = redis.Redis.from_url(url), open_store(load()), LocalStore(Path(aside))
store.lease_s = 1.0  # of a lock that is an object
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
WRITER = (
    CHILD
    + """
home.enter(client, store)
put = store.put
def dying(path, data, *, over=None):
    step == "after boundary" and die()
    put(path, data, over=over)
    step == "after a file" and die()
store.put = dying
if step == "before trim":
    ingest._Lock.commit = die
ingest.drain(client, store, quarantine)
"""
)
ROLLER = (
    CHILD
    + """
while True:
    rollup.rollup(store, step)
"""
)
NIGHT = (
    CHILD
    + """
ingest.drain_all(client, store, quarantine, limit=150)
rollup.rollup_dirty(client, store)
"""
)


def child(script: str, place: Place, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, env=os.environ | place.environment()
    )


def fill(
    client: redis.Redis, store: Store, quarantine: Store, stories: Sequence[Sequence[Event]], limit: int = 500
) -> None:
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine, limit=limit)


def in_both_forms(stories: Sequence[Sequence[Event]]) -> list[bytes]:
    return [(entry, grouped_entry)[number % 2](one) for number, one in enumerate(stories)]


def facts(files: dict[str, bytes]) -> list[tuple[object, ...]]:
    return facts_in(
        pq.read_table(BytesIO(data)) for path, data in files.items() if path.startswith("events/")
    )


def expected(stories: Sequence[Sequence[Event]]) -> list[tuple[object, ...]]:
    return sorted((e.workspace, e.task_id, e.seq, encode_fact(e.fact)) for one in stories for e in one)


def published(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path.split("/")[0] in rollup.PUBLISHED}


@pytest.fixture
def quarantine(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "quarantine")


@pytest.fixture
def stories() -> list[list[Event]]:
    return [*day_of_stories(50), *day_of_stories(50, 8, at_us=NEXT_DAY_US)]


def test_a_bucket_has_the_bytes_of_a_folder(
    client: redis.Redis, s3: S3Server, tmp_path: Path, quarantine: LocalStore, stories: list[list[Event]]
) -> None:
    """Facts, tasks, attempts, days; after the first night, after late facts, and in the report."""
    places = Folder(tmp_path / "ledger"), Prefix(s3, tmp_path.name)
    late = [story("late", [Submitted("sync")])]
    for more in (stories, late, []):
        told = []
        for place in places:
            for number, one in enumerate(map(entry, more)):
                client.xadd("laneway:events", {"b": one}, id=f"{len(more)}-{number + 1}")
            night = nightly.run(client, place.store(), quarantine, place.settings)
            told.append(night.rolled)
            client.delete("laneway:events", home.HOME)
        assert told[0] == told[1]
        files = [place.files() for place in places]
        data = [{path: one for path, one in found.items() if not path.startswith(".tmp")} for found in files]
        assert data[0] == data[1]
    assert {path.split("/")[0] for path in data[0]} == {"events", "tasks", "attempts", "daily"}
    made = [report.build(place.store(), since="2026-01-01", until="2026-01-02") for place in places]
    assert made[0] == made[1]
    assert rollup.rollup(places[1].store(), DAY).written == ()


def test_facts_that_go_into_another_ledger_than_those_before_are_told_of(
    client: redis.Redis,
    s3: S3Server,
    tmp_path: Path,
    quarantine: LocalStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    places = Folder(tmp_path / "ledger"), Prefix(s3, tmp_path.name)

    def told(store: Store) -> bool:
        caplog.clear()
        fill(client, store, quarantine, day_of_stories(3))
        assert client.xlen("laneway:events") == 0
        return "went into another ledger" in caplog.text

    one, other = (place.store() for place in places)
    assert [told(store) for store in (one, one, other, one, other, other)] == [
        False, False, True, True, True, False,
    ]  # fmt: skip
    assert home.apart(client, one)
    assert not home.apart(client, other)
    assert told(one)
    (tmp_path / "ledger").rename(tmp_path / "moved")
    assert not told(LocalStore(tmp_path / "moved"))


def test_nodes_that_are_new_to_a_ledger_at_once_agree_on_its_id(
    client: redis.Redis, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    begin = threading.Barrier(6)

    def enter() -> None:
        store = place.store()
        begin.wait()
        home.enter(client, store)

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert "another ledger" not in caplog.text
    assert client.get(home.HOME) == place.files()[ledger.ID]


def test_a_ledger_whose_id_is_empty_gets_one(client: redis.Redis, place: Place) -> None:
    place.store().put(ledger.ID, b"")
    home.enter(client, place.store())
    assert client.get(home.HOME) == place.files()[ledger.ID] != b""


@pytest.mark.parametrize("step", ["after boundary", "after a file", "before trim"])
def test_a_killed_writer_leaves_each_fact_exactly_once(
    step: str,
    place: Place,
    server: Embedded,
    client: redis.Redis,
    quarantine: LocalStore,
    stories: list[list[Event]],
) -> None:
    publish(client, in_both_forms(stories))
    run = child(WRITER, place, server.url, quarantine.root, step)
    assert run.wait(60) == -signal.SIGKILL
    assert client.exists(ingest.BATCH)
    before = {path: data for path, data in place.files().items() if not path.startswith(".tmp")}
    assert len(before) == {"after boundary": 0, "after a file": 1, "before trim": 2}[step]
    more = day_of_stories(20, 9)
    publish(client, map(entry, more))
    client.delete(ingest.LOCK)  # it runs out by itself
    ingest.drain_all(client, place.store(), quarantine)
    after = place.files()
    assert facts(after) == expected([*stories, *more])
    assert {path: after[path] for path in before} == before
    assert client.xlen("laneway:events") == 0


def test_readers_see_the_old_day_or_the_new_day_whole(
    place: Place, server: Embedded, client: redis.Redis, quarantine: LocalStore
) -> None:
    """Two rollups at once, killed and started again and again while facts arrive."""
    store = place.store()
    days = [day_of_stories(40, seed) for seed in range(6)]
    fill(client, store, quarantine, days[0])
    rollup.rollup(store, DAY)
    known = {40}
    with ExitStack() as stack:
        rollers = [stack.enter_context(rolling(place, server)) for _ in range(2)]
        for number, stories in enumerate(days[1:], 2):
            renamed = [
                [replace(event, task_id=f"{number}-{event.task_id}") for event in one] for one in stories
            ]
            fill(client, store, quarantine, renamed)
            known.update(range(40, number * 40 + 1))
            until = time.monotonic() + 0.6
            while time.monotonic() < until:
                assert count(store, ledger.TASKS, schema.TASKS) in known
                assert count(store, ledger.DAILY, schema.DAILY) in known
                assert store.list(f"tasks/date={DAY}") == ("tasks.parquet",)
            rollers.pop(0).kill()
            rollers.append(stack.enter_context(rolling(place, server)))
    assert rollup.rollup(store, DAY).tasks == 240
    assert count(store, ledger.TASKS, schema.TASKS) == 240


@contextmanager
def rolling(place: Place, server: Embedded) -> Iterator[subprocess.Popen[bytes]]:
    process = child(ROLLER, place, server.url, ".", DAY)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def count(store: Store, dataset: str, columns: Any) -> int:
    path = f"{dataset}/date={DAY}/{dataset}.parquet"
    found = ledger.again(lambda: pq.read_table(store.open(path)))
    assert found.schema.equals(columns)
    return found.num_rows if dataset == ledger.TASKS else sum(found["tasks"].to_pylist())


def before_a_put(
    monkeypatch: pytest.MonkeyPatch, store: Store, number: int, deed: Callable[[], object]
) -> list[str]:
    """Has the deed done before the store's put of that number; the list holds the puts that came to nothing."""
    real, puts, lost = store.put, iter(range(1000)), []

    def put(path: str, data: Data, *, over: str | None = None) -> bool:
        if next(puts) == number:
            deed()
        try:
            return real(path, data, over=over)
        except LedgerChanged:
            lost.append(path)
            raise

    monkeypatch.setattr(store, "put", put)
    return lost


@pytest.mark.parametrize("number", range(3))
def test_an_older_view_of_a_day_never_follows_a_newer_one_though_the_lock_be_lost(
    number: int, place: Place, client: redis.Redis, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollup that has read the facts, and put none, one or two of its files, while another one rolls more facts."""
    slow, quick = place.store(), place.store()
    monkeypatch.setattr(slow, "exclusive", lambda _: nullcontext())
    fill(client, slow, quarantine, day_of_stories(40))
    rollup.rollup(quick, DAY)
    fill(client, slow, quarantine, [story("second", [Submitted("sync"), attempted("second-1")])])

    def overtake() -> None:
        fill(client, quick, quarantine, [story("third", [Submitted("sync"), attempted("third-1")])])
        assert rollup.rollup(quick, DAY).tasks == 42
        overtaken.update(published(place.files()))

    overtaken: dict[str, bytes] = {}
    lost = before_a_put(monkeypatch, slow, number, overtake)
    made = rollup.rollup(slow, DAY)
    assert lost == [f"{rollup.PUBLISHED[number]}/date={DAY}/{rollup.PUBLISHED[number]}.parquet"]
    assert (made.tasks, made.written) == (42, ())
    assert published(place.files()) == overtaken


def test_a_day_that_is_again_as_an_older_view_found_it_is_rolled_once_more(
    place: Place, client: redis.Redis, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said meanwhile was taken back: the file has the version that the rollup may replace, which sees the one
    and not the other."""
    slow, quick = place.store(), place.store()
    monkeypatch.setattr(slow, "exclusive", lambda _: nullcontext())
    good, bad, better = (replace(one, seq=seq) for seq, one in enumerate(rated_in_turn(), 2))
    fill(client, slow, quarantine, [[story("t", [Submitted("sync")])[0], good]])
    rollup.rollup_dirty(client, quick)
    expected = published(place.files())
    fill(client, slow, quarantine, [[bad]])

    def overtake() -> None:
        fill(client, quick, quarantine, [[better]])
        [day] = rollup.rollup_dirty(client, quick)
        assert day.written == ()

    before_a_put(monkeypatch, slow, 0, overtake)
    rollup.rollup_dirty(client, slow)
    rollup.rollup_dirty(client, quick)
    assert published(place.files()) == expected
    assert not client.exists(ingest.DIRTY)


def rated_in_turn() -> list[Event]:
    return [story("t", [Rated(ok=ok)])[0] for ok in (True, False, True)]


def test_two_rollups_at_once_without_a_lock_end_with_the_newest_view(
    place: Place, client: redis.Redis, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.store()
    fill(client, store, quarantine, day_of_stories(30))
    stop = threading.Event()

    def roll() -> None:
        mine = place.store()
        monkeypatch.setattr(mine, "exclusive", lambda _: nullcontext())
        while not stop.is_set():
            ledger.again(lambda: rollup.rollup(mine, DAY))

    threads = [threading.Thread(target=roll) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(8):
        fill(client, store, quarantine, [story(f"late-{number}", [Submitted("sync")])])
    stop.set()
    for thread in threads:
        thread.join()
    assert rollup.rollup(store, DAY).tasks == 38
    tables = [pq.read_table(BytesIO(data)) for _, data in sorted(published(place.files()).items())]
    assert [len(set(one["task_id"].to_pylist())) for one in tables if "task_id" in one.schema.names][-1] == 38


@pytest.mark.parametrize(("number", "when"), [(7, "after"), (22, "before"), (36, "after")])
def test_a_night_that_is_killed_at_any_request_to_the_bucket_is_made_up_for(
    number: int,
    when: s3_proxy.When,
    s3: S3Server,
    server: Embedded,
    client: redis.Redis,
    tmp_path: Path,
    quarantine: LocalStore,
) -> None:
    """The process dies as its request comes in, before or after the bucket carries it out."""
    days = [day_of_stories(50), day_of_stories(20, 8, at_us=NEXT_DAY_US)]
    publish(client, in_both_forms([one for day in days for one in day]))
    place = Prefix(s3, f"{tmp_path.name}-{os.urandom(3).hex()}")
    with s3_proxy.before(s3.port) as proxy:
        behind = Prefix(S3Server(proxy.port), place.prefix)
        victim = child(NIGHT, behind, server.url, quarantine.root, "")
        proxy.have(victim.kill, when, skip=number)
        assert victim.wait(60) == -signal.SIGKILL
    client.delete(ingest.LOCK)  # it runs out by itself
    store = place.store()
    ingest.drain_all(client, store, quarantine, limit=150)
    rollup.rollup_dirty(client, store)
    files = place.files()
    assert facts(files) == expected([one for day in days for one in day])
    whole = LocalStore(tmp_path / "whole")
    for path, data in files.items():
        if path.startswith("events/"):
            whole.put(path, data)
    rolled = {
        path: whole.read(path)
        for day in ledger.days(whole, "events")
        for path in rollup.rollup(whole, day).written
    }
    assert published(files) == rolled
