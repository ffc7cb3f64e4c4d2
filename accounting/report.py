"""What tasks cost, from the nightly files: the figures that a finance person and an engineer decide on.

Everything here is data: money in integer nano-dollars, shares between 0 and 1, None where a figure has no meaning (no
success, nothing judged). Percentiles are nearest-rank: each is the cost of one real task. ``accounting.present`` draws
the report, ``to_dict`` makes it JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accounting import ledger, schema
from accounting.fold import ANSWERS
from accounting.ledger import Store
from accounting.rows import DISPATCHER, GATE
from broker.errors import LedgerError
from broker.money import round_half_even, text

#: What a report can be broken down by: its name on the command line → how a row of ``tasks`` says it.
BY = {
    "type": "task_type",
    "lane": "final_lane",
    "model": "model",
    "workspace": "workspace",
    "workflow": "workflow",
    "pipeline": "pipeline",
    "user": "user_id",
}
DEAREST = (0.01, 0.1)
_COLUMNS = (
    "task_id", "workspace", "workflow", "pipeline", "user_id", "task_type", "status", "succeeded", "final_lane",
    "models", "hops", "cost_usd", *schema.PARTS, "avoided_usd", "unpriced_calls", "unsettled_calls", "value_usd",
    "attempts", "latency_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Some tasks together. ``judged`` had a verdict of a gate or a person; ``cost_per_success_nano`` is all that the
    group spent over its successes, so that what failed is paid by what succeeded."""

    name: str
    tasks: int
    judged: int
    succeeded: int
    cost_nano: int
    cost_per_task_nano: int | None
    cost_per_success_nano: int | None
    p50_nano: int | None
    p95_nano: int | None
    p99_nano: int | None
    max_nano: int | None
    overhead_share: float | None
    spend_share: float | None

    @property
    def success_rate(self) -> float | None:
        return self.succeeded / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the cost; ``share`` is of all spend."""

    name: str
    nano: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Lane:
    """The calls of one lane, whatever became of their tasks. Latencies are medians over calls that answered."""

    name: str
    attempts: int
    passed: int
    not_passed: int
    failures: int
    cost_nano: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    time_to_first_token_p50_ms: float | None
    output_tokens_per_s: float | None

    @property
    def pass_rate(self) -> float | None:
        judged = self.passed + self.not_passed
        return self.passed / judged if judged else None


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a lane answers the calls of a type: medians and nearest-rank percentiles over calls that answered.

    ``output_tokens_per_s`` is all that came out over all the time that the calls took. None: no call says it.
    """

    task_type: str
    lane: str
    calls: int
    queue_wait_p50_ms: float | None
    queue_wait_p95_ms: float | None
    time_to_first_token_p50_ms: float | None
    time_to_first_token_p95_ms: float | None
    output_tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class Dearest:
    """The dearest ``of_tasks`` of all tasks (1% and 10%), and what part of the spend is theirs."""

    of_tasks: float
    tasks: int
    cost_nano: int
    spend_share: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """Tasks of a type that ended on a lane, and what a thousand of them cost."""

    task_type: str
    lane: str
    tasks: int
    cost_per_1k_nano: int


@dataclass(frozen=True, slots=True)
class Open:
    """What the figures do not settle, said openly."""

    unjudged_tasks: int
    unjudged_nano: int
    failed_nano: int
    cost_per_judged_success_nano: int | None
    unpriced_calls: int
    unsettled_calls: int
    parked_tasks: int
    parked_nano: int
    unfinished_tasks: int
    machine_nano: int


@dataclass(frozen=True, slots=True)
class Report:
    """The tasks submitted from ``since`` to ``until`` (UTC days, both in it)."""

    since: str
    until: str
    totals: Group
    parts: tuple[Part, ...]
    statuses: Mapping[str, int]
    escalated_tasks: int
    escalations: int
    attempts: int
    avoided_nano: int
    value_nano: int | None
    days: tuple[Group, ...]
    groups: Mapping[str, tuple[Group, ...]]
    lanes: tuple[Lane, ...]
    dearest: tuple[Dearest, ...]
    cells: tuple[Cell, ...]
    speeds: tuple[Speed, ...]
    open: Open

    @property
    def overhead_nano(self) -> int:
        return self.totals.cost_nano - self.parts[0].nano


def build(
    store: Store, *, since: str, until: str, by: Sequence[str] = ("type", "lane", "workspace")
) -> Report:
    """The report of a range of UTC days. Raises LedgerError for a file that cannot be read, ValueError for a day or a
    breakdown that is none."""
    unknown = [name for name in by if name not in BY]
    if unknown:
        raise ValueError(f"cannot break down by {unknown[0]!r}; there are {', '.join(BY)}")
    ledger.midnight_us(since), ledger.midnight_us(until)
    tasks = _Tasks(read_days(store, ledger.TASKS, schema.TASKS, since, until, _COLUMNS))
    attempts = read_days(store, ledger.ATTEMPTS, schema.ATTEMPTS, since, until, schema.ATTEMPTS.names)
    lanes, machine_nano = _lanes(attempts)
    everything = np.arange(tasks.count)
    return Report(
        since=since,
        until=until,
        totals=tasks.group("total", everything),
        parts=tasks.parts(),
        statuses=tasks.counts("status"),
        escalated_tasks=int((tasks.numbers("hops") > 0).sum()),
        escalations=int(tasks.numbers("hops").sum()),
        attempts=int(tasks.numbers("attempts").sum()),
        avoided_nano=int(tasks.money("avoided_usd").sum()),
        value_nano=tasks.value(),
        days=tuple(sorted(tasks.groups("date"), key=lambda group: group.name)),
        groups={name: tasks.groups(BY[name]) for name in by},
        lanes=lanes,
        dearest=tuple(tasks.dearest(share) for share in DEAREST),
        cells=tasks.cells(),
        speeds=_speeds(attempts, tasks.table),
        open=tasks.open(machine_nano),
    )


def read_days(store: Store, dataset: str, columns: Any, since: str, until: str, names: Sequence[str]) -> Any:
    """The data set's rows of these days with the day in a column ``date``."""
    empty = columns.empty_table().select(list(names))
    tables = [empty.append_column("date", pa.array([], schema.TEXT))]
    for day in ledger.days(store, dataset):
        if not since <= day <= until:
            continue
        folder = ledger.partition(dataset, day)
        for name in (one for one in store.list(folder) if one.endswith(".parquet")):
            try:
                table = ledger.again(partial(_columns, store, f"{folder}/{name}", names))
            except pa.ArrowInvalid as error:
                raise LedgerError(
                    f"{folder}/{name} is damaged: {error}", mend=f"laneway rollup --date {day} writes it anew"
                ) from error
            dates = pa.repeat(pa.scalar(day, schema.TEXT), table.num_rows)
            tables.append(table.select(list(names)).append_column("date", dates))
    return pa.concat_tables(tables).combine_chunks()


def _columns(store: Store, path: str, names: Sequence[str]) -> Any:
    return pq.ParquetFile(store.open(path)).read(columns=list(names))


class _Tasks:
    """Columns of the tasks in question, and the sums over any choice of their rows."""

    def __init__(self, table: Any) -> None:
        models = [names[-1] if names else "" for names in table["models"].to_pylist()]
        self.table = table.append_column("model", pa.array(models, schema.TEXT))
        self.count = table.num_rows
        self.cost = self.money("cost_usd")
        self.inference = self.money("inference_usd")
        verdict = table["succeeded"]
        self.judged = verdict.is_valid().to_numpy(zero_copy_only=False)
        self.succeeded = verdict.fill_null(False).to_numpy(zero_copy_only=False)

    def money(self, name: str) -> Any:
        return schema.nanos(self.table[name])

    def numbers(self, name: str) -> Any:
        return self.table[name].to_numpy(zero_copy_only=False)

    def group(self, name: str, rows: Any) -> Group:
        cost = np.sort(self.cost[rows])
        spent, tasks, succeeded = int(cost.sum()), len(rows), int(self.succeeded[rows].sum())
        overhead = spent - int(self.inference[rows].sum())
        return Group(
            name=name,
            tasks=tasks,
            judged=int(self.judged[rows].sum()),
            succeeded=succeeded,
            cost_nano=spent,
            cost_per_task_nano=_each(spent, tasks),
            cost_per_success_nano=_each(spent, succeeded),
            p50_nano=_rank(cost, 50),
            p95_nano=_rank(cost, 95),
            p99_nano=_rank(cost, 99),
            max_nano=_rank(cost, 100),
            overhead_share=_share(overhead, spent),
            spend_share=_share(spent, int(self.cost.sum())),
        )

    def groups(self, column: str) -> tuple[Group, ...]:
        """One group a value, the dearest first."""
        found = [self.group(name, rows) for name, rows in _split(self.table[column])]
        return tuple(sorted(found, key=lambda group: (-group.cost_nano, group.name)))

    def cells(self) -> tuple[Cell, ...]:
        types, lanes = self.table["task_type"], self.table["final_lane"]
        cells = []
        for task_type, rows in _split(types):
            for lane, within in _split(lanes.take(pa.array(rows))):
                spent = int(self.cost[rows[within]].sum())
                cells.append(Cell(task_type, lane, len(within), round_half_even(spent * 1000, len(within))))
        return tuple(sorted(cells, key=lambda cell: (cell.task_type, cell.lane)))

    def parts(self) -> tuple[Part, ...]:
        spent = int(self.cost.sum())
        sums = ((name.removesuffix("_usd"), int(self.money(name).sum())) for name in schema.PARTS)
        return tuple(Part(name, nano, _share(nano, spent)) for name, nano in sums)

    def counts(self, column: str) -> dict[str, int]:
        return dict(sorted((name, len(rows)) for name, rows in _split(self.table[column])))

    def value(self) -> int | None:
        """What the tasks that succeeded were worth; None where nobody said."""
        said = self.table["value_usd"].is_valid().to_numpy(zero_copy_only=False)
        return int(self.money("value_usd")[self.succeeded].sum()) if said.any() else None

    def dearest(self, share: float) -> Dearest:
        count = int(np.ceil(self.count * share))
        spent = int(np.sort(self.cost)[self.count - count :].sum())
        return Dearest(share, count, spent, _share(spent, int(self.cost.sum())))

    def open(self, machine_nano: int) -> Open:
        status = self.numbers("status")
        parked = status == "parked"
        unfinished = (status == "queued") | (status == "running")
        return Open(
            unjudged_tasks=int((~self.judged).sum()),
            unjudged_nano=int(self.cost[~self.judged].sum()),
            failed_nano=int(self.cost[self.judged & ~self.succeeded].sum()),
            cost_per_judged_success_nano=_each(int(self.cost[self.judged].sum()), int(self.succeeded.sum())),
            unpriced_calls=int(self.numbers("unpriced_calls").sum()),
            unsettled_calls=int(self.numbers("unsettled_calls").sum()),
            parked_tasks=int(parked.sum()),
            parked_nano=int(self.cost[parked].sum()),
            unfinished_tasks=int(unfinished.sum()),
            machine_nano=machine_nano,
        )


def _lanes(attempts: Any) -> tuple[tuple[Lane, ...], int]:
    """The calls by lane, and what was spent beside calls (finding lanes, checking answers)."""
    machine = pc.and_(
        pc.equal(attempts["lane"], ""), pc.is_in(attempts["engine"], pa.array([DISPATCHER, GATE]))
    )
    machine_nano = int(schema.nanos(attempts.filter(machine)["cost_usd"]).sum())
    calls = attempts.filter(pc.invert(machine))
    lanes = [_lane(name, calls.take(pa.array(rows))) for name, rows in _split(calls["lane"])]
    return tuple(sorted(lanes, key=lambda lane: (-lane.cost_nano, lane.name))), machine_nano


def _lane(name: str, calls: Any) -> Lane:
    answered = calls.filter(pc.is_null(calls["failure"]))
    return Lane(
        name=name,
        attempts=calls.num_rows,
        passed=pc.sum(pc.equal(calls["verdict"], "pass")).as_py() or 0,
        not_passed=pc.sum(pc.equal(calls["verdict"], "fail")).as_py() or 0,
        failures=calls.num_rows - answered.num_rows,
        cost_nano=int(schema.nanos(calls["cost_usd"]).sum()),
        latency_p50_ms=_real(answered["latency_ms"], 50),
        latency_p95_ms=_real(answered["latency_ms"], 95),
        time_to_first_token_p50_ms=_real(answered["time_to_first_token_ms"], 50),
        output_tokens_per_s=_tokens_per_s(answered),
    )


def _speeds(attempts: Any, tasks: Any) -> tuple[Speed, ...]:
    """By the type of the task and the lane of the call. Ids that two workspaces share count as the first one's type."""
    models = attempts.filter(pc.is_in(attempts["purpose"], pa.array(sorted(ANSWERS))))
    answered = models.filter(pc.is_null(models["failure"]))
    at = pc.index_in(answered["task_id"], value_set=tasks["task_id"].combine_chunks())
    types = tasks["task_type"].combine_chunks().take(at).fill_null("")
    found = []
    for task_type, rows in _split(types):
        of_type = answered.take(pa.array(rows))
        found += [
            _speed(task_type, lane, of_type.take(pa.array(within)))
            for lane, within in _split(of_type["lane"])
        ]
    return tuple(sorted(found, key=lambda speed: (speed.task_type, speed.lane)))


def _speed(task_type: str, lane: str, calls: Any) -> Speed:
    return Speed(
        task_type,
        lane,
        calls.num_rows,
        _real(calls["queue_wait_ms"], 50),
        _real(calls["queue_wait_ms"], 95),
        _real(calls["time_to_first_token_ms"], 50),
        _real(calls["time_to_first_token_ms"], 95),
        _tokens_per_s(calls),
    )


def _tokens_per_s(calls: Any) -> float | None:
    busy_ms = pc.sum(calls["latency_ms"]).as_py() or 0.0
    tokens = pc.sum(calls["output_tokens"]).as_py() or 0
    return tokens / busy_ms * 1000 if busy_ms else None


def _split(column: Any) -> list[tuple[str, Any]]:
    """The column's values, each with the numbers of its rows."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))[:-1]
    return list(zip(encoded.dictionary.to_pylist(), np.split(order, ends), strict=True)) if len(codes) else []


def _each(total: int, count: int) -> int | None:
    return round_half_even(total, count) if count else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _rank(ordered: Any, percent: int) -> int | None:
    """The nearest-rank percentile: the smallest value that at least so many per cent do not exceed."""
    count = len(ordered)
    return int(ordered[max(0, -(-count * percent // 100) - 1)]) if count else None


def _real(column: Any, percent: int) -> float | None:
    values = np.sort(column.drop_null().to_numpy())
    return float(values[max(0, -(-len(values) * percent // 100) - 1)]) if len(values) else None


def to_dict(report: Report) -> dict[str, Any]:
    """The report as JSON's types, money as decimal strings in dollars under names that end in ``_usd``."""
    made = _plain(report)
    made["overhead_usd"] = text(report.overhead_nano)
    return {"currency": "USD", **made}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        row: dict[str, Any] = {}
        for one in fields(value):
            name, said = one.name, getattr(value, one.name)
            if name == "nano" or name.endswith("_nano"):
                row[name.removesuffix("nano") + "usd"] = None if said is None else text(said)
            else:
                row[name] = _plain(said)
        if isinstance(value, Group):
            row["success_rate"] = value.success_rate
        if isinstance(value, Lane):
            row["pass_rate"] = value.pass_rate
        return row
    if isinstance(value, Mapping):
        return {name: _plain(said) for name, said in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
