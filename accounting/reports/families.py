"""Tasks with their parts: what a critic or a sub-task spends is spent on the task that it is a part of.

A part (``root_task_id``) is no task of its own: it is in no count of tasks, no success rate and no percentile. What it
spent stays on its own day, under what tells its root apart (type, lane, workflow …) and beside that one's verdict; and
the root's own cost, as percentiles see it, has it in it. That takes a root of the same day or of the day before: a part
that came later stands under its own type, and is no task either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from accounting import ledger, schema
from accounting.currency import Rates
from accounting.ledger import Store
from accounting.reports.rows import Piece, pieces, read
from accounting.reports.sums import cost_columns, grouped, spent

ROOT = "root_task_id"
#: Columns that rows have where parts are near: whether the row is a part, and what its parts spent, in nano-dollars.
PART, PARTS_NANO = "part", "parts_nano"
#: What telling needs of ``tasks``.
NEEDED = ("workspace", "task_id", ROOT)
_KEY, _NANO = "key", "nano"
_NEAR = 4  # days that are kept: two are looked at, and others begin while these are under way
_NOBODY = pa.table({_KEY: pa.array([], schema.TEXT), _NANO: pa.array([], schema.COUNT)})
Derive = Callable[[str, Any], Any]


class Families:
    """The tasks of some days with their parts. ``told`` is thread-safe."""

    def __init__(
        self, store: Store, columns: Sequence[str], needed: Sequence[str], rates: Rates | None, derive: Derive
    ) -> None:
        """``columns`` are those that a part takes over from its root, made by ``derive`` from the ``needed`` ones."""
        self._store, self._columns, self._rates, self._derive = store, tuple(columns), rates, derive
        #: Columns of ``tasks`` that rows must have to be told.
        self.needed = tuple(dict.fromkeys((*NEEDED, *needed)))
        self._lock = Lock()
        self._spent: dict[str, Any] = {}
        self._roots: dict[str, Any] = {}

    def told(self, day: str, rows: Any) -> Any:
        """Rows of the day with ``PART`` and ``PARTS_NANO``; without where neither this day nor the next has parts."""
        rows = self._derive(day, rows)
        with self._lock:
            parts = self._parts_near(day)
            if not parts.num_rows:
                return rows
            roots = pa.concat_tables([self._roots_of(one) for one in (_after(day, -1), day)])
        own = _joined(rows, "task_id")
        nanos = parts[_NANO].take(pc.index_in(own, value_set=parts[_KEY].combine_chunks())).fill_null(0)
        place = pc.index_in(_joined(rows, ROOT), value_set=roots[_KEY].combine_chunks())
        is_part = rows[ROOT].is_valid()
        if is_part.null_count or pc.any(is_part).as_py():
            for name in self._columns:
                rows = rows.set_column(
                    rows.column_names.index(name), name, _theirs(rows[name], roots[name], place)
                )
        return rows.append_column(PART, is_part).append_column(PARTS_NANO, nanos)

    def _parts_near(self, day: str) -> Any:
        """What parts of this day and of the next spent, by the task that they are parts of."""
        return grouped(pa.concat_tables([self._spent_on(one) for one in (day, _after(day, 1))]), [_KEY])

    def _spent_on(self, day: str) -> Any:
        return _kept(self._spent, day, self._read_spent)

    def _roots_of(self, day: str) -> Any:
        return _kept(self._roots, day, self._read_roots)

    def _read_spent(self, day: str) -> Any:
        found = [_NOBODY]
        for piece in pieces(self._store, ledger.TASKS, (day,), {}):
            if has_parts(piece):
                rows = read(piece, ("workspace", ROOT, *cost_columns(self._rates)))
                rows = rows.filter(rows[ROOT].is_valid())
                found.append(pa.table({_KEY: _joined(rows, ROOT), _NANO: spent(rows, day, self._rates)}))
        return grouped(pa.concat_tables(found), [_KEY])

    def _read_roots(self, day: str) -> Any:
        """Of the day's tasks those that have parts near, in the columns that these take over."""
        wanted = self._parts_near(day)[_KEY].combine_chunks()
        found = []
        for piece in pieces(self._store, ledger.TASKS, (day,), {}):
            rows = self._derive(day, read(piece, self.needed))
            keys = _joined(rows, "task_id")
            those = pc.is_in(keys, value_set=wanted)
            made = {_KEY: keys.filter(those)}
            made |= {name: _plain(rows[name].filter(those)) for name in self._columns}
            found.append(pa.table(made))
        return pa.concat_tables(found)


def families(
    store: Store,
    days: Sequence[str],
    columns: Sequence[str],
    needed: Sequence[str],
    rates: Rates | None,
    derive: Derive = lambda _, rows: rows,
) -> Families | None:
    """None where no task of these days, or of the one after them, is a part of another one."""
    near = dict.fromkeys((*days, *(_after(day, 1) for day in days[-1:])))
    if not any(has_parts(piece) for piece in pieces(store, ledger.TASKS, tuple(near), {})):
        return None
    return Families(store, columns, needed, rates, derive)


def has_parts(piece: Piece) -> bool:
    """Whether the footer leaves room for a part."""
    if piece.source is None or ROOT not in piece.meta.schema.names:
        return False
    place = piece.meta.schema.names.index(ROOT)
    for number in piece.groups:
        column = piece.meta.row_group(number).column(place)
        said = column.statistics
        if said is None or not said.has_null_count or said.null_count < column.num_values:
            return True
    return False


def _kept(days: dict[str, Any], day: str, make: Callable[[str], Any]) -> Any:
    if day not in days:
        days[day] = make(day)
        for old in sorted(days)[:-_NEAR]:
            del days[old]
    return days[day]


def _after(day: str, count: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=count)).isoformat()


def _joined(rows: Any, name: str) -> Any:
    """The row's workspace and what the column says; null where that is null."""
    both = pc.binary_join_element_wise(_plain(rows["workspace"]), _plain(rows[name]), "\n")
    return schema.in_one(both)


def _plain(column: Any) -> Any:
    return column.cast(schema.TEXT) if pa.types.is_dictionary(column.type) else column


def _theirs(own: Any, of_roots: Any, place: Any) -> Any:
    """What the roots say where there is one, else what the rows do; in the type of the rows' column."""
    made = pc.if_else(place.is_valid(), schema.in_one(of_roots.take(place)), schema.in_one(_plain(own)))
    return made.dictionary_encode() if pa.types.is_dictionary(own.type) else made
