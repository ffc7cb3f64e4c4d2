"""The calls of the chosen tasks: how lanes did, how fast they answered, and what is within the spend.

Calls are many more than tasks, and each has to be found by its task's id: a report of many days leaves them out. They
are looked at twice, as tasks are (``accounting/reports/tasks.py``): once for the sums and for where the percentiles
lie, once more for these. Durations count to the microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.reports.beside import at, beside
from accounting.reports.currency import Rates
from accounting.reports.families import OWN_TYPE, Families
from accounting.reports.figures import Lane, Speed, Within
from accounting.reports.ranks import HELD_KEYS, HISTOGRAM_KEYS, Answers, Ranks, Seen, held, histograms, seen
from accounting.reports.revisions import NEEDS, derived
from accounting.reports.rows import (
    Derive,
    Files,
    Names,
    Piece,
    Where,
    at_once,
    fits,
    pieces,
    read,
    says,
    worded,
)
from accounting.reports.sums import Sums, by, nanos
from accounting.rollup.calls import DISPATCHER, GATE
from broker.purpose import FIRST_CALLS, MODEL_CALLS

CALL_DAYS = 7  # calls of more days are read when asked for
_READ = (
    "workspace", "task_id", "lane", "engine", "purpose", "hop", "verdict", "failure", "queue_wait_ms", "latency_ms",
    "time_to_first_token_ms", "output_tokens", "cost_usd", "marginal_usd",
)  # fmt: skip
#: What percentiles are asked of: by lane all calls that answered, by type and lane those that were to answer the task.
_LATENCY, _FIRST_TOKEN, _WAIT, _FIRST_TOKEN_OF_TYPE = "latency", "first token", "wait", "first token of type"
_BY_LANE, _BY_TYPE = "by lane", "by type and lane"
_PERCENTS = {
    _LATENCY: (_BY_LANE, (50, 95)),
    _FIRST_TOKEN: (_BY_LANE, (50,)),
    _WAIT: (_BY_TYPE, (50, 95)),
    _FIRST_TOKEN_OF_TYPE: (_BY_TYPE, (50, 95)),
}
_KEY = "key"
_BETWEEN = "\0"  # in a key, between the type and the lane
_WANTED = "wanted"
MOST_KEPT = 300_000_000  # bytes that stay in memory between the two looks: of ten million calls and more


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Whose calls are looked at: those of tasks whose rows, in these columns and with what ``derive`` adds, fit.
    ``names`` are those of lanes, and of types and lanes."""

    store: Store
    where: Where
    tasks: Files
    columns: Sequence[str]
    derive: Derive
    names: Mapping[str, Names]


@dataclass(frozen=True, slots=True)
class _Found:
    """Calls of one row group: their rows, and each one's place among the names of types, "" where its task is not
    there."""

    rows: Any
    types: Any
    names: Any


@dataclass(frozen=True, slots=True)
class _Look:
    """What a day's calls come to: tables of sums and of histograms, nano-dollars within, and what the second look
    needs."""

    tables: tuple[tuple[str, Any], ...]
    within: tuple[int, int, int]
    seen: tuple[Mapping[str, Seen], ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(one.size for some in self.seen for one in some.values())


class Calls:
    """All calls of some days. In files that were written before attempts named their workspace, ids that two workspaces
    share on a day count as the first one's task."""

    def __init__(
        self,
        store: Store,
        days: Sequence[str],
        where: Where,
        rates: Rates | None,
        families: Families | None = None,
        tell: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        """``families`` of the tasks: calls of a part are chosen where those of its root are."""
        wanted = _wanted(store, where, families)
        sums = {_BY_LANE: Sums([_KEY]), _BY_TYPE: Sums([_KEY])} | {
            name: Sums(HISTOGRAM_KEYS) for name in _PERCENTS
        }
        within = [0, 0, 0]
        kept: list[Mapping[str, Seen]] = []
        again: list[str] = []
        left = MOST_KEPT
        looks = at_once(partial(_first, wanted, rates), days)
        for number, (day, look) in enumerate(zip(days, looks, strict=True), 1):
            for name, table in look.tables:
                sums[name].add(table)
            within = [one + more for one, more in zip(within, look.within, strict=True)]
            tell(day, number, len(days))
            left -= look.size
            kept += look.seen if left >= 0 else ()
            again += () if left >= 0 else (day,)
        self.within = Within(*within)
        self._sums = {
            name: dict(by(sums[name].table(), _KEY)) if days else {} for name in (_BY_LANE, _BY_TYPE)
        }
        ranks = (
            {name: Ranks(sums[name].table(), percents) for name, (_, percents) in _PERCENTS.items()}
            if days
            else {}
        )
        self._answers = _second(wanted.names, ranks, kept, at_once(partial(_seen_of, wanted), again))

    def lanes(self) -> tuple[Lane, ...]:
        """The dearest first."""
        found = [self._lane(name, made) for name, made in self._sums[_BY_LANE].items()]
        return tuple(sorted(found, key=lambda lane: (-lane.cost_nano, lane.name)))

    def speeds(self) -> tuple[Speed, ...]:
        return tuple(self._speed(key, made) for key, made in self._sums[_BY_TYPE].items())

    def _lane(self, name: str, made: Mapping[str, int]) -> Lane:
        return Lane(
            name=name,
            attempts=made["calls"],
            passed=made["passed"],
            not_passed=made["not_passed"],
            failures=made["failures"],
            cost_nano=made["cost"],
            latency_p50_ms=self._ms(_LATENCY, name, 50),
            latency_p95_ms=self._ms(_LATENCY, name, 95),
            time_to_first_token_p50_ms=self._ms(_FIRST_TOKEN, name, 50),
            output_tokens_per_s=_tokens_per_s(made),
        )

    def _speed(self, key: str, made: Mapping[str, int]) -> Speed:
        task_type, _, lane = key.partition(_BETWEEN)
        return Speed(
            task_type,
            lane,
            made["calls"],
            self._ms(_WAIT, key, 50),
            self._ms(_WAIT, key, 95),
            self._ms(_FIRST_TOKEN_OF_TYPE, key, 50),
            self._ms(_FIRST_TOKEN_OF_TYPE, key, 95),
            _tokens_per_s(made),
        )

    def _ms(self, name: str, key: str, percent: int) -> float | None:
        """Nearest rank. None: no value."""
        value = self._answers[name].percent(key, percent)
        return None if value is None else value / 1000


def _wanted(store: Store, where: Where, families: Families | None) -> _Wanted:
    needed = [column for name in where for column in NEEDS.get(name, (name,))]
    tasks = families.files if where and families else Files(store, ledger.TASKS)
    derive = derived(store, tasks, tuple(name for name in where if name in NEEDS))
    if where and families:
        needed, derive = [*needed, *families.needed], families.told
    columns = tuple(dict.fromkeys(("workspace", "task_id", "task_type", *needed)))
    return _Wanted(store, where, tasks, columns, derive, {_BY_LANE: Names(), _BY_TYPE: Names()})


def _first(wanted: _Wanted, rates: Rates | None, day: str) -> _Look:
    tables: list[tuple[str, Any]] = []
    within = np.zeros(3, dtype=object)  # sums of any size
    found = []
    for some in _of_day(wanted, day):
        rows = some.rows
        cost, marginal = nanos(rows, "cost_usd", day, rates), nanos(rows, "marginal_usd", day, rates)
        ours = _are_ours(rows)
        climbed = says(rows["purpose"], *FIRST_CALLS) & (rows["hop"].to_numpy() > 0) & ~ours
        priced = rows["marginal_usd"].is_valid().to_numpy(zero_copy_only=False)
        within += [int(cost[those].sum()) for those in (ours, climbed)] + [
            int((cost - marginal)[priced].sum())
        ]
        tables += _sums(some, cost, ~ours)
        measures = _measures(wanted.names, some)
        tables += [(name, histograms(one)[_KEY]) for name, one in measures.items()]
        found.append(measures)
    return _Look(tuple(tables), (within[0], within[1], within[2]), tuple(found))


def _second(
    names: Mapping[str, Names],
    ranks: Mapping[str, Ranks],
    kept: Sequence[Mapping[str, Seen]],
    again: Iterator[tuple[Mapping[str, Seen], ...]],
) -> dict[str, Answers]:
    sums = {name: Sums(HELD_KEYS) for name in ranks}
    for measures in chain(kept, chain.from_iterable(again)):
        for name, one in measures.items():
            sums[name].add(held(one, {_KEY: ranks[name]})[_KEY])
    return {
        name: one.answers(sums[name].table(), names[_PERCENTS[name][0]].all()) for name, one in ranks.items()
    }


def _seen_of(wanted: _Wanted, day: str) -> tuple[Mapping[str, Seen], ...]:
    return tuple(_measures(wanted.names, some) for some in _of_day(wanted, day))


def _of_day(wanted: _Wanted, day: str) -> Iterator[_Found]:
    """The day's calls of the chosen tasks, a row group at a time."""
    calls = (read(piece, _READ) for piece in pieces(wanted.store, ledger.ATTEMPTS, (day,), {}))
    for rows, near, places in beside(lambda: map(partial(_told, wanted, day), wanted.tasks.of(day)), calls):
        types = near["task_type"].take(at(places))
        if wanted.where:
            those = near[_WANTED].take(at(places)).fill_null(False)
            rows, types = rows.filter(those), types.filter(those)
        names, codes = worded(types)
        yield _Found(rows, codes, names)


def _told(wanted: _Wanted, day: str, piece: Piece) -> Any:
    """Workspace, id and own type of each task, and whether it is wanted."""
    rows = wanted.derive(day, read(piece, wanted.columns), piece.start)
    own = OWN_TYPE if OWN_TYPE in rows.column_names else "task_type"
    columns = {"workspace": rows["workspace"].cast(schema.TEXT), "task_id": rows["task_id"]}
    return pa.table(columns | {"task_type": rows[own], _WANTED: fits(rows, wanted.where)})


def _sums(some: _Found, cost: Any, calls: Any) -> Iterator[tuple[str, Any]]:
    rows = some.rows
    answered, last = _answered(rows), _answers(rows)
    busy_us, tokens = _micros(rows["latency_ms"]), pc.fill_null(rows["output_tokens"], 0).to_numpy()
    measures = {
        "calls": calls,
        "passed": says(rows["verdict"], "pass"),
        "not_passed": says(rows["verdict"], "fail"),
        "failures": ~answered,
        "cost": cost,
        "busy": busy_us * answered,
        "tokens": tokens * answered,
    }
    yield _BY_LANE, _added(worded(rows["lane"]), measures, calls)
    measures = {"calls": last, "busy": busy_us, "tokens": tokens}
    yield _BY_TYPE, _added(_typed(some), measures, last)


def _added(keys: tuple[Any, Any], measures: Mapping[str, Any], those: Any) -> Any:
    """The measures of those rows summed by their keys."""
    names, codes = keys
    codes = codes[those]
    made = {}
    for name, values in measures.items():
        made[name] = np.zeros(len(names), dtype=np.int64)
        np.add.at(made[name], codes, values[those].astype(np.int64))
    some = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    return pa.table({_KEY: names.take(pa.array(some)), **{name: sums[some] for name, sums in made.items()}})


def _measures(names: Mapping[str, Names], some: _Found) -> dict[str, Seen]:
    rows = some.rows
    words, codes = _typed(some)
    lanes, typed = names[_BY_LANE].of(rows["lane"]), (names[_BY_TYPE].numbers(words), codes)
    answered, last = _answered(rows) & ~_are_ours(rows), _answers(rows)
    return {
        _LATENCY: _measure(rows["latency_ms"], lanes, answered),
        _FIRST_TOKEN: _measure(rows["time_to_first_token_ms"], lanes, answered),
        _WAIT: _measure(rows["queue_wait_ms"], typed, last),
        _FIRST_TOKEN_OF_TYPE: _measure(rows["time_to_first_token_ms"], typed, last),
    }


def _measure(column: Any, keys: tuple[Any, Any], those: Any) -> Seen:
    numbers, codes = keys
    known = those & column.is_valid().to_numpy(zero_copy_only=False)
    return seen(_micros(column)[known], {_KEY: (numbers, codes[known])})


def _typed(some: _Found) -> tuple[Any, Any]:
    """The type and the lane of each row at once."""
    lanes, codes = worded(some.rows["lane"])
    count = len(lanes)
    pairs = np.divmod(np.arange(len(some.names) * count), max(1, count))
    both = (words.take(pa.array(at)) for words, at in zip((some.names, lanes), pairs, strict=True))
    return pc.binary_join_element_wise(*both, _BETWEEN), some.types.astype(np.int64) * count + codes


def _are_ours(rows: Any) -> Any:
    """Rows of what our own routing and gates did."""
    return says(rows["lane"], "") & says(rows["engine"], DISPATCHER, GATE)


def _answered(rows: Any) -> Any:
    return pc.is_null(rows["failure"]).to_numpy()


def _answers(rows: Any) -> Any:
    """Calls that answered, of those that were to answer the task."""
    return _answered(rows) & says(rows["purpose"], *MODEL_CALLS) & ~_are_ours(rows)


def _micros(column: Any) -> Any:
    return np.rint(pc.fill_null(column, 0.0).to_numpy() * 1000).astype(np.int64)


def _tokens_per_s(made: Mapping[str, int]) -> float | None:
    """None where no call says that anything came out: people and tools do not write tokens."""
    return made["tokens"] / made["busy"] * 1_000_000 if made["busy"] and made["tokens"] else None
