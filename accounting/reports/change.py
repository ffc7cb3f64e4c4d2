"""Two ranges apart: what more tasks did to the bill, what other kinds of tasks did, and what dearer ones did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from accounting.files import schema
from accounting.reports.figures import Change, Moved, Side, unit_cost
from accounting.reports.sums import Totals, by, text, totals
from accounting.reports.tasks import BY, Tallies
from broker.money import round_half_even


def side(since: str, until: str, kinds: Any, unrolled: tuple[str, ...] = ()) -> Side:
    sums = totals(kinds)
    cost, unpriced = sums["cost"], sums["unpriced_calls"]
    return Side(
        since,
        until,
        unrolled,
        sums["tasks"],
        sums["succeeded"],
        cost,
        unit_cost(cost, sums["tasks"], unpriced),
        unit_cost(cost, sums["succeeded"], unpriced),
        unpriced,
    )


def change(before: Tallies, now: Tallies, sides: tuple[Side, Side], names: Sequence[str]) -> Change:
    """``sides`` are before and now, ``names`` the breakdowns."""
    was, is_ = sides
    volume = _volume(was.tasks, is_.tasks, was.cost_nano, is_.cost_nano)
    unit = _unit(_kinds(before.kinds), _kinds(now.kinds))
    mix = is_.cost_nano - was.cost_nano - volume - unit
    groups = {name: _moved(before.groups[BY[name]], now.groups[BY[name]], BY[name]) for name in names}
    return Change(was, is_, volume, mix, unit, groups)


def _volume(tasks_before: int, tasks: int, nano_before: int, nano: int) -> int:
    """What the difference in tasks comes to at the cost of a task before; all of it where there was none."""
    if not tasks_before:
        return nano - nano_before
    return round_half_even((tasks - tasks_before) * nano_before, tasks_before)


def _unit(before: Mapping[str, Totals], now: Mapping[str, Totals]) -> int:
    """What today's tasks cost beyond what as many of their kind did before, over the kinds that are in both."""
    return sum(
        sums["cost"] - round_half_even(sums["tasks"] * was["cost"], was["tasks"])
        for kind, sums in now.items()
        if (was := before.get(kind)) is not None and was["tasks"]
    )


def _kinds(kinds: Any) -> dict[str, Totals]:
    """A type that ended on a lane → its sums."""
    pair = pc.binary_join_element_wise(text(kinds["task_type"]), text(kinds["final_lane"]), "\n")
    return dict(by(kinds.append_column("kind", pair.cast(schema.TEXT)), "kind"))


def _moved(before: Any, now: Any, key: str) -> tuple[Moved, ...]:
    """Those that moved most first."""
    was, is_ = dict(by(before, key)), dict(by(now, key))
    nothing: Totals = {"tasks": 0, "cost": 0}
    found = []
    for name in sorted({*was, *is_}):
        old, new = was.get(name, nothing), is_.get(name, nothing)
        volume = _volume(old["tasks"], new["tasks"], old["cost"], new["cost"])
        unit = new["cost"] - old["cost"] - volume
        found.append(Moved(name, old["tasks"], new["tasks"], old["cost"], new["cost"], volume, unit))
    return tuple(sorted(found, key=lambda one: (-abs(one.cost_nano - one.before_nano), one.name)))
