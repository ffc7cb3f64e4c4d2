"""Facts of many tasks in their order, and what their columns say at given places."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import facts, schema
from accounting.rollup.lots import Lot
from accounting.rollup.order import Rows, order
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

    def filled(self) -> Texts:
        """The empty text in place of null."""
        made = self.having("")
        return Texts(np.where(made.codes == NONE, made.code(""), made.codes).astype(np.int32), made.words)

    def null_for_empty(self) -> Texts:
        """Null in place of the empty text."""
        code = self.code("")
        return self if code == NONE else Texts(np.where(self.codes == code, NONE, self.codes), self.words)

    def are(self, *words: str) -> Flags:
        there = pc.fill_null(pc.is_in(self.words, pa.array(words, schema.TEXT)), False)
        return np.append(there.to_numpy(zero_copy_only=False), False)[self.codes]


def first_told(*columns: Texts) -> Texts:
    """Of each row the first column's text that is neither null nor empty; the empty text where there is none."""
    made = columns[0].having("")
    for other in columns[1:]:
        made = made.having_all(other.words)
        empty = (made.codes == NONE) | (made.codes == made.code(""))
        made = Texts(np.where(empty, other.of(made.words).codes, made.codes), made.words)
    return made.filled()


class Columns:
    """What the columns of a table without chunks say."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._texts: dict[str, Texts] = {}

    def __getitem__(self, name: str) -> Any:
        return schema.in_one(self._table[name])

    def at(self, rows: Rows) -> Columns:
        """Those of these rows alone."""
        return Columns(self._table.take(pa.array(rows)))

    def whole(self, name: str) -> Rows:
        """Integers, 0 for null."""
        return _without_nulls(self[name], 0)

    def true(self, name: str) -> Flags:
        return _without_nulls(self[name], False)

    def texts(self, name: str) -> Texts:
        made = self._texts.get(name)
        if made is None:
            column = self[name]
            made = self._texts[name] = Texts(_without_nulls(column.indices, NONE), column.dictionary)
        return made


class Facts:
    """``task`` is the number of the task of each place, ``count`` how many tasks there are, in their order.

    A place is a fact's number in the order, from 0 upwards.
    """

    def __init__(self, lot: Lot) -> None:
        found = order(lot)
        self.task, self.count, self._rows, self._heads = found.task, len(found.heads), found.rows, found.heads
        self._first_call = lot.others.num_rows
        self._identity, self._others = Columns(lot.identity), Columns(lot.others)
        kinds = self._identity["kind"]
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
        """Of each task the last one of these places, NONE where it has none. numpy assigns in order, so that of
        several places of a task the last one stays."""
        found = np.full(self.count, NONE, dtype=np.int64)
        found[self.task[places]] = places
        return found

    def first(self, places: Rows) -> Rows:
        return self.last(places[::-1])

    def rows_told(self, places: Rows) -> Rows:
        """Of places of calls, the row of each among the lot's calls (``Lot.calls``)."""
        return np.asarray(self._rows[places] - self._first_call)

    def values(self, name: str, places: Rows) -> Any:
        """What facts that are no calls say; of those, too, whose facts they are. Null where the place is NONE."""
        missing = places == NONE
        rows = pa.array(self._rows[places], mask=missing) if missing.any() else pa.array(self._rows[places])
        return (self._identity if name in facts.IDENTITY else self._others)[name].take(rows)

    def whole(self, name: str, places: Rows) -> Rows:
        """Integers, 0 for null."""
        return _without_nulls(self.values(name, places), 0)

    def known(self, name: str, places: Rows) -> Flags:
        return np.asarray(self.values(name, places).is_valid().to_numpy(zero_copy_only=False))

    def texts(self, name: str, places: Rows) -> Texts:
        whole = self._others.texts(name)
        missing = places == NONE
        if not len(whole.codes):
            return Texts(np.full(len(places), NONE, dtype=np.int32), whole.words)
        codes = whole.codes[np.where(missing, 0, self._rows[places])]
        return Texts(np.where(missing, NONE, codes) if missing.any() else codes, whole.words)

    def heads(self, name: str) -> Any:
        """What all facts of a task say alike, task by task."""
        return self._identity[name].take(pa.array(self._heads))


def sums(values: Rows, bounds: Rows) -> Rows:
    """Integers summed between each bound and the next."""
    ends = np.concatenate(([0], np.cumsum(values)))
    return np.asarray(np.diff(ends[bounds]))


def _without_nulls(values: Any, else_said: int) -> npt.NDArray[Any]:
    filled = pc.fill_null(values, else_said) if values.null_count else values
    return np.asarray(filled.to_numpy(zero_copy_only=False))


def distinct(keys: Rows) -> tuple[Rows, Rows]:
    """The place where each key comes first, in the order of these places; and of each place the number of its key."""
    coded = pa.array(keys).dictionary_encode()
    numbers = coded.indices.to_numpy()
    first = np.empty(len(coded.dictionary), dtype=np.int64)
    first[numbers[::-1]] = np.arange(len(keys))[::-1]
    return first, numbers
