"""The further pages of the report as tables: what to do about the cost, what moved, and what is odd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from accounting.reports.figures import Change, Choice, Moved, Period, Report
from accounting.reports.first import MOST_DAYS, MOST_ROWS
from accounting.reports.wording import (
    NOTHING,
    Amounts,
    Grid,
    counted,
    hundredths,
    named,
    percent,
    precision,
    real,
)

FEWEST_PERIODS = 2
MANY = 100  # of what is counted: from here on nobody reads decimals


def grids(report: Report) -> tuple[Grid, ...]:
    """Those that have something to say."""
    made = [
        _costly(report),
        _choices(report),
        _drivers(report),
        _periods(report),
        _bands(report),
        _drifts(report),
    ]
    if report.change is not None:
        made += _change(report, report.change)
    return tuple(grid for grid in (*made, _odd(report)) if grid.rows)


def _costly(report: Report) -> Grid:
    money = Amounts(report.currency)
    rows = [
        (
            named(one.workflow),
            f"{one.tasks:,}",
            percent(one.spend_share),
            money.least(one.cost_per_success_nano, one.unpriced_calls),
            hundredths(one.times_usual),
            one.action,
        )
        for one in report.costly
        if one.workflow or len(report.costly) > 1
    ]
    heads = ("workflow", "tasks", "of spend", "per success", "times usual", "what would lower it")
    return Grid(
        "Where most of the spend goes",
        heads,
        rows,
        yields=("tasks", "per success", "times usual"),
        words=(5,),
    )


def _choices(report: Report) -> Grid:
    """Types that ended on several lanes, and what is below its floor. Those that climbed are the harder ones: a hint,
    and no verdict."""
    money = Amounts(report.currency)
    types = [one.task_type for one in report.choices]
    rows = [
        (
            named(one.task_type),
            named(one.lane),
            f"{one.judged:,}",
            percent(one.success_rate),
            money.least(one.cost_per_success_nano, one.unpriced_calls),
            ", ".join(_hints(one)),
        )
        for one in report.choices
        if types.count(one.task_type) > 1 or one.below_floor
    ]
    heads = ("type", "ended on", "judged", "success", "per success", "hint")
    return Grid("Quality and cost side by side", heads, rows, yields=("judged", "hint"), keys=2)


def _hints(one: Choice) -> Iterator[str]:
    if one.below_floor:
        yield "below its floor"
    if one.dominated_by is not None:
        yield f"compare with {named(one.dominated_by)}"


def _drivers(report: Report) -> Grid:
    money = Amounts(report.currency)
    rows = [
        (
            named(one.task_type),
            hundredths(one.calls_per_task),
            hundredths(one.model_calls_per_task),
            real(one.input_tokens_per_call),
            percent(one.cached_share),
            real(one.output_tokens_per_call),
            money.least(one.cost_per_call_nano, one.unpriced_calls),
            money.least(one.cost_per_task_nano, one.unpriced_calls),
        )
        for one in report.drivers[:MOST_ROWS]
    ]
    if others := report.drivers[MOST_ROWS:]:
        rows.append((f"{len(others)} more (--json has them)", "", "", "", "", "", "", ""))
    heads = (
        "type",
        "calls a task",
        "of models",
        "tokens in",
        "of them cached",
        "tokens out",
        "a call",
        "a task",
    )
    yields = ("of them cached", "a call", "tokens out", "tokens in", "of models")
    return Grid(
        "Why tasks cost what they do: calls, tokens of a model call, price", heads, rows, yields=yields
    )


def _periods(report: Report) -> Grid:
    """By month where there are many weeks, by week where there are many days, else by day."""
    week = len(report.periods["week"])
    name = "day" if len(report.days) <= MOST_DAYS else "week" if week <= MOST_ROWS else "month"
    money = Amounts(report.currency)
    periods: Sequence[Period] = report.periods[name]
    rows = [
        (
            one.name,
            f"{one.days}",
            f"{one.tasks:,}",
            money.least(one.cost_nano, one.unpriced_calls, precision(report.totals.cost_nano)),
            money.least(one.cost_per_task_nano, one.unpriced_calls),
            money.least(one.cost_per_success_nano, one.unpriced_calls),
            percent(one.success_rate),
            hundredths(one.calls_per_task),
            real(one.input_tokens_per_call),
        )
        for one in periods
    ]
    heads = (
        name, "days", "tasks", report.currency, "per task", "per success", "success", "calls a task",
        "tokens in a model call",
    )  # fmt: skip
    yields = ("days", "calls a task", "tokens in a model call", "success", "per task")
    shown = rows if len(rows) >= FEWEST_PERIODS else []
    return Grid("Volume and unit cost apart", heads, shown, yields=yields)


def _bands(report: Report) -> Grid:
    money = Amounts(report.currency)
    rows = [
        (
            one.name,
            f"{one.days}",
            f"{one.tasks_per_day:,}",
            money.least(one.cost_per_task_nano, one.unpriced_calls),
            money.least(one.cost_per_success_nano, one.unpriced_calls),
            money.least(one.p95_nano, one.unpriced_calls),
        )
        for one in report.bands
    ]
    heads = ("", "days", "tasks a day", "per task", "per success", "worst day's p95")
    return Grid(
        "Does the unit cost hold when there is more to do?", heads, rows, yields=("days", "worst day's p95")
    )


def _drifts(report: Report) -> Grid:
    money = Amounts(report.currency)
    rows = [
        (
            named(one.scope),
            one.figure,
            _figure(one.first, one.unit, money),
            _figure(one.last, one.unit, money),
            "from nothing" if one.times is None else f"{hundredths(one.times)} times",
        )
        for one in report.drifts
    ]
    heads = ("of", "what", "first days", "last days", "")
    return Grid("What drifted from the first days to the last", heads, rows, keys=2)


def _figure(value: float | Fraction, unit: str, money: Amounts) -> str:
    if unit == "usd":
        return money.one(round(value))
    if unit == "share":
        return percent(float(value))
    return hundredths(float(value)) if value < MANY else f"{float(value):,.0f}"


def _odd(report: Report) -> Grid:
    """The newest first."""
    money = Amounts(report.currency)
    rows = [
        (one.day, named(one.words), _figure(one.value, one.unit, money), _figure(one.usual, one.unit, money))
        for one in reversed(report.odd)
    ]
    if len(rows) > MOST_ROWS:
        rows[MOST_ROWS:] = [("", f"{len(rows) - MOST_ROWS} more (--json has them)", "", "")]
    heads = ("day", "what is odd", "that day", "usually")
    return Grid("Odd days", heads, rows, yields=("usually", "that day"), words=(1,))


def _change(report: Report, change: Change) -> list[Grid]:
    money = Amounts(report.currency)
    before, now = change.before, change.now
    rows = [
        (
            f"spent {before.since} to {before.until}, {counted(before.tasks, 'task')}",
            money.one(before.cost_nano),
        ),
        ("more or fewer tasks", _signed(change.volume_nano, money)),
        ("other kinds of tasks", _signed(change.mix_nano, money)),
        ("the same tasks dearer or cheaper", _signed(change.unit_nano, money)),
    ]
    last = (f"spent {now.since} to {now.until}, {counted(now.tasks, 'task')}", money.one(now.cost_nano))
    title = "What changed the bill"
    if before.unpriced_calls or now.unpriced_calls:
        title += f" (without {before.unpriced_calls:,} and {now.unpriced_calls:,} calls of unknown price)"
    made = [Grid(title, ("", report.currency), rows, [last])]
    return made + [moved(name, those, report.currency) for name, those in change.groups.items()]


def moved(name: str, those: Sequence[Moved], currency: str) -> Grid:
    money = Amounts(currency)
    rows = [_moved_row(named(one.name), [one], money) for one in those[:MOST_ROWS]]
    if others := those[MOST_ROWS:]:
        rows.append(_moved_row(f"{len(others)} more", others, money))
    return Grid(
        f"What changed, by {name}",
        (name, "before", "now", "by volume", "by unit cost"),
        rows,
        [_moved_row("all together", those, money)],
        yields=("before",),
    )


def _moved_row(name: str, moved: Sequence[Moved], money: Amounts) -> tuple[str, ...]:
    return (
        name,
        money.one(sum(one.before_nano for one in moved)),
        money.one(sum(one.cost_nano for one in moved)),
        _signed(sum(one.volume_nano for one in moved), money),
        _signed(sum(one.unit_nano for one in moved), money),
    )


def _signed(nano: int, money: Amounts) -> str:
    return NOTHING if not nano else f"{'+' if nano > 0 else '-'}{money.one(abs(nano))}"
