"""`laneway prices`: what models cost by the book, and what calls cost when they are reckoned again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from accounting.bills import second_book
from accounting.bills.reprice import Priced, Repriced, reprice
from accounting.files import ledger
from broker.clock import today
from broker.errors import ConfigError, LedgerError
from broker.pricebook import NO_PRICE, Book, book, rows_of
from broker.prices import TokenPrice, mtok_usd
from broker.settings import load
from laneway.cli.options import date_option, day_option, json_option, since_option
from laneway.cli.output import emit, price, say, table, usd

MTOK = ("input_mtok", "cached_input_mtok", "cache_write_mtok", "cache_write_1h_mtok", "output_mtok")


@click.group()
def prices() -> None:
    """The price book: show, compare, reprice."""


@prices.command()
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """What a model costs by the book, from which day on: by name (gpt-4o) or by key (openai/gpt-4o)."""
    ours = book()
    key = ours.find(model)
    if key is None:
        raise ConfigError(
            f"the price book has no {model!r}", mend="name it as provider/model, or set the lane's own price"
        )
    rows = [row for day in sorted(ours.rows[key]) for row in _rows(ours, key, day)]
    if as_json:
        emit({"model": key, "source": list(ours.head), "rows": rows})
        return
    say(f"{key}, dollars per million tokens")
    table(
        ("from", "holds for", "input", "cached", "write", "write 1 h", "output"),
        (
            [row["from"], row["condition"] or "each call", *(row[name] or "-" for name in MTOK)]
            for row in rows
        ),
        right=("input", "cached", "write", "write 1 h", "output"),
    )


def _rows(ours: Book, key: str, day: str) -> Iterable[dict[str, Any]]:
    line = ours.rows[key][day]
    if line == NO_PRICE:
        yield {"ref": None, "from": day, "condition": "no price", **dict.fromkeys(MTOK)}
        return
    for condition, row in rows_of(f"book:{key}@{day}", line).items():
        figures = dict(zip(MTOK, _figures(row), strict=True))
        yield {"ref": row.ref, "from": day, "condition": condition, **figures}


def _figures(row: TokenPrice) -> Iterable[str]:
    picos = (
        row.input_pico,
        row.cached_input_pico,
        row.cache_write_pico,
        row.cache_write_1h_pico,
        row.output_pico,
    )
    return (mtok_usd(pico) for pico in picos)


@prices.command()
@click.argument("other", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@day_option("--day", "Prices of this UTC day.")
@json_option
def compare(other: Path, day: str | None, as_json: bool) -> None:
    """Our book against another one: each figure that differs.

    The other is a snapshot of model-prices or LiteLLM's model_prices_and_context_window.json; it is only read.
    """
    at = day or today()
    try:
        theirs = second_book.read(other.read_text(encoding="utf-8"), at)
    except ValueError as error:
        raise click.BadParameter(f"{other}: {error}", param_hint="OTHER") from error
    held = second_book.compare(book(), theirs, at)
    differ = [asdict(one) for one in held.differences]
    if as_json:
        counts = {
            "day": at,
            "both": held.both,
            "agree": held.agree,
            "ours_alone": held.ours,
            "theirs_alone": held.theirs,
        }
        emit({**counts, "differences": differ})
        return
    say(
        f"{at}: {held.both} models in both books, {held.agree} agree; dollars per million tokens where they do not"
    )
    table(
        ("model", "price of", "ours", "theirs"),
        ((one["model"], one["of"], one["ours"], one["theirs"]) for one in differ),
        right=("ours", "theirs"),
    )


@prices.command("reprice")
@date_option
@since_option
@day_option("--at", "At the prices of this UTC day; else at those that each call was priced with.")
@json_option
def reprice_(date: str | None, since: str | None, at: str | None, as_json: bool) -> None:
    """Reckon the calls of past days again, from their tokens.

    At the prices that they were booked with every call must come to the same amount: those that do not are named, and
    the exit code is 1. Calls that were unpriced get the price that is known by now. Of the last day that was rolled,
    where no other is named.
    """
    if date and since:
        raise click.UsageError("give --date or --since, not both")
    settings = load()
    files = ledger.open_store(settings)
    days = _days(ledger.days(files, ledger.ATTEMPTS), date, since)
    made = reprice(files, days, settings.lanes, at)
    if as_json:
        emit(to_dict(made))
    else:
        _tell(made)
    if made.at is None and made.examples:
        raise LedgerError(
            f"{sum(one.differ for one in made.kinds)} calls come to another amount than they were booked at",
            mend="compare them with `laneway show`; whoever wrote the ledger's files or the price book has changed one",
        )


def _days(known: tuple[str, ...], date: str | None, since: str | None) -> list[str]:
    wanted = [day for day in known if (date is None or day == date) and (since is None or day >= since)]
    if not wanted:
        first = date or since or today()
        raise LedgerError(
            "the ledger has no nightly files of these days", mend=f"laneway rollup --date {first}"
        )
    return wanted if date or since else wanted[-1:]


def to_dict(made: Repriced) -> dict[str, Any]:
    return {
        "currency": "USD",
        "days": list(made.days),
        "at": made.at,
        "totals": _counted(made.kinds),
        "kinds": [
            {"ref": one.kind.ref, "lane": one.kind.lane, "model": one.kind.model, **_counted([one])}
            for one in made.kinds
        ],
        "examples": list(made.examples),
    }


def _counted(kinds: Iterable[Priced]) -> dict[str, Any]:
    kinds = list(kinds)
    booked, again = (sum(getattr(one, name) for one in kinds) for name in ("booked_nano", "again_nano"))
    counts = ("calls", "kept", "unpriced_before", "unpriced", "differ")
    return {
        "booked_usd": usd(booked),
        "again_usd": usd(again),
        "difference_usd": usd(again - booked),
        **{name: sum(getattr(one, name) for one in kinds) for name in counts},
    }


def _tell(made: Repriced) -> None:
    first, last = made.days[0], made.days[-1]
    say(f"{first if first == last else f'{first} to {last}'}, at the prices of {made.at or 'their own days'}")
    rows = [(one.kind.ref, one.kind.lane, one.kind.model, _counted([one])) for one in made.kinds]
    rows.append(("all", "", "", _counted(made.kinds)))
    table(
        ("priced by", "lane", "model", "calls", "booked", "again", "difference", "unpriced", "differ"),
        (
            (
                ref or "unpriced", lane, model, str(sums["calls"]), price(sums["booked_usd"]), price(sums["again_usd"]),
                price(sums["difference_usd"]), str(sums["unpriced"]), str(sums["differ"]),
            )
            for ref, lane, model, sums in rows
        ),
        right=("calls", "booked", "again", "difference", "unpriced", "differ"),
    )  # fmt: skip
    for one in made.examples:
        say(f"differs: {one}")
