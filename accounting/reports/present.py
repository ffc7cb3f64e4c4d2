"""The report on paper: headings, units, columns that add up, and what the figures do not settle.

`laneway report --json` has every amount exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from accounting.reports import first, further
from accounting.reports.calls import CALL_DAYS
from accounting.reports.figures import Report
from accounting.reports.wording import NOTHING, Amounts, Grid, counted, head_width, left_out, parted

GAP = 2
NAME_WIDTH = 34  # a longer name is wrapped
NARROW = 16  # of a name where columns do not fit
NO_TASKS = "No tasks in these days. Where some were submitted, `laneway rollup` writes their files."
NONE_CHOSEN = "No task of these days is one of those that were chosen."


def render(report: Report, console: Console) -> None:
    """Prints the report. With nothing in it, a note that says so and what to do."""
    console.rule(Text("What tasks cost"))
    console.print(Text(heading(report), style="italic"))
    for place, grid in enumerate(grids(report)):
        if place:
            console.print()
        console.print(draw(grid, console.width))
    if not report.empty:
        console.print()
    for note in notes(report):
        console.print(f"• {note}", highlight=False, markup=False)


def heading(report: Report) -> str:
    span = report.since if report.since == report.until else f"{report.since} to {report.until}"
    unit = "US dollars" if report.currency == "USD" else f"{report.currency}, each day at its own rate"
    chosen = "".join(f", {name} {' or '.join(values)}" for name, values in report.where.items())
    return f"Tasks submitted {span} (UTC){chosen}, in {unit}"


def grids(report: Report) -> tuple[Grid, ...]:
    """All tables of the report, in their order; none where it is empty."""
    return () if report.empty else (*first.grids(report), *further.grids(report))


def notes(report: Report) -> tuple[str, ...]:
    """What a reader must know to read the figures right; only what applies."""
    missing = [f"{left_out(report.unrolled)}."] if report.unrolled else []
    if report.empty:
        return (NONE_CHOSEN if report.where else NO_TASKS, *missing)
    return (
        "Cost per successful task = all spend ÷ successes: what failed tasks spent is in it.",
        *missing,
        *_of_other_days(report),
        *_of_settings(report),
        *_of_open_tasks(report),
        *_of_calls(report),
    )


def _of_other_days(report: Report) -> Iterator[str]:
    if report.change is not None and report.change.before.unrolled:
        yield (
            f"Of the days compared with, {left_out(report.change.before.unrolled)}. What seems to have changed may be "
            "what they lack."
        )
    if earlier := [day for day in report.window.unrolled if day < report.since]:
        yield f"Of the days since {report.window.since}, {left_out(earlier)}."


def _of_settings(report: Report) -> Iterator[str]:
    if report.unfired:
        yield (
            f"The patterns of {', '.join(report.unfired)} found none of {counted(report.classified or 0, 'task')} that "
            "came without a type: mend them in the settings, or take them out."
        )
    if report.loaded is not None:
        yield (
            "Monthly prices are paid whatever is done, on days without tasks too. They stand in lines of their own: no "
            "other figure, share, percentile or breakdown has any of them."
        )
    elif report.flat:
        yield "Monthly prices are paid for all tasks: no part of them is in the spend of the tasks chosen here."


def _of_open_tasks(report: Report) -> Iterator[str]:
    said, money = report.open, Amounts(report.currency)
    if said.unjudged_tasks:
        judged = money.least(said.cost_per_judged_success_nano, said.unpriced_calls)
        yield (
            f"No verdict on {counted(said.unjudged_tasks, 'task')} "
            f"({money.least(said.unjudged_nano, said.unpriced_calls)}), for want of a gate or of an end: "
            "they are in no success rate, and their spend is in the figure above."
            + (f" Over judged tasks alone, a success costs {judged}." if judged != NOTHING else "")
        )
    if said.parked_tasks:
        yield (
            f"Waiting for a person: {counted(said.parked_tasks, 'task')}, "
            f"{money.least(said.parked_nano, said.unpriced_calls)} spent so far (laneway review list)."
        )
    if said.unfinished_tasks:
        yield f"{counted(said.unfinished_tasks, 'task')} had not ended when the day was last rolled up."


def _of_calls(report: Report) -> Iterator[str]:
    said, money = report.open, Amounts(report.currency)
    if unpriced := said.unpriced_calls or report.window.unpriced_calls:
        when = "" if said.unpriced_calls else f" since {report.window.since}"
        yield (
            f"No price is known of {counted(unpriced, 'call')}{when}. A figure that lacks such a cost is marked ≥, or "
            "is - where nothing is known. Give each lane a price."
        )
    if said.unsettled_calls:
        yield (
            f"{counted(said.unsettled_calls, 'call')} got lost on the way, booked at what was reserved: the most that "
            "can have been spent."
        )
    if not report.calls_read:
        yield (
            f"Calls were not read one by one, which takes a while for more than {CALL_DAYS} days: what lanes passed, "
            "failed and took is not in here. --calls reads them."
        )
    if report.avoided_nano > 0:
        yield f"Caches saved {money.one(report.avoided_nano)}; that is no part of the spend."
    elif report.avoided_nano:
        lost = money.one(-report.avoided_nano)
        yield f"Writing to caches cost {lost} more than reading from them saved; the spend has it."


def draw(grid: Grid, width: int) -> RenderableType:
    """The grid in this many characters; where columns do not fit, some are left out and the heading says which, and
    those that may not be left out stand in several tables below one another."""
    lines = [*grid.rows, *grid.below]
    cells = [
        max((cell_len(line[place]) for line in lines if place < len(line)), default=0)
        for place in range(len(grid.heads))
    ]
    widths = [max(cell_len(head), cell) for head, cell in zip(grid.heads, cells, strict=True)]
    for place in _wrapped(grid):
        widths[place] = min(widths[place], NAME_WIDTH)
    kept = list(range(len(grid.heads)))
    missing: list[str] = []
    for head in grid.yields:
        if _together(widths, kept) <= width:
            break
        kept.remove(grid.heads.index(head))
        missing.append(head)
    title = grid.title + (f" (too narrow for: {', '.join(missing)})" if missing else "")
    fits = _together(widths, kept) <= width
    if not fits:
        narrow = [max(cell, head_width(head)) for head, cell in zip(grid.heads, cells, strict=True)]
        for place in _wrapped(grid):
            narrow[place] = min(narrow[place], NARROW)
        widths = narrow
    parts = parted([widths[place] for place in kept], GAP, width, grid.keys)
    tables: list[RenderableType] = []
    for part in parts:
        tables += [Text(), _table(grid, [kept[place] for place in part], None if fits else widths)]
    # A table's own title is as narrow as the table.
    return Group(*([Text(title, style="bold")] if title else []), *tables[1:])


def _wrapped(grid: Grid) -> set[int]:
    """The columns of words: were the names of a row not wrapped, they would take the room of its figures."""
    return {*range(grid.keys), *grid.words}


def _together(widths: Sequence[int], places: Sequence[int]) -> int:
    return sum(widths[place] + GAP for place in places) - GAP


def _table(grid: Grid, places: Sequence[int], widths: Sequence[int] | None) -> Table:
    """Some columns of the grid. With ``widths`` figures have just these, and their headings are wrapped."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=any(grid.heads))
    for place in places:
        figures = any(grid.heads) and place not in _wrapped(grid)
        table.add_column(
            Text(grid.heads[place], no_wrap=False),
            justify="right" if figures else "left",
            no_wrap=figures,
            overflow="fold",
            width=widths[place] if widths and figures else None,
        )
    for rows in (grid.rows, grid.below):
        for row in rows:
            table.add_row(*(Text(row[place]) for place in places if place < len(row)))
        table.add_section()
    return table
