"""The ledger's bucket when the network fails, the store is busy, or is none that can keep a ledger."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accounting.files import bucket, ledger, lock
from accounting.files.ledger import LEFTOVER_S, LocalStore
from accounting.files.s3 import S3Store, open_bucket
from accounting.reports import rows
from broker.errors import ConfigError, LedgerChanged, LedgerError
from broker.settings import parse
from broker.settings.fleet import S3
from tests import s3_proxy
from tests.awaited import eventually
from tests.children import child
from tests.s3_proxy import Kind, Proxy
from tests.s3_server import BUCKET, KMS_KEY, READER, READER_SECRET, S3Server, environment

PART = 5 * bucket.MEGABYTE  # the smallest that S3 takes
LARGE = os.urandom(2 * PART + 4321)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"{tmp_path.name}-{os.urandom(4).hex()}"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with s3_proxy.before(s3.port) as proxy:
        yield proxy


@pytest.fixture
def store(
    s3: S3Server, proxy: Proxy, prefix: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> S3Store:
    if "silent" in request.node.name:  # elsewhere a server that is only slow would be asked twice
        monkeypatch.setattr(bucket, "SILENCE_S", 1.0)
    return s3.store(prefix, port=proxy.port, part=PART, lease_s=1.0)


FAULTS: list[Kind] = ["refused", "half sent", "reply lost", "silent", "busy", "broken", "conflict"]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_put_that_fails_on_the_way_is_done_once(kind: Kind, store: S3Store, proxy: Proxy) -> None:
    """A first put and a later one: neither is told of a conflict that was none, and each is there."""
    proxy.fail(kind, "PUT", "/a/b")
    assert store.put("a/b", b"1" * 5000, over="")
    seen = store.version("a/b")
    proxy.fail(kind, "PUT", "/a/b")
    assert store.put("a/b", b"2" * 5000, over=seen)
    assert store.read("a/b") == b"2" * 5000
    assert [what for method, _, what in proxy.seen if method == "PUT" and what == kind] == [kind, kind]


@pytest.mark.parametrize("kind", ["refused", "reply lost", "reply cut", "silent", "busy", "broken"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_that_fails_on_the_way_is_repeated(
    method: str, kind: Kind, store: S3Store, proxy: Proxy
) -> None:
    data = os.urandom(100_000)
    store.put("a/b", data)
    seen = store.version("a/b")
    proxy.fail(kind, method, BUCKET)
    assert (store.version("a/b"), store.list("a"), store.read("a/b")) == (seen, ("b",), data)
    assert store.open("a/b").read() == data


def test_a_reply_that_was_lost_is_no_conflict_but_another_s_put_after_it_is(
    store: S3Store, proxy: Proxy, s3: S3Server, prefix: str
) -> None:
    other = s3.store(prefix)
    store.put("a/b", b"first")
    seen = store.version("a/b")
    proxy.fail("reply lost", "PUT", "/a/b")
    proxy.have(lambda: other.put("a/b", b"another's"), "before", "PUT", "/a/b")
    with pytest.raises(LedgerChanged):
        store.put("a/b", b"ours", over=seen)
    assert store.read("a/b") == b"another's"


def test_a_put_over_anything_that_others_overtake_is_put_over_theirs(
    store: S3Store, proxy: Proxy, s3: S3Server, prefix: str
) -> None:
    other = s3.store(prefix)
    for number in range(3):
        proxy.have(lambda number=number: other.put("a/b", b"%d" % number), "before", "PUT", "/a/b")  # type: ignore[misc]
    assert store.put("a/b", b"ours")
    assert store.read("a/b") == b"ours"
    assert [what for method, path, what in proxy.seen if method == "PUT"] == ["412", "412", "412", "200"]


def test_what_did_not_change_is_not_put(store: S3Store, proxy: Proxy) -> None:
    store.put("a/b", b"same")
    proxy.seen.clear()
    assert not store.put("a/b", b"same")
    assert {method for method, _, _ in proxy.seen} == {"HEAD", "GET"}
    assert store.put("a/b", b"longer")
    assert proxy.count("GET") == 1  # of another size, so it was not read


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each reading of an object got."""
    found: list[int] = []
    known = bucket.Bucket.get

    def noted(self: bucket.Bucket, *said: Any, **more: Any) -> Any:
        one = known(self, *said, **more)
        found.append(len(one[1]) if one else 0)
        return one

    monkeypatch.setattr(bucket.Bucket, "get", noted)
    return found


def test_a_large_file_that_is_there_is_compared_some_bytes_at_a_time(
    got: list[int], s3: S3Server, prefix: str, proxy: Proxy
) -> None:
    store = s3.store(prefix, port=proxy.port, part=PART)
    store.put("tasks/x", LARGE)
    assert not store.put("tasks/x", LARGE)
    assert got == [PART, PART, 4321]
    got.clear()
    assert store.put("tasks/x", LARGE[::-1])
    assert got == [PART], "what comes after the first difference is not looked at"
    proxy.have(lambda: s3.store(prefix).put("tasks/x", LARGE), "before", "GET", "tasks/x", skip=1)
    assert store.put("tasks/x", LARGE[::-1]), "it was replaced while it was compared"
    assert store.read("tasks/x") == LARGE[::-1]


def test_of_a_large_file_no_more_is_got_than_the_columns_that_are_read(
    s3: S3Server, prefix: str, got: list[int]
) -> None:
    """Two columns of eight, of row groups that are read by several threads, and nothing twice."""
    chance = np.random.default_rng(1)
    table = pa.table({name: chance.integers(0, 2**62, 300_000) for name in "hgfedcba"})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=150_000, compression="none", use_dictionary=False)
    store = s3.store(prefix)
    store.put(f"{ledger.partition(ledger.TASKS, '2026-01-01')}/tasks.parquet", sink.getvalue())
    pieces = rows.pieces(store, ledger.TASKS, ("2026-01-01",), {})
    found = list(rows.each(pieces, ["a", "e"], {}, lambda _, read: read))
    assert pa.concat_tables(found).equals(table.select(["a", "e"]))
    assert len(pieces) == 2
    assert len(got) == 1 + 2 * len(pieces)
    assert sum(got) < 1.1 * 2 * 8 * table.num_rows


def uploads(s3: S3Server, prefix: str) -> list[Any]:
    found: list[Any] = s3.client().list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
    return found


@pytest.mark.parametrize("kind", ["half sent", "reply lost", "busy", "broken"])
@pytest.mark.parametrize("step", ["uploads", "partNumber=2", "uploadId"])
def test_a_large_file_goes_in_parts_and_no_fault_doubles_or_loses_it(
    step: str, kind: Kind, store: S3Store, proxy: Proxy, s3: S3Server, prefix: str
) -> None:
    """At each step: the beginning, a part, the completion. At most a beginning of which nobody heard is left behind."""
    method = "PUT" if step == "partNumber=2" else "POST"
    proxy.fail(kind, method, step)
    assert store.put("tasks/x", LARGE, over="")
    assert store.read("tasks/x") == LARGE
    seen = store.version("tasks/x")
    assert not store.put("tasks/x", LARGE)
    assert kind in [what for one, _, what in proxy.seen if one == method]
    with pytest.raises(LedgerChanged):
        store.put("tasks/x", LARGE[::-1], over="")
    assert store.version("tasks/x") == seen
    left = uploads(s3, prefix)
    assert len(left) <= (1 if (step, kind) == ("uploads", "reply lost") else 0)


def test_a_large_file_is_replaced_over_the_version_that_was_seen(store: S3Store) -> None:
    store.put("tasks/x", LARGE)
    seen = store.version("tasks/x")
    assert store.put("tasks/x", LARGE[::-1], over=seen)
    assert store.read("tasks/x") == LARGE[::-1]
    with pytest.raises(LedgerChanged):
        store.put("tasks/x", LARGE, over=seen)


def test_an_upload_whose_parts_fail_for_good_is_given_up(
    store: S3Store, proxy: Proxy, s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "TRIES", 2)
    store = s3.store(prefix, port=proxy.port, part=PART)
    proxy.fail("refused", "PUT", "partNumber=2", times=100)
    with pytest.raises(LedgerError, match=r"cannot write s3://ledger/.*tasks/x"):
        store.put("tasks/x", LARGE)
    assert uploads(s3, prefix) == []
    assert store.read("tasks/x") is None


def child_of(script: str, s3: S3Server, prefix: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A process over the same place."""
    return child(script, env=s3.environment | {"LANEWAY_FLEET__LEDGER": f"s3://{BUCKET}/{prefix}"})


def test_uploads_of_dead_writers_are_given_up_after_a_day(
    s3: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = s3.store(prefix)
    for key in (f"{prefix}/tasks/x", f"{prefix}-of-another/tasks/x"):
        s3.client().create_multipart_upload(Bucket=BUCKET, Key=key)
    assert store.tidy() == 0
    monkeypatch.setattr("accounting.files.s3.LEFTOVER_S", -1)
    assert store.tidy() == 1
    assert uploads(s3, f"{prefix}/") == []
    assert len(uploads(s3, prefix)) == 1


CHECKER = """
import sys
from accounting.files.bucket import Bucket
from accounting.files.ledger import open_store
from broker.settings import load
put = Bucket.put
def stands(self, key, data, *, over, in_parts=None):
    made = put(self, key, data, over=over, in_parts=in_parts)
    print("put", flush=True)
    sys.stdin.read()
    return made
Bucket.put = stands
open_store(load()).check()
"""


def test_what_a_killed_process_tried_in_the_bucket_goes_after_a_day(
    s3: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = s3.store(prefix)
    store.put(".tmp/rollup.lock", b"is no probe")
    with child_of(CHECKER, s3, prefix) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"put\n"
    assert len(store.list(".tmp")) == 2
    assert store.tidy() == 0
    monkeypatch.setattr("accounting.files.s3.LEFTOVER_S", -1)
    assert store.tidy() == 1
    assert store.list(".tmp") == ("rollup.lock",)


READER_OF_A_DAY = """
import sys
from accounting.files.ledger import open_store
from broker.settings import load
with open_store(load()).nearby("events/x"):
    print("copied", flush=True)
    sys.stdin.read()
"""


def test_the_copy_of_a_day_goes_when_the_process_that_made_it_was_killed(
    s3: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3.store(prefix)
    store.put("events/x/a.parquet", b"facts")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = [tmp_path / name for name in ("laneway-near-of-another-hand", "laneway-0-socket", "other")]
    for folder in others:
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with child_of(READER_OF_A_DAY, s3, prefix) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"copied\n"
        copies = [path for path in tmp_path.rglob("a.parquet") if path.read_bytes() == b"facts"]
        with store.nearby("events/x"):
            assert (store.tidy(), len(copies), copies[0].exists()) == (0, 1, True)
            assert len(list(tmp_path.rglob("a.parquet"))) == 2
    assert copies[0].exists()
    assert store.tidy() == 1
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_the_copy_of_a_day_whose_removal_was_killed_on_the_way_goes_after_a_day(
    s3: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that says whose it was may have gone first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = s3.store(prefix)
    left = tmp_path / "laneway-near-left" / "events"
    left.mkdir(parents=True)
    (left / "a.parquet").write_bytes(b"facts")
    assert store.tidy() == 0
    day_ago_s = time.time() - LEFTOVER_S - 1
    os.utime(left.parent, (day_ago_s, day_ago_s))
    assert store.tidy() == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"sse": "AES256"}, ("AES256", None)),
        ({"sse": "aws:kms", "kms_key_id": KMS_KEY}, ("aws:kms", KMS_KEY)),
    ],
)
@pytest.mark.parametrize("data", [b"small", LARGE])
def test_objects_are_encrypted_as_the_settings_say(
    data: bytes, said: dict[str, Any], told: tuple[str, str | None], s3: S3Server, prefix: str
) -> None:
    store = s3.store(prefix, part=PART, piece=1000, **said)
    store.put("tasks/x", b"before")
    assert store.put("tasks/x", data, over=store.version("tasks/x"))
    found = s3.client().head_object(Bucket=BUCKET, Key=f"{prefix}/tasks/x")
    assert (found["ServerSideEncryption"], found.get("SSEKMSKeyId")) == told
    assert store.open("tasks/x").read() == store.read("tasks/x") == data
    assert not store.put("tasks/x", data)


def test_a_store_that_ignores_conditional_puts_is_refused(store: S3Store, proxy: Proxy) -> None:
    proxy.fail("lie", "PUT", "probe-", skip=1)
    with pytest.raises(LedgerError, match="cannot keep a ledger: it ignores If-None-Match") as refused:
        store.check()
    assert "conditional puts" in refused.value.mend
    proxy.fail("lie", "POST", "probe-", skip=1)
    with pytest.raises(LedgerError, match="it ignores If-None-Match of an upload in parts"):
        store.check()
    proxy.fail("lie", "PUT", "probe-", skip=2)
    with pytest.raises(LedgerError, match="it ignores If-Match,"):
        store.check()
    store.check()


def test_an_endpoint_that_sends_away_whoever_asks_is_told_with_its_mend(store: S3Store, proxy: Proxy) -> None:
    proxy.fail("moved", "", "", times=10_000)
    with pytest.raises(LedgerError, match=r"cannot write .*sends us to another address") as told:
        store.check()
    assert "s3.endpoint_url" in str(told.value.mend)


def test_a_server_that_is_no_store_is_told_with_its_mend(store: S3Store, proxy: Proxy) -> None:
    proxy.fail("no store", "", "", times=10_000)
    for deed in (store.check, lambda: store.read("tasks/x"), lambda: store.version("tasks/x")):
        with pytest.raises(LedgerError, match="not as an S3 store does") as told:
            deed()
        assert "s3.endpoint_url" in told.value.mend


def test_a_node_that_may_only_read_is_told_what_it_lacks(
    s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.store(prefix).put("tasks/x", b"x")
    for name, value in environment(s3.url, READER, READER_SECRET).items():
        monkeypatch.setenv(name, value)
    store = s3.store(prefix)
    assert store.read("tasks/x") == b"x"
    with pytest.raises(LedgerError, match=r"cannot write .*AccessDenied") as refused:
        store.check()
    assert "docs/ledger.md" in refused.value.mend


def test_what_is_wrong_with_the_place_is_said_with_its_mend(
    s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "TRIES", 1)

    def told(place: str, key: str = "LEDGERKEY", **said: Any) -> str:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        table = S3.model_validate({"endpoint_url": s3.url, "region": "eu-central-1", **said})
        with pytest.raises(LedgerError) as refused:
            open_bucket(place, table).check()
        return str(refused.value)

    assert "NoSuchBucket" in (words := told("no-such-bucket/x"))
    assert "make the bucket" in words
    assert "AWS_ACCESS_KEY_ID" in told(f"{BUCKET}/x", key="WRONG")
    assert "s3.endpoint_url" in told(f"{BUCKET}/x", endpoint_url="http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(LedgerError, match="credentials"):
        open_bucket(f"{BUCKET}/x", S3(endpoint_url=s3.url)).check()


@pytest.mark.parametrize("place", ["s3://", "s3:///x", "s3://KEY:SECRET@bucket/x", "s3://UPPER/x", "s3://b"])
def test_what_is_no_bucket_is_no_ledger_and_its_secrets_are_not_told(place: str) -> None:
    with pytest.raises(ConfigError, match="name of a bucket") as refused:
        ledger.open_store(parse(f'[fleet]\nledger = "{place}"'))
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('endpoint_url = "minio:9000"', "s3.endpoint_url: is no web address"),
        ('endpoint_url = "https://key:secret@minio"', "s3.endpoint_url: holds a password"),
        ('kms_key_id = "k"', 'kms_key_id is for sse = "aws:kms"'),
        ('sse = "rot13"', "s3.sse"),
        ('secret_access_key = "x"', "s3.secret_access_key: unknown key"),
    ],
)
def test_settings_that_cannot_be_are_refused(table: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"[s3]\n{table}")
    assert words in str(refused.value)
    assert "secret@" not in str(refused.value)


def test_a_lock_whose_holder_lives_is_not_taken_however_long_it_is_held(s3: S3Server, prefix: str) -> None:
    """Three leases long, and somebody waits."""
    held, got = threading.Event(), threading.Event()
    first, second = (s3.store(prefix, lease_s=1.5) for _ in range(2))

    def wait() -> None:
        held.wait()
        with second.exclusive("rollup"):
            got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    with first.exclusive("rollup"):
        held.set()
        assert not got.wait(4.5)
    assert got.wait(5)
    waiter.join()


def test_a_holder_that_lost_its_lock_says_so_and_frees_nobody_else_s(
    s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = s3.store(prefix, lease_s=0.6), f"{prefix}/.tmp/rollup.lock"
    lost = threading.Event()
    monkeypatch.setattr(lock.log, "warning", lambda *_: lost.set())
    with store.exclusive("rollup"):
        s3.client().put_object(Bucket=BUCKET, Key=key, Body=b"another's")
        assert lost.wait(5)
    assert store.read(".tmp/rollup.lock") == b"another's"


def test_a_busy_bucket_does_not_end_a_rollup_s_lock(store: S3Store, proxy: Proxy) -> None:
    with store.exclusive("rollup"):
        proxy.fail("busy", "PUT", "rollup.lock", times=2)
        eventually(lambda: proxy.count("PUT", "rollup.lock") >= 4)
    assert store.read(".tmp/rollup.lock") == b""


def test_a_folder_needs_no_boto3_and_a_bucket_without_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "accounting.files.s3", None)
    assert isinstance(ledger.open_store(parse("")), LocalStore)
    with pytest.raises(ConfigError, match="is not installed") as refused:
        ledger.open_store(parse('[fleet]\nledger = "s3://bucket/prefix"'))
    assert "laneway[s3]" in refused.value.mend
