"""Sums over rows: of tasks read one by one, and of the small daily file where that can answer.

Every table here has text columns (what is summed by, ``date`` among them) and integer columns (the sums), money in
nano-dollars or in billionths of the currency that it is exchanged into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.reports.currency import MICRO, Rates
from accounting.reports.rows import Where, each, pieces
from broker.errors import LedgerError
from broker.money import half_even

PENDING_ROWS = 200_000  # of sums that wait to be added up
#: Columns that ``daily`` is keyed by in the sense in which a task has them: its lane and model are those of the calls.
DAILY_KEYS = frozenset({"workspace", "pipeline", "task_type"})
#: Columns of ``tasks`` that tell groups of tasks apart → those of ``daily`` that do so for what it counts of tasks.
_OF_ENDS = {"workspace": "workspace", "pipeline": "pipeline", "task_type": "task_type", "final_lane": "lane"}
RATINGS = ("rated", "satisfied")
_OF_PARTS = {name: f"part_{name}" for name in ("tasks", "judged", "successes")}
_LARGEST_RATE, _LARGEST_SUM = 2**43, 2**62
_TOO_LARGE = 9.2e18  # below 2**63, and further from it than sums of floats may be off
_HALF = 32  # bits
_FEWER = "ask for fewer days, or without --currency"
PARTS = tuple(part.removesuffix("_usd") for part in schema.PARTS)
#: Measure → its sum over some rows, as ``totals`` and ``by`` give them.
Totals = Mapping[str, int]


class Sums:
    """Tables of sums with the same keys, added up as they come."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = list(keys)
        self._tables: list[Any] = []
        self._settled = self._pending = 0  # rows

    def add(self, table: Any) -> None:
        measures = [name for name in table.column_names if name not in self._keys]
        self._tables.append(
            table.select([*self._keys, *measures])
        )  # in the order of those that were added up
        self._pending += table.num_rows
        if self._pending > self._settled + PENDING_ROWS:
            self._tables = [self.table()]
            self._settled, self._pending = self._tables[0].num_rows, 0

    def table(self) -> Any:
        """The sums so far, one row for each combination of the keys."""
        return grouped(pa.concat_tables(self._tables), self._keys)


def grouped(rows: Any, keys: Sequence[str], measures: Sequence[str] | None = None) -> Any:
    """The rows' measures (all columns that are no key) summed by the keys; keys of the result are plain text. A measure
    that the rows have not got is 0. Raises LedgerError where a sum does not fit into its column."""
    known = rows.column_names
    names = list(measures) if measures is not None else [one for one in known if one not in keys]
    there = [name for name in names if name in known]
    for name in there:
        _check(rows, keys, name)
    summed = rows.group_by(list(keys), use_threads=False).aggregate([(name, "sum") for name in there])
    columns = {name: summed[f"{name}_sum"].combine_chunks() for name in there}
    nothing = pa.repeat(pa.scalar(0, schema.COUNT), summed.num_rows)
    return pa.table(
        {key: text(summed[key]) for key in keys} | {name: columns.get(name, nothing) for name in names}
    )


def _check(rows: Any, keys: Sequence[str], name: str) -> None:
    """Sums of integers that are too large come out as others, and nothing is said: of floats they do not."""
    sizes = pc.cast(pc.abs(rows[name]), pa.float64(), safe=False)
    if (pc.sum(sizes).as_py() or 0.0) < _TOO_LARGE:
        return
    of_each = rows.select(list(keys)).append_column("size", sizes).group_by(list(keys), use_threads=False)
    if pc.max(of_each.aggregate([("size", "sum")])["size_sum"]).as_py() >= _TOO_LARGE:
        raise LedgerError("sums of these days do not fit into 64 bits", mend=_FEWER)


def text(column: Any) -> Any:
    """The column as plain text, null as ""."""
    kind = schema.TEXT if pa.types.is_dictionary(column.type) else column.type
    plain = column.cast(kind).combine_chunks()
    return plain.fill_null("") if plain.null_count else plain


def dated(table: Any, day: str) -> Any:
    return table.append_column("date", pa.repeat(pa.scalar(day, schema.TEXT), table.num_rows))


def picked(table: Any, **said: str) -> Any:
    """The rows whose columns say that."""
    for name, value in said.items():
        table = table.filter(pc.equal(table[name], value))
    return table


def total(table: Any, name: str) -> int:
    """Of any size: by halves, as what fits in each row need not fit in their sum."""
    values = pc.fill_null(table[name].cast(schema.COUNT), 0).to_numpy()
    return (int((values >> _HALF).sum()) << _HALF) + int((values & ((1 << _HALF) - 1)).sum())


def totals(table: Any) -> dict[str, int]:
    """The sum of each measure."""
    return {
        name: total(table, name)
        for name in table.column_names
        if table.schema.field(name).type == schema.COUNT
    }


def names_in(table: Any, key: str) -> list[str]:
    """The values of the key in their order, whatever their sums come to."""
    return sorted(pc.unique(table[key]).to_pylist())


def by(table: Any, key: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Each value of the key in its order, with the sums of its rows."""
    measures = [name for name in table.column_names if table.schema.field(name).type == schema.COUNT]
    for row in grouped(table, [key], measures).sort_by(key).to_pylist():
        yield row.pop(key), row


def nanos(table: Any, name: str, day: str, rates: Rates | None) -> Any:
    """A money column as integers; null counts as 0. Exchanged amounts are rounded half-even, one by one."""
    amounts = np.ascontiguousarray(schema.nanos(table[name]))
    if rates is None or not len(amounts):
        return amounts
    micros = rates.micros(day)
    if micros >= _LARGEST_RATE or int(np.abs(amounts).max()) // MICRO * micros >= _LARGEST_SUM:
        raise too_large(rates)
    whole, rest = np.divmod(amounts, MICRO)
    more, left = np.divmod(rest * micros, MICRO)
    exchanged = half_even(whole * micros + more, left, MICRO)
    if np.abs(exchanged).sum(dtype=np.float64) >= _TOO_LARGE:
        raise too_large(rates)
    return exchanged


def too_large(rates: Rates) -> LedgerError:
    return LedgerError(f"amounts in {rates.currency} do not fit into 64 bits", mend=_FEWER)


def spent(table: Any, day: str, rates: Rates | None) -> Any:
    """What each task cost. Exchanged, it is the sum of its exchanged parts, so that these still sum to it."""
    if rates is None:
        return nanos(table, "cost_usd", day, None)
    return sum(nanos(table, part, day, rates) for part in schema.PARTS)


def cost_columns(rates: Rates | None) -> tuple[str, ...]:
    """What ``spent`` reads."""
    return ("cost_usd",) if rates is None else schema.PARTS


def daily_answers(where: Where, *, parts: bool) -> bool:
    """Whether sums over the chosen tasks can be taken from ``daily``. Where there are ``parts`` of tasks these stand
    there under their own type and pipeline, and not under those of their root."""
    return (frozenset({"workspace"}) if parts else DAILY_KEYS).issuperset(where)


def from_daily(
    store: Store, days: Sequence[str], where: Where, keys: Sequence[str], rates: Rates | None = None
) -> Any:
    """Sums by day and keys (columns of ``daily``), of cost and its parts, tokens, attempts, tasks, judged, succeeded;
    what is a part of another task counts in none of the last three. ``visits`` are tasks that were on a lane, and
    ``visits_cost`` what they spent there.

    Exchanged, the sums of a day are rounded, and not each task of it.
    """
    measures = schema.DAILY.names[schema.DAILY.names.index("tasks") : schema.DAILY.names.index(RATINGS[0])]
    columns = dict.fromkeys((*keys, *where, *measures, *_OF_PARTS.values(), "visits"))

    def summed(day: str, rows: Any) -> Any:
        money = spending(rows, day, rates)
        return dated(_grouped_by(rows, keys, money | _ends(rows) | _visits(rows, money["cost"])), day)

    found = pieces(store, ledger.DAILY, days, where)
    return added(each(found, tuple(columns), where, summed), ("date", *keys))


def outcomes(store: Store, days: Sequence[str], where: Where, rates: Rates | None = None) -> Any:
    """By day what ``from_daily`` says of cost, tasks, judged and succeeded alone, which takes few of its columns."""

    def summed(day: str, rows: Any) -> Any:
        return dated(_grouped_by(rows, (), {"cost": spent(rows, day, rates), **_ends(rows)}), day)

    columns = dict.fromkeys((*where, *_OF_PARTS, *_OF_PARTS.values(), *cost_columns(rates)))
    found = pieces(store, ledger.DAILY, days, where)
    return added(each(found, tuple(columns), where, summed), ("date",))


def ratings(store: Store, days: Sequence[str], where: Where, columns: Sequence[str]) -> Any:
    """Of how many tasks whoever got the outcome spoke, and how many of these were good, by day and those of the
    columns of ``tasks`` that ``daily`` knows. Nobody spoke on days that were rolled before it counted this."""
    keys = [name for name in dict.fromkeys(columns) if name in _OF_ENDS]

    def summed(day: str, rows: Any) -> Any:
        made = {name: rows[_OF_ENDS[name]] for name in keys}
        made |= {name: rows[name].fill_null(0) for name in RATINGS}
        table = pa.table(made).filter(pc.greater(made[RATINGS[0]], 0))
        return dated(_grouped_by(table, keys, {name: table[name] for name in RATINGS}), day)

    wanted = dict.fromkeys((*(_OF_ENDS[name] for name in keys), *where, *RATINGS))
    found = pieces(store, ledger.DAILY, days, where)
    return added(each(found, tuple(wanted), where, summed), ("date", *keys))


def summed_up(rows: Any, day: str, rates: Rates | None, ends: Mapping[str, Any]) -> Any:
    """One row: what the tasks of the rows spent, and the sums of ``ends``."""
    return dated(_grouped_by(rows, (), spending(rows, day, rates) | dict(ends)), day)


def spending(rows: Any, day: str, rates: Rates | None) -> dict[str, Any]:
    """Tokens, attempts, cost and its parts, of rows of ``daily`` or of ``tasks``."""
    return {
        "attempts": rows["attempts"],
        **{name: rows[name] for name in schema.TOKENS},
        "cost": spent(rows, day, rates),
        **{part: nanos(rows, f"{part}_usd", day, rates) for part in PARTS},
    }


def _ends(rows: Any) -> dict[str, Any]:
    whole = {name: pc.subtract(rows[name], rows[part].fill_null(0)) for name, part in _OF_PARTS.items()}
    return {"tasks": whole["tasks"], "judged": whole["judged"], "succeeded": whole["successes"]}


def _visits(rows: Any, cost: Any) -> dict[str, Any]:
    """Tasks that were on the lane, and what they spent there; neither of days that were rolled before this was."""
    visits = rows["visits"]
    return {"visits": visits.fill_null(0), "visits_cost": cost * visits.is_valid().to_numpy()}


def _grouped_by(rows: Any, keys: Sequence[str], measures: Mapping[str, Any]) -> Any:
    if keys:
        return grouped(pa.table({key: rows[key] for key in keys} | dict(measures)), keys)
    table = pa.table(dict(measures))
    return pa.table({name: pa.array([total(table, name)], schema.COUNT) for name in table.column_names})


def added(tables: Iterable[Any], keys: Sequence[str]) -> Any:
    sums = Sums(keys)
    for table in tables:
        sums.add(table)
    return sums.table()
