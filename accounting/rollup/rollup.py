"""A day's facts made into its nightly files: tasks, attempts, daily.

Each file is replaced as a whole and only when its bytes change; the same facts give the same bytes. One rollup at a
time writes to a ledger. Where that lock was lost, an older view of a day still never follows a newer one: a rollup
replaces only the files that were there before it looked at the facts, and begins anew where others came between. A day
is read some buckets of tasks at a time, which keeps the memory bounded however many facts it has; a large day is
folded by all nodes that keep the ledger (``accounting/rollup/shared_rollup.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from accounting.files import ledger, parts, reading
from accounting.files.ledger import Store
from accounting.intake.ingest import DIRTY, LATE_SUFFIX
from accounting.rollup import shared_rollup
from accounting.rollup.drafts import Drafts
from accounting.rollup.offers import Offers
from accounting.rollup.shared_rollup import Shared
from accounting.rollup.view import View, opened
from broker.errors import LedgerError

SLICE_ROWS = 400_000  # of facts; a slice takes about 900 bytes each while it is folded
#: A day of fewer spans is folded in about the time in which other nodes see that it is offered.
LEAST_SHARED = 4
LOCK = "rollup"
PUBLISHED = (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY)

log = logging.getLogger("laneway.rollup")

#: Forgets a day, unless it was touched again since its mark was read. Where it is forgotten already another node rolled
#: it at the same time, as happens where a lock is lost: which of both views the files are of is not known, so that it
#: is to be rolled again.
_FORGET = """#!lua flags=allow-oom
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if mark == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
if not mark then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
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


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of the day's ``spans`` are folded by now; so many ``nodes`` took part."""

    day: str
    done: int
    spans: int
    nodes: int


Tell = Callable[[Progress], None]
Laying = Callable[[str, int, int], None]  # of which day, how many parts, of how many


def rollup(
    store: Store,
    day: str,
    *,
    offers: Offers | None = None,
    tell: Tell = lambda _: None,
    laying: Laying = lambda *_: None,
    slice_rows: int = SLICE_ROWS,
) -> RolledDay:
    """Writes the day's files anew from all its facts; a day without facts is left as it is.

    A large day is shared with other nodes by way of the ``offers``; None: it is folded here alone. ``laying`` is called
    after each small part of a large day that was read, ``tell`` after each span. Raises LedgerError where a file
    cannot be read or written.
    """
    with store.exclusive(LOCK):
        return _again(store, day, offers, tell, laying, slice_rows)


def _again(
    store: Store, day: str, offers: Offers | None, tell: Tell, laying: Laying, slice_rows: int
) -> RolledDay:
    shared_rollup.clear(store, offers)
    try:
        return ledger.again(lambda: _rolled(store, day, offers, tell, laying, slice_rows))
    except OverflowError as error:
        mend = f"find the facts with such amounts among {ledger.partition(ledger.EVENTS, day)}"
        raise LedgerError(f"{day} cannot be rolled: {error}", mend=mend) from error


def _rolled(
    store: Store, day: str, offers: Offers | None, tell: Tell, laying: Laying, slice_rows: int
) -> RolledDay:
    paths = {name: f"{ledger.partition(name, day)}/{name}.parquet" for name in PUBLISHED}
    seen = {name: store.version(path) for name, path in paths.items()}  # before the facts are looked at
    known = _tasks_of(store, paths[ledger.TASKS]) if seen[ledger.TASKS] else 0  # facts are only ever added
    cut = partial(parts.spans, rows=slice_rows)
    with opened(store, day, cut, tell=partial(laying, day)) as view, Drafts() as drafts:
        with _shared(store, day, view, offers) as lots, ThreadPoolExecutor(1, "drafts") as pool:
            coming, writing = lots.lots(), pool.submit(lambda: None)
            for done in range(1, len(view.spans) + 1):
                made = [next(coming)]  # while the one before it is written
                writing.result()
                writing = pool.submit(drafts.add, made.pop())
                tell(Progress(day, done, len(view.spans), lots.nodes))
            writing.result()
        if 0 < drafts.tasks < known:
            raise LedgerError(
                f"{ledger.partition(ledger.EVENTS, day)} tells of {drafts.tasks} tasks and {paths[ledger.TASKS]} of"
                f" {known}: parts of the former are gone",
                mend="put them back; where they are gone for good, keep one of both: remove the latter and roll the day"
                " again, or remove the former",
            )
        written = tuple(
            paths[name]
            for name, data in (drafts.done() if drafts.events else ())
            if store.put(paths[name], data, over=seen[name])
        )
    return RolledDay(day, drafts.events, drafts.tasks, drafts.attempts, drafts.cost_nano, written)


def _tasks_of(store: Store, path: str) -> int:
    """How many tasks the nightly file has; 0 for one that is damaged, which is written anew."""
    try:
        with closing(store.open(path)) as source:
            return int(reading.opened(source).metadata.num_rows)
    except reading.BROKEN:
        return 0


def _shared(
    store: Store, day: str, view: View, offers: Offers | None
) -> AbstractContextManager[View | Shared]:
    if offers is None or len(view.spans) < LEAST_SHARED:
        return nullcontext(view)
    return Shared(offers, store, day, view)


def rollup_dirty(
    client: redis.Redis,
    store: Store,
    *,
    offers: Offers | None = None,
    tell: Tell = lambda _: None,
    laying: Laying = lambda *_: None,
) -> tuple[RolledDay, ...]:
    """Rolls every day that has news since its last rollup, the oldest first; all else as in ``rollup``.

    A day is forgotten only after its files are durable, and stays where ingest touched it meanwhile, or where the part
    that touched it last was not in sight. A day that cannot be rolled does not stop the others; raises LedgerError for
    those at the end.
    """
    days: Any = client.hkeys(DIRTY)
    forget = client.register_script(_FORGET)
    rolled: list[RolledDay] = []
    failures: list[LedgerError] = []
    for name in sorted(days):
        try:
            with store.exclusive(LOCK):
                mark: Any = client.hget(DIRTY, name)
                if mark is None:  # another node rolled it while this one waited
                    continue
                in_sight = _in_sight(store, name.decode(), mark.decode())
                rolled.append(_again(store, name.decode(), offers, tell, laying, SLICE_ROWS))
                if in_sight:
                    forget(keys=[DIRTY], args=[name, mark])
        except LedgerError as failure:
            log.error("%s stays to be rolled: %s", name.decode(), failure.message)
            failures.append(failure)
    if failures:
        raise ledger.together(failures) from failures[0]
    return tuple(rolled)


def _in_sight(store: Store, day: str, mark: str) -> bool:
    """Whether this node sees the part that touched the day last: a folder that several machines mount shows it late,
    and another ledger never."""
    folder = ledger.partition(ledger.EVENTS, day)
    ends = (
        f"-{mark}.parquet",
        f"-{mark}{LATE_SUFFIX}.parquet",
    )  # marks of earlier versions do not tell them apart
    if any(name.endswith(ends) for name in store.list(folder)):
        return True
    log.error(
        "%s is rolled without its latest facts, and stays to be rolled: no part in %s ends with entry %s; wait until"
        " this node sees it, or see that all nodes have the same fleet.ledger; where the part is gone for good, forget"
        " it: redis-cli HDEL %s %s",
        day, folder, mark, DIRTY, day,
    )  # fmt: skip
    return False
