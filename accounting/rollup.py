"""A day's facts made into its nightly files: tasks, attempts, daily.

Each file is replaced as a whole and only when its bytes change; the same facts give the same bytes. One rollup at a
time writes to a ledger. Where that lock was lost, an older view of a day still never follows a newer one: a rollup
replaces only the files that were there before it looked at the facts, and begins anew where others came between. A day
is read in slices of task ids, which keeps the memory bounded however many facts it has: the parts are sorted by task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from accounting import fold, ledger, schema
from accounting.ingest import DIRTY
from accounting.ledger import Store
from accounting.rows import AttemptRow, DailyKey, Folded, TaskRow
from broker.errors import LedgerError
from broker.events import Event, decode_fact

SLICE_ROWS = 100_000
LOCK = "rollup"
PUBLISHED = (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY)
_LAST = "\U0010ffff"  # no id of a task is above it
_READ = ("workspace", "task_id", "seq", "at", "submitted_at", "fact")

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


class _Group(NamedTuple):
    """One row group of a part: task ids from ``low`` to ``high``, both in it. ``meta`` is the part's footer."""

    path: str
    meta: Any
    number: int
    low: str
    high: str
    rows: int


def rollup(store: Store, day: str, *, slice_rows: int = SLICE_ROWS) -> RolledDay:
    """Writes the day's files anew from all its facts; a day without facts is left as it is.

    Raises LedgerError where a file cannot be read or written.
    """
    with store.exclusive(LOCK):
        return ledger.again(lambda: _rolled(store, day, slice_rows))


def _rolled(store: Store, day: str, slice_rows: int) -> RolledDay:
    made = _Made()
    events = 0
    paths = {name: f"{ledger.partition(name, day)}/{name}.parquet" for name in PUBLISHED}
    seen = {name: store.version(path) for name, path in paths.items()}  # before the facts are looked at
    with store.nearby(ledger.partition(ledger.EVENTS, day)) as near:
        for piece in _slices(near, day, slice_rows):
            events += piece.num_rows
            made.add(_tasks_of(piece, day))
    written = tuple(
        paths[name]
        for name, table in (made.tables() if events else ())
        if store.put(paths[name], schema.encode(table.combine_chunks()), over=seen[name])
    )
    return RolledDay(day, events, made.task_count, made.attempt_count, made.cost_nano, written)


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


class _Made:
    """The day's rows as they come, a slice at a time."""

    def __init__(self) -> None:
        self._tasks: list[Any] = []
        self._attempts: list[Any] = []
        self._daily: dict[DailyKey, list[int]] = {}
        self.task_count = self.attempt_count = self.cost_nano = 0

    def add(self, folded: Iterator[Folded]) -> None:
        tasks: list[TaskRow] = []
        attempts: list[tuple[str, AttemptRow]] = []
        for one in folded:
            tasks.append(one.task)
            attempts.extend((one.task.workspace, row) for row in one.attempts)
            fold.add_to_day(self._daily, one)
        self.task_count += len(tasks)
        self.attempt_count += len(attempts)
        self.cost_nano += sum(task.cost.total for task in tasks)
        self._tasks.append(schema.table(schema.TASKS, [task.columns for task in tasks]))
        whose = pa.array([workspace for workspace, _ in attempts], schema.TEXT)
        rows = schema.table(schema.ATTEMPTS, [row.columns for _, row in attempts])
        self._attempts.append(rows.append_column("workspace", whose))

    def tables(self) -> Iterator[tuple[str, Any]]:
        """The finished tables, one after another, in an order of rows that depends on the rows alone."""
        yield ledger.TASKS, _sorted(self._tasks, ("workspace", "task_id", "submitted_at"))
        keys = ("workspace", "task_id", "hop", "started_at", "attempt_id")
        yield (
            ledger.ATTEMPTS,
            _sorted(self._attempts, keys).select(schema.ATTEMPTS.names).cast(schema.ATTEMPTS),
        )
        daily = [(*key, *sums) for key, sums in sorted(self._daily.items())]
        yield ledger.DAILY, schema.table(schema.DAILY, daily)


def _sorted(pieces: list[Any], keys: Sequence[str]) -> Any:
    """The pieces as one sorted table. They are let go on the way: a day is large."""
    table = pa.concat_tables(pieces).combine_chunks()
    pieces.clear()
    return table.take(pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys]))


def _slices(store: Store, day: str, slice_rows: int) -> Iterator[Any]:
    """The day's facts in tables of about ``slice_rows`` rows, each task's facts together in one of them."""
    folder = ledger.partition(ledger.EVENTS, day)
    parts = [f"{folder}/{name}" for name in store.list(folder) if name.endswith(".parquet")]
    groups = [group for part in parts for group in _groups(store, part)]
    starts = _cuts(groups, slice_rows)
    for low, high in zip(starts, [*starts[1:], None], strict=True):
        mine = [group for group in groups if group.high >= low and (high is None or group.low < high)]
        pieces = [_within(table, low, high) for table in _tables(store, mine)]
        if pieces:
            yield pa.concat_tables(pieces)


def _groups(store: Store, path: str) -> list[_Group]:
    try:
        meta = pq.read_metadata(store.open(path))
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from error
    column = meta.schema.names.index("task_id")
    groups = []
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        said = group.column(column).statistics
        known = said is not None and said.has_min_max
        low, high = (said.min, said.max) if known else ("", _LAST)
        groups.append(_Group(path, meta, number, low, high, group.num_rows))
    return groups


def _cuts(groups: Sequence[_Group], slice_rows: int) -> list[str]:
    """The first task id of each slice; every id is at or above ""."""
    cuts = [""]
    rows = 0
    for group in sorted(groups, key=lambda group: group.low):
        if rows and rows + group.rows > slice_rows and group.low > cuts[-1]:
            cuts.append(group.low)
            rows = 0
        rows += group.rows
    return cuts


def _tables(store: Store, groups: Sequence[_Group]) -> Iterator[Any]:
    by_path: dict[str, list[_Group]] = {}
    for group in groups:
        by_path.setdefault(group.path, []).append(group)
    for path, mine in by_path.items():
        try:
            part = pq.ParquetFile(store.open(path), metadata=mine[0].meta)
            yield part.read_row_groups(
                [group.number for group in mine], columns=list(_READ), use_threads=False
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error


def _within(table: Any, low: str, high: str | None) -> Any:
    task_id = table["task_id"]
    keep = pc.greater_equal(task_id, low)
    if high is not None:
        keep = pc.and_(keep, pc.less(task_id, high))
    return table.filter(keep)


def _tasks_of(table: Any, day: str) -> Iterator[Folded]:
    """Each task of the slice, folded. A task is a submission: an id that was used again is another task."""
    tasks: dict[tuple[str, str, int], set[tuple[int, int, bytes]]] = {}
    columns = [table[name].to_pylist() for name in ("workspace", "task_id", "seq", "fact")]
    times = [schema.micros(table[name]).to_pylist() for name in ("submitted_at", "at")]
    for workspace, task_id, seq, fact, submitted_us, at_us in zip(*columns, *times, strict=True):
        tasks.setdefault((workspace, task_id, submitted_us), set()).add((seq, at_us, fact))
    for (workspace, task_id, submitted_us), facts in tasks.items():
        try:
            events = [
                Event(workspace, task_id, seq, at_us, submitted_us, decode_fact(fact))
                for seq, at_us, fact in facts
            ]
        except ValueError as error:
            raise LedgerError(
                f"the events of {day} hold a fact of task {task_id!r} that this version cannot read: {error}",
                mend="roll the day with the version that wrote it, or a newer one",
            ) from error
        yield fold.fold(events)


def _damaged(path: str, error: Exception) -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {error}", mend="put the file back from a copy, then roll the day again"
    )
