"""Compiles the price book: `make prices`, when a new release of genai-prices is pinned or the overlay has grown.

Takes the dated prices of genai-prices (MIT, Pydantic Services Inc.) and our own ``broker/pricebook.toml`` over them,
and writes ``broker/pricebook.tsv``, which is committed. Nothing at run time imports genai-prices. A row that was in the
book is never changed: where the source has other figures for the same day, they are a new row of the day of the
compiling.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices.data import providers
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

import broker
from broker.errors import ConfigError
from broker.money import round_half_even
from broker.pricebook import BATCH, NO_PRICE, OVERLAY, TABLE, Book, line_of, read
from broker.prices import per_mtok
from broker.settings.prices import PriceRow

FOLDER = Path(broker.__file__).parent
ALWAYS = "1970-01-01"  # the first day of a price of which the source names none
CLASSES = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "output_mtok")
#: Prices of what our calls do not ask for: a text call's bill is right without them.
BESIDE = re.compile(r"(web|storage)_searches_kcount|.*(audio|image|video).*")
_AS_OF = re.compile(r"As of (\d{4}-\d\d-\d\d)")
IN_BATCH = {"processing": "batch"}

Figures = tuple[int, ...]
Rows = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Made:
    """The compiled table, and what there is to say of it. ``left_out`` counts models by the reason."""

    text: str
    rows: int
    added: tuple[str, ...]
    left_out: Mapping[str, int]


def compiled(source: Iterable[Provider], overlay: str, before: Book, as_of: date, *, said: str) -> Made:
    """The table as of a day. ``said`` names the source. Raises ConfigError for what changes a row of ``before``."""
    if made := [day for line in before.head for day in _AS_OF.findall(line) if day > as_of.isoformat()]:
        raise ConfigError(
            f"the book is as of {made[0]}, and rows that began since would be lost",
            mend=f"compile it as of that day or a later one, not of {as_of}",
        )
    rows, names, left_out = taken(source, as_of)
    ours = tomllib.loads(overlay, parse_float=Decimal)
    for rule in ours.get("batch", ()):
        _discount_batches(rows, **rule)
    own = {
        key: {row.from_: line_of(row) for row in map(PriceRow.model_validate, group)}
        for key, group in ours.get("price", {}).items()
    }
    _keep(own, before.rows)
    for key, days in own.items():
        rows[key] = {**rows.get(key, {}), **days}
    for key, more in ours.get("names", {}).items():
        names.setdefault(key, []).extend(more)
    grown = merged(rows, before.rows, as_of.isoformat(), set(own))
    added = tuple(
        f"{key}@{day}" for key, days in grown.items() for day in days if day not in before.rows.get(key, {})
    )
    return Made(_table(grown, names, said, as_of), sum(map(len, grown.values())), added, left_out)


def merged(
    new: Mapping[str, Mapping[str, str]], old: Mapping[str, Mapping[str, str]], as_of: str, own: set[str]
) -> Rows:
    """Every row of the old book up to ``as_of``, and what the new one adds. Where both have a day and differ, the old
    one stays, and what holds now in the new one holds from ``as_of`` on. ``own`` are keys of the overlay, which says
    itself. Raises ConfigError where a price that holds now began on that very day with other figures."""
    grown: Rows = {}
    for key in {**old, **new}:
        past = {day: line for day, line in old.get(key, {}).items() if day <= as_of}
        days = {**new.get(key, {}), **past}
        wanted, held = _active(new.get(key, {}), as_of), _active(days, as_of)
        if key in new and key not in own and wanted != held:
            if as_of in past:
                raise ConfigError(
                    f"{key} from {as_of} is in the book with other figures ({past[as_of]})",
                    mend="compile the book as of a later day; a row that calls were priced with is never changed",
                )
            days[as_of] = wanted or NO_PRICE
        grown[key] = days
    return grown


def _active(days: Mapping[str, str], at: str) -> str | None:
    begun = [day for day in days if day <= at]
    return days[max(begun)] if begun else None


def _keep(own: Rows, old: Mapping[str, Mapping[str, str]]) -> None:
    for key, days in own.items():
        for day, line in days.items():
            if (was := old.get(key, {}).get(day, line)) != line:
                raise ConfigError(
                    f"{OVERLAY}: {key} from {day} is in the book with other figures ({was})",
                    mend="add a row with a later `from`; a row that calls were priced with is never changed",
                )


def taken(source: Iterable[Provider], as_of: date) -> tuple[Rows, dict[str, list[str]], Counter[str]]:
    """Rows and names of the source, and how many models were left out for which reason."""
    rows: Rows = {}
    names: dict[str, list[str]] = {}
    left_out: Counter[str] = Counter()
    for provider in source:
        for model in provider.models:
            key = f"{provider.id}/{model.id}".lower()
            try:
                days = _days(model, as_of)
            except ValueError as error:
                left_out[str(error)] += 1
                continue
            rows.setdefault(key, {}).update(days)
            names[key] = [one for one in _names(model.match) if f"{provider.id}/{one}" != key]
    return rows, names, left_out


def _days(model: ModelInfo, as_of: date) -> dict[str, str]:
    """Each day on which a price of the model began, and its line. Raises ValueError with the reason for a model whose
    price in tokens is not all of it."""
    standard: dict[str, ModelPrice] = {}
    hours: list[tuple[str, ModelPrice]] = []
    if isinstance(model.prices, ModelPrice):
        standard[ALWAYS] = model.prices
    else:
        for one in model.prices:
            match one.constraint:
                case None:
                    standard[ALWAYS] = one.prices
                case StartDateConstraint() if hours:
                    raise ValueError("hours that another price ends")
                case StartDateConstraint(start_date=start):
                    standard[start.isoformat()] = one.prices
                case TimeOfDateConstraint(start_time=first, end_time=last):
                    hours.append((_clock(first, last), one.prices))
    begun = [day for day in standard if day <= as_of.isoformat()]
    if not begun:
        raise ValueError("no price yet")
    now = max(begun)
    batch = _batch(model, as_of)
    lines = {}
    for day, price in standard.items():
        if not (parts := figures(price)):
            lines[day] = NO_PRICE
            continue
        if hours and day >= now:  # the source gives hours no date, and they are of the latest price
            parts = {"": _only(parts)} | {clock: _only(figures(at)) for clock, at in hours}
        if batch:
            parts.update(_in_batch(parts, batch, figures(standard[now]), exact=day == now))
        lines[day] = _line(parts)
    if set(lines.values()) == {NO_PRICE}:
        raise ValueError("no price of tokens")
    return lines


def _only(parts: Mapping[str, Figures]) -> Figures:
    """The one price that there is. Raises ValueError where it hangs on the size of a call, or is none."""
    if len(parts) != 1:
        raise ValueError("priced by the hour and by the size of a call")
    return parts[""]


def figures(price: ModelPrice) -> dict[str, Figures]:
    """Pico-dollars per token by condition, {} where there are none. Raises ValueError for what is paid besides."""
    asked = {
        key: value for key, value in vars(price).items() if value is not None and not key.startswith("_")
    }
    besides = [key for key in asked if key not in CLASSES and not BESIDE.fullmatch(key)]
    if besides:
        raise ValueError(f"priced by {', '.join(sorted(besides))} too")
    if "input_mtok" not in asked or "output_mtok" not in asked:
        return {}
    starts = sorted(
        {tier.start for one in asked.values() if isinstance(one, TieredPrices) for tier in one.tiers}
    )
    return {
        "" if start < 0 else f">{start}": _filled(*(_at(asked.get(name), start) for name in CLASSES))
        for start in (-1, *starts)
    }


def _at(price: Decimal | TieredPrices | None, start: int) -> Any:
    """The figure of calls above ``start`` tokens, of all where it is negative; None where there is none."""
    if isinstance(price, TieredPrices):
        return per_mtok(next((one.price for one in reversed(price.tiers) if one.start <= start), price.base))
    return None if price is None else per_mtok(price)


def _filled(fresh: int, cached: int | None, write: int | None, long: int | None, out: int) -> Figures:
    """A class without a price of its own is paid as input, a longer write as a write."""
    write = fresh if write is None else write
    return fresh, fresh if cached is None else cached, write, write if long is None else long, out


def _batch(model: ModelInfo, as_of: date) -> dict[str, Figures]:
    """What the model costs in a batch now, {} where it is not sold so, or the source does not know."""
    if not any(one.when == IN_BATCH for one in model.price_variants or ()):
        return {}
    at = datetime.combine(as_of, time(12), UTC)
    found = figures(model.get_prices(at, IN_BATCH))
    return {} if found == figures(model.get_prices(at)) else found


def _in_batch(
    parts: Mapping[str, Figures], batch: Mapping[str, Figures], now: Mapping[str, Figures], *, exact: bool
) -> dict[str, Figures]:
    """The batch's figures of the price that holds now; an earlier price had the same part taken off each class."""
    if exact:
        return {BATCH + condition: one for condition, one in batch.items()}
    return {
        BATCH + condition: tuple(
            round_half_even(pico * part, whole) if whole else pico
            for pico, part, whole in zip(one, batch[""], now[""], strict=True)
        )
        for condition, one in parts.items()
    }


def _discount_batches(rows: Rows, provider: str, models: Sequence[str], discount: str, cached: str) -> None:
    """Batch prices of models for which the source knows none, by the provider's general rule."""
    keys = [f"{provider}/{model}" for model in models]
    off = [round((1 - Decimal(one)) * 100) for one in (discount, cached, discount, discount, discount)]
    for key in keys:
        for day, line in rows[key].items():
            if BATCH not in line and line != NO_PRICE:
                parts = [part.rpartition("=") for part in line.split(" ")]
                less = {
                    BATCH + condition: tuple(
                        round_half_even(int(pico) * percent, 100)
                        for pico, percent in zip(said.split(","), off, strict=True)
                    )
                    for condition, _, said in parts
                }
                rows[key][day] = f"{line} {_line(less)}"


def _line(parts: Mapping[str, Figures]) -> str:
    return " ".join(
        (f"{condition}=" if condition else "") + ",".join(map(str, one)) for condition, one in parts.items()
    )


def _clock(first: time, last: time) -> str:
    begins, ends = (
        datetime.combine(date(2000, 1, 1), one).astimezone(UTC).strftime("%H%M")
        if one.tzinfo
        else one.strftime("%H%M")
        for one in (first, last)
    )
    return f"~{begins}-{ends}"


_BEGUN = re.compile(r"[-@](20\d\d-?)?$")  # a version of which only the beginning is there


def _names(clause: Any) -> Iterator[str]:
    """Names that a clause takes as they stand, and with a ``*`` those that it takes with a version behind them. It may
    name the beginning of the version too, as ``gpt-5-nano-`` or ``claude-sonnet-4-2025``."""
    match clause:
        case ClauseEquals(equals=name):
            yield from _name(name)
        case ClauseStartsWith(starts_with=name) | ClauseContains(contains=name):
            yield from _name(name)
            yield from _name(f"{name}*")
            yield from _name(f"{_BEGUN.sub('', name)}*")
        case ClauseOr(or_=clauses) | ClauseAnd(and_=clauses):
            for one in clauses:
                yield from _names(one)


def _name(name: str) -> Iterator[str]:
    if name and not re.search(r"\s", name):
        yield name.lower()


def _table(rows: Rows, names: Mapping[str, Sequence[str]], said: str, as_of: date) -> str:
    lines = [
        "# Prices of models in pico-dollars per token, compiled by `make prices`; the form: broker/pricebook.py.",
        f"# Source: {said}, and broker/pricebook.toml over it. As of {as_of}.",
        "# genai-prices is under the MIT licence: licenses/genai-prices.txt. Rows are added and never changed.",
    ]
    taken_names: set[str] = set(rows)
    for key in sorted(rows):
        lines += [f"{key}\t{day}\t{rows[key][day]}" for day in sorted(rows[key])]
        provider = key.partition("/")[0]
        own = [one for one in dict.fromkeys(names.get(key, ())) if f"{provider}/{one}" not in taken_names]
        taken_names.update(f"{provider}/{one}" for one in own)
        if own:
            lines.append(f"{key}\t=\t{' '.join(own)}")
    return "\n".join(lines) + "\n"


def source() -> str:
    return f"genai-prices {version('genai-prices')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--as-of", type=date.fromisoformat, default=datetime.now(tz=UTC).date())
    parser.add_argument(
        "--anew", action="store_true", help="forget the rows of a book that was never released"
    )
    given = parser.parse_args()
    table = FOLDER / TABLE
    before = Book({}, {}) if given.anew or not table.exists() else read(table.read_text(encoding="utf-8"))
    overlay = (FOLDER / OVERLAY).read_text(encoding="utf-8")
    made = compiled(providers, overlay, before, given.as_of, said=source())
    table.write_text(made.text, encoding="utf-8")
    lines = [f"{table.name}: {made.rows} rows, {len(made.added)} new"]
    lines += [f"  new: {one}" for one in made.added[:40] if not given.anew]
    lines += [f"  left out: {count} models, {why}" for why, count in sorted(made.left_out.items())]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
