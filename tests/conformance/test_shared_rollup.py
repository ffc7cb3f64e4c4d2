"""A day that several nodes fold has the bytes of one that was folded alone, whoever dies on the way."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.files import ledger, parts
from accounting.files.ledger import Data, LocalStore, Store
from accounting.intake import ingest
from accounting.rollup import fold, rollup, shared_rollup
from accounting.rollup.offers import CLOSED, IN_HAND, OFFERS, TRIES, Offers
from accounting.rollup.rollup import Progress
from accounting.rollup.shared_rollup import FOLDER, Helper
from broker.embedded import Embedded, start, stop
from broker.errors import LedgerError
from tests.accounting.folding import lots_of
from tests.accounting.stories import DAY, day_of_stories, entry, publish
from tests.children import child
from tests.conformance.places import Place

LEASE_S = 1.0
ROWS, SPANS = 80, 16  # facts a slice, and what that makes of the day
NODE = """
import sys, time
import redis
from accounting.rollup import rollup
from accounting.files.ledger import open_store
from accounting.rollup.offers import Offers
from accounting.rollup.shared_rollup import Helper
from broker.settings import load

url, rows = sys.argv[1:]
store = open_store(load())
store.lease_s = 1.0  # of a lock that is an object
offers = Offers(redis.Redis.from_url(url), 1.0)

def stand(what):
    print(what, flush=True)
    sys.stdin.readline()
"""
#: Takes a span and stands still before its rows are in the ledger.
STANDS = (
    NODE
    + """
put = store.put
def standing(path, data, *, over=None):
    stand("folded")
    return put(path, data, over=over)
store.put = standing
helper = Helper(offers, store)
while True:
    helper.round()
    time.sleep(0.01)
"""
)
HELPS = (
    NODE
    + """
helper = Helper(offers, store)
print("up", flush=True)
while True:
    helper.round()
    time.sleep(0.01)
"""
)
#: Rolls the day and stands still after its first span.
COORDINATES = (
    NODE
    + """
rollup.rollup(store, "2026-01-01", offers=offers, slice_rows=int(rows), tell=lambda now: stand("added"))
"""
)
ROLLS = (
    NODE
    + """
for _ in range(3):
    rollup.rollup(store, "2026-01-01", offers=offers, slice_rows=int(rows))
"""
)


@pytest.fixture
def filled(place: Place, client: redis.Redis, tmp_path: Path) -> Place:
    fill(client, place.store(), tmp_path)
    return place


def fill(client: redis.Redis, store: Store, folder: Path) -> None:
    """A day of parts with as many stripes as it has spans, and of a last one with fewer."""
    publish(client, map(entry, day_of_stories(150)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "STRIPE_ROWS", 200 // SPANS)
        patch.setattr(parts, "MOST_STRIPES", SPANS)
        ingest.drain_all(client, store, LocalStore(folder / "quarantine"), limit=200)
    assert len({part.width for part in parts.of_day(store, DAY)}) == 2


def process(script: str, place: Place, server: Embedded) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return child(script, server.url, str(ROWS), env=place.environment())


def says(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def spans_of(client: redis.Redis) -> str:
    """Where Redis has the spans of the only offer."""
    offers: Any = client.zrange(OFFERS, 0, -1)
    [offer] = offers
    return f"laneway:rollup:{offer.decode()}"


def after_the_first(deed: Callable[[], None]) -> Callable[[Progress], None]:
    return lambda now: deed() if now.done == 1 else None


def published(place: Place) -> dict[str, bytes]:
    return {path: data for path, data in place.files().items() if path.split("/")[0] in rollup.PUBLISHED}


def alone(place: Place) -> dict[str, bytes]:
    """What one machine makes of the day; the ledger is as before."""
    store = place.store()
    rollup.rollup(store, DAY, slice_rows=ROWS)
    files = published(place)
    assert len(files) == 3
    for path in files:
        store.put(path, b"to be made again")
    return files


def nothing_is_left(place: Place, client: redis.Redis) -> bool:
    return not [path for path in place.files() if path.startswith(f"{FOLDER}/")] and not client.keys(
        "laneway:rollup*"
    )


def together(place: Place, client: redis.Redis, **said: Any) -> tuple[list[Progress], dict[str, bytes]]:
    """The day rolled by this process as the coordinator: what it told, and the files."""
    told: list[Progress] = []
    tell = said.pop("tell", lambda _: None)

    def both(now: Progress) -> None:
        told.append(now)
        tell(now)

    offers = said.pop("offers", None) or Offers(client, LEASE_S)
    rollup.rollup(place.store(), DAY, offers=offers, tell=both, slice_rows=ROWS, **said)
    return told, published(place)


def test_a_day_that_two_nodes_fold_has_the_same_bytes(
    filled: Place, client: redis.Redis, server: Embedded
) -> None:
    whole = alone(filled)

    def until_all_are_done() -> None:
        while client.zcard(OFFERS):
            client.blpop(["laneway:never"], timeout=0.05)

    with process(HELPS, filled, server) as node:
        assert says(node) == b"up"
        told, files = together(filled, client, tell=after_the_first(until_all_are_done))
    assert files == whole
    assert [(now.done, now.spans) for now in told] == [(n, SPANS) for n in range(1, SPANS + 1)]
    assert told[-1].nodes == 2
    assert nothing_is_left(filled, client)


def test_a_coordinator_alone_ends_and_puts_no_rows_by_the_way(filled: Place, client: redis.Redis) -> None:
    whole = alone(filled)
    seen: set[str] = set()
    told, files = together(filled, client, tell=lambda _: seen.update(filled.files()))
    assert files == whole
    assert {now.nodes for now in told} == {1}
    assert [path for path in seen if path.endswith(".arrow")] == []
    assert nothing_is_left(filled, client)


def test_a_small_day_asks_nobody(filled: Place) -> None:
    nowhere = Offers(redis.Redis.from_url("redis://127.0.0.1:1/0"), LEASE_S)
    told: list[Progress] = []
    rollup.rollup(filled.store(), DAY, offers=nowhere, tell=told.append)
    assert told == [Progress(DAY, 1, 1, 1)]


def test_a_span_whose_node_was_killed_is_folded_by_another(
    filled: Place, client: redis.Redis, server: Embedded
) -> None:
    whole = alone(filled)
    tries: list[dict[bytes, bytes]] = []
    with process(STANDS, filled, server) as node:

        def tell(now: Progress) -> None:
            if now.done == 1:
                assert says(node) == b"folded"
                node.send_signal(signal.SIGKILL)
                node.wait()
            [offer] = {name.partition(".")[0] for name in filled.store().list(FOLDER)}
            found: Any = client.hgetall(f"laneway:rollup:{offer}:tries")
            tries.append(found)

        told, files = together(filled, client, tell=tell)
    assert files == whole
    assert sorted(map(int, tries[-1].values())) == [1] * (SPANS - 1) + [2]
    assert told[-1].nodes == 1


def test_a_coordinator_that_was_killed_leaves_nothing_that_the_next_one_does_not_remove(
    filled: Place, client: redis.Redis, server: Embedded
) -> None:
    whole = alone(filled)
    with process(COORDINATES, filled, server) as dead:
        assert says(dead) == b"added"
        old = spans_of(client)
        helper = Helper(Offers(client, LEASE_S), filled.store())
        assert helper.round() == SPANS - 1
        dead.send_signal(signal.SIGKILL)
        dead.wait()
    assert len([path for path in filled.files() if path.startswith(f"{FOLDER}/")]) == SPANS
    assert published(filled) == dict.fromkeys(whole, b"to be made again")
    _, files = together(filled, client)
    assert files == whole
    assert not client.exists(old, f"{old}:tries", f"{old}:done")
    assert nothing_is_left(filled, client)


def test_nodes_leave_a_dead_coordinators_day_after_its_lease(
    filled: Place, client: redis.Redis, server: Embedded
) -> None:
    with process(COORDINATES, filled, server) as dead:
        assert says(dead) == b"added"
        dead.send_signal(signal.SIGKILL)
        dead.wait()
    offers = Offers(client, LEASE_S)
    assert len(offers.there()) == 1
    client.blpop(["laneway:never"], timeout=2 * LEASE_S)  # its own clock is what the lease runs by
    assert offers.there() == ()


def test_two_coordinators_of_one_day_and_nodes_that_help_them_make_the_same_bytes(
    filled: Place, client: redis.Redis, server: Embedded
) -> None:
    whole = alone(filled)
    with (
        process(ROLLS, filled, server) as one,
        process(ROLLS, filled, server) as other,
        process(HELPS, filled, server),
    ):
        assert [child.wait(120) for child in (one, other)] == [0, 0]
    assert published(filled) == whole
    assert nothing_is_left(filled, client)


def test_a_coordinator_whose_offer_another_cleared_away_ends_alone(
    filled: Place, client: redis.Redis
) -> None:
    """As one does that slept through its lock."""
    whole = alone(filled)
    helper = Helper(Offers(client, LEASE_S), filled.store())

    def cleared() -> None:
        assert helper.round() == SPANS - 1
        shared_rollup.clear(filled.store(), Offers(client, LEASE_S))

    _, files = together(filled, client, tell=after_the_first(cleared))
    assert files == whole
    assert nothing_is_left(filled, client)


def turned(data: Data, chance: random.Random) -> bytes:
    """With one bit that is another."""
    made = bytearray(data)
    made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def test_rows_that_are_lost_or_cannot_be_read_are_folded_again(filled: Place, client: redis.Redis) -> None:
    whole = alone(filled)
    helper = Helper(Offers(client, LEASE_S), filled.store())

    def damaged() -> None:
        assert helper.round() == SPANS - 1
        rows = {path: data for path, data in filled.files().items() if path.endswith(".arrow")}
        assert len(rows) == SPANS - 1
        for path, data in rows.items():
            filled.store().put(path, b"no rows" if path.endswith(".7.arrow") else turned(data, chance))

    chance = random.Random(3)

    _, files = together(filled, client, tell=after_the_first(damaged))
    assert files == whole


def test_a_redis_that_dies_on_the_way_takes_no_rollup_along(filled: Place, tmp_path: Path) -> None:
    whole = alone(filled)
    server = start(tmp_path / "short-lived")
    try:
        with redis.Redis.from_url(server.url) as client:
            offers = Offers(client, LEASE_S)
            told, files = together(filled, client, offers=offers, tell=after_the_first(lambda: stop(server)))
    finally:
        stop(server)
    assert files == whole
    assert len(told) == SPANS
    assert not [path for path in filled.files() if path.startswith(f"{FOLDER}/")]


def test_a_day_is_rolled_where_redis_is_gone_before_it_is_offered(filled: Place) -> None:
    whole = alone(filled)
    nowhere = Offers(redis.Redis.from_url("redis://127.0.0.1:1/0"), LEASE_S)
    rollup.rollup(filled.store(), DAY, offers=nowhere, slice_rows=ROWS)
    assert published(filled) == whole


def test_a_node_declines_what_is_not_its_own_ledger_as_it_sees_it(
    client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy on another machine; a part that is not the one that was offered; another version of the program."""
    store = LocalStore(tmp_path / "ledger")
    fill(client, store, tmp_path)
    shutil.copytree(store.root, tmp_path / "copy")
    offers = Offers(client, LEASE_S)
    [*_, part] = store.root.glob(f"events/date={DAY}/*")
    was = part.stat().st_mtime_ns

    def tried() -> None:
        assert len(offers.there()) == 1
        assert Helper(offers_of_another, LocalStore(tmp_path / "copy")).round() == 0
        os.utime(part, ns=(1, 1))
        assert Helper(offers_of_another, store).round() == 0
        os.utime(part, ns=(was, was))
        with monkeypatch.context() as patch:
            patch.setattr(shared_rollup, "_FORM", "another")
            assert Helper(offers_of_another, store).round() == 0
        (part.parent / "newer.parquet").write_bytes(part.read_bytes())
        assert Helper(offers_of_another, store).round() > 0

    offers_of_another = Offers(client, LEASE_S)
    rollup.rollup(store, DAY, offers=offers, slice_rows=ROWS, tell=after_the_first(tried))


def test_a_span_that_a_node_cannot_fold_is_anothers_and_so_is_the_rest_of_its_day(
    filled: Place, client: redis.Redis
) -> None:
    whole = alone(filled)

    class Broken(Helper):
        def __init__(self) -> None:
            store = filled.store()
            store.put = self.put  # type: ignore[method-assign]
            super().__init__(Offers(client, LEASE_S), store)

        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            raise LedgerError("no room", mend="make some")

    def tried() -> None:
        for _ in range(TRIES):
            broken = Broken()
            with pytest.raises(LedgerError, match="no room"):
                broken.round()
            assert broken.round() == 0
        whole_helper = Helper(Offers(client, LEASE_S), filled.store())
        assert (
            whole_helper.round() == SPANS - 1
        )  # the two spans that failed were tried least of all but once more

    _, files = together(filled, client, tell=after_the_first(tried))
    assert files == whole


def test_a_damaged_part_is_told_by_the_coordinator_with_its_mend(
    client: redis.Redis, tmp_path: Path, server: Embedded
) -> None:
    store = LocalStore(tmp_path / "ledger")
    fill(client, store, tmp_path)
    part = min(store.root.glob(f"events/date={DAY}/*"))
    data = bytearray(part.read_bytes())
    data[4:400] = bytes(396)  # of the columns, not of the footer
    part.write_bytes(data)
    seen: list[str] = []

    class Told(Offers):
        def make(self, offer: str, spans: int) -> None:
            super().make(offer, spans)
            with pytest.raises(LedgerError, match="damaged"):
                Helper(Offers(client, LEASE_S), store).round()
            seen.append(offer)

    with pytest.raises(LedgerError, match=r"\.parquet is damaged") as failed:
        rollup.rollup(store, DAY, offers=Told(client, LEASE_S), slice_rows=ROWS)
    assert "put the file back from a copy" in failed.value.mend
    assert len(seen) == 1
    assert not client.keys("laneway:rollup*")
    assert store.list(FOLDER) == ()


def test_a_node_that_is_to_stop_ends_its_span_and_takes_no_other(client: redis.Redis, tmp_path: Path) -> None:
    stopping = threading.Event()

    class Stops(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            stopping.set()
            return super().put(path, data, over=over)

    store = Stops(tmp_path / "ledger")
    fill(client, store, tmp_path)
    stopping.clear()
    helper = Helper(Offers(client, LEASE_S), store)
    counts: list[int] = []

    def tell(_: Progress) -> None:
        stopping.clear()
        counts.append(helper.round(stopping))

    rollup.rollup(store, DAY, offers=Offers(client, LEASE_S), slice_rows=ROWS, tell=tell)
    assert counts[0] == 1
    assert set(counts) == {0, 1}


def test_a_full_redis_shares_a_day_all_the_same(client: redis.Redis, filled: Place) -> None:
    whole = alone(filled)
    helper = Helper(Offers(client, LEASE_S), filled.store())
    client.config_set("maxmemory", 1)
    counts: list[int] = []
    _, files = together(filled, client, tell=after_the_first(lambda: counts.append(helper.round())))
    client.config_set("maxmemory", 0)
    assert files == whole
    assert counts == [SPANS - 1]


def test_spans_are_taken_by_who_tried_them_least_and_given_up_after_some_tries(client: redis.Redis) -> None:
    offers = Offers(client, LEASE_S)
    offers.make("one", 3)
    assert offers.there() == ("one",)
    assert offers.take("one") == 0
    assert offers.back("one", 0)
    assert [offers.take("one") for _ in range(4)] == [1, 2, 0, IN_HAND]
    assert offers.back("one", 0)
    assert offers.take("one") == IN_HAND  # tried twice
    assert offers.take("one", as_coordinator=True) == 0
    for span in range(3):
        offers.done("one", span)
        offers.done("one", span)
    assert offers.heard("one") == [(span, offers.node) for span in range(3)]
    assert offers.take("one", as_coordinator=True) == CLOSED
    assert offers.there() == ()
    assert not offers.back("one", 0)
    offers.withdraw("one")
    assert not client.keys("laneway:rollup*")


def test_a_node_goes_on_next_to_where_it_is_and_begins_far_from_the_others(client: redis.Redis) -> None:
    offers = Offers(client, LEASE_S)
    offers.make("one", 16)
    assert [offers.take("one", span, as_coordinator=True) for span in (0, 1)] == [0, 1]
    assert offers.take("one") == 15
    assert offers.take("one", 15) == 14
    assert offers.take("one") in (7, 8)
    assert offers.take("one", 4) == 4
    assert {offers.take("one", 4) for _ in range(2)} == {3, 5}
    assert {offers.take("one", 2) for _ in range(16)} == {*range(16), IN_HAND} - {0, 1, 15, 14, 7, 4, 3, 5}


def test_what_is_held_stays_in_hand_for_longer_than_its_lease(client: redis.Redis) -> None:
    offers = Offers(client, 0.3)
    offers.make("one", 1)
    assert offers.take("one") == 0
    with offers.held("one"), offers.held("one", 0):
        assert offers.heard("one", 1.0) == []
        assert offers.there() == ("one",)
        assert offers.take("one") == IN_HAND
    assert offers.heard("one", 1.0) == []
    assert offers.take("one", as_coordinator=True) == 0
    assert offers.there() == ()


def test_a_lot_is_the_same_after_its_way_through_the_store(tmp_path: Path, client: redis.Redis) -> None:
    store = LocalStore(tmp_path / "ledger")
    fill(client, store, tmp_path)
    found = parts.of_day(store, DAY)
    for rows in (10**6, 5):
        for lot in map(fold.fold, lots_of(found, rows)):
            again = shared_rollup.decode(shared_rollup.encode(lot))
            assert (again.events, again.cost_nano) == (lot.events, lot.cost_nano)
            for one, other in (
                (again.tasks, lot.tasks),
                (again.attempts, lot.attempts),
                (again.daily, lot.daily),
            ):
                assert one.schema.equals(other.schema, check_metadata=True)
                assert one.equals(other)
    data, chance = shared_rollup.encode(lot), random.Random(5)
    for damaged in (b"", data[:3], data[:-1], data + b"x", *(turned(data, chance) for _ in range(200))):
        with pytest.raises(pa.ArrowInvalid):
            shared_rollup.decode(damaged)


class Unlucky(LocalStore):
    """Of what is folded for others some is lost, some is damaged, and some cannot be written."""

    def __init__(self, root: Path, chance: random.Random, ill: float) -> None:
        super().__init__(root)
        self.chance, self.ill = chance, ill

    def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
        if path.endswith(".arrow") and self.chance.random() < self.ill:
            fate = self.chance.randrange(3)
            if not fate:
                raise LedgerError("no room")
            return fate == 1 and super().put(path, turned(data, self.chance), over=over)
        return super().put(path, data, over=over)


@pytest.mark.parametrize("refused", [".json", ".arrow"])
def test_a_coordinator_that_can_share_nothing_rolls_the_day_alone(
    refused: str, client: redis.Redis, tmp_path: Path
) -> None:
    class Refuses(LocalStore):
        def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
            if path.endswith(refused):
                tried.append(path)
                raise LedgerError("no room")
            return super().put(path, data, over=over)

    class Others(Offers):
        """They have the first span in hand, so that the coordinator folds ahead."""

        def make(self, offer: str, spans: int) -> None:
            super().make(offer, spans)
            self.take(offer)

    tried: list[str] = []
    store = LocalStore(tmp_path / "ledger")
    fill(client, store, tmp_path)
    rollup.rollup(store, DAY)
    whole = [files_of(store, name) for name in rollup.PUBLISHED]
    again = rollup.rollup(Refuses(store.root), DAY, offers=Others(client, LEASE_S), slice_rows=ROWS)
    assert (again.written, again.tasks) == ((), 150)
    assert [files_of(store, name) for name in rollup.PUBLISHED] == whole
    assert len(tried) == 1
    assert store.list(FOLDER) == ()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, server: Embedded) -> tuple[LocalStore, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("day")
    store = LocalStore(folder / "ledger")
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        fill(client, store, folder)
    rollup.rollup(store, DAY)
    return store, {name: files_of(store, name) for name in rollup.PUBLISHED}


def files_of(store: LocalStore, name: str) -> bytes:
    data = store.read(f"{ledger.partition(name, DAY)}/{name}.parquet")
    assert data is not None
    return data


@settings(max_examples=15)
@given(
    nodes=st.integers(0, 4),
    rows=st.sampled_from([20, 90, 190]),
    ill=st.sampled_from([0.0, 0.1, 0.5]),
    waits=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_whoever_folds_what_and_whatever_is_lost_the_bytes_are_the_same(
    day: tuple[LocalStore, dict[str, bytes]],
    server: Embedded,
    nodes: int,
    rows: int,
    ill: float,
    waits: bool,
    seed: int,
) -> None:
    store, whole = day
    over = threading.Event()

    def help_out(number: int) -> None:
        with redis.Redis.from_url(server.url) as client:
            unlucky = Unlucky(store.root, random.Random(seed + number), ill)
            helper = Helper(Offers(client, LEASE_S), unlucky)
            while not over.wait(0.002):
                try:
                    helper.round()
                except LedgerError:
                    continue

    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        for name in rollup.PUBLISHED:
            store.put(f"{ledger.partition(name, DAY)}/{name}.parquet", b"to be made again")
        helpers = [threading.Thread(target=help_out, args=(number,)) for number in range(nodes)]
        for one in helpers:
            one.start()

        def tell(now: Progress) -> None:
            if now.done == 1 and waits:  # so that others fold most of it
                client.blpop(["laneway:never"], timeout=0.2)

        try:
            rollup.rollup(store, DAY, offers=Offers(client, LEASE_S), tell=tell, slice_rows=rows)
        finally:
            over.set()
            for one in helpers:
                one.join()
    assert {name: files_of(store, name) for name in rollup.PUBLISHED} == whole
