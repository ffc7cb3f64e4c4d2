"""Tasks looked at twice: once for the sums and for where the percentiles lie, once more for the percentiles themselves.

What the second look needs stays in memory as far as ``MOST_KEPT`` goes; beyond it the same files are read once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.reports.currency import Rates
from accounting.reports.families import PART, PARTS_NANO, Families, may_have_parts, wholes
from accounting.reports.ranks import (
    HELD_KEYS,
    HISTOGRAM_KEYS,
    Answers,
    Ranks,
    Seen,
    held,
    histograms,
    in_order,
    only,
    seen,
)
from accounting.reports.revisions import MODEL, NEEDS, VERSION, derived
from accounting.reports.rows import (
    Derive,
    Files,
    Names,
    Piece,
    Where,
    as_it_is,
    at_once,
    each,
    holding,
    pieces,
)
from accounting.reports.sums import Sums, added, cost_columns, dated, nanos, spent, summed_up, text, total

Made = TypeVar("Made")

#: What a report can be broken down by and chosen by: its name on the command line → how a row of ``tasks`` says it.
BY = {
    "type": "task_type",
    "lane": "final_lane",
    "model": MODEL,
    "version": VERSION,
    "workspace": "workspace",
    "workflow": "workflow",
    "pipeline": "pipeline",
    "user": "user_id",
}
#: What tasks of one kind share; few enough combinations to hold for every day.
KIND = ("task_type", "final_lane", "status", "classified_by")
WORKFLOW, LANE = "workflow", "final_lane"
PERCENTS = (50, 95, 99, 100)  # 100: the dearest
TOTAL, DATE = "total", "date"
READ = (
    *KIND, WORKFLOW, "succeeded", "inference_usd", "human_usd", "avoided_usd", "value_usd", "hops", "attempts",
    "llm_calls", "unpriced_calls", "unsettled_calls", *schema.TOKENS,
)  # fmt: skip
#: Measures that every breakdown has.
GROUP = (
    "tasks", "judged", "succeeded", "cost", "inference", "value", "valued", "valued_cost", "unpriced_calls",
)  # fmt: skip
#: Those from which it shows why a workflow is dear.
REASONS = ("hops", "llm_calls", "input", "output", "human")
#: Those of a kind of tasks.
ALL = (
    *GROUP, *REASONS, "attempts", "judged_cost", "failed_cost", "avoided", "escalated", "unsettled_calls",
    "cached_input_tokens", "parts", "parts_cost",
)  # fmt: skip
UNPRICED = "unpriced_calls"
_FLAWS = (UNPRICED, "unsettled_calls")
MOST_KEPT = 300_000_000  # bytes that stay in memory between the two looks: of 30 million tasks and more
MOST_HISTOGRAMS = 1 << 12  # of a column
#: A column to group by: what the verdict on a row is, as a number; that of a part has ``OF_PARTS`` added to it.
VERDICT, FAILED, SUCCEEDED, NONE, OF_PARTS = "verdict", 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Range:
    """Which tasks: those of the pieces that have the wanted values. ``by`` are the columns to break down by.
    ``families`` None: none of them has parts; ``derive`` adds the columns that rows have not got themselves."""

    store: Store
    found: tuple[Piece, ...]
    where: Where
    by: tuple[str, ...] = ()
    rates: Rates | None = None
    families: Families | None = None
    derive: Derive = as_it_is


@dataclass(frozen=True, slots=True)
class Tallies:
    """Tables of sums: ``kinds`` by day and all that tells kinds of tasks apart, ``workflows`` by day, workflow and
    final lane, and one that tells each column asked for; ``histograms`` as ``Ranks`` takes them, of the columns that
    have few enough ``names``; ``kept`` of each piece what its ranks are made from, None where that would be too much
    memory."""

    kinds: Any
    workflows: Any
    groups: Mapping[str, Any]
    histograms: Mapping[str, Any]
    names: Mapping[str, Names] = field(default_factory=dict)
    kept: tuple[Seen | None, ...] = ()


def choose(
    store: Store, days: Sequence[str], where: Where, by: Sequence[str] = (), rates: Rates | None = None
) -> Range:
    by = tuple(dict.fromkeys(by))
    # How a part was classified is told of itself: a rule that found it has fired.
    told = tuple(dict.fromkeys((*KIND[:-1], WORKFLOW, "succeeded", *by, *where)))
    found = pieces(store, ledger.TASKS, days, {})
    files = Files(store, ledger.TASKS, found)
    derive = derived(store, files, tuple(name for name in told if name in NEEDS))
    if any(map(may_have_parts, found)):  # a part has the values of its root, and not those of its row
        told = (*told, "value_usd")
        parts = Families(files, days, told, needs((*told, *KIND)), rates, derive)
        return Range(store, found, where, by, rates, parts)
    return Range(store, holding(found, where), where, by, rates, None, derive)


def needs(names: Iterable[str]) -> tuple[str, ...]:
    """The columns of ``tasks`` that these are made from."""
    return tuple(dict.fromkeys(column for name in names for column in NEEDS.get(name, (name,))))


def tally(chosen: Range, *, ranks: bool = True) -> Tallies:
    """The first reading. Without ``ranks`` no histograms are made."""
    sums = {"kinds": Sums((DATE, *KIND)), "workflows": Sums((DATE, WORKFLOW, LANE))}
    sums |= {_by(column): Sums((_by(column),)) for column in chosen.by if column not in KIND}
    names = {name: Names() for name in (TOTAL, DATE, *chosen.by)}
    counts = {name: Sums(HISTOGRAM_KEYS) for name in (names if ranks else ())}
    kept: list[Seen | None] = []
    left = MOST_KEPT
    columns = (*READ, *cost_columns(chosen.rates))
    for made, some in _each(chosen, columns, lambda day, rows: _first(chosen, names, day, rows, ranks)):
        for name, table in made.items():
            (sums | counts)[name].add(table)
        left -= 0 if some is None else some.size
        kept.append(some if left >= 0 else None)
    tables = {name: one.table() for name, one in sums.items()}
    groups = dict.fromkeys(chosen.by, tables["kinds"])
    groups |= {
        column: _named(tables[_by(column)], column, names[column]) for column in groups if column not in KIND
    }
    histograms = {name: one.table() for name, one in counts.items() if name not in _wide(chosen, names)}
    return Tallies(tables["kinds"], tables["workflows"], groups, histograms, names, tuple(kept))


def _wide(chosen: Range, names: Mapping[str, Names]) -> frozenset[str]:
    """Columns of so many names that a histogram of each would come to as much as the values themselves."""
    return frozenset(column for column in chosen.by if len(names[column].all()) > MOST_HISTOGRAMS)


def rank(chosen: Range, tallies: Tallies, greatest: Sequence[int]) -> Mapping[str, Answers]:
    """The percentiles of each breakdown, ``total`` and ``date`` among them, and of the total the sums of the greatest
    so many. What the first reading could not keep is read once more."""
    kept, names = [some for some in tallies.kept if some is not None], tallies.names
    histograms_of, wide = dict(tallies.histograms), _wide(chosen, names)
    if wide and None in tallies.kept:
        counts = _added(chosen, tallies, HISTOGRAM_KEYS, lambda some: histograms(only(some, wide)), wide)
        histograms_of, wide = histograms_of | counts, frozenset()
    ranks = {
        name: Ranks(table, PERCENTS, greatest if name == TOTAL else ())
        for name, table in histograms_of.items()
    }
    sums = _added(chosen, tallies, HELD_KEYS, lambda some: held(only(some, ranks), ranks), ranks)
    answers = {name: one.answers(sums[name], names[name].all()) for name, one in ranks.items()}
    return answers | {name: in_order(kept, name, names[name].all(), PERCENTS) for name in wide}


def _added(
    chosen: Range,
    tallies: Tallies,
    keys: Sequence[str],
    work: Callable[[Seen], Mapping[str, Any]],
    columns: Iterable[str],
) -> dict[str, Any]:
    """The sums of what ``work`` makes of all pieces, by column."""
    sums = {name: Sums(keys) for name in columns}
    again = tuple(piece for piece, some in zip(chosen.found, tallies.kept, strict=True) if some is None)

    def anew(day: str, rows: Any) -> Mapping[str, Any]:
        coded = {column: tallies.names[column].of(rows[column]) for column in chosen.by}
        return work(_seen(tallies.names, day, rows, spent(rows, day, chosen.rates), coded))

    for made in chain(
        at_once(work, [some for some in tallies.kept if some is not None]),
        _each(replace(chosen, found=again), cost_columns(chosen.rates), anew),
    ):
        for name, table in made.items():
            sums[name].add(table)
    return {name: one.table() for name, one in sums.items()}


def summed(chosen: Range) -> Any:
    """By day what ``from_daily`` has, from the tasks themselves."""
    columns = ("succeeded", "attempts", *schema.TOKENS, "cost_usd", *schema.PARTS)

    def one(day: str, rows: Any) -> Any:
        verdict, whole = rows["succeeded"], wholes(rows)
        ends = {
            "tasks": whole,
            "judged": pc.and_(whole, verdict.is_valid()),
            "succeeded": pc.and_(whole, verdict.fill_null(False)),
        }
        counted = {name: those.cast(schema.COUNT) for name, those in ends.items()}
        return summed_up(rows, day, chosen.rates, counted)

    return added(_each(chosen, columns, one), ("date",))


def unpriced(store: Store, days: Sequence[str], where: Where, chosen: Range | None = None) -> int:
    """How many calls of these tasks have no known price; ``chosen`` where more than the rows' own columns has to tell
    which tasks. ``daily`` does not know, and one column that hardly has a value is read fast."""
    chosen = chosen or Range(store, pieces(store, ledger.TASKS, days, where), where)
    return sum(_each(chosen, (UNPRICED,), lambda _, rows: total(rows, UNPRICED)))


def _each(chosen: Range, columns: Sequence[str], work: Callable[[str, Any], Made]) -> Iterator[Made]:
    wanted = dict.fromkeys((*columns, *chosen.by, *chosen.where))
    if chosen.families is not None:
        needed = tuple(dict.fromkeys((*needs(wanted), *chosen.families.needed)))
        return each(chosen.found, needed, chosen.where, work, chosen.families.told)
    return each(chosen.found, needs(wanted), chosen.where, work, chosen.derive)


def _first(
    chosen: Range, names: Mapping[str, Names], day: str, table: Any, ranks: bool
) -> tuple[dict[str, Any], Seen | None]:
    """The sums of one piece, and what its ranks are made from."""
    cost = spent(table, day, chosen.rates)
    coded = {column: names[column].of(table[column]) for column in chosen.by}
    keys = {key: table[key] for key in (*KIND, WORKFLOW)}
    keys |= {_by(column): pa.array(keys[codes]) for column, (keys, codes) in coded.items()}
    verdict = table["succeeded"].cast(pa.int8()).fill_null(NONE)
    if PART in table.column_names:
        of_parts = pc.multiply(table[PART].cast(pa.int8()), pa.scalar(OF_PARTS, pa.int8()))
        verdict = pc.add(verdict, of_parts)
    rows = pa.table(keys | {VERDICT: verdict} | _measures(chosen, day, table, cost))
    made = {
        "kinds": dated(_summed(rows, KIND, ALL), day),
        "workflows": dated(_summed(rows, (WORKFLOW, LANE), (*GROUP, *REASONS)), day),
    }
    made |= {_by(column): _summed(rows, (_by(column),), GROUP) for column in chosen.by if column not in KIND}
    if not ranks:
        return made, None
    some = _seen(names, day, table, cost, coded)
    return made | histograms(only(some, names.keys() - _wide(chosen, names))), some


def _by(column: str) -> str:
    """What a column is called while its values are numbers."""
    return f"by {column}"


def _named(table: Any, column: str, names: Names) -> Any:
    numbers = table[_by(column)].combine_chunks()
    place = table.column_names.index(_by(column))
    return table.set_column(place, column, names.all().take(numbers))


def _measures(chosen: Range, day: str, table: Any, cost: Any) -> dict[str, Any]:
    """Columns to be summed, whatever the verdict. Those that are nothing in every row may be missing."""

    def money(name: str) -> Any:
        return nanos(table, name, day, chosen.rates)

    seldom = {"human": "human_usd", "avoided": "avoided_usd", "value": "value_usd"}
    made = {
        "cost": cost,
        "inference": money("inference_usd"),
        **{name: money(one) for name, one in seldom.items() if schema.nanos(table[one]).any()},
        "escalated": pc.greater(table["hops"], 0).cast(schema.COUNT),
        "input": added_up(table, "input_tokens", "cached_input_tokens", "cache_write_tokens"),
        "output": added_up(table, "output_tokens", "reasoning_tokens"),
        **{name: table[name] for name in ("hops", "attempts", "llm_calls", "cached_input_tokens")},
        **{name: table[name] for name in _FLAWS if table[name].to_numpy().any()},
    }
    if table["value_usd"].null_count < table.num_rows:
        made["valued"] = table["value_usd"].is_valid().cast(schema.COUNT)
        made["valued_cost"] = cost * made["valued"].to_numpy()
    return made


def _summed(rows: Any, keys: Sequence[str], measures: Sequence[str]) -> Any:
    """The measures by the keys and the verdict: what follows from that is told of a few sums, and not of each row."""
    known = frozenset(rows.column_names)  # the table makes the list anew each time
    there = [name for name in measures if name in known]
    summed = rows.group_by([*keys, VERDICT], use_threads=False).aggregate(
        [([], "count_all"), *((name, "sum") for name in there)]
    )
    count, code = (summed[name].to_numpy() for name in ("count_all", VERDICT))
    verdict, is_part = code % OF_PARTS, code >= OF_PARTS
    judged, succeeded = verdict != NONE, verdict == SUCCEEDED
    found = {name: summed[f"{name}_sum"].to_numpy() for name in there}
    nothing = np.zeros(len(count), dtype=np.int64)
    tasks = np.where(is_part, 0, count)
    found |= {"tasks": tasks, "judged": tasks * judged, "succeeded": tasks * succeeded}
    of_wholes = ("escalated", "hops", "valued")
    found |= {name: np.where(is_part, 0, found[name]) for name in of_wholes if name in found}
    found |= {
        "judged_cost": found["cost"] * judged,
        "failed_cost": found["cost"] * (verdict == FAILED),
        "value": np.where(is_part, 0, found.get("value", nothing)) * succeeded,
        "parts": count - tasks,
        "parts_cost": np.where(is_part, found["cost"], 0),
    }
    return pa.table(
        {key: text(summed[key]) for key in keys} | {name: found.get(name, nothing) for name in measures}
    )


def added_up(table: Any, first: str, *others: str) -> Any:
    whole = table[first]
    for name in others:
        whole = pc.add(whole, table[name])
    return whole


def _seen(
    names: Mapping[str, Names], day: str, table: Any, cost: Any, coded: Mapping[str, tuple[Any, Any]]
) -> Seen:
    """Of the tasks that are no parts, what each cost with its own parts."""
    if PART in table.column_names:
        whole = wholes(table).to_numpy()
        cost = (cost + table[PARTS_NANO].to_numpy())[whole]
        coded = {column: (keys, codes[whole]) for column, (keys, codes) in coded.items()}
    all_alike = np.zeros(len(cost), dtype=np.int32)
    more = {
        name: (names[name].numbers(pa.array([said])), all_alike)
        for name, said in ((TOTAL, TOTAL), (DATE, day))
    }
    return seen(cost, {**coded, **more})
