"""Events through what ingest and rollup make of them, into the rows of the reference."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from accounting.files import facts, parts, schema
from accounting.files.ledger import LocalStore
from accounting.intake import wire
from accounting.rollup import daily, fold
from accounting.rollup.lots import Lot, Lots
from broker.events import Event, encode_fact
from tests.accounting.reference_rows import AttemptRow, Cost, Folded, TaskRow, Tokens
from tests.accounting.stories import entry

_TASK_TOKENS = TaskRow._fields.index("tokens")
_ATTEMPT_TOKENS = AttemptRow._fields.index("tokens")
_TOKENS, _COST = len(Tokens._fields), len(Cost._fields)


class _Memory(LocalStore):
    """A store of parts alone, which lie in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def list(self, folder: str) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def open(self, path: str) -> Any:
        return pa.BufferReader(self.files[path.rpartition("/")[2]])


def rolled(
    lots: Sequence[Sequence[Event]], *, rows: int = 10**6
) -> tuple[list[Folded], list[tuple[Any, ...]]]:
    """The tasks of one day with their attempts, and the sums of the day; each lot is a part of its own."""
    files = {}
    for number, lot in enumerate(lots):
        for _, table in wire.Gathered([entry([event]) for event in lot]).by_day():
            files[f"{number}.parquet"] = parts.encode(table)
    store = _Memory(files)
    found = parts.of_day(store, "2026-01-01")
    tasks: list[Folded] = []
    sums = daily.Merging()
    for lot in lots_of(found, rows):
        if lot.identity.num_rows:
            made = fold.fold(lot)
            tasks += _rows(made)
            sums.add(made.daily)
    return tasks, [tuple(row.values()) for table in sums.tables() for row in table.to_pylist()]


def table_of(lot: list[Event]) -> Any:
    [(_, table)] = wire.Gathered([entry([event]) for event in lot]).by_day()
    return table


def lots_of(found: Sequence[parts.Part], rows: int) -> Iterator[Lot]:
    """The facts of the parts, about so many at a time."""
    spans = parts.spans(found, rows)
    with closing(Lots(found, spans, fold.COLUMNS)) as facts_of:
        yield from map(facts_of.read, range(len(spans)))


def folded(events: Iterable[Event]) -> Folded:
    """The rows of one task, each event in a part of its own."""
    [one], _ = rolled([[event] for event in events])
    return one


def shuffled(events: Iterable[Event], chance: random.Random, parts: int) -> list[list[Event]]:
    """The events in any order, some of them several times, dealt out to parts."""
    dealt = [event for event in events for _ in range(chance.choice((1, 1, 2, 3)))]
    chance.shuffle(dealt)
    return [lot for lot in (dealt[number::parts] for number in range(parts)) if lot]


def _rows(made: fold.Folded) -> Iterable[Folded]:
    attempts = [_attempt(tuple(row.values())) for row in made.attempts.to_pylist()]
    start = 0
    for row in made.tasks.to_pylist():
        task = _task(tuple(row.values()))
        end = start
        while end < len(attempts) and attempts[end].task_id == task.task_id:
            end += 1
        yield Folded(task, tuple(attempts[start:end]))
        start = end


def _task(row: Sequence[Any]) -> TaskRow:
    plain: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    tokens, cost = _TASK_TOKENS, _TASK_TOKENS + _TOKENS
    plain[cost : cost + _COST] = [Cost(*plain[cost : cost + _COST])]
    plain[tokens:cost] = [Tokens(*plain[tokens:cost])]
    return TaskRow._make(plain)


def _attempt(row: Sequence[Any]) -> AttemptRow:
    tokens, rest = _ATTEMPT_TOKENS, _ATTEMPT_TOKENS + _TOKENS
    return AttemptRow._make([*row[:tokens], Tokens(*row[tokens:rest]), *row[rest:]])


assert len(schema.TASKS) == len(TaskRow._fields) - 2 + _TOKENS + _COST


def facts_in(tables: Iterable[Any]) -> list[tuple[object, ...]]:
    """Whose facts the tables of ``events`` have, and the facts themselves, sorted."""
    found = [event for one in tables for event in facts.events(one)]
    return sorted((one.workspace, one.task_id, one.seq, encode_fact(one.fact)) for one in found)
