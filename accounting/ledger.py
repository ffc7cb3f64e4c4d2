"""Where the ledger's files lie: one small protocol, and the local folder as its implementation.

    <ledger>/events/date=2026-01-31/<first>-<last>.parquet
    <ledger>/tasks/date=2026-01-31/tasks.parquet        (likewise attempts, daily)
    <ledger>/.tmp/                                      drafts and the lock; no data set, and no glob of one sees it

Paths are relative to the ledger and written with ``/``. A put is atomic and durable: when it returns, the bytes
survive a power cut, and at no time does a reader see half of them.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from broker.errors import ConfigError, LedgerError

EVENTS, TASKS, ATTEMPTS, DAILY = "events", "tasks", "attempts", "daily"
LEFTOVER_S = 24 * 3600
US_PER_DAY = 86_400_000_000
_EPOCH = date(1970, 1, 1).toordinal()


class Store(Protocol):
    def list(self, folder: str) -> tuple[str, ...]:
        """Names of what lies in the folder, sorted; empty where it is not there."""

    def open(self, path: str) -> Any:
        """The file as a pyarrow source with random access. Raises LedgerError where it is not there."""

    def read(self, path: str) -> bytes | None:
        """The whole file; None where it is not there."""

    def put(self, path: str, data: bytes) -> None:
        """Writes or replaces the file, atomically and durably."""

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Held by one process at a time; a holder's death releases it."""

    def tidy(self) -> int:
        """Removes drafts that dead writers left behind. How many there were."""


def open_store(ledger: str) -> Store:
    """The store of ``fleet.ledger``. Raises ConfigError for a kind of place that is not known."""
    scheme, separator, rest = ledger.partition("://")
    if not separator:
        return LocalStore(Path(ledger))
    if scheme == "file":
        return LocalStore(Path(rest))
    if scheme == "s3":
        raise ConfigError(
            f"fleet.ledger: {ledger!r}: this version writes to local folders only, S3 comes later",
            mend="name a local folder, and copy it to the bucket with a tool of your own meanwhile",
        )
    raise ConfigError(f"fleet.ledger: {ledger!r}: no store of kind {scheme!r}", mend="name a local folder")


def day_of(at_us: int) -> str:
    """The UTC day of a time in microseconds since the epoch, as ``2026-01-31``."""
    return date.fromordinal(_EPOCH + at_us // US_PER_DAY).isoformat()


def midnight_us(day: str) -> int:
    """The start of a UTC day in microseconds since the epoch. Raises ValueError for what is no day."""
    start = datetime.combine(date.fromisoformat(day), datetime.min.time(), tzinfo=UTC)
    return int(start.timestamp()) * 1_000_000


def partition(dataset: str, day: str) -> str:
    return f"{dataset}/date={day}"


def days(store: Store, dataset: str) -> tuple[str, ...]:
    """The days that the data set has, in order."""
    return tuple(name.removeprefix("date=") for name in store.list(dataset) if name.startswith("date="))


class LocalStore:
    """A folder of this machine, or one that it mounts. Made at the first put."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._drafts = root / ".tmp"

    def list(self, folder: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(name for name in os.listdir(self.root / folder) if not name.startswith(".")))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise self._refused("list", folder, error) from error

    def open(self, path: str) -> Any:
        try:
            return pa.OSFile(str(self.root / path), "rb")
        except OSError as error:
            raise self._refused("open", path, error) from error

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused("read", path, error) from error

    def put(self, path: str, data: bytes) -> None:
        target = self.root / path
        draft = self._drafts / f"{os.getpid()}-{os.urandom(6).hex()}.draft"
        try:
            self._folder(self._drafts)
            self._folder(target.parent)
            try:
                _write_through(draft, data)
                draft.replace(target)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        except OSError as error:
            raise self._refused("write", path, error) from error

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        try:
            self._folder(self._drafts)
            file = (self._drafts / f"{name}.lock").open("ab")
        except OSError as error:
            raise self._refused("lock", name, error) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def tidy(self) -> int:
        old = time.time() - LEFTOVER_S
        removed = 0
        for draft in self._drafts.glob("*.draft"):
            try:
                if draft.stat().st_mtime < old:
                    draft.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # its writer was alive after all, or somebody else tidies too
        return removed

    def _folder(self, folder: Path) -> None:
        """Makes the folder and those above it, each entered durably into its parent."""
        if folder.is_dir():
            return
        if folder != self.root:
            self._folder(folder.parent)
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
        else:
            folder.mkdir(parents=True, exist_ok=True)

    def _refused(self, verb: str, path: str, error: OSError) -> LedgerError:
        return LedgerError(
            f"cannot {verb} {str(self.root / path)!r}: {error.strerror or error}",
            mend="give this user the right to write there and room on the disk, or change fleet.ledger",
        )


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
