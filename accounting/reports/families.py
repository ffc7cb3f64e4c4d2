"""Tasks with their parts: what a critic or a sub-task spends is spent on the task that it is a part of.

A part (``root_task_id``) is no task of its own: it is in no count of tasks, no success rate and no percentile. What it
spent stays on its own day, under what tells its root apart (type, lane, workflow …) and beside that one's verdict; and
the root's own cost, as percentiles see it, has it in it. That takes a root of the same day or of the day before: a part
that came later stands under its own type, and is no task either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting import schema
from accounting.currency import Rates
from accounting.order import Rows
from accounting.reports.rows import Derive, Files, Piece, read
from accounting.reports.sums import cost_columns, spent

ROOT = "root_task_id"
#: Columns that rows have where parts are near: whether the row is a part, what its parts spent in nano-dollars, and
#: its own type.
PART, PARTS_NANO, OWN_TYPE = "part", "parts_nano", "own_type"
_KEYS = ("workspace", "task_id", ROOT)
_NONE = -1  # in place of a row: there is none
_NEAR = 6  # days that are kept: as many as are read at once, and one on either side
Made = TypeVar("Made")


def wholes(rows: Any) -> Any:
    """Of each row whether it is a task of its own."""
    return pc.invert(rows[PART]) if PART in rows.column_names else pa.repeat(True, rows.num_rows)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a day: their rows among the day's, and the row of the root of each on that day, or else on the one
    before."""

    rows: Rows
    same_day: Rows
    day_before: Rows


@dataclass(frozen=True, slots=True)
class _Day:
    """Of each row of a day what ``told`` adds, and of a part which of the ``roots`` is its own; None where there is
    no root."""

    is_part: Any
    parts_nano: Rows
    place: Rows
    roots: Any


class Families:
    """The tasks of some days with their parts. ``told`` is thread-safe."""

    def __init__(
        self,
        files: Files,
        days: Sequence[str],
        columns: Sequence[str],
        needed: Sequence[str],
        rates: Rates | None,
        derive: Derive,
    ) -> None:
        """``files`` are those of tasks, ``days`` those that are asked for. ``columns`` are those that a part takes over
        from its root, made by ``derive`` from the ``needed`` ones."""
        self._files, self._columns, self._rates, self._derive = files, tuple(columns), rates, derive
        #: Columns of ``tasks`` that rows must have to be told.
        self.needed = tuple(dict.fromkeys(("task_type", *needed)))
        self._range = frozenset(days)
        self._lock = Lock()
        self._ids: dict[str, tuple[Any, Any]] = {}
        self._parts: dict[str, _Parts] = {}
        self._days: dict[str, _Day | None] = {}

    def rows_of(self, day: str, names: Sequence[str]) -> Any:
        """All of the day's rows in these columns, of the files that ``told`` counts them in; no text is coded."""
        return pa.concat_tables(
            [_plain(read(piece, names)) for piece in self._files.of(day)]
        ).combine_chunks()

    def told(self, day: str, rows: Any, start: int = 0) -> Any:
        """The day's rows from ``start`` on with ``PART``, ``PARTS_NANO`` and ``OWN_TYPE``; as they are where no part is
        near. What parts spent on days that were not asked for is in nothing."""
        rows = self._derive(day, rows, start)
        with self._lock:
            mine = _kept(self._days, day, self._of_day)
        if mine is None:
            return rows
        here = slice(start, start + rows.num_rows)
        own_type, place = rows["task_type"], mine.place[here]
        if (place != _NONE).any():
            at = pa.array(place, mask=place == _NONE)
            for name in self._columns:
                taken = _theirs(rows[name], mine.roots[name].take(at), at)
                rows = rows.set_column(rows.column_names.index(name), name, taken)
        rows = rows.append_column(PART, pa.array(mine.is_part[here]))
        return rows.append_column(PARTS_NANO, pa.array(mine.parts_nano[here])).append_column(
            OWN_TYPE, own_type
        )

    def _of_day(self, day: str) -> _Day | None:
        before, after = _after(day, -1), _after(day, 1)
        parts = self._parts_of(day)
        later = self._parts_of(after) if after in self._range else None
        if not len(parts.rows) and (later is None or not len(later.rows)):
            return None
        count = len(self._ids_of(day)[0])
        nanos, is_part = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
        is_part[parts.rows] = True
        _add(nanos, parts.same_day, self._spent(day, parts.rows))
        if later is not None and len(later.rows):
            _add(nanos, later.day_before, self._spent(after, later.rows))
        here, there = (_distinct(rows) for rows in (parts.same_day, parts.day_before))
        place = np.full(count, _NONE, dtype=np.int64)
        of_parts = np.where(parts.same_day == _NONE, _NONE, np.searchsorted(here, parts.same_day))
        earlier = len(here) + np.searchsorted(there, parts.day_before)
        place[parts.rows] = np.where(parts.day_before == _NONE, of_parts, earlier)
        roots = [self._values(*one) for one in ((day, here), (before, there)) if len(one[1])]
        return _Day(is_part, nanos, place, pa.concat_tables(roots) if roots else None)

    def _parts_of(self, day: str) -> _Parts:
        return _kept(self._parts, day, self._found)

    def _found(self, day: str) -> _Parts:
        own, roots = self._ids_of(day)
        rows = np.flatnonzero(roots.is_valid())
        wanted = roots.take(pa.array(rows))
        same = _rows_of(wanted, own)
        missing = (same == _NONE).any()
        before = _rows_of(wanted, self._ids_of(_after(day, -1))[0]) if missing else same
        return _Parts(rows, same, np.where(same == _NONE, before, _NONE))

    def _ids_of(self, day: str) -> tuple[Any, Any]:
        """Of each of the day's tasks its name in the fleet, and that of its root; null where it is no part."""
        return _kept(self._ids, day, self._read_ids)

    def _read_ids(self, day: str) -> tuple[Any, Any]:
        rows = self.rows_of(day, _KEYS)
        own, roots = (
            pc.binary_join_element_wise(rows["workspace"], rows[name], "/") for name in ("task_id", ROOT)
        )
        return schema.in_one(own), schema.in_one(roots)

    def _spent(self, day: str, those: Rows) -> Rows:
        """What these rows of the day spent."""
        found = [np.zeros(0, dtype=np.int64)]
        for piece in self._files.of(day):
            if mine := _within(those, piece):
                rows = read(piece, cost_columns(self._rates))
                found.append(spent(rows, day, self._rates)[mine])
        return np.concatenate(found)

    def _values(self, day: str, those: Rows) -> Any:
        """What these rows of the day have in the columns that parts take over."""
        found = []
        for piece in self._files.of(day):
            if mine := _within(those, piece):
                rows = self._derive(day, read(piece, self.needed), piece.start).select(list(self._columns))
                found.append(_plain(rows.take(pa.array(mine))))
        return pa.concat_tables(found).combine_chunks()


def may_have_parts(piece: Piece) -> bool:
    """Whether the footer leaves room for a task that is a part of another one."""
    if piece.source is None or ROOT not in piece.meta.schema.names:
        return False
    place = piece.meta.schema.names.index(ROOT)
    for number in piece.groups:
        column = piece.meta.row_group(number).column(place)
        said = column.statistics
        if said is None or not said.has_null_count or said.null_count < column.num_values:
            return True
    return False


def _kept(days: dict[str, Made], day: str, make: Callable[[str], Made]) -> Made:
    if day not in days:
        made = make(day)  # which may make others
        days[day] = made
        for old in list(days)[:-_NEAR]:
            del days[old]
        return made
    return days[day]


def _after(day: str, count: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=count)).isoformat()


def _rows_of(keys: Any, among: Any) -> Rows:
    return np.asarray(
        pc.index_in(keys, value_set=among).fill_null(_NONE).to_numpy(zero_copy_only=False), dtype=np.int64
    )


def _distinct(rows: Rows) -> Rows:
    found = np.unique(rows)
    return np.asarray(found[found != _NONE])


def _add(amounts: Rows, rows: Rows, more: Rows) -> None:
    there = rows != _NONE
    np.add.at(amounts, rows[there], more[there])


def _within(those: Rows, piece: Piece) -> list[int]:
    """Those of the day's rows, in their order, that the piece has, counted from its first one."""
    low, high = np.searchsorted(those, (piece.start, piece.start + piece.rows))
    return (those[low:high] - piece.start).tolist()  # type: ignore[no-any-return]


def _plain(rows: Any) -> Any:
    """Texts as they are, and not as codes."""
    kinds = [schema.TEXT if pa.types.is_dictionary(one.type) else one.type for one in rows.schema]
    return rows.cast(pa.schema(zip(rows.column_names, kinds, strict=True)))


def _theirs(own: Any, of_roots: Any, place: Any) -> Any:
    """What the roots say where there is one, else what the rows do; in the type of the rows' column."""
    coded = pa.types.is_dictionary(own.type)
    plain = own.cast(schema.TEXT) if coded else own
    made = pc.if_else(place.is_valid(), schema.in_one(of_roots), schema.in_one(plain))
    return made.dictionary_encode() if coded else made
