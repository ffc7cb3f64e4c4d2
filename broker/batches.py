"""Provider batches in the fleet's Redis: what holds a task from its call's leaving until its line comes back.

A batch outlives the process that sent it, by hours. Its record says how far it has come, so that any node of the lane
can go on from there; one at a time, under the batch's lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from broker import keys
from broker.store import Store, ask
from broker.task import new_task_id

LOCK_S = 60
PAGE = 500
#: open: being filled, nothing has left. sending: it may be with the provider or not. sent: the provider gave it an id.
State = Literal["open", "sending", "sent"]


@dataclass(frozen=True, slots=True)
class Batch:
    """``endpoint`` is the provider's door (``Endpoint.id``), ``provider_id`` its own name for the batch, "" before it
    has one. Times in microseconds of Redis's clock; ``due_us`` is the earliest deadline in it, None where no line has
    one. ``cancelled``: the provider was asked to stop it.
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


class BatchBook:
    """The batches of a fleet. Every method raises RedisUnavailable."""

    def __init__(self, store: Store) -> None:
        self.store, self.client = store, store.client

    def open(self, lane: str, endpoint: str) -> Batch:
        """A new, empty batch."""
        batch = Batch(new_task_id(), lane, endpoint, "open", self.store.now_us())
        pipe = self.client.pipeline()
        pipe.hset(keys.batch_key(batch.id), mapping=_fields(batch))
        pipe.zadd(keys.BATCHES, {batch.id: batch.since_us})
        ask(pipe.execute)
        return batch

    def write(self, batch: Batch) -> None:
        """Its record as it is now."""
        ask(lambda: self.client.hset(keys.batch_key(batch.id), mapping=_fields(batch)))

    def close(self, batch: Batch) -> None:
        """All of its lines are settled: forget it."""
        pipe = self.client.pipeline()
        pipe.delete(keys.batch_key(batch.id), keys.lines_key(batch.id))
        pipe.zrem(keys.BATCHES, batch.id)
        ask(pipe.execute)

    def all(self, lane: str | None = None) -> list[Batch]:
        """Those that are not done with, oldest first; of one lane or of all."""
        ids = [one.decode() for one in ask(lambda: self.client.zrange(keys.BATCHES, 0, -1))]
        pipe = self.client.pipeline(transaction=False)
        for one in ids:
            pipe.hgetall(keys.batch_key(one))
        found = [_batch(one, row) for one, row in zip(ids, ask(pipe.execute), strict=True) if row]
        return [batch for batch in found if lane in (None, batch.lane)]

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

    def left(self, batch: Batch) -> Iterator[list[tuple[str, tuple[str, int]]]]:
        """The lines that are not settled yet, with whose they are, handful by handful."""
        cursor = 0
        while True:
            cursor, rows = self._scan(batch, cursor)
            if rows:
                yield [(line.decode(), _holder(one)) for line, one in rows.items()]
                cursor = 0  # from the start: what was handed out is settled and gone
            elif cursor == 0:
                return

    def _scan(self, batch: Batch, cursor: int) -> tuple[int, dict[bytes, bytes]]:
        found: Any = ask(lambda: self.client.hscan(keys.lines_key(batch.id), cursor, count=PAGE))
        return found  # type: ignore[no-any-return]

    def count_left(self, batch: Batch) -> int:
        return int(ask(lambda: self.client.hlen(keys.lines_key(batch.id))))

    def settled(self, batch: Batch, lines: Sequence[str]) -> None:
        """These lines are done with."""
        if lines:
            ask(lambda: self.client.hdel(keys.lines_key(batch.id), *lines))

    @contextmanager
    def lock(self, name: str) -> Iterator[Lock | None]:
        """The right to work on a batch, or on what ``name`` names; None where another process has it."""
        lock = Lock(self, f"{keys.batch_key(name)}:lock")
        if not lock.take():
            yield None
            return
        try:
            yield lock
        finally:
            lock.give_back()


class Lock:
    """Runs out when its holder does not renew it for a minute."""

    def __init__(self, book: BatchBook, key: str) -> None:
        self._client, self._key, self._token = book.client, key, os.urandom(12).hex()
        self._renew = self._client.register_script(
            "#!lua flags=allow-oom\n"
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
            "if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('EXPIRE', KEYS[1], ARGV[2]) end\n"
            "return 1\n"
        )

    def take(self) -> bool:
        return bool(ask(lambda: self._client.set(self._key, self._token, nx=True, ex=LOCK_S)))

    def held(self) -> bool:
        """Renew it. False: it ran out, and another process may be at work."""
        return bool(ask(lambda: self._renew(keys=[self._key], args=[self._token, LOCK_S])))

    def give_back(self) -> None:
        ask(lambda: self._renew(keys=[self._key], args=[self._token, 0]))


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
    )


def _holder(said: bytes) -> tuple[str, int]:
    ref, _, epoch = said.decode().rpartition("|")
    return ref, int(epoch)
