"""The report on paper: headings, units, columns that add up, and what the figures do not settle.

Amounts in one column share their number of decimals and are rounded so that they sum to the rounded total, as a bank
does it. ``laneway report --json`` has every amount exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from accounting.report import Cell, Group, Lane, Report, Speed
from broker.money import dollars, round_half_even, split

NOTHING = "-"
GAP = 2
NAME_WIDTH = 34  # a longer name is wrapped
MOST_ROWS = 20
_TITLES = {
    "type": "task type",
    "lane": "lane that ended the task",
    "model": "model tried last",
    "user": "user",
}
_PART_TITLES = {
    "inference": "Inference: the first call of each rung",
    "retry": "Retries after a failed call",
    "validation": "Validation: gates and judges",
    "reprompt": "Re-prompts after a refused answer",
    "routing": "Routing: finding the lane",
    "tool": "Tools",
    "eval": "Evaluation runs",
    "human": "People",
    "data": "Data: storage, transfer, retrieval",
    "orchestration": "Orchestration: queues and state",
}


def render(report: Report, console: Console) -> None:
    """Prints the report. With nothing in it, one line that says so and what to do."""
    span = report.since if report.since == report.until else f"{report.since} to {report.until}"
    console.rule(Text("What tasks cost"))
    console.print(Text(f"Tasks submitted {span} (UTC), in US dollars", style="italic"))
    if not report.totals.tasks:
        console.print(
            "No tasks in these days. Where some were submitted, `laneway rollup` writes their files."
        )
        return
    console.print(_totals(report))
    grids = [_parts(report)]
    if len(report.days) > 1:
        grids.append(_groups("day", report.days, report))
    grids += [_groups(name, groups, report) for name, groups in report.groups.items()]
    grids += [_lanes(report), _speeds(report.speeds), _cells(report.cells), _dearest(report)]
    for grid in grids:
        console.print()
        console.print(draw(grid, console.width))
    console.print()
    for note in notes(report):
        console.print(f"• {note}", highlight=False)


def notes(report: Report) -> tuple[str, ...]:
    """What a reader must know to read the figures right; only what applies."""
    said = report.open
    found = ["Cost per successful task = all spend ÷ successes: what failed tasks spent is in it."]
    if said.unjudged_tasks:
        found.append(
            f"No verdict on {_count(said.unjudged_tasks, 'task')} ({usd(said.unjudged_nano)}), for want of a gate or "
            "of an end: they are in no success rate, and their spend is in the figure above. Over judged tasks alone, "
            f"a success costs {usd(said.cost_per_judged_success_nano)}."
        )
    if said.parked_tasks:
        found.append(
            f"Waiting for a person: {_count(said.parked_tasks, 'task')}, {usd(said.parked_nano)} spent so far "
            "(laneway review list)."
        )
    if said.unfinished_tasks:
        found.append(
            f"{_count(said.unfinished_tasks, 'task')} had not ended when the day was last rolled up."
        )
    if said.unpriced_calls:
        found.append(
            f"{_count(said.unpriced_calls, 'call')} had no known price and stand here without cost: the true total is "
            "higher. Give their lanes a price."
        )
    if said.unsettled_calls:
        found.append(
            f"{_count(said.unsettled_calls, 'call')} got lost on the way and stand at what was reserved for them, the "
            "most that they can have cost."
        )
    if report.avoided_nano:
        found.append(f"Caches saved {usd(report.avoided_nano)}; that is no part of the spend.")
    return tuple(found)


def usd(nano: int | None, decimals: int | None = None) -> str:
    """An amount for reading: as many decimals as asked for, else enough for three figures that count."""
    if nano is None:
        return NOTHING
    places = _decimals(nano) if decimals is None else decimals
    units = round_half_even(nano, 10 ** (9 - places))
    return f"${Decimal(units).scaleb(-places):,.{places}f}"


def _decimals(nano: int) -> int:
    if nano == 0:
        return 2
    return min(9, max(2, 2 - dollars(abs(nano)).adjusted()))


def column(amounts: Sequence[int], decimals: int) -> list[str]:
    """The amounts of a column that a total stands under, rounded so that what is printed adds up to what is printed."""
    if any(amount < 0 for amount in amounts):
        return [usd(amount, 9) for amount in amounts]
    unit = 10 ** (9 - decimals)
    whole = round_half_even(sum(amounts), unit)
    parts = split(whole, amounts) if amounts else []
    return [
        usd(part * unit, decimals) if part or not amount else f"<{usd(unit, decimals)}"
        for part, amount in zip(parts, amounts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table of the report. ``yields`` are the columns that go first on a narrow page: no figure is ever cut."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    below: Sequence[Sequence[str]] = ()
    yields: tuple[str, ...] = ()


def draw(grid: Grid, width: int) -> Table:
    """The grid in this many characters; where columns do not fit, some are left out and the heading says which."""
    lines = [grid.heads, *grid.rows, *grid.below]
    widths = [
        max(len(line[place]) for line in lines if place < len(line)) + GAP for place in range(len(grid.heads))
    ]
    widths[0] = min(widths[0], NAME_WIDTH)
    kept = list(range(len(grid.heads)))
    missing: list[str] = []
    for head in grid.yields:
        if sum(widths[place] for place in kept) - GAP <= width:
            break
        kept.remove(grid.heads.index(head))
        missing.append(head)
    title = grid.title + (f" (too narrow for: {', '.join(missing)})" if missing else "")
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, GAP, 0, 0)
    )  # fmt: skip
    for place in kept:
        table.add_column(Text(grid.heads[place]), justify="right" if place else "left", no_wrap=place > 0)
    for rows in (grid.rows, grid.below):
        for row in rows:
            table.add_row(*(Text(row[place]) for place in kept if place < len(row)))
        table.add_section()
    return table


def _totals(report: Report) -> Table:
    total = report.totals
    decimals = _precision(total.cost_nano)
    statuses = ", ".join(f"{count:,} {name}" for name, count in report.statuses.items())
    costs = " · ".join(usd(nano) for nano in (total.p50_nano, total.p95_nano, total.p99_nano, total.max_nano))
    rows = [
        ("Tasks", f"{total.tasks:,}: {statuses}"),
        ("Spent", usd(total.cost_nano, decimals)),
        ("Spent on tasks that failed their judge", usd(report.open.failed_nano, decimals)),
        ("Cost per task", usd(total.cost_per_task_nano)),
        ("Cost per successful task", usd(total.cost_per_success_nano)),
        (
            "Success rate of what ended with a verdict",
            f"{percent(total.success_rate)} ({total.succeeded:,} of {total.judged:,})",
        ),
        ("Cost of a task, p50 · p95 · p99 · max", costs),
        ("Overhead share of spend", percent(total.overhead_share)),
        ("Calls", f"{report.attempts:,} ({report.attempts / total.tasks:.2f} a task)"),
        ("Escalated tasks", f"{report.escalated_tasks:,} ({report.escalations:,} moves to a further lane)"),
    ]
    if report.value_nano is not None:
        rows.append(("Worth of what succeeded, where told", usd(report.value_nano)))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    for name, figure in rows:
        table.add_row(Text(name), Text(figure, style="bold"))
    return table


def _parts(report: Report) -> Grid:
    decimals = _precision(report.totals.cost_nano)
    amounts = column([part.nano for part in report.parts], decimals)
    rows = [
        (_PART_TITLES[part.name], amount, percent(part.share))
        for part, amount in zip(report.parts, amounts, strict=True)
        if part.nano or part.name == "inference"
    ]
    spent = report.totals.cost_nano
    below = [
        ("Total", usd(spent, decimals), percent(1.0 if spent else None)),
        (
            "of which overhead (all but inference)",
            usd(report.overhead_nano, decimals),
            percent(report.totals.overhead_share),
        ),
    ]
    return Grid("Where the money went", ("part", "USD", "of spend"), rows, below)


def _groups(name: str, groups: Sequence[Group], report: Report) -> Grid:
    decimals = _precision(report.totals.cost_nano)
    amounts = column([group.cost_nano for group in groups], decimals)
    rows = [_group_row(group, amount) for group, amount in zip(groups, amounts, strict=True)][:MOST_ROWS]
    if len(groups) > MOST_ROWS:
        rest = groups[MOST_ROWS:]
        spent = sum(group.cost_nano for group in rest)
        rows.append(
            (f"{len(rest)} more", f"{sum(group.tasks for group in rest):,}", "", usd(spent, decimals))
        )
    return Grid(
        title=f"By {_TITLES.get(name, name)}",
        heads=(
            name,
            "tasks",
            "success",
            "USD",
            "of spend",
            "per task",
            "per success",
            "p95",
            "max",
            "overhead",
        ),
        rows=rows,
        below=[_group_row(report.totals, usd(report.totals.cost_nano, decimals))],
        yields=("overhead", "max", "of spend", "p95", "success", "per task"),
    )


def _group_row(group: Group, amount: str) -> tuple[str, ...]:
    return (
        group.name or "(none)",
        f"{group.tasks:,}",
        percent(group.success_rate),
        amount,
        percent(group.spend_share),
        usd(group.cost_per_task_nano),
        usd(group.cost_per_success_nano),
        usd(group.p95_nano),
        usd(group.max_nano),
        percent(group.overhead_share),
    )


def _lanes(report: Report) -> Grid:
    decimals = _precision(report.totals.cost_nano)
    printed = column([*(lane.cost_nano for lane in report.lanes), report.open.machine_nano], decimals)
    rows = [_lane_row(lane, amount) for lane, amount in zip(report.lanes, printed, strict=False)]
    if report.open.machine_nano:
        rows.append(("our own routing and gates", "", "", "", printed[-1]))
    calls = sum(lane.attempts for lane in report.lanes)
    return Grid(
        title="Calls by lane, whatever became of their tasks",
        heads=("lane", "calls", "pass", "failed", "USD", "p50 ms", "p95 ms", "first token ms", "tokens/s"),
        rows=rows,
        below=[("total", f"{calls:,}", "", "", usd(report.totals.cost_nano, decimals))],
        yields=("first token ms", "p95 ms", "tokens/s", "failed"),
    )


def _lane_row(lane: Lane, amount: str) -> tuple[str, ...]:
    return (
        lane.name or "(none)",
        f"{lane.attempts:,}",
        percent(lane.pass_rate),
        f"{lane.failures:,}",
        amount,
        _real(lane.latency_p50_ms),
        _real(lane.latency_p95_ms),
        _real(lane.time_to_first_token_p50_ms),
        _real(lane.output_tokens_per_s),
    )


def _speeds(speeds: Sequence[Speed]) -> Grid:
    return Grid(
        title="How fast lanes answer, by type",
        heads=(
            "type",
            "lane",
            "calls",
            "wait p50 ms",
            "wait p95 ms",
            "first token p50 ms",
            "p95 ms",
            "tokens/s",
        ),
        rows=[
            (
                speed.task_type or "(none)",
                speed.lane or "(none)",
                f"{speed.calls:,}",
                _real(speed.queue_wait_p50_ms),
                _real(speed.queue_wait_p95_ms),
                _real(speed.time_to_first_token_p50_ms),
                _real(speed.time_to_first_token_p95_ms),
                _real(speed.output_tokens_per_s),
            )
            for speed in speeds
        ],
        yields=("p95 ms", "wait p95 ms", "wait p50 ms"),
    )


def _cells(cells: Sequence[Cell]) -> Grid:
    lanes = sorted({cell.lane for cell in cells})
    found = {(cell.task_type, cell.lane): usd(cell.cost_per_1k_nano) for cell in cells}
    return Grid(
        title="Cost of 1,000 tasks, by type and the lane that ended them, USD",
        heads=("type", *(lane or "(none)" for lane in lanes)),
        rows=[
            (task_type or "(none)", *(found.get((task_type, lane), NOTHING) for lane in lanes))
            for task_type in sorted({cell.task_type for cell in cells})
        ],
    )


def _dearest(report: Report) -> Grid:
    decimals = _precision(report.totals.cost_nano)
    rows = [
        (
            f"{line.of_tasks:.0%} of tasks",
            f"{line.tasks:,}",
            usd(line.cost_nano, decimals),
            percent(line.spend_share),
        )
        for line in report.dearest
    ]
    return Grid("How the spend is spread", ("the dearest", "tasks", "USD", "of spend"), rows)


def _precision(total_nano: int) -> int:
    """Decimals for columns under a total: cents for what is paid in dollars, more where all of it is small."""
    if total_nano >= 1_000_000_000_000:
        return 2
    return min(9, _decimals(total_nano) + 2) if total_nano < 10**9 else 4


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _real(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
