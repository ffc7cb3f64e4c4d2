"""What every place of a ledger promises: one folder of this machine and one bucket, over the same suite."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accounting.files import ledger
from broker.errors import LedgerChanged, LedgerError
from tests.conformance.places import Place

ROOT = Path(__file__).parents[2]


def test_what_was_put_is_there(place: Place) -> None:
    store = place.store()
    path = "tasks/date=2026-01-01/tasks.parquet"
    assert (store.read(path), store.version(path), store.list("tasks"), store.list(".")) == (None, "", (), ())
    with pytest.raises(LedgerError, match=r"cannot open .*tasks\.parquet"):
        store.open(path)
    assert store.put(path, b"one")
    assert place.store().read(path) == b"one"
    assert store.open(path).read() == b"one"
    assert place.files()[path] == b"one"
    assert (store.list("tasks"), store.list(".")) == (("date=2026-01-01",), ("tasks",))
    assert store.list("tasks/date=2026-01-01") == ("tasks.parquet",)
    assert ledger.days(store, "tasks") == ("2026-01-01",)
    assert store.put(path, b"two, and longer")
    assert store.read(path) == b"two, and longer"
    assert place.files()[path] == b"two, and longer"


@pytest.mark.parametrize("name", ["a b", "ü.parquet", "a+b&c=d%20.parquet", "1767268800000-0-17-3.parquet"])
def test_a_name_is_what_it_is(name: str, place: Place) -> None:
    store = place.store()
    store.put(f"events/{name}", b"x")
    assert store.list("events") == (name,)
    assert store.read(f"events/{name}") == b"x"


def test_a_folder_with_many_files_is_listed_whole(place: Place) -> None:
    store = place.store()
    names = tuple(f"{number:04d}" for number in range(1100))  # a page of S3's has a thousand
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(f"events/{name}", b"x"), names))
    assert store.list("events") == names


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 4096, b"x" * 4097, bytes(1_000_000)])
def test_sizes(data: bytes, place: Place) -> None:
    store = place.store()
    assert store.put("a/b", data)
    assert not store.put("a/b", data)
    assert store.read("a/b") == store.open("a/b").read() == data


def test_the_same_bytes_are_not_put_again(place: Place) -> None:
    store = place.store()
    assert store.put("a/b", b"same")
    seen = store.version("a/b")
    assert not store.put("a/b", b"same")
    assert not store.put("a/b", b"same", over=seen)
    assert not store.put("a/b", b"same", over="")
    assert store.version("a/b") == seen
    assert store.put("a/b", b"some")
    assert store.version("a/b") != seen


def test_a_put_over_a_version_never_replaces_another(place: Place) -> None:
    store, other = place.store(), place.store()
    assert store.put("a/b", b"first", over="")
    with pytest.raises(LedgerChanged, match="a/b was replaced"):
        other.put("a/b", b"unaware", over="")
    seen = store.version("a/b")
    assert other.put("a/b", b"second", over=seen)
    with pytest.raises(LedgerChanged, match="a/b was replaced"):
        store.put("a/b", b"third", over=seen)
    with pytest.raises(LedgerChanged, match="c/d was replaced"):
        store.put("c/d", b"never there", over=seen)
    assert store.read("a/b") == b"second"
    assert store.read("c/d") is None


@pytest.mark.parametrize("first", [False, True])
def test_of_many_who_replace_the_same_version_one_wins(first: bool, place: Place) -> None:
    stores = [place.store() for _ in range(6)]
    for turn in range(3):
        path = f"a/{turn}"
        if not first:
            stores[0].put(path, b"before")
        seen = stores[0].version(path)
        ready = threading.Barrier(len(stores))

        def put(number: int, path: str = path, seen: str = seen, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            try:
                return stores[number].put(path, b"by %d" % number, over=seen)
            except LedgerChanged:
                return False

        with ThreadPoolExecutor(len(stores)) as pool:
            won = list(pool.map(put, range(len(stores))))
        assert won.count(True) == 1
        assert stores[0].read(path) == b"by %d" % won.index(True)


def table(number: int) -> bytes:
    """A Parquet file of which every value says which one it is."""
    sink = io.BytesIO()
    rows = 20_000 + number
    columns = {name: np.full(rows, number) + np.arange(rows) * 1000 for name in "abcdefgh"}
    pq.write_table(pa.table(columns), sink, row_group_size=5_000, compression="none", use_dictionary=False)
    return sink.getvalue()


def test_a_reader_has_the_old_file_or_the_new_one_whole(place: Place) -> None:
    """Read in pieces of 64 KiB; the file has a megabyte, and is replaced each time that one has read it."""
    versions = [table(number) for number in range(8)]
    store = place.store()
    store.put("tasks/x", versions[0])
    done, turns = threading.Event(), threading.Semaphore(3)

    def write() -> None:
        other = place.store()
        for version in cycle(versions):
            turns.acquire()
            if done.is_set():
                return
            other.put("tasks/x", version)

    def read(reader: int) -> tuple[int, int]:
        mine, whole, changed = place.store(piece=65_536), 0, 0
        while whole < 20:
            try:
                version = mine.pinned("tasks/x")
                found, other = (pq.ParquetFile(version()).read(columns=[name]) for name in "ah")
            except LedgerChanged:
                changed += 1
                continue
            number = found.num_rows - 20_000
            expected = number + np.arange(found.num_rows) * 1000
            assert (found["a"].to_numpy() == expected).all()
            assert (other["h"].to_numpy() == expected).all()
            whole += 1
            turns.release()
        return whole, changed

    with ThreadPoolExecutor(4) as pool:
        writer = pool.submit(write)
        try:
            readers = [pool.submit(read, number) for number in range(3)]
            assert [one.result()[0] for one in readers] == [20, 20, 20]
        finally:
            done.set()
            turns.release()
        writer.result()


def test_a_large_file_is_read_at_any_place_by_several_threads(place: Place) -> None:
    data = table(3)
    store = place.store(piece=10_000)
    store.put("tasks/x", data)
    assert (
        pq.ParquetFile(store.open("tasks/x")).read(use_threads=True).equals(pq.read_table(io.BytesIO(data)))
    )
    assert pq.read_table(store.open("tasks/x")).equals(pq.read_table(io.BytesIO(data)))
    version = store.pinned("tasks/x")
    meta = pq.read_metadata(version())
    with ThreadPoolExecutor(4) as pool:  # each a row group, of one version
        groups = pool.map(
            lambda group: pq.ParquetFile(version(), metadata=meta).read_row_group(group),
            range(meta.num_row_groups),
        )
        assert pa.concat_tables(groups).equals(pq.read_table(io.BytesIO(data)))
    source = store.open("tasks/x")
    assert source.size() == len(data)
    chance = np.random.default_rng(5)
    for first, length in zip(chance.integers(0, len(data), 50), chance.integers(0, 30_000, 50), strict=True):
        source.seek(int(first))
        assert source.read(int(length)) == data[first : first + length]


def test_nearby_is_the_folder_as_it_was(place: Place) -> None:
    store = place.store()
    parts = {f"part-{number}.parquet": os.urandom(5_000) for number in range(20)}
    for name, data in parts.items():
        store.put(f"events/date=2026-01-01/{name}", data)
    store.put("events/date=2026-01-02/other.parquet", b"of another day")
    with store.nearby("events/date=2026-01-01") as near:
        assert {
            name: near.open(f"events/date=2026-01-01/{name}").read()
            for name in near.list("events/date=2026-01-01")
        } == parts
    with store.nearby("events/date=2026-01-03") as near:
        assert near.list("events/date=2026-01-03") == ()


def test_a_sound_place_passes_its_check_and_nothing_is_left_of_it(place: Place) -> None:
    place.store().check()
    assert place.files() == {}
    place.store().put("tasks/x", b"x")
    place.store().check()
    assert place.files() == {"tasks/x": b"x"}


COUNTER = """
import sys
from pathlib import Path
from accounting.files.ledger import open_store
from broker.settings import load
count = Path(sys.argv[1])
for _ in range(3):
    with open_store(load()).exclusive("rollup"):
        seen = int(count.read_text())
        count.write_text("")
        count.write_text(str(seen + 1))
"""
HOLDER = """
import sys
from accounting.files.ledger import open_store
from broker.settings import load
with open_store(load()).exclusive("rollup"):
    print("held", flush=True)
    sys.stdin.read()
"""


def child(place: Place, script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | place.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_one_process_at_a_time_is_in_an_exclusive_block(place: Place, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    children = [child(place, COUNTER, str(count)) for _ in range(3)]
    assert [one.communicate(timeout=60) and one.returncode for one in children] == [0, 0, 0]
    assert count.read_text() == "9"


def test_a_lock_outlives_its_holder_by_a_lease_at_most(place: Place) -> None:
    holder = child(place, HOLDER)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with place.store().exclusive("rollup"):
        pass
    assert [name for name in place.files() if not name.startswith(".tmp/")] == []


def test_locks_of_other_names_are_other_locks(place: Place) -> None:
    with place.store().exclusive("rollup"), place.store().exclusive("other"):
        pass


def test_versions_tell_all_files_of_a_folder(place: Place) -> None:
    store = place.store()
    assert store.versions("events/x") == {}
    for name in ("one", "two"):
        store.put(f"events/x/{name}", name.encode())
    store.put("events/x/.hidden", b"")
    first = store.versions("events/x")
    assert list(first) == ["one", "two"]
    assert place.store().versions("events/x") == first
    store.put("events/x/two", b"2")
    second = store.versions("events/x")
    assert (second["one"] == first["one"], second["two"] == first["two"]) == (True, False)


def test_a_file_that_is_removed_is_gone_and_no_other(place: Place) -> None:
    store = place.store()
    for path in (".tmp/rollup/a", ".tmp/rollup/ab", "events/x"):
        store.put(path, b"x")
    store.remove(".tmp/rollup/a")
    store.remove(".tmp/rollup/a")
    assert store.list(".tmp/rollup") == ("ab",)
    assert [path for path in place.files() if not path.endswith(".lock")] == [".tmp/rollup/ab", "events/x"]
