"""A day's facts made into its nightly files: tasks, attempts, daily.

Each file is replaced as a whole and only when its bytes change; the same facts give the same bytes. One rollup at a
time writes to a ledger. Where that lock was lost, an older view of a day still never follows a newer one: a rollup
replaces only the files that were there before it looked at the facts, and begins anew where others came between. A day
is read some buckets of tasks at a time, which keeps the memory bounded however many facts it has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from accounting import ledger, parts
from accounting.drafts import Drafts
from accounting.fold import COLUMNS, fold
from accounting.ingest import DIRTY
from accounting.ledger import Store
from broker.errors import LedgerError

SLICE_ROWS = 400_000  # of facts; a slice takes about 900 bytes each while it is folded
LOCK = "rollup"
PUBLISHED = (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY)

T = TypeVar("T")

log = logging.getLogger("laneway.rollup")

#: Forgets a day, unless it was touched again since its mark was read.
_FORGET = """#!lua flags=allow-oom
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""


@dataclass(frozen=True, slots=True)
class RolledDay:
    """What a rollup of one UTC day made. ``written`` are the files whose bytes changed; money in nano-dollars."""

    day: str
    events: int
    tasks: int
    attempts: int
    cost_nano: int
    written: tuple[str, ...]


def rollup(store: Store, day: str, *, slice_rows: int = SLICE_ROWS) -> RolledDay:
    """Writes the day's files anew from all its facts; a day without facts is left as it is.

    Raises LedgerError where a file cannot be read or written.
    """
    with store.exclusive(LOCK):
        return ledger.again(lambda: _rolled(store, day, slice_rows))


def _rolled(store: Store, day: str, slice_rows: int) -> RolledDay:
    paths = {name: f"{ledger.partition(name, day)}/{name}.parquet" for name in PUBLISHED}
    seen = {name: store.version(path) for name, path in paths.items()}  # before the facts are looked at
    with store.nearby(ledger.partition(ledger.EVENTS, day)) as near, Drafts() as drafts:
        found = parts.of_day(near, day)
        lots = ahead(parts.read(near, found, span, COLUMNS) for span in parts.spans(found, slice_rows))
        for folded in ahead(fold(lot) for lot in lots):
            drafts.add(folded)
        written = tuple(
            paths[name]
            for name, data in (drafts.done() if drafts.events else ())
            if store.put(paths[name], data, over=seen[name])
        )
    return RolledDay(day, drafts.events, drafts.tasks, drafts.attempts, drafts.cost_nano, written)


def ahead(made: Iterator[T]) -> Iterator[T]:
    """The same, the next one made by a thread while the last one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one


def rollup_dirty(client: redis.Redis, store: Store) -> tuple[RolledDay, ...]:
    """Rolls every day that has news since its last rollup, the oldest first.

    A day is forgotten only after its files are durable, and stays where ingest touched it meanwhile. A day that cannot
    be rolled does not stop the others; raises LedgerError for those at the end.
    """
    marks: Any = client.hgetall(DIRTY)
    forget = client.register_script(_FORGET)
    rolled: list[RolledDay] = []
    failures: list[LedgerError] = []
    for name, mark in sorted(marks.items()):
        try:
            rolled.append(rollup(store, name.decode()))
        except LedgerError as failure:
            log.error("%s stays to be rolled: %s", name.decode(), failure.message)
            failures.append(failure)
            continue
        forget(keys=[DIRTY], args=[name, mark])
    if failures:
        raise LedgerError("; ".join(one.message for one in failures), mend=failures[0].mend) from failures[0]
    return tuple(rolled)
