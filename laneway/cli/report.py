"""`laneway report`: from files to figures, on the terminal, as JSON, and as files for others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from accounting.files import ledger
from accounting.reports.currency import USD, rates_of
from accounting.reports.report import BY, DEFAULT_BY, Question, Report, build, to_dict
from broker.clock import today
from broker.errors import LedgerError
from broker.money import nano
from broker.settings import Settings, load
from laneway.cli.options import date_option, day_option, json_option, since_option
from laneway.cli.output import console, emit, progress

MOST_NANO = 10**18
REPORT_WIDTH = 120  # columns where no terminal says how many

_file = click.Path(dir_okay=False, path_type=Path)


def _amount(_: click.Context, option: click.Parameter, value: str | None) -> int | None:
    try:
        amount = None if value is None else nano(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if amount is not None and not 0 <= amount < MOST_NANO:
        raise click.BadParameter(f"{value!r} is less than nothing, or more than any price")
    return amount


def _by(_: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    columns = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if unknown := [name for name in columns if name not in BY]:
        raise click.BadParameter(f"no {unknown[0]!r}; there are {', '.join(BY)}")
    return columns


def _only(_: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, list[str]]:
    """Values of one column are alternatives, columns hold together."""
    wanted: dict[str, list[str]] = {}
    for value in values:
        name, equals, said = value.partition("=")
        if not equals or name not in BY:
            raise click.BadParameter(f"{value!r} is no COLUMN=VALUE; columns are {', '.join(BY)}")
        wanted.setdefault(name, []).append(said)
    return wanted


@click.command()
@date_option
@since_option
@day_option("--until", "To this UTC day, and with it, or to today; alone: of this day.")
@click.option(
    "--by",
    default=",".join(DEFAULT_BY),
    show_default=True,
    callback=_by,
    metavar="COLUMNS",
    help=f"Some of {', '.join(BY)}.",
)
@click.option(
    "--only", multiple=True, callback=_only, metavar="COLUMN=VALUE", help="Only these tasks; repeatable."
)
@day_option("--against", "Compare with as many days from this one on.")
@click.option(
    "--currency", default=USD, show_default=True, metavar="CODE", help="At the rates of [rates.CODE]."
)
@click.option(
    "--price", callback=_amount, metavar="AMOUNT", help="What a success is sold for, for the margin."
)
@click.option(
    "--calls/--no-calls",
    default=None,
    help="Read each call: lanes, latencies. By default for a week at most.",
)
@click.option("--html", type=_file, metavar="FILE", help="Also as one page that needs no other file.")
@click.option("--plot", type=_file, metavar="FILE", help="Also as a picture: .png or .svg.")
@click.option(
    "--csv",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Also each table as a file for spreadsheets; those of an earlier report there go.",
)
@json_option
def report(
    date: str | None, since: str | None, until: str | None, by: tuple[str, ...], only: dict[str, list[str]],
    against: str | None, currency: str, price: int | None, calls: bool | None, html: Path | None, plot: Path | None,
    csv: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Cost per task and per success, latencies, overhead, concentration.

    Of the last day that was rolled, where no other is named; with --since alone, up to that one. `laneway rollup`
    brings the files up to date.
    """
    if date and (since or until):
        raise click.UsageError("give --date, or --since and --until, not both")
    if since and until and until < since:
        raise click.UsageError(f"--until {until} is before --since {since}")
    settings = load()
    asked = Question(
        by=by,
        where=only,
        rates=rates_of(currency, settings.rates),
        price_nano=price,
        against=against,
        calls=calls,
        p95_nano=_p95(settings),
        monthly=settings.prices.monthly,
        ruled=[name for name, one in settings.types.items() if one.patterns],
        floors={
            name: one.quality_floor for name, one in settings.types.items() if one.quality_floor is not None
        },
    )
    files = ledger.open_store(settings)
    first, last = _range(files, date, since, until)
    if against and _meet(against, first, last):
        raise click.UsageError(f"--against {against}: as many days from there on meet {first} to {last}")
    tell = progress()

    def laid(day: str, done: int, count: int) -> None:
        tell(f"{day}: the calls of {done} of {count} days are read")

    made = ledger.again(lambda: build(files, since=first, until=last, asked=asked, tell=laid))
    _write(made, html, plot, csv)
    if as_json:
        emit(to_dict(made))
    else:
        from accounting.reports import present  # it loads rich, which --json does without

        present.render(made, console(REPORT_WIDTH))


def _meet(against: str, first: str, last: str) -> bool:
    """Whether as many days from ``against`` on have days of the range among them."""
    other, begin, end = (datetime.fromisoformat(day) for day in (against, first, last))
    return abs(other - begin) <= end - begin


def _p95(settings: Settings) -> int | None:
    limit = settings.alerts.task_p95_usd
    return None if limit is None else nano(limit)


def _range(files: ledger.Store, date: str | None, since: str | None, until: str | None) -> tuple[str, str]:
    """The first and the last day of the report: those that were asked for, with tasks or without, as far as they have
    come. Raises LedgerError where none of them was rolled, and some should be; UsageError where the first is to come.
    """
    rolled, told = ledger.days(files, ledger.TASKS), ledger.days(files, ledger.EVENTS)
    if not rolled and not told:
        raise LedgerError("the ledger has no nightly files", mend="laneway rollup")
    newest = (rolled or told)[-1]
    # A node's clock may be ahead of this one's.
    latest = max(newest, *told, today())
    first = date or since or until or newest
    if first > latest:
        raise click.UsageError(f"{first} has not come yet: nothing can be told of it")
    last = first if since is None else min(latest, until or (newest if first <= newest else latest))
    waiting = [day for day in told if first <= day <= last]
    if waiting and not any(first <= day <= last for day in rolled):
        named, mend = f"from {first} to {last}", f"--since {waiting[0]}"
        if first == last:
            named, mend = f"of {first}", f"--date {first}"
        raise LedgerError(f"the ledger has no nightly files {named}", mend=f"laneway rollup {mend}")
    return first, last


def _write(made: Report, html: Path | None, plot: Path | None, csv: Path | None) -> None:
    """The files that were asked for; standard error says which."""
    if html is None and plot is None and csv is None:
        return
    from accounting.reports import files  # with all that draws

    written: list[Path] = []
    removed: list[Path] = []
    if plot is not None:
        written.append(files.write_plot(made, plot))
    if html is not None:
        written.append(files.write_page(made, html))
    if csv is not None:
        tables, removed = files.write_tables(made, csv)
        written += tables
    for path in written:
        click.echo(f"written: {path}", err=True)
    for path in removed:
        click.echo(f"removed, as this report has no such table: {path}", err=True)
