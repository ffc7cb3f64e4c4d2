"""From the stream to files, each fact exactly once.

One batch at a time, by whoever holds the lock and renews it at each step:

    1. the boundary ``first last count`` is recorded in Redis before anything is written;
    2. the entries between are written, one part a day, named ``<first>-<last>.parquet``;
    3. when all are durable, one script trims the stream up to ``last``, forgets the boundary and marks the days dirty.

Facts of days that are over trickle in for weeks (what people say of an answer): each would be a part of its own, and a
day be read in thousands of them. So entries that have only such facts go over to a stream of their own in step 3, and
are written from there by the same steps once an hour, and before a night's rollup.

A crash anywhere leaves the boundary, so that the next writer reads the same entries and writes the same parts again,
byte for byte. Each step in Redis asks whether the lock is still its own; a writer that slept through its lock can at
worst write the same bytes once more. The scripts run when Redis is full, for it is they that make room.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack
import redis

from accounting.files import ledger, parts
from accounting.files.ledger import Store
from accounting.intake import aside, home, wire
from broker.keys import EVENTS, LATE, PREFIX
from broker.lock import Lock
from broker.settings import Settings

LOCK = PREFIX + "ingest:lock"
BATCH = PREFIX + "ingest:batch"
#: A hash: day → the last entry that touched it, so that a rollup forgets a day only as far as it has read it.
DIRTY = PREFIX + "dirty"
LOCK_MS = 30_000  # the longest step between two renewals, a large part written to a slow disk, takes less
#: Entries that are asked for at first; then as many as have about so many events, for an entry holds one or hundreds.
PAGE = 100
PAGE_EVENTS, PAGE_ENTRIES = 10_000, 2_000
#: Entries may be large, as they are where people say a lot: no more of them is asked for at once, and no more written,
#: which takes as much memory as a slice of a rollup.
PAGE_BYTES, BATCH_BYTES = 2**23, 2**26
#: About what an event takes in the stream; fewer of them than those are counted by their entries alone.
EVENT_BYTES, LEAST_SIZED = 100, 10_000
LATE_FLUSH_S = 3600.0
LATE_SUFFIX = "-late"
PATIENCE_S = 10.0
TURN_S = 0.05

log = logging.getLogger("laneway.ingest")

_HOLD = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3]) end
return 1
"""
_COMMIT = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local days = tonumber(ARGV[4])
for i = 5, 4 + days do redis.call('HSET', KEYS[4], ARGV[i], ARGV[2]) end
for i = 5 + days, #ARGV do
  local entry = redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  if entry then redis.call('XADD', KEYS[5], '*', unpack(entry[2])) end
end
redis.call('XTRIM', KEYS[3], 'MINID', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What a drain did. ``flaws`` are facts or whole entries set aside, ``late`` entries wait to be written together,
    and are in no other number; ``busy``: another writer holds the lock."""

    entries: int = 0
    events: int = 0
    parts: int = 0
    days: tuple[str, ...] = ()
    flaws: int = 0
    busy: bool = False
    late: int = 0

    def __add__(self, other: Ingested) -> Ingested:
        return Ingested(
            self.entries + other.entries,
            self.events + other.events,
            self.parts + other.parts,
            tuple(sorted({*self.days, *other.days})),
            self.flaws + other.flaws,
            self.busy or other.busy,
            self.late + other.late,
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Entries in stream order with the facts read from them, day by day. ``flawed`` are entries that hold a flaw,
    ``late`` those that are not written with the others."""

    ids: tuple[str, ...] = ()
    days: tuple[tuple[str, Any], ...] = ()
    flawed: tuple[tuple[str, bytes, str], ...] = ()
    late: tuple[str, ...] = ()

    @property
    def boundary(self) -> str:
        return f"{self.ids[0]} {self.ids[-1]} {len(self.ids)}"


def _suffix(stream: str) -> str:
    """Tells what is made of one of the two streams from what is made of the other, whose ids may be the same."""
    return "" if stream == EVENTS else LATE_SUFFIX


class _LockLost(Exception):
    """Another writer took over; what it finds is whole."""


class _Lock(Lock):
    """The right to write, as long as Redis says so: no thread renews it, but each step that is done."""

    def __init__(self, client: redis.Redis, stream: str) -> None:
        super().__init__(client, LOCK, LOCK_MS)
        self.stream, self.suffix = stream, _suffix(stream)
        self._batch = BATCH + self.suffix

    def boundary(self) -> str:
        """What a writer recorded who did not come to an end; "" where none did not."""
        said: Any = self.client.get(self._batch)
        return "" if said is None else said if isinstance(said, str) else said.decode()

    def hold(self, boundary: str = "") -> None:
        """Renews the lock, and records the boundary where one is given. Raises _LockLost."""
        if not self._script(_HOLD, LOCK, self._batch)(self.ms, boundary):
            raise _LockLost

    def commit(self, last: str, days: tuple[str, ...], late: tuple[str, ...] = ()) -> None:
        script = self._script(_COMMIT, LOCK, self._batch, self.stream, DIRTY, LATE)
        if not script(f"{last}{self.suffix}", _after(last), len(days), *days, *late):
            raise _LockLost

    def _script(self, source: str, *keys: str) -> Any:
        script = self.client.register_script(source)
        return lambda *args: script(keys=list(keys), args=[self.token, *args])


def drain(
    client: redis.Redis,
    store: Store,
    quarantine: Store,
    *,
    limit: int = 50_000,
    key: str = EVENTS,
) -> Ingested:
    """Moves about ``limit`` events from the stream into the ledger, fewer where they are large. What cannot be read is
    set aside, never lost.

    Raises LedgerError when a file cannot be written; the events then wait in the stream.
    """
    with _Lock(client, key) as lock:
        if not lock.mine:
            return Ingested(busy=True)
        try:
            boundary = lock.boundary()
            batch = _recorded(lock, boundary) or _read(lock, "-", "+", limit=limit)
            if not batch.ids:
                if boundary:
                    lock.commit("0-0", ())  # Redis lost the entries of that boundary
                return Ingested()
            home.enter(client, store)
            lock.hold(batch.boundary)
            return _write(batch, lock, store, quarantine)
        except _LockLost:
            log.warning("another writer took over the ingest of %s; nothing is lost", key)
            return Ingested(busy=True)


def drain_all(
    client: redis.Redis,
    store: Store,
    quarantine: Store,
    *,
    limit: int = 50_000,
    patience_s: float = PATIENCE_S,
) -> Ingested:
    """Drains all that was there when it began, and a little of the rest; then what is late. What was set aside and can
    be read by now is there too.

    While another writer is at work it waits its turn, for ``patience_s`` seconds at a time; the result is ``busy``
    after that.
    """
    done = Ingested()
    for _ in aside.given_back(client, quarantine, BATCH_BYTES):
        done += _all(client, store, quarantine, limit, EVENTS, patience_s)
        if done.busy:
            return done
    return done + _all(client, store, quarantine, limit, LATE, patience_s)


def _all(
    client: redis.Redis, store: Store, quarantine: Store, limit: int, key: str, patience_s: float
) -> Ingested:
    done = Ingested()
    newest: Any = client.xrevrange(key, count=1)
    last = newest[0][0] if newest else "0-0"
    until = time.monotonic() + patience_s
    while True:
        batch = drain(client, store, quarantine, limit=limit, key=key)
        if batch.busy and time.monotonic() < until:
            time.sleep(TURN_S)
            continue
        done += batch
        until = time.monotonic() + patience_s
        if batch.busy or not _waiting(client, key, last):
            return done


def held_s(client: redis.Redis) -> float:
    """How long a writer may still hold the ledger without a sign of life; 0 where none holds it."""
    left_ms: Any = client.pttl(LOCK)
    return float(max(0, left_ms)) / 1000


def _waiting(client: redis.Redis, key: str, last: str | bytes) -> bool:
    """Whether an entry is there that is no later than this one."""
    return bool(client.xrange(key, max=last, count=1))


def due(client: redis.Redis, settings: Settings, *, key: str = EVENTS) -> bool:
    """Whether a part is worth writing: enough events, the oldest one old enough, or a batch that was left half done.

    An entry holds one event or hundreds; how many there are is told by the entries, of which none is empty, and by the
    room that they take.
    """
    pipe = client.pipeline(transaction=False)
    pipe.exists(BATCH + _suffix(key))
    pipe.xlen(key)
    pipe.xrange(key, count=1)
    pipe.time()
    pipe.memory_usage(key)
    half_done, entries, oldest, (seconds, micros), size = pipe.execute()
    if not oldest:
        return bool(half_done)
    age_s = _age_s(seconds + micros / 1e6, *oldest[0])
    fleet = settings.fleet
    wanted = fleet.ingest_flush_events
    enough = entries >= wanted or (size or 0) >= EVENT_BYTES * max(wanted, LEAST_SIZED)
    old = fleet.ingest_flush_s if key == EVENTS else max(LATE_FLUSH_S, fleet.ingest_flush_s)
    return bool(half_done) or enough or age_s >= old or age_s < 0


def _age_s(now_s: float, entry_id: bytes, fields: dict[bytes, bytes]) -> float:
    """How long ago the entry came in; below 0 where Redis's clock was set back since. From then on ids are ahead of it
    until it has caught up, so that the entry itself is asked."""
    said_s = int(entry_id.partition(b"-")[0]) / 1e3
    at_us = wire.written_us(fields.get(b"b")) if said_s > now_s else None
    return now_s - (said_s if at_us is None else at_us / 1e6)


def _recorded(lock: _Lock, boundary: str) -> _Batch | None:
    """The batch that a crashed writer had recorded; None where there is none, or the stream no longer has it whole.

    It has not when Redis itself lost its latest writes. Then a new boundary is drawn over what is there: a fact that
    already stands in a file will stand there twice, and counts once.
    """
    if not boundary:
        return None
    first, last, count = boundary.split()
    batch = _read(lock, first, last, limit=None)
    if batch.ids and batch.boundary == boundary:
        return batch
    log.warning("the stream has %d of the %s entries %s to %s", len(batch.ids), count, first, last)
    return None


def _read(lock: _Lock, first: str, last: str, *, limit: int | None) -> _Batch:
    """The entries from ``first`` to ``last``, and no more of them than have about ``limit`` events; None: all."""
    ids: list[str] = []
    raw: list[bytes] = []
    gathered = wire.Gathered(hold=lock.stream == EVENTS)
    count, size, full = PAGE, 0, False
    with _uncollected():
        while not full:
            page = _page(lock, first, last, count)
            for entry_id, fields in page:
                entry = fields.get(b"b")
                ids.append(entry_id.decode())
                raw.append(msgpack.packb(fields) if entry is None else entry)
                gathered.add(entry)
                size += len(raw[-1])
                full = limit is not None and (gathered.size() >= limit or size >= BATCH_BYTES)
                if full:
                    break
            if len(page) < count:
                break
            first = f"({ids[-1]}"
            fits = min(
                PAGE_EVENTS * len(ids) // max(1, gathered.size()), PAGE_BYTES * len(ids) // max(1, size)
            )
            count = max(1, min(PAGE_ENTRIES, fits))
        days = tuple(gathered.by_day())
    flawed = tuple((ids[one.entry], raw[one.entry], one.why) for one in gathered.flaws)
    return _Batch(tuple(ids), days, flawed, tuple(ids[number] for number in gathered.late))


def _page(lock: _Lock, first: str, last: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
    page: Any = lock.client.xrange(lock.stream, min=first, max=last, count=count)
    lock.hold()
    return page  # type: ignore[no-any-return]


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is read refers to nothing that refers back, so that looking for that would be a fifth of the work."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _write(batch: _Batch, lock: _Lock, store: Store, quarantine: Store) -> Ingested:
    for entry_id, entry, why in batch.flawed:
        aside.put(quarantine, f"{entry_id}{lock.suffix}", entry, why)
        lock.hold()
    events = 0
    for day, rows in batch.days:
        part = parts.encode(rows)
        lock.hold()
        name = f"{batch.ids[0]}-{batch.ids[-1]}{lock.suffix}.parquet"
        store.put(f"{ledger.partition(ledger.EVENTS, day)}/{name}", part)
        lock.hold()
        events += rows.num_rows
    days = tuple(day for day, _ in batch.days)
    lock.commit(batch.ids[-1], days, batch.late)
    late = len(batch.late)
    return Ingested(len(batch.ids) - late, events, len(days), days, len(batch.flawed), late=late)


def _after(entry_id: str) -> str:
    """The smallest id beyond this one: trimming keeps what is at or above it."""
    millis, _, sequence = entry_id.partition("-")
    return f"{millis}-{int(sequence) + 1}"
