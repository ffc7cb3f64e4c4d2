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

from accounting.files import schema
from accounting.reports.beside import NONE, first_of
from accounting.reports.currency import Rates
from accounting.reports.rows import Derive, Files, Piece, at_once, names_of, read, wider
from accounting.reports.sums import cost_columns, spent
from accounting.rollup.order import Rows

ROOT = "root_task_id"
#: Columns that rows have where parts are near: whether the row is a part, what its parts spent in nano-dollars, and
#: its own type.
PART, PARTS_NANO, OWN_TYPE = "part", "parts_nano", "own_type"
_NEAR = 6  # days that are kept: as many as are read at once, and one on either side
Made = TypeVar("Made")


def wholes(rows: Any) -> Any:
    """Of each row whether it is a task of its own."""
    return pc.invert(rows[PART]) if PART in rows.column_names else pa.repeat(True, rows.num_rows)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a day: their rows among the day's, the row of the root of each on that day, or else on the one
    before, and what each spent in nano-dollars."""

    rows: Rows
    same_day: Rows
    day_before: Rows
    nanos: Rows


@dataclass(frozen=True, slots=True)
class _Day:
    """The parts of a day, and of each which of the ``roots`` is its own, NONE where none is there; the day's rows that
    have parts, and what these spent."""

    parts: Rows
    place: Rows
    roots: Any
    wholes: Rows
    nanos: Rows


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
        self.files, self._columns, self._rates, self._derive = files, tuple(columns), rates, derive
        #: Columns of ``tasks`` that rows must have to be told.
        self.needed = tuple(dict.fromkeys(("task_type", *needed)))
        self._range = frozenset(days)
        self._lock = Lock()
        self._parts: dict[str, _Parts] = {}
        self._days: dict[str, _Day | None] = {}

    def told(self, day: str, rows: Any, start: int = 0) -> Any:
        """The day's rows from ``start`` on with ``PART``, ``PARTS_NANO`` and ``OWN_TYPE``; as they are where no part is
        near. What parts spent on days that were not asked for is in nothing."""
        rows = self._derive(day, rows, start)
        with self._lock:
            mine = _kept(self._days, day, self._of_day)
        if mine is None:
            return rows
        here = start, start + rows.num_rows
        some = slice(*np.searchsorted(mine.parts, here))
        part, place = mine.parts[some] - start, mine.place[some]
        own_type, known = rows["task_type"], place != NONE
        if known.any():
            for name in self._columns:
                taken = _theirs(rows[name], part[known], mine.roots[name].take(pa.array(place[known])))
                rows = rows.set_column(rows.column_names.index(name), name, taken)
        is_part, nanos = np.zeros(rows.num_rows, dtype=np.bool_), np.zeros(rows.num_rows, dtype=np.int64)
        is_part[part] = True
        some = slice(*np.searchsorted(mine.wholes, here))
        nanos[mine.wholes[some] - start] = mine.nanos[some]
        more = {PART: is_part, PARTS_NANO: nanos, OWN_TYPE: own_type}
        for name, values in more.items():
            rows = rows.append_column(name, values if name == OWN_TYPE else pa.array(values))
        return rows

    def _of_day(self, day: str) -> _Day | None:
        before, after = _after(day, -1), _after(day, 1)
        parts = self._parts_of(day)
        later = self._parts_of(after) if after in self._range else None
        if not len(parts.rows) and (later is None or not len(later.rows)):
            return None
        here, there = (_distinct(rows) for rows in (parts.same_day, parts.day_before))
        of_day = np.where(parts.same_day == NONE, NONE, np.searchsorted(here, parts.same_day))
        earlier = len(here) + np.searchsorted(there, parts.day_before)
        place = np.where(parts.day_before == NONE, of_day, earlier)
        found = [self._values(*one) for one in ((day, here), (before, there)) if len(one[1])]
        spent = [(parts.same_day, parts.nanos)]
        spent += [(later.day_before, later.nanos)] if later is not None else []
        rows, nanos = (np.concatenate(column) for column in zip(*spent, strict=True))
        wholes = _distinct(rows)
        sums, known = np.zeros(len(wholes), dtype=np.int64), rows != NONE
        np.add.at(sums, np.searchsorted(wholes, rows[known]), nanos[known])
        return _Day(parts.rows, place, pa.concat_tables(found) if found else None, wholes, sums)

    def _parts_of(self, day: str) -> _Parts:
        return _kept(self._parts, day, self._found)

    def _found(self, day: str) -> _Parts:
        found = [self._named(piece) for piece in self.files.of(day) if may_have_parts(piece)]
        nothing = np.zeros(0, dtype=np.int64)
        if not sum(names.num_rows for _, names in found):
            return _Parts(nothing, nothing, nothing, nothing)
        rows = np.concatenate([rows for rows, _ in found])
        names = pa.concat_tables([names for _, names in found]).combine_chunks()
        same = self._rows_of(day, names)
        before, missing = np.full(len(rows), NONE, dtype=np.int64), np.flatnonzero(same == NONE)
        if len(missing):
            before[missing] = self._rows_of(_after(day, -1), names.take(pa.array(missing)))
        return _Parts(rows, same, before, self._spent(day, rows))

    def _named(self, piece: Piece) -> tuple[Rows, Any]:
        """The rows of the piece's parts among the day's, and the names of their roots."""
        table = read(piece, ("workspace", ROOT))
        rows = np.flatnonzero(table[ROOT].is_valid())
        return piece.start + rows, _plain(table.take(pa.array(rows)).rename_columns(["workspace", "task_id"]))

    def _rows_of(self, day: str, names: Any) -> Rows:
        """The row of each of these tasks on the day."""
        ids, wanted = (
            pc.unique(names["task_id"]),
            schema.in_one(names_of(names)).dictionary_encode(),
        )

        def among(piece: Piece) -> Rows:
            table = read(piece, ("workspace", "task_id"))
            near = np.flatnonzero(pc.is_in(table["task_id"], value_set=ids))
            rows = first_of(wanted, names_of(table.take(pa.array(near))))
            return np.where(rows == NONE, NONE, piece.start + np.append(near, NONE)[rows])

        found = np.full(names.num_rows, NONE, dtype=np.int64)
        for rows in at_once(
            among, wider(self.files.of(day), len(ids))
        ):  # an index of all ids is made for each
            found = np.where(found == NONE, rows, found)
        return found

    def _spent(self, day: str, those: Rows) -> Rows:
        """What these rows of the day spent."""

        def of_piece(piece: Piece) -> Rows:
            rows = read(piece, cost_columns(self._rates))
            return np.asarray(spent(rows, day, self._rates)[_within(those, piece)])

        return np.concatenate(list(at_once(of_piece, self._having(day, those))))

    def _values(self, day: str, those: Rows) -> Any:
        """What these rows of the day have in the columns that parts take over."""

        def of_piece(piece: Piece) -> Any:
            rows = self._derive(day, read(piece, self.needed), piece.start).select(list(self._columns))
            return _plain(rows.take(pa.array(_within(those, piece))))

        return pa.concat_tables(at_once(of_piece, self._having(day, those))).combine_chunks()

    def _having(self, day: str, those: Rows) -> list[Piece]:
        return [piece for piece in self.files.of(day) if len(_within(those, piece))]


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


def _distinct(rows: Rows) -> Rows:
    """In their order."""
    there = np.zeros(rows.max(initial=NONE) + 1, dtype=np.bool_)
    there[rows[rows != NONE]] = True
    return np.flatnonzero(there)


def _within(those: Rows, piece: Piece) -> Rows:
    """Those of the day's rows, in their order, that the piece has, counted from its first one."""
    low, high = np.searchsorted(those, (piece.start, piece.start + piece.rows))
    return np.asarray(those[low:high] - piece.start)


def _plain(rows: Any) -> Any:
    """Texts as they are, and not as codes."""
    kinds = [schema.TEXT if pa.types.is_dictionary(one.type) else one.type for one in rows.schema]
    return rows.cast(pa.schema(zip(rows.column_names, kinds, strict=True)))


def _theirs(own: Any, rows: Rows, of_roots: Any) -> Any:
    """The column with what the roots say in those rows."""
    own, taken = schema.in_one(own), schema.in_one(of_roots)
    if not pa.types.is_dictionary(own.type):
        mask = np.zeros(len(own), dtype=np.bool_)
        mask[rows] = True
        return pc.replace_with_mask(own, pa.array(mask), taken)
    words = pc.unique(pa.concat_arrays([own.dictionary, taken.drop_null()]))
    codes = own.indices.fill_null(NONE).to_numpy().copy()
    codes[rows] = pc.index_in(taken, value_set=words).fill_null(NONE).to_numpy()
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes == NONE), words)
