"""What tasks cost, from the nightly files: the figures that a finance person and an engineer decide on.

Everything here is data: money in integer nano-dollars (or billionths of the currency that was asked for), shares
between 0 and 1, None where a figure has no meaning (no success, nothing judged). Percentiles are nearest-rank: each is
the cost of one real task. ``accounting.reports.present`` draws the report, ``to_dict`` makes it JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from accounting.files import ledger
from accounting.files.ledger import Store
from accounting.reports import change, choices, groups, loaded, odd, trends
from accounting.reports.calls import CALL_DAYS, Calls
from accounting.reports.currency import MICRO, USD, Rates
from accounting.reports.figures import (
    WINDOW_DAYS,
    Change,
    Drift,
    Flat,
    Group,
    Lane,
    Odd,
    Part,
    Report,
    Window,
)
from accounting.reports.ranks import Answers
from accounting.reports.rows import Where, days_between
from accounting.reports.sums import daily_answers, from_daily, outcomes, ratings, too_large, total, totals
from accounting.reports.tasks import BY, DATE, TOTAL, Range, Tallies, choose, rank, summed, tally, unpriced
from broker.errors import LedgerError
from broker.money import text
from broker.settings.prices import FlatCost

__all__ = ["BY", "Question", "Report", "build", "to_dict"]

DEFAULT_BY = ("type", "lane", "workspace")
_SUM_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked beyond the days. ``where`` names breakdowns and the values wanted, ``rates`` the currency (None: US
    dollars). ``price_nano`` is what a success is sold for, in that currency; None takes what people said it was worth.
    ``against`` is the first day of an equally long range to compare with. ``calls`` None reads calls of a week at most.
    ``p95_nano`` is what 95 of 100 tasks should stay under, in US dollars. ``monthly`` is what is paid by the month.
    ``ruled`` are the types that patterns look for, ``floors`` the parts of their tasks that types are to succeed in."""

    by: Sequence[str] = DEFAULT_BY
    where: Mapping[str, Sequence[str]] | None = None
    rates: Rates | None = None
    price_nano: int | None = None
    against: str | None = None
    calls: bool | None = None
    p95_nano: int | None = None
    monthly: Sequence[FlatCost] = ()
    ruled: Sequence[str] = ()
    floors: Mapping[str, Decimal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a breakdown that is none."""
        for name in (*self.by, *(self.where or {})):
            if name not in BY:
                raise ValueError(f"cannot break down by {name!r}; there are {', '.join(BY)}")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(BY[name] for name in self.by)

    @property
    def wanted(self) -> Where:
        return {BY[name]: frozenset(values) for name, values in (self.where or {}).items()}

    @property
    def conversion(self) -> Rates | None:
        """None where amounts stay in US dollars."""
        return None if self.rates is None or self.rates.currency == USD else self.rates

    def reads_calls(self, days: Sequence[str]) -> bool:
        return len(days) <= CALL_DAYS if self.calls is None else self.calls


def build(
    store: Store,
    *,
    since: str,
    until: str,
    asked: Question | None = None,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> Report:
    """The report of a range of UTC days. ``tell`` hears of each day whose calls were read, how many those are by now,
    and of how many. Raises LedgerError for a file that cannot be read, ValueError for what is no day, ConfigError for a
    day without a rate."""
    span, asked = (since, until), asked or Question()
    return _told(span, asked, _read(store, span, asked, tell))


@dataclass(frozen=True, slots=True)
class _Read:
    """All that is read for a report. ``ratings`` and ``daily`` are sums of the daily files, None where these cannot
    tell; ``calls`` None: they were not read."""

    tallies: Tallies
    ranks: Mapping[str, Answers]
    ratings: Any
    daily: Any
    window: Window
    flat: tuple[Flat, ...]
    flat_in_window: tuple[Flat, ...]
    calls: Calls | None
    parts: tuple[Part, ...]
    odd: tuple[Odd, ...]
    change: Change | None
    unrolled: tuple[str, ...]


def _read(
    store: Store, span: tuple[str, str], asked: Question, tell: Callable[[str, int, int], None]
) -> _Read:
    (since, until), where, rates = span, asked.wanted, asked.conversion
    days = _days(store, since, until, rates)
    found = choose(store, days, where, asked.columns, rates)
    tallies = tally(found)
    ranks = rank(found, tallies, groups.counts(total(tallies.kinds, "tasks")))
    rated = ratings(store, days, where, asked.columns) if daily_answers(where, parts=False) else None
    daily = None
    if daily_answers(where, parts=found.families is not None):
        daily = from_daily(store, days, where, ("task_type", "lane", "model"), rates)
    window = _window(store, span, asked, tallies.kinds)
    return _Read(
        tallies=tallies,
        ranks=ranks,
        ratings=rated,
        daily=daily,
        window=window,
        flat=_flat(store, asked, since, until),
        flat_in_window=_flat(store, asked, window.since, until),
        calls=Calls(store, days, where, rates, found.families, tell) if asked.reads_calls(days) else None,
        parts=_parts(found, total(tallies.kinds, "cost"), daily),
        odd=_odd(store, since, days, asked, tallies),
        change=None if asked.against is None else _change(store, asked, span, tallies),
        unrolled=_unrolled(store, since, until),
    )


def _told(span: tuple[str, str], asked: Question, read: _Read) -> Report:
    """What was read, as figures: nothing more is read here."""
    (since, until), rates, chosen = span, asked.conversion, bool(asked.where)
    kinds, ranks, daily, calls = read.tallies.kinds, read.ranks, read.daily, read.calls
    sums = totals(kinds)
    basis = groups.Basis(sums["cost"], asked.price_nano, read.ratings)
    everything = groups.all_tasks(kinds, ranks[TOTAL], basis)
    by_day = groups.days(kinds, ranks[DATE], basis)
    categories = groups.categories(read.parts)
    with_flat = bool(read.flat) and not chosen  # a monthly price is paid for all tasks
    classified, unfired = (None, ()) if chosen else odd.unfired(kinds, asked.ruled)
    return Report(
        since=since,
        until=until,
        currency=USD if rates is None else rates.currency,
        where={name: tuple(values) for name, values in (asked.where or {}).items()},
        totals=everything,
        window=read.window,
        flat=read.flat,
        loaded=loaded.loaded(everything, read.window, read.flat, read.flat_in_window) if with_flat else None,
        goal=groups.goal(asked.p95_nano, rates, until, everything, by_day),
        parts=read.parts,
        categories=categories,
        loaded_categories=loaded.categories(categories, read.flat) if with_flat else (),
        statuses=groups.statuses(kinds),
        escalated_tasks=sums["escalated"],
        escalations=sums["hops"],
        attempts=sums["attempts"],
        avoided_nano=sums["avoided"],
        parts_of_tasks=sums["parts"],
        parts_of_tasks_nano=sums["parts_cost"],
        value_nano=everything.value_nano,
        price_nano=asked.price_nano,
        days=by_day,
        periods=trends.periods(kinds),
        groups={
            name: groups.groups(read.tallies.groups[column], column, ranks[column], basis)
            for name, column in zip(asked.by, asked.columns, strict=True)
        },
        work=() if daily is None else groups.work(daily),
        lanes=calls.lanes() if calls else (),
        within=calls.within if calls else None,
        dearest=groups.dearest(sums["tasks"], ranks[TOTAL], basis.whole_nano),
        costly=choices.costly(read.tallies.workflows),
        cells=choices.cells(kinds),
        visits=() if daily is None else choices.visits(daily, everything.unpriced_calls),
        choices=choices.choices(kinds, asked.floors),
        drivers=trends.drivers(kinds),
        speeds=calls.speeds() if calls else (),
        odd=read.odd,
        drifts=trends.drifts(kinds),
        bands=trends.bands(by_day),
        change=read.change,
        open=groups.open_(kinds),
        unrolled=read.unrolled,
        classified=classified,
        unfired=unfired,
    )


def _days(store: Store, since: str, until: str, rates: Rates | None) -> tuple[str, ...]:
    """The days that the ledger has. Raises LedgerError where their sum in that currency would not fit."""
    ledger.midnight_us(since), ledger.midnight_us(until)
    days = days_between(store, ledger.TASKS, since, until)
    if rates is not None and days:
        spent = total(outcomes(store, days, {}), "cost")
        if spent // MICRO * max(map(rates.micros, days)) >= _SUM_LIMIT:
            raise too_large(rates)
    return days


def _unrolled(store: Store, since: str, until: str) -> tuple[str, ...]:
    return ledger.unrolled(store, (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY), since, until)


def _window(store: Store, span: tuple[str, str], asked: Question, kinds: Any) -> Window:
    """Over the last 30 days, whatever the range; of those that have a rate. ``kinds`` are the sums of the range, which
    may be the same days."""
    until, where, rates = span[1], asked.wanted, asked.conversion
    since = _with_rate(_days_before(until, WINDOW_DAYS - 1), rates)
    days = days_between(store, ledger.TASKS, since, until)
    if days == days_between(store, ledger.TASKS, *span):
        left = _unrolled(store, since, until)
        return groups.window(since, until, len(days), left, kinds, total(kinds, "unpriced_calls"))
    found = None if daily_answers(where, parts=True) else choose(store, days, where, (), rates)
    if found is None or daily_answers(where, parts=found.families is not None):
        sums = outcomes(store, days, where, rates)
    else:
        sums = summed(found)
    left = _unrolled(store, since, until)
    return groups.window(since, until, len(days), left, sums, unpriced(store, days, where, found))


def _flat(store: Store, asked: Question, since: str, until: str) -> tuple[Flat, ...]:
    """From the ledger's first day on: before it there was nothing that could have been done."""
    known = ledger.days(store, ledger.TASKS)
    days = ledger.days_of(max(since, known[0]), until) if known else ()
    return loaded.flat(asked.monthly, days, asked.conversion)


def _parts(found: Range, whole_nano: int, daily: Any) -> tuple[Part, ...]:
    """From sums of ``daily`` where these can tell and come to the same, else from the tasks themselves."""
    if found.rates is None and daily is not None and total(daily, "cost") == whole_nano:
        return groups.parts(daily)
    return groups.parts(summed(found))


def _odd(store: Store, since: str, days: Sequence[str], asked: Question, now: Tallies) -> tuple[Odd, ...]:
    """A short range is held against the weeks before it; a long one has enough days, and takes long to read."""
    rates = asked.conversion
    first = _with_rate(_days_before(since, odd.BEFORE_DAYS), rates)
    earlier = (
        days_between(store, ledger.TASKS, first, _days_before(since, 1)) if len(days) <= CALL_DAYS else ()
    )
    if not days or not earlier:
        return odd.odd(now.kinds, now.workflows)
    before = tally(choose(store, earlier, asked.wanted, (), rates), ranks=False)
    both = (
        pa.concat_tables([getattr(one, name) for one in (before, now)]) for name in ("kinds", "workflows")
    )
    return tuple(one for one in odd.odd(*both) if one.day >= since)


def _days_before(day: str, count: int) -> str:
    return (date.fromisoformat(day) - timedelta(days=count)).isoformat()


def _with_rate(since: str, rates: Rates | None) -> str:
    """The first day from this one on that has a rate."""
    return since if rates is None else max(since, rates.days[0][0])


def _change(store: Store, asked: Question, span: tuple[str, str], now: Tallies) -> Change:
    since, until = (date.fromisoformat(day) for day in span)
    first = asked.against or ""
    last = (date.fromisoformat(first) + (until - since)).isoformat()
    days, unrolled = days_between(store, ledger.TASKS, first, last), _unrolled(store, first, last)
    if not days:
        mend = f"laneway rollup --since {unrolled[0]}" if unrolled else "name another day"
        raise LedgerError(
            f"the ledger has no nightly files from {first} to {last} to compare with", mend=mend
        )
    before = tally(choose(store, days, asked.wanted, asked.columns, asked.conversion), ranks=False)
    was = change.side(first, last, before.kinds, unrolled)
    is_ = change.side(*span, now.kinds, _unrolled(store, *span))
    return change.change(before, now, (was, is_), asked.by)


def to_dict(report: Report) -> dict[str, Any]:
    """The report as JSON's types. Money is decimal strings under names that end in ``_usd``, or in the currency that
    was asked for, as ``_gbp``."""
    unit = report.currency.lower()
    made = plain(report, unit)
    made[f"overhead_{unit}"] = text(report.overhead_nano)
    return made  # type: ignore[no-any-return]


#: Figures that are worked out from others, by what has them.
_WORKED_OUT = {
    Report: ("calls_read",),
    Group: ("success_rate", "satisfaction", "margin_nano", "margin_share"),
    Lane: ("pass_rate",),
    Change: ("difference_nano",),
}
#: Figures that are nano-dollars where their unit is "usd".
_OF_UNIT = {Odd: ("value", "usual"), Drift: ("first", "last")}


def plain(value: Any, unit: str) -> Any:
    """Dataclasses as dictionaries, amounts as text."""
    if is_dataclass(value) and not isinstance(value, type):
        names = (*(one.name for one in fields(value)), *_WORKED_OUT.get(type(value), ()))
        made = dict(_named(name, getattr(value, name), unit) for name in names)
        if made.get("unit") == "usd":
            made |= {name: text(round(getattr(value, name))) for name in _OF_UNIT[type(value)]} | {
                "unit": unit
            }
        return made
    if isinstance(value, Mapping):
        return {name: plain(said, unit) for name, said in value.items()}
    return [plain(one, unit) for one in value] if isinstance(value, tuple) else value


def _named(name: str, value: Any, unit: str) -> tuple[str, Any]:
    if name == "nano" or name.endswith("_nano"):
        return name.removesuffix("nano") + unit, None if value is None else text(value)
    return name, plain(value, unit)
