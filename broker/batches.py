"""Provider batches in the fleet's Redis: what holds a task from its call's leaving until its line comes back.

A batch outlives the process that sent it, by hours. Its record says how far it has come, so that any node of the lane
can go on from there; one at a time, under the batch's lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from broker import keys
from broker.ask import ask
from broker.lock import Lock, kept
from broker.store import Store
from broker.task import new_task_id

LOCK_LEASES = 4  # a batch is not taken from a process that was only slow
PAGE = 500
#: open: being filled, nothing has left. sending: it may be with the provider or not. sent: the provider gave it an id.
#: lost: it was not found there; its tasks went on, with their calls booked at the worst case, which a find corrects.
State = Literal["open", "sending", "sent", "lost"]

#: A line of a batch, and whose it is: (line, (ref, epoch)).
Holder = tuple[str, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Batch:
    """``endpoint`` is the provider's door (``Endpoint.id``), ``provider_id`` its own name for the batch, "" before it
    has one. Times in microseconds of Redis's clock; ``due_us`` is the earliest deadline in it, None where no line has
    one. ``cancelled``: the provider was asked to stop it. ``others`` are ids of other batches of the provider that
    were once taken for it.
    """

    id: str
    lane: str
    endpoint: str
    state: State
    since_us: int
    provider_id: str = ""
    lines: int = 0
    due_us: int | None = None
    cancelled: bool = False
    others: tuple[str, ...] = ()


class BatchBook:
    """The batches of a fleet. Every method raises RedisUnavailable; a Redis that is full refuses none, for batches are
    what empties it."""

    def __init__(self, store: Store) -> None:
        self.store, self.client = store, store.scripts.client

    def new(self, lane: str, endpoint: str) -> Batch:
        """An empty batch that nobody knows of yet."""
        return Batch(new_task_id(), lane, endpoint, "open", self.store.clock.now_us())

    def write(self, batch: Batch, *, over: State | None, under: Lock | None = None) -> bool:
        """Its record as it is now. ``over`` is the state that it was known in, None for a new one. ``under`` is the
        lock that must still be held, None where it need not be.

        False, and nothing is written: another process has taken it to another state meanwhile, or to its end, or may
        be about to.
        """
        said = [word for pair in _fields(batch).items() for word in pair]
        write = self.client.register_script(_WRITE)
        return bool(
            ask(
                lambda: write(
                    keys=[keys.batch_key(batch.id), keys.BATCHES, _lock_key(batch.id)],
                    args=[
                        batch.id,
                        batch.since_us,
                        over or "",
                        batch.state,
                        under.token if under else "",
                        *said,
                    ],
                )
            )
        )

    def write_again(self, batch: Batch, holders: Sequence[Holder], *, over: State | None) -> bool:
        """What Redis has lost of a batch that the provider has: its lines, and then its record, as ``write`` does."""
        said: Mapping[Any, Any] = {line: f"{ref}|{epoch}" for line, (ref, epoch) in holders}
        ask(lambda: self.client.hset(keys.lines_key(batch.id), mapping=said))
        return self.write(batch, over=over)

    def close(self, batch: Batch) -> None:
        """All of its lines are settled: forget it."""
        pipe = self.client.pipeline()
        pipe.delete(keys.batch_key(batch.id), keys.lines_key(batch.id))
        pipe.zrem(keys.BATCHES, batch.id)
        ask(pipe.execute)

    def all(self, lane: str | None = None) -> list[Batch]:
        """Those that are not done with, oldest first; of one lane or of all."""
        found = ask(lambda: self.client.zrange(keys.BATCHES, 0, -1))
        ids = [one.decode() for one in found]
        pipe = self.client.pipeline(transaction=False)
        for one in ids:
            pipe.hgetall(keys.batch_key(one))
        batches = (_batch(one, row) for one, row in zip(ids, ask(pipe.execute), strict=True) if row)
        return [batch for batch in batches if lane in (None, batch.lane)]

    def get(self, batch_id: str) -> Batch | None:
        """As it is now; None where it is done with."""
        row = ask(lambda: self.client.hgetall(keys.batch_key(batch_id)))
        return _batch(batch_id, row) if row else None

    def holders(self, batch: Batch, lines: Sequence[str]) -> list[tuple[str, int] | None]:
        """Whose lines these are, as (ref, epoch); None for one that is settled, or of no task of this batch."""
        if not lines:
            return []
        found = ask(lambda: self.client.hmget(keys.lines_key(batch.id), list(lines)))
        return [None if one is None else _holder(one) for one in found]

    def left(self, batch: Batch) -> Iterator[list[Holder]]:
        """The lines that are not settled yet, with whose they are, handful by handful: the caller settles each before
        it asks for the next one."""
        cursor = 0
        while True:
            cursor, holders = self._scan(batch, cursor)
            if holders:
                yield holders
                cursor = 0  # from the start: what was handed out is settled and gone
            elif cursor == 0:
                return

    def pages(self, batch: Batch) -> Iterator[list[Holder]]:
        """The same lines in one pass: they need not be settled on the way."""
        cursor = -1
        while cursor != 0:
            cursor, holders = self._scan(batch, max(0, cursor))
            yield holders

    def _scan(self, batch: Batch, cursor: int) -> tuple[int, list[Holder]]:
        """A page, and where the next one begins: 0 for none."""
        cursor, rows = ask(lambda: self.client.hscan(keys.lines_key(batch.id), cursor, count=PAGE))
        return cursor, [(line.decode(), _holder(one)) for line, one in rows.items()]

    def count_left(self, batch: Batch) -> int:
        return int(ask(lambda: self.client.hlen(keys.lines_key(batch.id))))

    def settled(self, batch: Batch, lines: Sequence[str]) -> None:
        """These lines are done with."""
        if lines:
            ask(lambda: self.client.hdel(keys.lines_key(batch.id), *lines))

    @contextmanager
    def lock(self, name: str) -> Iterator[Lock | None]:
        """The right to work on a batch, or on what ``name`` names, renewed until the end of the block; None where
        another process has it."""
        lasts_s = self.store.fleet.lease_s * LOCK_LEASES
        with Lock(self.client, _lock_key(name), round(lasts_s * 1000)) as lock:
            if not lock.mine:
                yield None
                return
            with kept(lock.held, lasts_s / 4):
                yield lock


# The state that is written counts as well: the same may be asked twice after a lost reply.
_WRITE = """#!lua flags=allow-oom
local state = redis.call('HGET', KEYS[1], 'state') or ''
if state ~= ARGV[3] and state ~= ARGV[4] then return 0 end
if ARGV[5] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[5] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
"""


def _lock_key(name: str) -> str:
    return f"{keys.batch_key(name)}:lock"


def _fields(batch: Batch) -> Mapping[Any, Any]:
    return {
        "lane": batch.lane,
        "endpoint": batch.endpoint,
        "state": batch.state,
        "since": batch.since_us,
        "provider_id": batch.provider_id,
        "lines": batch.lines,
        "due": "" if batch.due_us is None else batch.due_us,
        "cancelled": int(batch.cancelled),
        "others": " ".join(batch.others),
    }


def _batch(batch_id: str, row: dict[bytes, bytes]) -> Batch:
    said = {name.decode(): value.decode() for name, value in row.items()}
    return Batch(
        batch_id,
        said["lane"],
        said["endpoint"],
        said["state"],  # type: ignore[arg-type]  # written by _fields alone
        int(said["since"]),
        said["provider_id"],
        int(said["lines"]),
        int(said["due"]) if said["due"] else None,
        said["cancelled"] == "1",
        tuple(said.get("others", "").split()),  # older versions write none
    )


def _holder(said: bytes) -> tuple[str, int]:
    ref, _, epoch = said.decode().rpartition("|")
    return ref, int(epoch)
