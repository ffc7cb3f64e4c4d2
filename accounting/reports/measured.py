"""What the ledger has measured, as the calculators take it: of each type of task, and of each type on each lane.

A *try* is a call that was to answer a task: its first call on a rung, a retry or a re-prompt. It is judged where a gate
looked at the answer, or where the call failed before there was one; a call that was broken off says nothing. The share
of judged tries that passed is the success rate of that type on that lane. There a try of a part counts under the part's
own type; in what a task costs it counts under the type of the task that it was made for in the end, as its money does.

Some row groups are in hand at once. What tasks cost is read twice, as reports do (``accounting/reports/ranks.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.reports.beside import at, beside
from accounting.reports.families import OWN_TYPE, PART, PARTS_NANO, Families, may_have_parts, wholes
from accounting.reports.ranks import HELD_KEYS, HISTOGRAM_KEYS, Ranks, Seen, held, histograms, seen
from accounting.reports.rows import Derive, Files, Names, Piece, as_it_is, at_once, each, pieces, read, says
from accounting.reports.sums import Sums, grouped, total
from broker.errors import CallCancelled, CallNeverMade
from broker.money import NANO_PER_USD
from broker.purpose import MODEL_CALLS, TASK

P95 = 95
MTOK = 1_000_000
TYPE, ROOT_TYPE, TOTAL = "task_type", "root_type", "total"
_OF_ROOTS = (TYPE, "succeeded")  # what parts take over
_COST_COLUMNS = (*_OF_ROOTS, "cost_usd")
_TASK_COLUMNS = (*_COST_COLUMNS, *schema.PARTS)
_CALL_COLUMNS = (
    "workspace", "task_id", "lane", "purpose", "latency_ms", "input_tokens", "cached_input_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "marginal_usd", "verdict", "failure",
    "batch",
)  # fmt: skip
_TRY_KEYS = (TYPE, ROOT_TYPE, "lane", "first")


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
        return quotient(self.passed, self.judged)

    @property
    def attempts_per_success(self) -> Fraction | None:
        return quotient(self.judged, self.passed)

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
        """Of all tasks, so that the cost of a task over it is all that was spent over the successes, as reports have
        it. None where none was judged."""
        return quotient(self.succeeded, self.tasks) if self.judged else None


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
    _p95_nano: Mapping[str | None, int]

    @property
    def types(self) -> tuple[str, ...]:
        """Those of tasks, and those of parts that tries are known of."""
        return tuple(sorted({*self._work[TYPE].to_pylist(), *self._tries[TYPE].to_pylist()}))

    @property
    def root_types(self) -> tuple[str, ...]:
        """Those of tasks that are no parts."""
        return tuple(sorted(self._work.filter(pc.greater(self._work["tasks"], 0))[TYPE].to_pylist()))

    @property
    def lanes(self) -> tuple[tuple[str, str], ...]:
        """Each type and lane that had tries."""
        pairs = zip(self._tries[TYPE].to_pylist(), self._tries["lane"].to_pylist(), strict=True)
        return tuple(sorted(set(pairs)))

    def tries(
        self,
        task_type: str | None = None,
        lane: str | None = None,
        *,
        root_type: str | None = None,
        first: bool | None = None,
    ) -> Tries:
        """Those of the type, made in the end for tasks of the root's type, on the lane, and first calls or not; None
        stands for all."""
        rows = self._tries
        for column, value in zip(_TRY_KEYS, (task_type, root_type, lane, first), strict=True):
            rows = rows if value is None else rows.filter(pc.equal(rows[column], value))
        return Tries(**{name: total(rows, name) for name in Tries.__dataclass_fields__})

    def work(self, task_type: str | None = None) -> Work:
        """The tasks of the type; None: all."""
        rows = self._work if task_type is None else self._work.filter(pc.equal(self._work[TYPE], task_type))
        sums = {name: total(rows, name) for name in Work.__dataclass_fields__ if name != "p95_nano"}
        return Work(**sums, p95_nano=self._p95_nano.get(task_type, 0))


def measure(store: Store, since: str, until: str) -> Measured | None:
    """What tasks submitted from ``since`` to ``until`` came to; None where there are none.

    Raises LedgerError for a file that cannot be read, ValueError for what is no day.
    """
    ledger.midnight_us(since), ledger.midnight_us(until)
    unrolled = ledger.unrolled(store, (ledger.TASKS, ledger.ATTEMPTS), since, until)
    rolled = (day for day in ledger.days(store, ledger.TASKS) if day not in unrolled)
    found = [day for day in rolled if since <= day <= until]
    files = pieces(store, ledger.TASKS, found, {})
    tasks = Files(store, ledger.TASKS, files)
    derive: Derive = as_it_is
    if any(map(may_have_parts, files)):
        derive = Families(tasks, found, _OF_ROOTS, _OF_ROOTS, None, as_it_is).told
    work, tries = Sums((TYPE,)), Sums(_TRY_KEYS)
    for summed in each(files, _TASK_COLUMNS, {}, lambda _, rows: _weigh(rows), derive):
        work.add(summed)
    if not total(weighed := work.table(), "tasks"):
        return None
    for judged in at_once(partial(_tries, store, tasks, derive), found):
        tries.add(judged)
    days = [day for day in ledger.days_of(found[0], until) if day not in unrolled]
    p95_nano = _p95_nano(files, derive)
    return Measured(found[0], until, len(days), unrolled, tries.table(), weighed, p95_nano)


def _tries(store: Store, tasks: Files, derive: Derive, day: str) -> Any:
    """Figures of the day's tries by type, lane and whether they are first calls. Where attempts do not name their
    workspace, ids that two of them share on a day count as the type of the first."""
    tries = Sums(_TRY_KEYS)
    calls = map(_tried, pieces(store, ledger.ATTEMPTS, (day,), {}))
    for some, near, places in beside(lambda: map(partial(_typed, derive, day), tasks.of(day)), calls):
        types = near.select([TYPE, ROOT_TYPE]).take(at(places))
        tries.add(grouped(_judged(some, types), _TRY_KEYS))
    return tries.table()


def _tried(piece: Piece) -> Any:
    """The calls that were to answer tasks. What gates cost stands on no lane."""
    calls = read(piece, _CALL_COLUMNS)
    return calls.filter(pa.array(says(calls["purpose"], *MODEL_CALLS) & ~says(calls["lane"], "")))


def _typed(derive: Derive, day: str, piece: Piece) -> Any:
    """Workspace, id, own type and the root's type of each task."""
    tasks = derive(day, read(piece, ("workspace", "task_id", *_OF_ROOTS)), piece.start)
    own = OWN_TYPE if OWN_TYPE in tasks.column_names else TYPE
    names = {"workspace": tasks["workspace"].cast(schema.TEXT), "task_id": tasks["task_id"]}
    return pa.table(names | {TYPE: tasks[own], ROOT_TYPE: tasks[TYPE]})


def _judged(calls: Any, types: Any) -> Any:
    """A row of figures a try."""
    passed, failure = says(calls["verdict"], "pass"), calls["failure"]
    unwanted = says(failure, CallCancelled.failure, CallNeverMade.failure)
    broken = failure.is_valid().to_numpy() & ~unwanted
    judged = passed | says(calls["verdict"], "fail") | broken
    nanos, priced = schema.nanos(calls["cost_usd"]), calls["cost_usd"].is_valid().to_numpy()
    tokens_in = sum(
        calls[name].to_numpy() for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens")
    )
    tokens_out = sum(calls[name].to_numpy() for name in ("output_tokens", "reasoning_tokens"))
    return pa.table(
        {
            TYPE: types[TYPE],
            ROOT_TYPE: types[ROOT_TYPE],
            "lane": calls["lane"],
            "first": says(calls["purpose"], TASK),
            "tries": np.ones(calls.num_rows, dtype=np.int64),
            "judged": judged.astype(np.int64),
            "passed": passed.astype(np.int64),
            "priced": priced.astype(np.int64),
            "priced_tokens": (tokens_in + tokens_out) * priced,
            "priced_judged": (judged & priced).astype(np.int64),
            "cost_nano": nanos,
            "judged_nano": nanos * judged,
            "marginal_nano": schema.nanos(calls["marginal_usd"]),
            "input_tokens": tokens_in,
            "cached_tokens": calls["cached_input_tokens"],
            "output_tokens": tokens_out,
            "batched": pc.fill_null(calls["batch"], False).cast(pa.int64()),
            "busy_ms": pc.round(calls["latency_ms"]).cast(pa.int64()),
        }
    )


def _p95_nano(found: Sequence[Piece], derive: Derive) -> Mapping[str | None, int]:
    """What 95 of 100 tasks cost at most: of each type, and of all under None."""
    names = {TYPE: Names(), TOTAL: Names()}
    counts, values = ({name: Sums(keys) for name in names} for keys in (HISTOGRAM_KEYS, HELD_KEYS))
    for made in each(found, _COST_COLUMNS, {}, lambda _, rows: histograms(_costs(names, rows)), derive):
        for name, table in made.items():
            counts[name].add(table)
    ranks = {name: Ranks(one.table(), (P95,)) for name, one in counts.items()}
    for made in each(found, _COST_COLUMNS, {}, lambda _, rows: held(_costs(names, rows), ranks), derive):
        for name, table in made.items():
            values[name].add(table)
    answers = {name: one.answers(values[name].table(), names[name].all()) for name, one in ranks.items()}
    p95: dict[str | None, int] = {None: answers[TOTAL].percent(TOTAL, P95) or 0}
    return p95 | {name: said[P95] for name, said in answers[TYPE].percents.items()}


def _costs(names: Mapping[str, Names], tasks: Any) -> Seen:
    """What each task cost that is no part of another one, with its own parts."""
    nanos, (types, codes) = schema.nanos(tasks["cost_usd"]), names[TYPE].of(tasks[TYPE])
    if PART in tasks.column_names:
        whole = wholes(tasks).to_numpy()
        nanos, codes = (nanos + tasks[PARTS_NANO].to_numpy())[whole], codes[whole]
    all_alike = names[TOTAL].numbers(pa.array([TOTAL])), np.zeros(len(nanos), dtype=np.int32)
    return seen(nanos, {TYPE: (types, codes), TOTAL: all_alike})


def _weigh(tasks: Any) -> Any:
    """Figures by type. A part counts in no number of tasks; what it spent counts under the type of its root."""

    def nano(*parts: str) -> Any:
        return sum(schema.nanos(tasks[part]) for part in parts)

    whole = wholes(tasks).cast(pa.int64()).to_numpy()
    rows = pa.table(
        {
            TYPE: tasks[TYPE],
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
    return grouped(rows, (TYPE,))


def quotient(some: int, of: int) -> Fraction | None:
    """Exactly; None of nothing."""
    return Fraction(some, of) if of else None


def _usd(nano: int, over: int) -> Fraction | None:
    return Fraction(nano, over * NANO_PER_USD) if over else None
