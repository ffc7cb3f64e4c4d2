"""The calls of the chosen tasks: how lanes did, how fast they answered, and what is within the spend.

Calls are many more than tasks, and each has to be found by its task's id: a report of many days leaves them out. A day
is read at a time; of each call a few numbers stay in hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting import ledger, schema
from accounting.calls import DISPATCHER, GATE
from accounting.currency import Rates
from accounting.fold import ANSWERS
from accounting.ledger import Store
from accounting.reports.figures import Lane, Speed, Within
from accounting.reports.revisions import NEEDS, derived
from accounting.reports.rows import Where, chosen, read_days
from accounting.reports.sums import nanos

CALL_DAYS = 7  # calls of more days are read when asked for
FIRST = "task"  # the purpose of a lane's first call
_READ = (
    "task_id", "lane", "engine", "purpose", "hop", "verdict", "failure", "queue_wait_ms", "latency_ms",
    "time_to_first_token_ms", "output_tokens", "cost_usd", "marginal_usd",
)  # fmt: skip
_KEPT = ("lane", "purpose", "verdict", "failure", *_READ[7:11])


class Calls:
    """All calls of some days. Ids that two workspaces share on a day count as the first one's task."""

    def __init__(self, store: Store, days: Sequence[str], where: Where, rates: Rates | None) -> None:
        made = [_of_day(store, day, where, rates) for day in days]
        self._calls = pa.concat_tables([table for table, _ in made]) if made else _nothing()
        self.within = (
            Within(*(sum(one) for one in zip(*(beside for _, beside in made), strict=True)))
            if made
            else Within(0, 0, 0)
        )

    def lanes(self) -> tuple[Lane, ...]:
        """The dearest first."""
        found = [_lane(name, rows) for name, rows in _split(self._calls, "lane")]
        return tuple(sorted(found, key=lambda lane: (-lane.cost_nano, lane.name)))

    def speeds(self) -> tuple[Speed, ...]:
        models = self._calls.filter(pc.is_in(self._calls["purpose"], pa.array(sorted(ANSWERS))))
        answered = models.filter(pc.is_null(models["failure"]))
        return tuple(
            _speed(task_type, lane, rows)
            for task_type, of_type in _split(answered, "task_type")
            for lane, rows in _split(of_type, "lane")
        )


def _of_day(store: Store, day: str, where: Where, rates: Rates | None) -> tuple[Any, tuple[int, int, int]]:
    """The day's calls, and what ``Within`` says of them."""
    tasks = _tasks(store, day, where)
    rows = read_days(store, ledger.ATTEMPTS, schema.ATTEMPTS, day, day, _READ)
    at = pc.index_in(rows["task_id"], value_set=tasks["task_id"].combine_chunks())
    if where:
        rows, at = rows.filter(pc.is_valid(at)), at.drop_null()
    types = tasks["task_type"].combine_chunks().take(at).fill_null("")
    cost, marginal = nanos(rows, "cost_usd", day, rates), nanos(rows, "marginal_usd", day, rates)
    machine = pc.and_(pc.equal(rows["lane"], ""), pc.is_in(rows["engine"], pa.array([DISPATCHER, GATE])))
    ours = machine.to_numpy()
    climbed = pc.and_(pc.equal(rows["purpose"], FIRST), pc.greater(rows["hop"], 0)).to_numpy()
    priced = rows["marginal_usd"].is_valid().to_numpy()
    within = (int(cost[ours].sum()), int(cost[climbed].sum()), int((cost - marginal)[priced].sum()))
    table = rows.select(list(_KEPT)).append_column("task_type", types).append_column("cost", pa.array(cost))
    return table.filter(pc.invert(machine)), within


def _tasks(store: Store, day: str, where: Where) -> Any:
    """The id and the type of each task that is wanted."""
    needed = dict.fromkeys(column for name in where for column in NEEDS.get(name, (name,)))
    names = tuple(dict.fromkeys(("task_id", "task_type", *needed)))
    rows = read_days(store, ledger.TASKS, schema.TASKS, day, day, names)
    return chosen(derived(store, tuple(name for name in where if name in NEEDS))(day, rows), where)


def _nothing() -> Any:
    empty = schema.ATTEMPTS.empty_table().select(list(_KEPT))
    empty = empty.append_column("task_type", pa.array([], schema.TEXT))
    return empty.append_column("cost", pa.array([], schema.COUNT))


def _split(table: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Each value of the column in its order, with its rows."""
    for name in sorted(set(table[key].unique().to_pylist())):
        yield name, table.filter(pc.equal(table[key], name))


def _lane(name: str, calls: Any) -> Lane:
    answered = calls.filter(pc.is_null(calls["failure"]))
    return Lane(
        name=name,
        attempts=calls.num_rows,
        passed=pc.sum(pc.equal(calls["verdict"], "pass")).as_py() or 0,
        not_passed=pc.sum(pc.equal(calls["verdict"], "fail")).as_py() or 0,
        failures=calls.num_rows - answered.num_rows,
        cost_nano=pc.sum(calls["cost"]).as_py() or 0,
        latency_p50_ms=_percentile(answered["latency_ms"], 50),
        latency_p95_ms=_percentile(answered["latency_ms"], 95),
        time_to_first_token_p50_ms=_percentile(answered["time_to_first_token_ms"], 50),
        output_tokens_per_s=_tokens_per_s(answered),
    )


def _speed(task_type: str, lane: str, calls: Any) -> Speed:
    return Speed(
        task_type,
        lane,
        calls.num_rows,
        _percentile(calls["queue_wait_ms"], 50),
        _percentile(calls["queue_wait_ms"], 95),
        _percentile(calls["time_to_first_token_ms"], 50),
        _percentile(calls["time_to_first_token_ms"], 95),
        _tokens_per_s(calls),
    )


def _tokens_per_s(calls: Any) -> float | None:
    busy_ms = pc.sum(calls["latency_ms"]).as_py() or 0.0
    tokens = pc.sum(calls["output_tokens"]).as_py() or 0
    return tokens / busy_ms * 1000 if busy_ms else None


def _percentile(column: Any, percent: int) -> float | None:
    """Nearest rank. None: no value."""
    values = np.sort(column.drop_null().to_numpy())
    return float(values[max(0, -(-len(values) * percent // 100) - 1)]) if len(values) else None
