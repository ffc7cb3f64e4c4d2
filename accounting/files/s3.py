"""The ledger in a bucket: one object a file, under the same names as in a folder.

A put is one conditional step, whatever its size: readers have the old object or the new one, and no writer replaces
what it has not seen. Only ``.tmp/`` holds anything but data: the lock, what a rollup shares, and for a moment what
``check`` tries.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from accounting.files.bucket import MEGABYTE, Bucket, Found, pause
from accounting.files.ledger import LEFTOVER_S, TEMPORARY, TRIES, Data, LocalStore, Store, replaced
from accounting.files.lock import LEASE_S, ObjectLock
from broker.errors import ConfigError, LedgerError
from broker.settings.fleet import S3

#: Of a file a reader gets so much of its end first: a small one whole, of a large one the footer.
END = 2**17
#: The least of a large file that it gets at once then: what lies between two columns comes sooner than another reply.
PIECE = MEGABYTE
PARALLEL = 8
PROBE, OTHER_ETAG = b"laneway", '"00000000000000000000000000000000"'
_PROBE, _SCRATCH, _HELD = "probe-", "laneway-near-", ".held"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_bucket(place: str, settings: S3) -> S3Store:
    """The store of ``bucket/prefix``. Raises ConfigError where that is no place, or the settings do not fit."""
    name, _, prefix = place.partition("/")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "fleet.ledger: s3:// is not followed by the name of a bucket",
            mend="write it as s3://bucket/prefix, and give credentials to this node, not here",
        )
    return S3Store(Bucket(name, settings), prefix.strip("/"))


class S3Store:
    """``piece`` is the least number of bytes that a reader gets at once; ``lease_s`` after how long a dead holder's
    lock is taken."""

    def __init__(self, bucket: Bucket, prefix: str, *, piece: int = PIECE, lease_s: float = LEASE_S) -> None:
        self.bucket = bucket
        self.root = f"{prefix}/" if prefix else ""
        self._piece = piece
        self.lease_s = lease_s

    def check(self) -> None:
        """Uses every right that a ledger needs, and puts again what may be put once."""
        bucket, name = self.bucket, f"{_PROBE}{os.urandom(8).hex()}"
        key = self._key(f"{TEMPORARY}/{name}")
        bucket.put(key, PROBE, over="")
        try:
            puts = {
                "If-None-Match": bucket.put(key, b"again", over=""),
                "If-Match": bucket.put(key, b"again", over=OTHER_ETAG),
                "If-None-Match of an upload in parts": bucket.put(key, b"again", over="", in_parts=True),
            }
            ignored = [condition for condition, version in puts.items() if version is not None]
            seen = self.read(f"{TEMPORARY}/{name}") == PROBE and name in self.list(TEMPORARY)
        finally:
            bucket.delete(key)
        self.tidy()
        if ignored or not seen:
            why = f"it ignores {', '.join(ignored)}" if ignored else "it does not show what was just put"
            raise LedgerError(
                f"s3://{bucket.name} cannot keep a ledger: {why}, so that writers would undo each other's work",
                mend="use a store that keeps conditional puts, as S3 itself and SeaweedFS do",
            )

    def list(self, folder: str) -> tuple[str, ...]:
        return tuple(sorted(self.versions(folder)))

    def open(self, path: str) -> Any:
        return self.pinned(path)()

    def pinned(self, path: str) -> Callable[[], Any]:
        key = self._key(path)
        got = self.bucket.get(key, span=f"-{min(END, self._piece)}")
        if got is None:
            raise LedgerError(
                f"cannot open s3://{self.bucket.name}/{key}: it is not there",
                mend="put it back from a copy, or ask for other days",
            )
        found, tail = got
        if len(tail) == found.size:
            return lambda: pa.BufferReader(tail)
        return lambda: pa.PythonFile(_Pinned(self.bucket, key, found, tail, self._piece), mode="r")

    def read(self, path: str) -> bytes | None:
        got = self.bucket.get(self._key(path))
        return got[1] if got is not None else None

    def version(self, path: str) -> str:
        there = self.bucket.look(self._key(path))
        return there.version if there is not None else ""

    def versions(self, folder: str) -> dict[str, str]:
        prefix = self.root if folder == "." else self._key(f"{folder}/")
        return {
            name: version for name, version in self.bucket.names(prefix).items() if not name.startswith(".")
        }

    def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
        key = self._key(path)
        for tried in range(1, TRIES + 1):
            there = self.bucket.look(key)
            if there is not None and there.size == len(data) and self.bucket.holds(key, data) is not None:
                return False
            now = there.version if there is not None else ""
            if over is not None and over != now:
                break
            if self.bucket.put(key, data, over=now) is not None:
                return True
            pause(tried)
        raise replaced(path)

    @contextmanager
    def nearby(self, folder: str) -> Iterator[Store]:
        with _scratch() as scratch:
            near = scratch / folder

            def fetch(name: str) -> None:
                data = self.read(f"{folder}/{name}")
                if data is not None:
                    (near / name).write_bytes(data)

            try:
                near.mkdir(parents=True)
                with ThreadPoolExecutor(PARALLEL) as pool:
                    list(pool.map(fetch, self.list(folder)))
            except OSError as error:
                raise LedgerError(
                    f"cannot copy {folder} of the ledger to {scratch}: {error}",
                    mend="make room for a day's events there, or let TMPDIR name another disk",
                ) from error
            yield LocalStore(scratch)

    def exclusive(self, name: str) -> AbstractContextManager[object]:
        return ObjectLock(self.bucket, self._key(f"{TEMPORARY}/{name}.lock"), lease_s=self.lease_s)

    def remove(self, path: str) -> None:
        self.bucket.delete(self._key(path))

    def tidy(self) -> int:
        return self.bucket.abandon(self.root, LEFTOVER_S) + self._unprobed() + _tidied()

    def _unprobed(self) -> int:
        """Removes what ``check`` tried in processes that were killed."""
        removed = 0
        for name in self.list(TEMPORARY):
            key = self._key(f"{TEMPORARY}/{name}")
            if name.startswith(_PROBE) and (found := self.bucket.look(key)) and found.age_s > LEFTOVER_S:
                self.bucket.delete(key)
                removed += 1
        return removed

    def _key(self, path: str) -> str:
        return self.root + path


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder under TMPDIR with a file that is locked while this process lives, by which ``_tidied`` knows it."""
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as name:
        folder = Path(name)
        with (folder / "draft").open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            (folder / "draft").rename(folder / _HELD)  # nobody sees it before it is locked
            yield folder


def _tidied() -> int:
    """Removes such folders of processes that were killed: this user's own, on this machine. How many there were."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        try:
            if folder.lstat().st_uid == os.getuid() and not _is_held(folder):
                shutil.rmtree(folder)
                removed += 1
        except OSError:  # it is in use, or none of ours, or somebody else tidies too
            continue
    return removed


def _is_held(folder: Path) -> bool:
    """Raises OSError where it is, by a process that lives. One that was killed while it made or removed the folder may
    have left it without the file that is locked."""
    try:
        with (folder / _HELD).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < LEFTOVER_S
    return False


class _Pinned(io.RawIOBase):
    """An object of which more than its end is wanted, all of it of the version that was found; for one thread at a
    time. Reading raises LedgerChanged once it was replaced."""

    def __init__(self, bucket: Bucket, key: str, found: Found, tail: bytes, piece: int) -> None:
        self._bucket, self._key, self._found, self._piece = bucket, key, found, piece
        self._at = 0
        self._tail = (found.size - len(tail), tail)
        self._last = self._tail

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        first, end = self._at, self._found.size if size < 0 else min(self._at + size, self._found.size)
        self._at = max(first, end)
        return self._bytes(first, end) if first < end else b""

    def _bytes(self, first: int, end: int) -> bytes:
        for start, data in (self._tail, self._last):
            if start <= first and end <= start + len(data):
                return data[first - start : end - start]
        start, data = self._last
        there = data[first - start :] if start <= first else b""
        rest = first + len(there)
        until = min(self._found.size, max(end, rest + self._piece))
        got = self._bucket.get(self._key, span=f"{rest}-{until - 1}", version=self._found.version)
        assert got is not None  # a missing one is a changed one
        self._last = (first, there + got[1])
        return self._last[1][: end - first]
