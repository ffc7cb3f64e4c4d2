"""Facts of many tasks in their order, and what their columns say at given places."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from accounting import facts, schema
from accounting.order import Rows, order
from broker.events import KINDS

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
NONE = -1  # in place of a place or of a code: there is none


class Texts(NamedTuple):
    """A column of texts that come often: the place of each one among ``words``, NONE for null."""

    codes: Codes
    words: Any

    @property
    def array(self) -> Any:
        indices = (
            pa.array(self.codes, mask=self.codes == NONE) if NONE in self.codes else pa.array(self.codes)
        )
        return pa.DictionaryArray.from_arrays(indices, self.words)

    def code(self, word: str) -> int:
        """NONE where the word is not there."""
        return int(pc.index(self.words, word).as_py())

    def having(self, *words: str) -> Texts:
        """The same with these words among its words."""
        return self.having_all(pa.array(words, schema.TEXT))

    def having_all(self, words: Any) -> Texts:
        new = words.filter(pc.invert(pc.is_in(words, self.words)))
        return Texts(self.codes, pa.concat_arrays([self.words, new])) if len(new) else self

    def of(self, words: Any) -> Texts:
        """The same said with these words, which have all of its own."""
        translated = pc.index_in(self.words, words).to_numpy(zero_copy_only=False)
        return Texts(np.append(translated, NONE).astype(np.int32)[self.codes], words)

    def at(self, places: Rows) -> Texts:
        """Null where the place is NONE."""
        if not len(self.codes):
            return Texts(np.full(len(places), NONE, dtype=np.int32), self.words)
        return Texts(np.where(places == NONE, NONE, self.codes[places]).astype(np.int32), self.words)

    def filled(self, word: str = "") -> Texts:
        """The word in place of null."""
        made = self.having(word)
        return Texts(np.where(made.codes == NONE, made.code(word), made.codes).astype(np.int32), made.words)

    def unless(self, word: str = "") -> Texts:
        """Null in place of the word."""
        code = self.code(word)
        return self if code == NONE else Texts(np.where(self.codes == code, NONE, self.codes), self.words)

    def are(self, *words: str) -> Flags:
        there = pc.fill_null(pc.is_in(self.words, pa.array(words, schema.TEXT)), False)
        return np.append(there.to_numpy(zero_copy_only=False), False)[self.codes]


def first_not(word: str, *columns: Texts) -> Texts:
    """Of each row the first column's text that is neither null nor the word; the word where there is none."""
    made = columns[0].having(word)
    for other in columns[1:]:
        made = made.having_all(other.words)
        empty = (made.codes == NONE) | (made.codes == made.code(word))
        made = Texts(np.where(empty, other.of(made.words).codes, made.codes), made.words)
    return made.filled(word)


class Facts:
    """``task`` is the number of the task of each place, ``count`` how many tasks there are, in their order.

    A place is a fact's number in the order, from 0 upwards.
    """

    def __init__(self, table: Any) -> None:
        found = order(table)
        self.task, self.count, self._rows, self._heads = found.task, len(found.heads), found.rows, found.heads
        self._columns = {name: _plain(table[name]) for name in table.column_names}
        self._texts: dict[str, Texts] = {}
        kinds = self._columns["kind"]
        known = pc.index_in(kinds.dictionary, facts.NAMES).to_numpy(zero_copy_only=False)
        self._kinds = known.astype(np.int8)[kinds.indices.to_numpy()][self._rows]

    def of(self, *kinds: type[Any]) -> Rows:
        """The places of facts of these kinds."""
        chosen = np.zeros(len(KINDS), dtype=np.bool_)
        chosen[[KINDS.index(kind) for kind in kinds]] = True
        return np.flatnonzero(chosen[self._kinds])

    def is_kind(self, kind: type[Any], places: Rows) -> Flags:
        return np.asarray((places != NONE) & (self._kinds[places] == KINDS.index(kind)))

    def last(self, places: Rows) -> Rows:
        """Of each task the last one of these places, NONE where it has none."""
        found = np.full(self.count, NONE, dtype=np.int64)
        found[self.task[places]] = places
        return found

    def first(self, places: Rows) -> Rows:
        return self.last(places[::-1])

    def values(self, name: str, places: Rows) -> Any:
        """Null where the place is NONE. Money as integers of nano-dollars, times as microseconds."""
        missing = places == NONE
        rows = pa.array(self._rows[places], mask=missing) if missing.any() else pa.array(self._rows[places])
        return self._columns[name].take(rows)

    def whole(self, name: str, places: Rows) -> Rows:
        """Integers, 0 for null."""
        return np.asarray(pc.fill_null(self.values(name, places), 0).to_numpy())

    def true(self, name: str, places: Rows) -> Flags:
        return np.asarray(pc.fill_null(self.values(name, places), False).to_numpy(zero_copy_only=False))

    def known(self, name: str, places: Rows) -> Flags:
        return np.asarray(self.values(name, places).is_valid().to_numpy(zero_copy_only=False))

    def texts(self, name: str, places: Rows) -> Texts:
        whole = self._texts.get(name)
        if whole is None:
            column = self._columns[name]
            codes = pc.fill_null(column.indices, NONE).to_numpy()
            whole = self._texts[name] = Texts(codes, column.dictionary)
        missing = places == NONE
        if not len(whole.codes):
            return Texts(np.full(len(places), NONE, dtype=np.int32), whole.words)
        codes = whole.codes[self._rows[places]]
        return Texts(np.where(missing, NONE, codes) if missing.any() else codes, whole.words)

    def heads(self, name: str) -> Any:
        """What all facts of a task say alike, task by task."""
        return self._columns[name].take(pa.array(self._heads))

    def sums(self, values: Rows, task: Rows) -> Rows:
        """Integers summed task by task; ``task`` never falls."""
        ends = np.concatenate(([0], np.cumsum(values)))
        return np.asarray(np.diff(ends[self.bounds(task)]))

    def bounds(self, task: Rows) -> Rows:
        """Where each task's values begin, and where the last one's end."""
        return np.searchsorted(task, np.arange(self.count + 1))


def _plain(column: Any) -> Any:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if column.type == schema.MONEY:
        nanos = schema.nanos(column)
        return pa.array(nanos, mask=~column.is_valid().to_numpy(zero_copy_only=False))
    return schema.micros(column) if column.type == schema.TIME else column


def places_of_new(task: Rows, codes: Codes, count: int) -> Rows:
    """The first place of each code within each task; ``count`` codes there are."""
    key = task * count + codes
    return np.sort(np.unique(key, return_index=True)[1])
