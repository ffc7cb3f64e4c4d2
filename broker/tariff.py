"""Which price holds for a lane on a day: its own rows, else the price book's rows for its model, else none."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from importlib.resources import files

from broker.money import nano, round_half_even
from broker.prices import PPM, HardwarePrice, Price, TokenPrice, hardware_price, per_mtok
from broker.settings import Lane, PriceRow

SECONDS_PER_HOUR = 3600


def price_of(name: str, lane: Lane, day: str) -> Price | None:
    """The lane's price on a UTC day (``YYYY-MM-DD``); None: unknown, its calls are booked as unpriced."""
    if lane.hardware is not None:
        own = lane.hardware
        return hardware_price(
            f"hardware:{name}",
            price_usd=own.price_usd,
            life_years=own.life_years,
            watts=own.watts,
            usd_per_kwh=own.usd_per_kwh,
            slots=lane.threads,
        )
    if lane.price == "free":
        return TokenPrice(f"free:{name}", 0, 0, 0, 0, 0)
    if lane.price is not None:
        return _dated(f"lane:{name}", lane.price, day)
    return book_price(lane.model, day)


def book_price(model: str, day: str) -> TokenPrice | None:
    """The price book's price of a model on a UTC day; None where it has none."""
    return _dated(f"book:{model}", price_book().get(model, ()), day)


@cache
def price_book() -> dict[str, tuple[PriceRow, ...]]:
    text = (files("broker") / "pricebook.toml").read_text(encoding="utf-8")
    return {
        model: tuple(PriceRow.model_validate(row) for row in rows)
        for model, rows in tomllib.loads(text, parse_float=Decimal).items()
    }


def cpu_price(usd_per_hour: Decimal) -> HardwarePrice:
    """What a second of this fleet's own processors costs: classification and gates are booked at it."""
    pico_per_s = round_half_even(nano(usd_per_hour) * 1000, SECONDS_PER_HOUR)
    return HardwarePrice("fleet:cpu", pico_per_s, 0)


def _dated(ref: str, rows: Sequence[PriceRow], day: str) -> TokenPrice | None:
    held = [row for row in rows if row.from_ <= day]
    if not held:
        return None
    row = max(held, key=lambda one: one.from_)
    read = row.input_mtok if row.cached_input_mtok is None else row.cached_input_mtok
    write = row.input_mtok if row.cache_write_mtok is None else row.cache_write_mtok
    long_write = write if row.cache_write_1h_mtok is None else row.cache_write_1h_mtok
    return TokenPrice(
        f"{ref}@{row.from_}",
        per_mtok(row.input_mtok),
        per_mtok(read),
        per_mtok(write),
        per_mtok(row.output_mtok),
        per_mtok(long_write),
        int((1 - row.batch_discount) * PPM),
    )
