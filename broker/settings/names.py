"""Names that point at other tables, which no table can see for itself."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.settings.lanes import HUMAN, Lane
from broker.settings.prices import Human
from broker.settings.tools import SubtaskTool, ToolSettings
from broker.settings.types import TaskType
from broker.settings.values import NAME


def of_tables(
    lanes: Mapping[str, Lane], types: Mapping[str, TaskType], tools: Mapping[str, ToolSettings]
) -> Iterator[str]:
    tables: Mapping[str, Collection[str]] = {"lanes": lanes, "types": types, "tools": tools}
    for section, rows in tables.items():
        for name in rows:
            if not NAME.fullmatch(name):
                yield f"{section}.{name}: names are lower-case letters, digits and dashes"
    if HUMAN in lanes:
        yield f"lanes.{HUMAN}: the human lane is always there; take the table out"


def of_types(
    types: Mapping[str, TaskType],
    default: str,
    lanes: Mapping[str, Lane],
    tools: Mapping[str, ToolSettings],
) -> Iterator[str]:
    if default not in types:
        yield f"fleet.default_type: no type {default!r}{near(default, types)}"
    for name, row in types.items():
        for lane in row.chain:
            if lane != HUMAN and lane not in lanes:
                yield f"types.{name}.chain: no lane {lane!r}{near(lane, [*lanes, HUMAN])}"
        if len(set(row.chain)) != len(row.chain):
            yield f"types.{name}.chain: a lane stands in it twice"
        if HUMAN in row.chain[:-1]:
            yield f"types.{name}.chain: {HUMAN!r} can only be the last rung"
        for tool in row.tools:
            if tool not in tools:
                yield f"types.{name}.tools: no tool {tool!r}{near(tool, tools)}"
        if row.critic is not None and row.critic not in types:
            yield f"types.{name}.critic: no type {row.critic!r}{near(row.critic, types)}"
        elif row.critic is not None and types[row.critic].critic is not None:
            yield f"types.{name}.critic: {row.critic!r} has a critic itself; take that one out"


def of_tools(tools: Mapping[str, ToolSettings], types: Mapping[str, TaskType]) -> Iterator[str]:
    for name, tool in tools.items():
        for one in tool.types if isinstance(tool, SubtaskTool) else ():
            if one not in types:
                yield f"tools.{name}.types: no type {one!r}{near(one, types)}"
        if tool.ttl_s is not None and not tool.reads_only:
            yield (
                f"tools.{name}.ttl_s: only what a tool reads can be given again; set read_only = true or take it out"
            )


def of_budgets(
    budgets: Sequence[BudgetRow], fleet: Fleet, human: Human, lanes: Mapping[str, Lane]
) -> Iterator[str]:
    for row in budgets:
        kind, _, lane = row.scope.partition(":")
        if kind == "lane" and lane not in (*lanes, HUMAN):
            yield f"budgets: scope {row.scope!r} names no lane{near(lane, [*lanes, HUMAN])}"
    limited = Counter((row.scope, row.period) for row in budgets)
    for (scope, period), times in limited.items():
        if times > 1:
            yield f"budgets: {scope} per {period} stands there twice; take one out"
    if fleet.small_scale and ("fleet", "month") in limited:
        yield "fleet.small_scale: budgets has a limit of the fleet per month too; take one out"
    if any(scope == f"lane:{HUMAN}" for scope, _ in limited) and human == Human():
        yield (
            f"budgets: scope 'lane:{HUMAN}' limits what has no price; set usd_per_review or usd_per_minute in [human]"
        )


def near(name: str, known: Collection[str]) -> str:
    """What may have been meant, or else all that there is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"
