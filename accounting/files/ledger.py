"""Where the ledger's files lie: one small protocol, and the local folder as its first implementation.

    <ledger>/events/date=2026-01-31/<first>-<last>.parquet
    <ledger>/tasks/date=2026-01-31/tasks.parquet        (likewise attempts, daily)
    <ledger>/.tmp/                                      drafts, locks, the ledger's id and what a rollup shares; no data
                                                        set, and no glob of one sees it

Paths are relative to the ledger and written with ``/``. A put is atomic and durable: when it returns, the bytes
survive a power cut, and at no time does a reader see half of them. ``accounting/files/s3.py`` is the same in a bucket;
``tests/conformance/test_ledger_stores.py`` runs over both.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from broker.errors import ConfigError, LedgerChanged, LedgerError
from broker.settings import Settings

EVENTS, TASKS, ATTEMPTS, DAILY = DATASETS = "events", "tasks", "attempts", "daily"
LEFTOVER_S = 24 * 3600
TRIES = 5
TEMPORARY = ".tmp"
ID = f"{TEMPORARY}/id"
US_PER_DAY = 86_400_000_000
PIECE = 2**22
T = TypeVar("T")
#: What is put: bytes in memory, or a file that is larger than that.
Data = bytes | mmap

log = logging.getLogger("laneway.ledger")


class Store(Protocol):
    """Each method raises LedgerError where the place cannot be reached, or refuses."""

    def check(self) -> None:
        """Raises LedgerError unless a ledger can be kept here."""

    def list(self, folder: str) -> tuple[str, ...]:
        """Names of what lies in the folder, sorted; empty where it is not there."""

    def open(self, path: str) -> Any:
        """The file as a pyarrow source with random access, all of it of one version.

        Raises LedgerError where it is not there; reading raises LedgerChanged where it cannot go on because the file
        was replaced.
        """

    def pinned(self, path: str) -> Callable[[], Any]:
        """Gives sources as ``open`` does, each for a thread of its own and all of the version that the file has now."""

    def read(self, path: str) -> bytes | None:
        """The whole file; None where it is not there."""

    def version(self, path: str) -> str:
        """Tells this state of the file from any other; "" where it is not there."""

    def versions(self, folder: str) -> dict[str, str]:
        """The version of each file in the folder, by its name."""

    def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
        """Writes or replaces the file, atomically and durably. False: it held these bytes, and is left alone.

        ``over`` is the version that it may replace; raises LedgerChanged where the file has another one. None: any.
        """

    def nearby(self, folder: str) -> AbstractContextManager[Store]:
        """The folder's files as they are now on a disk of this machine, to be read again and again."""

    def exclusive(self, name: str) -> AbstractContextManager[object]:
        """Held by one process at a time; a holder's death releases it."""

    def remove(self, path: str) -> None:
        """Removes a file under ``.tmp``, where it is there."""

    def tidy(self) -> int:
        """Removes what dead writers left half done. How many there were."""


def open_store(settings: Settings) -> Store:
    """The store of ``fleet.ledger``. Raises ConfigError for a kind of place that is not known."""
    place = settings.fleet.ledger
    scheme, separator, rest = place.partition("://")
    if not separator:
        return LocalStore(Path(place))
    if scheme == "file":
        return LocalStore(Path(rest))
    if scheme != "s3":
        mend = "name a local folder, or s3://bucket/prefix"
        raise ConfigError(f"fleet.ledger: {place!r}: no store of kind {scheme!r}", mend=mend)
    try:
        s3 = import_module("accounting.files.s3")  # it loads boto3, which a ledger in a folder does without
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"fleet.ledger names a bucket, and {error.name} is not installed",
            mend="pip install 'laneway[s3]'; in a checkout: make install",
        ) from error
    store: Store = s3.open_bucket(rest, settings.s3)
    return store


def again(deed: Callable[[], T]) -> T:
    """What the deed gives, done once more where a file was replaced under it: then it has the new one.

    Raises LedgerChanged where that goes on.
    """
    for _ in range(TRIES - 1):
        try:
            return deed()
        except LedgerChanged as changed:
            log.info("%s; done again", changed.message)
    return deed()


def replaced(path: str) -> LedgerChanged:
    return LedgerChanged(f"{path} was replaced by somebody else meanwhile", mend="do it again")


def together(failures: Sequence[LedgerError]) -> LedgerError:
    """One that says what all of them say, with the first one's mend."""
    return LedgerError("; ".join(one.message for one in failures), mend=failures[0].mend)


def midnight_us(day: str) -> int:
    """The start of a UTC day in microseconds since the epoch. Raises ValueError for what is no day."""
    start = datetime.combine(date.fromisoformat(day), datetime.min.time(), tzinfo=UTC)
    return int(start.timestamp()) * 1_000_000


def partition(dataset: str, day: str) -> str:
    return f"{dataset}/date={day}"


def files(store: Store, dataset: str, day: str) -> list[str]:
    """The paths of the day's Parquet files, sorted; none where it has none."""
    folder = partition(dataset, day)
    return [f"{folder}/{name}" for name in store.list(folder) if name.endswith(".parquet")]


def days(store: Store, dataset: str) -> tuple[str, ...]:
    """The days that the data set has, in order. A folder of another name, as a copy of a day's has, is none."""
    named = (name.removeprefix("date=") for name in store.list(dataset) if name.startswith("date="))
    return tuple(day for day in named if _is_day(day))


def _is_day(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def unrolled(store: Store, datasets: Sequence[str], since: str, until: str) -> tuple[str, ...]:
    """The UTC days from the one to the other that have events, and not yet a file of each of the data sets."""
    there = set.intersection(*(set(days(store, name)) for name in datasets))
    return tuple(day for day in days(store, EVENTS) if since <= day <= until and day not in there)


def days_of(first: str, last: str) -> Iterator[str]:
    """Every UTC day from the first one to the last one. Raises ValueError for what is no day."""
    day, end = date.fromisoformat(first), date.fromisoformat(last)
    while day <= end:
        yield day.isoformat()
        day += timedelta(days=1)


class LocalStore:
    """A folder of this machine, or one that it mounts. Made at the first put."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._drafts = root / TEMPORARY

    def check(self) -> None:
        draft = self._draft()
        try:
            self._folder(self._drafts)
            _write_through(draft, b"")
            draft.unlink()
        except OSError as error:
            raise self._refused("write", TEMPORARY, error) from error

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

    def pinned(self, path: str) -> Callable[[], Any]:
        source = self.open(path)
        return lambda: source  # which reads at any place without moving

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refused("read", path, error) from error

    def version(self, path: str) -> str:
        try:
            said = (self.root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise self._refused("look at", path, error) from error
        return f"{said.st_ino}-{said.st_mtime_ns}-{said.st_size}"

    def versions(self, folder: str) -> dict[str, str]:
        return {name: self.version(f"{folder}/{name}") for name in self.list(folder)}

    def put(self, path: str, data: Data, *, over: str | None = None) -> bool:
        if self._holds(path, data):
            self._sync(path)  # whoever wrote it may have died before it was durable
            return False
        if over is None:
            self._replace(path, data)
            return True
        with self.exclusive("put"):
            if self.version(path) != over:
                raise replaced(path)
            self._replace(path, data)
        return True

    def _holds(self, path: str, data: Data) -> bool:
        try:
            with (self.root / path).open("rb") as file:
                if os.fstat(file.fileno()).st_size != len(data):
                    return False
                return all(file.read(PIECE) == piece for piece in pieces(data))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._refused("read", path, error) from error

    def _replace(self, path: str, data: Data) -> None:
        target, draft = self.root / path, self._draft()
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
    def nearby(self, folder: str) -> Iterator[Store]:
        yield self

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        try:
            self._folder(self._drafts)
            file = (self._drafts / f"{name}.lock").open("ab")
        except OSError as error:
            raise self._refused("lock", name, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise self._refused("lock", name, error) from error
            yield

    def remove(self, path: str) -> None:
        try:
            (self.root / path).unlink(missing_ok=True)
        except OSError as error:
            raise self._refused("remove", path, error) from error

    def tidy(self) -> int:
        old = time.time() - LEFTOVER_S
        removed = 0
        for draft in (self._drafts / name for name in self.list(TEMPORARY) if name.endswith(".draft")):
            try:
                if draft.stat().st_mtime < old:
                    draft.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # its writer was alive after all, or somebody else tidies too
            except OSError as error:
                raise self._refused("remove", draft.name, error) from error
        return removed

    def _draft(self) -> Path:
        return self._drafts / f"{os.getpid()}-{os.urandom(6).hex()}.draft"

    def _sync(self, path: str) -> None:
        try:
            _sync_folder((self.root / path).parent)
        except OSError as error:
            raise self._refused("write", path, error) from error

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


def _write_through(path: Path, data: Data) -> None:
    with path.open("wb") as file:
        for piece in pieces(data):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def pieces(data: Data, size: int = PIECE) -> Iterator[bytes]:
    """All of it, some at a time; of a file that is mapped no more than that stays in memory."""
    for at in range(0, len(data), size):
        yield data[at : at + size]
        if isinstance(data, mmap) and hasattr(data, "madvise"):
            data.madvise(MADV_DONTNEED, at, min(size, len(data) - at))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
