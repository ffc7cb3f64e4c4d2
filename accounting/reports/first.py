"""The first pages of the report as tables: what tasks cost, by whom and where, and how lanes did."""

from __future__ import annotations

from collections.abc import Sequence

from accounting.files.ledger import days_of
from accounting.reports.currency import USD
from accounting.reports.figures import WINDOW_DAYS, Cell, Group, Lane, Report, Speed, Window, Work, share
from accounting.reports.wording import (
    NOTHING,
    Amounts,
    Grid,
    at_least,
    at_most,
    counted,
    hundredths,
    named,
    percent,
    precision,
    real,
)
from broker.money import round_half_even

MOST_ROWS = 20
MOST_DAYS = 14  # that stand in a row each; more of them are put together to weeks
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


_CATEGORY_TITLES = {
    "inference": "Inference: first calls, gates and judges, evaluation",
    "orchestration": "Orchestration: finding the lane, calls made again, queues",
    "data": "Data: tools, storage, transfer, retrieval",
    "human": "People",
}


def grids(report: Report) -> tuple[Grid, ...]:
    """Those that have something to say."""
    money = Amounts(report.currency)
    made = [_totals(report, money), _parts(report, money), _categories(report, money)]
    if report.flat:
        made.append(_flat(report, money))
    if 1 < len(report.days) <= MOST_DAYS:
        made.append(_groups("day", report.days, report, money))
    made += [_groups(name, groups, report, money) for name, groups in report.groups.items()]
    if report.lanes:
        made += [_lanes(report, money), *([_speeds(report.speeds)] if report.speeds else [])]
    elif report.work:
        made.append(_work(report, money))
    if report.visits:
        visited = f"Cost of 1,000 tasks on each lane that they were on, {report.currency}"
        made.append(_cells(_without(visited, report), report.visits, money))
    ended = _without(f"Cost of 1,000 tasks in all, by the lane that ended them, {report.currency}", report)
    made += [_cells(ended, report.cells, money), _dearest(report, money)]
    return tuple(grid for grid in made if grid.rows)


def _without(title: str, report: Report) -> str:
    """The title of a table that cannot say of each amount whether calls are missing from it."""
    return f"{title} (without the calls of unknown price)" if report.totals.unpriced_calls else title


def _totals(report: Report, money: Amounts) -> Grid:
    total, window = report.totals, report.window
    decimals, unpriced = precision(total.cost_nano), total.unpriced_calls
    statuses = ", ".join(f"{count:,} {name}" for name, count in report.statuses.items())
    costs = " · ".join(
        money.least(nano, unpriced)
        for nano in (total.p50_nano, total.p95_nano, total.p99_nano, total.max_nano)
    )
    rows = [
        ("Tasks", f"{total.tasks:,}: {statuses}" if statuses else "0"),
        ("Spent", money.least(total.cost_nano, unpriced, decimals)),
        *_with_flat(report, money, decimals),
        (
            "Spent on tasks that failed their judge",
            money.least(report.open.failed_nano, unpriced if total.judged > total.succeeded else 0, decimals),
        ),
        ("Cost per task", money.least(total.cost_per_task_nano, unpriced)),
        ("Cost per successful task", money.least(total.cost_per_success_nano, unpriced)),
        (_window(window), money.least(window.cost_per_success_nano, window.unpriced_calls)),
        *_success_with_flat(report, money),
        (
            "Success rate of what ended with a verdict",
            f"{percent(total.success_rate)} ({total.succeeded:,} of {total.judged:,})",
        ),
        *_satisfied(report),
        ("Cost of a task, p50 · p95 · p99 · max", costs),
        ("Overhead share of spend", percent(total.overhead_share)),
        ("Calls", f"{report.attempts:,} ({hundredths(share(report.attempts, total.tasks))} a task)"),
        ("Escalated tasks", f"{report.escalated_tasks:,} ({report.escalations:,} moves to a further lane)"),
        *_worth(report, money),
        *_parts_of_tasks(report, money, decimals),
        *_goal(report, money),
    ]
    return Grid("", ("", ""), rows)


def _window(window: Window) -> str:
    days = len(tuple(days_of(window.since, window.until)))
    some = counted(days, "day")
    if days < WINDOW_DAYS:
        some += " with a rate"
    if window.days < days:
        some += f", {window.days} of them in the ledger"
    return f"The same since {window.since} ({some})"


def _satisfied(report: Report) -> list[tuple[str, str]]:
    total = report.totals
    if not total.rated:
        return []
    said = f"{percent(total.satisfaction)} ({total.satisfied:,} of {total.rated:,})"
    return [("Satisfied, of those who rated the outcome", said)]


def _parts_of_tasks(report: Report, money: Amounts, decimals: int) -> list[tuple[str, str]]:
    if not report.parts_of_tasks:
        return []
    spent = money.one(report.parts_of_tasks_nano, decimals)
    return [("Critics and sub-tasks, in the cost of their tasks", f"{report.parts_of_tasks:,}: {spent}")]


def _worth(report: Report, money: Amounts) -> list[tuple[str, str]]:
    total = report.totals
    if total.value_nano is None or total.margin_nano is None:
        return []
    worth, unpriced = money.one(total.value_nano), total.unpriced_calls
    margin = at_most(
        f"{money.one(total.margin_nano)} ({percent(total.margin_share)})", total.margin_nano, unpriced
    )
    if report.price_nano is None:
        known = f"{worth} (told of {total.valued:,} of {counted(total.tasks, 'task')})"
        found = [
            ("Worth of what succeeded, where told", known),
            ("Margin over what these tasks cost", margin),
        ]
    else:
        found = [("Sold for", worth), ("Margin over all spend", margin)]
    if report.loaded is not None and report.loaded.margin_nano is not None:
        loaded = at_most(money.one(report.loaded.margin_nano), report.loaded.margin_nano, unpriced)
        found.append(("Margin over it and monthly prices", loaded))
    return found


def _with_flat(report: Report, money: Amounts, decimals: int) -> list[tuple[str, str]]:
    """Printed so that the three lines add up."""
    if report.loaded is None:
        return []
    unit = 10 ** (9 - decimals)
    printed = [
        round_half_even(nano, unit) * unit for nano in (report.totals.cost_nano, report.loaded.flat_nano)
    ]
    return [
        ("Monthly prices, what falls on these days", money.one(printed[1], decimals)),
        ("Spent with monthly prices", money.least(sum(printed), report.totals.unpriced_calls, decimals)),
    ]


def _success_with_flat(report: Report, money: Amounts) -> list[tuple[str, str]]:
    if report.loaded is None:
        return []
    total, window = report.loaded.cost_per_success_nano, report.loaded.window_cost_per_success_nano
    return [
        (
            "Cost per successful task with monthly prices",
            money.least(total, report.totals.unpriced_calls),
        ),
        (f"The same since {report.window.since}", money.least(window, report.window.unpriced_calls)),
    ]


def _goal(report: Report, money: Amounts) -> list[tuple[str, str]]:
    goal = report.goal
    if goal is None:
        return []
    kept = f"{goal.days - len(goal.broken_on)} of {goal.days} days"
    if any(day.unpriced_calls and day.name not in goal.broken_on for day in report.days):
        kept = f"at most {kept}"
    p95 = money.least(goal.is_nano, report.totals.unpriced_calls)
    limit = money.one(goal.limit_nano)
    if report.currency != USD:
        limit += f" (at the rate of {report.until})"
    return [(f"95 of 100 tasks under {limit}", f"{p95}; kept on {kept}")]


def _parts(report: Report, money: Amounts) -> Grid:
    decimals = precision(report.totals.cost_nano)
    amounts = money.column([part.nano for part in report.parts], decimals)
    rows = [
        (_PART_TITLES[part.name], amount, percent(part.share))
        for part, amount in zip(report.parts, amounts, strict=True)
        if part.nano or part.name == "inference"
    ]
    spent = report.totals.cost_nano
    below = [("Total", spent), ("of which overhead (all but inference)", report.overhead_nano)]
    if report.within is not None:
        below += [
            ("of which first calls on further lanes", report.within.climbed_nano),
            ("of which machines' wear and idle time", report.within.standing_nano),
        ]
    return Grid(
        _without("Where the money went", report),
        ("part", report.currency, "of spend"),
        rows,
        [(name, money.one(nano, decimals), percent(share(nano, spent))) for name, nano in below],
    )


def _categories(report: Report, money: Amounts) -> Grid:
    """Where something is paid by the month, its categories beside those of the tasks alone."""
    columns = [[*(_CATEGORY_TITLES[one.name] for one in report.categories), "Total"]]
    heads = ["category"]
    for parts, names in (
        (report.categories, (report.currency, "of spend")),
        (report.loaded_categories, ("with monthly prices", "of it")),
    ):
        if parts:
            whole = sum(one.nano for one in parts)
            decimals = precision(whole)
            amounts = money.column([one.nano for one in parts], decimals)
            columns.append([*amounts, money.one(whole, decimals)])
            columns.append([*(percent(one.share) for one in parts), percent(share(whole, whole))])
            heads += names
    *rows, total = zip(*columns, strict=True)
    return Grid(_without("The same in four categories", report), tuple(heads), rows, [total])


def _flat(report: Report, money: Amounts) -> Grid:
    whole = sum(one.nano for one in report.flat)
    decimals = precision(whole)
    amounts = money.column([one.nano for one in report.flat], decimals)
    rows = [
        (one.name, one.category, one.month, f"{one.days}", amount)
        for one, amount in zip(report.flat, amounts, strict=True)
    ]
    return Grid(
        "Monthly prices, what falls on these days",
        ("paid for", "category", "month", "days", report.currency),
        rows,
        [("Total", "", "", "", money.one(whole, decimals))],
        yields=("days",),
    )


def _groups(name: str, groups: Sequence[Group], report: Report, money: Amounts) -> Grid:
    """With a margin where anything is known to be worth something, and what people said where they said it."""
    decimals = precision(report.totals.cost_nano)
    worth, rated = _worth_heads(report), any(group.rated for group in groups)
    spent = money.column([group.cost_nano for group in groups], decimals)
    rows = [
        _group_row(group, at_least(amount, group.cost_nano, group.unpriced_calls), money, rated, worth)
        for group, amount in list(zip(groups, spent, strict=True))[:MOST_ROWS]
    ]
    if others := groups[MOST_ROWS:]:
        rows.append(_others_row(others, money, decimals, rated))
    whole = money.least(report.totals.cost_nano, report.totals.unpriced_calls, decimals)
    satisfied = ("satisfied",) if rated else ()
    return Grid(
        title=f"By {_TITLES.get(name, name)}",
        heads=(
            name, "tasks", "success", *satisfied, report.currency, "of spend", "per task", "per success", "p50", "p95",
            "p99", "max", "overhead", *worth,
        ),
        rows=rows,
        below=[_group_row(report.totals, whole, money, rated, worth)],
        yields=(
            "p99", "p50", "overhead", "max", "of spend", "p95", *satisfied, "success", "per task", *worth,
        ),
    )  # fmt: skip


def _others_row(others: Sequence[Group], money: Amounts, decimals: int, rated: bool) -> tuple[str, ...]:
    """Those that the table has no row for, together."""
    unpriced = sum(group.unpriced_calls for group in others)
    spent = money.least(sum(group.cost_nano for group in others), unpriced, decimals)
    tasks = f"{sum(group.tasks for group in others):,}"
    return (f"{len(others)} more", tasks, "", *(("",) if rated else ()), spent)


def _worth_heads(report: Report) -> tuple[str, ...]:
    if report.totals.value_nano is None:
        return ()
    return ("worth told", "margin") if report.price_nano is None else ("margin",)


def _group_row(
    group: Group, amount: str, money: Amounts, rated: bool, worth: Sequence[str]
) -> tuple[str, ...]:
    costs = (
        group.cost_per_task_nano,
        group.cost_per_success_nano,
        group.p50_nano,
        group.p95_nano,
        group.p99_nano,
    )
    margin = at_most(money.one(group.margin_nano), group.margin_nano, group.unpriced_calls)
    said = {"worth told": f"{group.valued:,}", "margin": margin}
    return (
        named(group.name),
        f"{group.tasks:,}",
        percent(group.success_rate),
        *((percent(group.satisfaction),) if rated else ()),
        amount,
        percent(group.spend_share),
        *(money.least(nano, group.unpriced_calls) for nano in (*costs, group.max_nano)),
        percent(group.overhead_share),
        *(said[head] for head in worth),
    )


def _lanes(report: Report, money: Amounts) -> Grid:
    decimals = precision(report.totals.cost_nano)
    ours = report.within.machine_nano if report.within else 0
    printed = money.column([*(lane.cost_nano for lane in report.lanes), ours], decimals)
    rows = [_lane_row(lane, amount) for lane, amount in zip(report.lanes, printed, strict=False)]
    if ours:
        rows.append(("our own routing and gates", "", "", "", printed[-1]))
    calls = sum(lane.attempts for lane in report.lanes)
    return Grid(
        title=_without("Calls by lane, whatever became of their tasks", report),
        heads=(
            "lane",
            "calls",
            "pass",
            "failed",
            report.currency,
            "p50 ms",
            "p95 ms",
            "first token ms",
            "tokens/s",
        ),
        rows=rows,
        below=[("total", f"{calls:,}", "", "", money.one(report.totals.cost_nano, decimals))],
        yields=("first token ms", "p95 ms", "tokens/s", "failed"),
    )


def _lane_row(lane: Lane, amount: str) -> tuple[str, ...]:
    return (
        named(lane.name),
        f"{lane.attempts:,}",
        percent(lane.pass_rate),
        f"{lane.failures:,}",
        amount,
        real(lane.latency_p50_ms),
        real(lane.latency_p95_ms),
        real(lane.time_to_first_token_p50_ms),
        real(lane.output_tokens_per_s),
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
                named(speed.task_type),
                named(speed.lane),
                f"{speed.calls:,}",
                real(speed.queue_wait_p50_ms),
                real(speed.queue_wait_p95_ms),
                real(speed.time_to_first_token_p50_ms),
                real(speed.time_to_first_token_p95_ms),
                real(speed.output_tokens_per_s),
            )
            for speed in speeds
        ],
        yields=("p95 ms", "wait p95 ms", "wait p50 ms"),
        keys=2,
    )


def _work(report: Report, money: Amounts) -> Grid:
    spent = sum(one.cost_nano for one in report.work)
    decimals = precision(spent)
    amounts = money.column([one.cost_nano for one in report.work], decimals)
    rows = [
        _work_row(named(one.lane), named(one.model), [one], amount, spent)
        for one, amount in list(zip(report.work, amounts, strict=True))[:MOST_ROWS]
    ]
    if others := report.work[MOST_ROWS:]:
        amount = money.one(sum(one.cost_nano for one in others), decimals)
        rows.append(_work_row(f"{len(others)} more", "", others, amount, spent))
    heads = ("lane", "model", "calls", "tokens in", "tokens out", report.currency, "of spend")
    return Grid(
        _without("What lanes and models did", report),
        heads,
        rows,
        [_work_row("total", "", report.work, money.one(spent, decimals), spent)],
        yields=("tokens out", "tokens in", "calls", "model"),
    )


def _work_row(lane: str, model: str, some: Sequence[Work], amount: str, spent: int) -> tuple[str, ...]:
    return (
        lane,
        model,
        f"{sum(one.calls for one in some):,}",
        f"{sum(one.input_tokens for one in some):,}",
        f"{sum(one.output_tokens for one in some):,}",
        amount,
        percent(share(sum(one.cost_nano for one in some), spent)),
    )


def _cells(title: str, cells: Sequence[Cell], money: Amounts) -> Grid:
    """Types down, lanes across."""
    lanes = sorted({cell.lane for cell in cells})
    found = {(cell.task_type, cell.lane): money.one(cell.cost_per_1k_nano) for cell in cells}
    return Grid(
        title=title,
        heads=("type", *map(named, lanes)),
        rows=[
            (named(task_type), *(found.get((task_type, lane), NOTHING) for lane in lanes))
            for task_type in sorted({cell.task_type for cell in cells})
        ],
    )


def _dearest(report: Report, money: Amounts) -> Grid:
    decimals = precision(report.totals.cost_nano)
    rows = [
        (
            f"{line.of_tasks:.0%} of tasks",
            f"{line.tasks:,}",
            money.one(line.from_nano),
            money.one(line.cost_nano, decimals),
            percent(line.spend_share),
        )
        for line in report.dearest
        if line.of_tasks * report.totals.tasks >= 1  # of fewer, one task is a larger part
    ]
    heads = ("the dearest", "tasks", "each from", report.currency, "of spend")
    return Grid(_without("How the spend is spread", report), heads, rows, yields=("each from",))
