"""What the ledger has measured, as the calculators take it: of each type of task, and of each type on each lane.

A *try* is a call that was to answer a task: its first call on a rung, a retry or a re-prompt. It is judged where a gate
looked at the answer, or where the call failed before there was one; a call that was broken off says nothing. The share
of judged tries that passed is the success rate of that type on that lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.reports.families import PARTS_NANO, Families, may_have_parts, wholes
from accounting.reports.rows import Files, as_it_is, names_of, pieces, read_days, share_ids
from broker.errors import CallCancelled, CallNeverMade
from broker.money import NANO_PER_USD
from broker.purpose import MODEL_CALLS, TASK

P95 = 95
MTOK = 1_000_000
_TASK_COLUMNS = ("workspace", "task_id", "task_type", "succeeded", "cost_usd", *schema.PARTS)
_CALL_COLUMNS = (
    "workspace", "task_id", "lane", "purpose", "latency_ms", "input_tokens", "cached_input_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "marginal_usd", "verdict", "failure",
    "batch",
)  # fmt: skip
_TRY_KEYS = ("task_type", "lane", "first")


@dataclass(frozen=True, slots=True)
class Tries:
    """Sums over tries. ``priced`` is how many have a known price, ``priced_tokens`` what these read and wrote,
    ``priced_judged`` how many of them were judged; ``judged_nano`` is what the judged ones cost, ``busy_ms`` how long
    calls took, ``batched`` how many went in a provider's batch. Input tokens count cached ones too, output tokens those
    of reasoning. Properties are None where nothing was measured."""

    tries: int
    judged: int
    passed: int
    priced: int
    priced_tokens: int
    priced_judged: int
    cost_nano: int
    judged_nano: int
    marginal_nano: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    batched: int
    busy_ms: int

    @property
    def success_share(self) -> Fraction | None:
        return _part(self.passed, self.judged)

    @property
    def attempts_per_success(self) -> Fraction | None:
        return _part(self.judged, self.passed)

    @property
    def try_usd(self) -> Fraction | None:
        """A try, whatever came of it. None where no try has a known price."""
        return _usd(self.cost_nano, self.priced)

    @property
    def success_usd(self) -> Fraction | None:
        """All that judged tries cost, over those that passed; one without a known price costs what the others do."""
        each, tries = _usd(self.judged_nano, self.priced_judged), self.attempts_per_success
        return None if each is None or tries is None else each * tries

    @property
    def mtok_usd(self) -> Fraction | None:
        """A million tokens as they came, with what caches and batches took off."""
        return _usd(self.cost_nano * MTOK, self.priced_tokens)

    @property
    def marginal_usd(self) -> Fraction | None:
        """What a try cost that would not have been spent without it: energy alone on a machine of one's own."""
        return _usd(self.marginal_nano, self.priced)

    @property
    def marginal_success_usd(self) -> Fraction | None:
        each, tries = self.marginal_usd, self.attempts_per_success
        return None if each is None or tries is None else each * tries


@dataclass(frozen=True, slots=True)
class Work:
    """Sums over tasks. ``redone_nano`` are retries, re-prompts and validation, ``around_nano`` routing, tools, data and
    orchestration, ``eval_nano`` evaluation runs; people were asked about ``reviewed`` of them. ``p95_nano`` is the
    nearest-rank 95th percentile of what a task cost."""

    tasks: int
    judged: int
    succeeded: int
    cost_nano: int
    inference_nano: int
    redone_nano: int
    around_nano: int
    eval_nano: int
    reviewed: int
    human_nano: int
    p95_nano: int

    @property
    def success_share(self) -> Fraction | None:
        return _part(self.succeeded, self.judged)


@dataclass(frozen=True, slots=True)
class Measured:
    """``since`` (the first day that has tasks) and ``until`` are UTC days, both included; ``days`` counts them.
    ``unrolled`` have events and no nightly files: they are in nothing, nor among the days."""

    since: str
    until: str
    days: int
    unrolled: tuple[str, ...]
    _tries: Any
    _work: Any
    _costs: Any

    @property
    def types(self) -> tuple[str, ...]:
        """Those of tasks, and those of parts that tries are known of."""
        return tuple(sorted({*self._work["task_type"].to_pylist(), *self._tries["task_type"].to_pylist()}))

    @property
    def lanes(self) -> tuple[tuple[str, str], ...]:
        """Each type and lane that had tries."""
        pairs = zip(self._tries["task_type"].to_pylist(), self._tries["lane"].to_pylist(), strict=True)
        return tuple(sorted(set(pairs)))

    def tries(
        self, task_type: str | None = None, lane: str | None = None, *, first: bool | None = None
    ) -> Tries:
        """Those of the type, on the lane, and first calls or not; None stands for all."""
        rows = self._tries
        for column, value in zip(_TRY_KEYS, (task_type, lane, first), strict=True):
            rows = rows if value is None else rows.filter(pc.equal(rows[column], value))
        return Tries(**{name: _total(rows[name]) for name in Tries.__dataclass_fields__})

    def work(self, task_type: str | None = None) -> Work:
        """The tasks of the type; None: all."""
        rows, costs = self._work, self._costs
        if task_type is not None:
            rows = rows.filter(pc.equal(rows["task_type"], task_type))
            costs = costs.filter(pc.equal(costs["task_type"], task_type))
        nanos = np.sort(costs["nano"].to_numpy())
        p95 = int(nanos[-(-len(nanos) * P95 // 100) - 1]) if len(nanos) else 0
        sums = {name: _total(rows[name]) for name in Work.__dataclass_fields__ if name != "p95_nano"}
        return Work(**sums, p95_nano=p95)


def measure(store: Store, since: str, until: str) -> Measured | None:
    """What tasks submitted from ``since`` to ``until`` came to; None where there are none.

    Reads a day at a time. Raises LedgerError for a file that cannot be read, ValueError for what is no day.
    """
    ledger.midnight_us(since), ledger.midnight_us(until)
    unrolled = ledger.unrolled(store, (ledger.TASKS, ledger.ATTEMPTS), since, until)
    rolled = (day for day in ledger.days(store, ledger.TASKS) if day not in unrolled)
    found = [day for day in rolled if since <= day <= until]
    tries, work, costs = [], [], []
    files = pieces(store, ledger.TASKS, found, {})
    parts = None
    if any(map(may_have_parts, files)):
        columns = ("task_type", "succeeded")
        opened = Files(store, ledger.TASKS, files)
        parts = Families(opened, found, columns, _TASK_COLUMNS, None, as_it_is)
    for day in found:
        if parts is None:
            tasks = read_days(store, ledger.TASKS, schema.TASKS, day, day, _TASK_COLUMNS)
        else:
            tasks = parts.rows_of(day, _TASK_COLUMNS)
        calls = read_days(store, ledger.ATTEMPTS, schema.ATTEMPTS, day, day, _CALL_COLUMNS)
        tries.append(_sum(_judge(tasks, calls), _TRY_KEYS))
        whole = tasks if parts is None else parts.told(day, tasks)
        work.append(_sum(_weigh(whole), ("task_type",)))
        costs.append(_costs(whole))
    if not sum(table.num_rows for table in costs):
        return None
    days = [day for day in ledger.days_of(found[0], until) if day not in unrolled]
    tables = (pa.concat_tables(rows) for rows in (tries, work, costs))
    return Measured(found[0], until, len(days), unrolled, *tables)


def _judge(tasks: Any, calls: Any) -> Any:
    """A row of figures a try. Where attempts do not name their workspace, ids that two of them share on a day count as
    the type of the first."""
    answers = pc.is_in(calls["purpose"], pa.array(sorted(MODEL_CALLS)))
    calls = calls.filter(
        pc.and_(answers, pc.not_equal(calls["lane"], ""))
    )  # what gates cost stands on no lane
    by_workspace = share_ids(tasks) and not calls["workspace"].null_count
    names = (names_of(rows, by_workspace=by_workspace) for rows in (calls, tasks))
    row = pc.index_in(next(names), value_set=schema.in_one(next(names)))
    verdict, failure = calls["verdict"], calls["failure"]
    passed = pc.fill_null(pc.equal(verdict, "pass"), False)
    refused = pc.fill_null(pc.equal(verdict, "fail"), False)
    unwanted = pc.is_in(failure, pa.array([CallCancelled.failure, CallNeverMade.failure]))
    broken = pc.and_(failure.is_valid(), pc.invert(unwanted))
    judged = pc.or_(passed, pc.or_(refused, broken))
    nanos, priced = schema.nanos(calls["cost_usd"]), calls["cost_usd"].is_valid().to_numpy()
    read = sum(
        calls[name].to_numpy() for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens")
    )
    written = sum(calls[name].to_numpy() for name in ("output_tokens", "reasoning_tokens"))
    return pa.table(
        {
            "task_type": pc.fill_null(tasks["task_type"].take(row), ""),
            "lane": calls["lane"],
            "first": pc.equal(calls["purpose"], TASK),
            "tries": np.ones(calls.num_rows, dtype=np.int64),
            "judged": judged.cast(pa.int64()),
            "passed": passed.cast(pa.int64()),
            "priced": priced.astype(np.int64),
            "priced_tokens": (read + written) * priced,
            "priced_judged": (judged.to_numpy() & priced).astype(np.int64),
            "cost_nano": nanos,
            "judged_nano": nanos * judged.to_numpy(),
            "marginal_nano": schema.nanos(calls["marginal_usd"]),
            "input_tokens": read,
            "cached_tokens": calls["cached_input_tokens"],
            "output_tokens": written,
            "batched": pc.fill_null(calls["batch"], False).cast(pa.int64()),
            "busy_ms": pc.round(calls["latency_ms"]).cast(pa.int64()),
        }
    )


def _costs(tasks: Any) -> Any:
    """What each task cost that is no part of another one, with its own parts."""
    made = pa.table({"task_type": tasks["task_type"], "nano": schema.nanos(tasks["cost_usd"])})
    if PARTS_NANO in tasks.column_names:
        made = made.set_column(1, "nano", pc.add(made["nano"], tasks[PARTS_NANO]))
    return made.filter(wholes(tasks))


def _weigh(tasks: Any) -> Any:
    """A row of figures a task. A part counts in no number of tasks; what it spent counts under the type of its root."""

    def nano(*parts: str) -> Any:
        return sum(schema.nanos(tasks[part]) for part in parts)

    whole = wholes(tasks).cast(pa.int64()).to_numpy()
    return pa.table(
        {
            "task_type": tasks["task_type"],
            "tasks": whole,
            "judged": tasks["succeeded"].is_valid().cast(pa.int64()).to_numpy() * whole,
            "succeeded": tasks["succeeded"].fill_null(False).cast(pa.int64()).to_numpy() * whole,
            "cost_nano": nano("cost_usd"),
            "inference_nano": nano("inference_usd"),
            "redone_nano": nano("retry_usd", "reprompt_usd", "validation_usd"),
            "around_nano": nano("routing_usd", "tool_usd", "data_usd", "orchestration_usd"),
            "eval_nano": nano("eval_usd"),
            "reviewed": (nano("human_usd") != 0).astype(np.int64),
            "human_nano": nano("human_usd"),
        }
    )


def _sum(rows: Any, keys: tuple[str, ...]) -> Any:
    """One row for each combination of the keys."""
    figures = [name for name in rows.schema.names if name not in keys]
    summed = rows.group_by(list(keys)).aggregate([(name, "sum") for name in figures])
    return summed.rename_columns([name.removesuffix("_sum") for name in summed.schema.names])


def _total(column: Any) -> int:
    return pc.sum(column).as_py() or 0


def _part(some: int, of: int) -> Fraction | None:
    return Fraction(some, of) if of else None


def _usd(nano: int, over: int) -> Fraction | None:
    return Fraction(nano, over * NANO_PER_USD) if over else None
