"""The price book: dated rows of models' prices, read from a table that is compiled and committed.

A line of the table is a model's key (``provider/model``), the first UTC day that the row holds for, and its figures in
pico-dollars per token, each with the calls that it holds for:

    openai/gpt-6	2026-08-01	1250000,125000,1562500,1562500,10000000 >272000=2500000,… +batch=625000,…

The figures are input, cached input, cache write, cache write for an hour, output; ``-`` for figures: no price from then
on. ``>272000`` are calls with more input than that, ``~0100-0400`` calls that end at these hours of the UTC day (with
``w``: from Monday to Friday), ``+batch`` lines of a provider's batch. With ``=`` for a day the line holds further names
of the model; one with a ``*`` at its end takes a date or a version behind it.

A price's ``ref`` is ``book:``, the key, ``@``, the day and the condition. Rows are added and never changed, so a ref
means the same figures for ever. A lane's own price is in a file that its owner may change, so its ref is ``lane:``, the
lane's name, ``@``, the day, the condition, and behind a ``=`` the figures themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from importlib.resources import files

from broker.errors import ConfigError
from broker.money import round_half_even
from broker.prices import PPM, Band, Hours, TokenPrice, per_mtok
from broker.settings.prices import Figures, PriceRow

TABLE, OVERLAY = "pricebook.tsv", "pricebook.toml"
BATCH = "+batch"
NO_PRICE = "-"  # what a line says from the day on which a price ends
#: Whose price a model's bare name means where several sell it: whoever made it.
MAKERS = (
    "openai", "anthropic", "google", "deepseek", "x-ai", "mistral", "meta", "moonshotai", "minimax", "zai", "cohere",
    "perplexity",
)  # fmt: skip
_VERSION = re.compile(r"[-@](latest|20\d{6}|20\d\d-\d\d-\d\d|\d{3,4})$")
_LANE, _FREE = "lane:", "free:"
_REF = re.compile(r"(?P<row>.+?@\d{4}-\d\d-\d\d)(?P<condition>[^*]*)(?:\*(?P<factor>[\d.]+))?")


@dataclass(frozen=True, slots=True)
class Book:
    """``rows`` maps a key to its days and what the line of each says, ``names`` maps ``provider/name`` to a key.

    ``head`` are the comments at the table's head: where it is from.
    """

    rows: Mapping[str, Mapping[str, str]]
    names: Mapping[str, str]
    head: tuple[str, ...] = ()

    def price(self, key: str, day: str) -> TokenPrice | None:
        """What the model costs on a UTC day; None where the book has no row for it."""
        days = self.rows.get(key)
        held = max((one for one in days if one <= day), default=None) if days else None
        if days is None or held is None or days[held] == NO_PRICE:
            return None
        return parse(f"book:{key}@{held}", days[held])

    def find(self, model: str, provider: str = "") -> str | None:
        """The key that a name means. Without a provider the name says it itself, or its maker is meant."""
        name = model.lower()
        if provider:
            return self._named(provider, name)
        seller, _, own = name.partition("/")
        if key := self._named(seller, own):
            return key
        others = sorted({key.partition("/")[0] for key in self.rows} - set(MAKERS))
        return next((key for one in (*MAKERS, *others) if (key := self._named(one, name))), None)

    def _named(self, provider: str, name: str) -> str | None:
        full = f"{provider}/{name}"
        if full in self.rows:
            return full
        return self.names.get(full) or self.names.get(_VERSION.sub("", full) + "*")

    def of_ref(self, ref: str) -> TokenPrice | None:
        """The figures that a ref names; None where this book has no such row, or it names no price of tokens."""
        if ref.startswith(_FREE):
            return TokenPrice(ref, 0, 0, 0, 0, 0)
        if ref.startswith(_LANE):
            return _figured(ref, ref.rpartition("=")[2]) if "=" in ref else None
        parts = _REF.fullmatch(ref.removeprefix("book:"))
        if not ref.startswith("book:") or parts is None:
            return None
        key, _, day = parts["row"].rpartition("@")
        line = self.rows.get(key, {}).get(day)
        flat = None if line is None else rows_of(f"book:{key}@{day}", line).get(parts["condition"])
        if flat is None or parts["factor"] is None:
            return flat
        return discounted(flat, Decimal(parts["factor"]))


@cache
def book() -> Book:
    """The book that this version ships."""
    return read((files("broker") / TABLE).read_text(encoding="utf-8"))


def read(text: str) -> Book:
    """The book of a table. Raises ConfigError that names the line which is none."""
    rows: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    head = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            head.append(line.removeprefix("#").strip())
            continue
        try:
            key, day, said = line.split("\t")
        except ValueError:
            raise ConfigError(
                f"price book, line {number}: {line[:60]!r} is not a key, a day and figures with tabs between",
                mend="take the table as `make prices` writes it",
            ) from None
        if day == "=":
            provider = key.partition("/")[0]
            names.update((f"{provider}/{name}", key) for name in said.split(" "))
        else:
            rows.setdefault(key, {})[day] = said
    return Book(rows, names, tuple(head))


@lru_cache(maxsize=1024)
def parse(ref: str, said: str) -> TokenPrice:
    """The price that a line says. Raises ConfigError for what is none."""
    try:
        flat = rows_of(ref, said)
        batch = {name.removeprefix(BATCH): row for name, row in flat.items() if name.startswith(BATCH)}
        single = {name: row for name, row in flat.items() if not name.startswith(BATCH)}
        return _banded(single, _banded(batch, None) if batch else None)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{ref}: {said[:80]!r} is not a price", mend="write it as broker/pricebook.py says"
        ) from error


def rows_of(ref: str, said: str) -> dict[str, TokenPrice]:
    """Each row of a line by its condition, "" for the one that holds without any."""
    rows = {}
    for part in said.split(" "):
        condition, _, figures = part.rpartition("=")
        own = f"={figures}" if ref.startswith(_LANE) else ""
        rows[condition] = _figured(ref + condition + own, figures)
    return rows


def _figured(ref: str, figures: str) -> TokenPrice:
    read_, cached, write, long, out = map(int, figures.split(","))
    return TokenPrice(ref, read_, cached, write, out, long)


def _banded(rows: Mapping[str, TokenPrice], batch: TokenPrice | None) -> TokenPrice:
    base = rows[""]
    bands = [_band(condition, row) for condition, row in rows.items() if condition]
    bands.sort(key=lambda band: -band.above)
    return TokenPrice(
        base.ref,
        base.input_pico,
        base.cached_input_pico,
        base.cache_write_pico,
        base.output_pico,
        base.cache_write_1h_pico,
        tuple(bands),
        batch,
    )


def _band(condition: str, row: TokenPrice) -> Band:
    if condition.startswith(">"):
        return Band(row, above=int(condition[1:]))
    if not condition.startswith("~"):
        raise ValueError(condition)
    first, last = condition[1:].removesuffix("w").split("-")
    hours = Hours(_minute(first), _minute(last), condition.endswith("w"))
    return Band(row, above=-1, hours=hours)


def _minute(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[2:])


def discounted(price: TokenPrice, factor: Decimal) -> TokenPrice:
    """The same price times a factor, each figure rounded half-even to a pico-dollar per token."""
    ppm = int(factor * PPM)

    def times(pico: int) -> int:
        return round_half_even(pico * ppm, PPM)

    return TokenPrice(
        f"{price.ref}*{factor:f}",
        times(price.input_pico),
        times(price.cached_input_pico),
        times(price.cache_write_pico),
        times(price.output_pico),
        times(price.cache_write_1h_pico),
        tuple(Band(discounted(band.price, factor), band.above, band.hours) for band in price.bands),
        None if price.batch is None else discounted(price.batch, factor),
    )


def line_of(row: PriceRow) -> str:
    """What the table says of a row of the configuration or the overlay."""
    return " ".join(_parts(row))


def _parts(row: PriceRow) -> Iterator[str]:
    base: list[tuple[str, Figures]] = [
        ("", row),
        *((f">{one.tokens}", one) for one in row.above),
        *((f"~{one.utc.replace(':', '')}{'w' if one.workdays else ''}", one) for one in row.hours),
    ]
    for condition, one in base:
        yield _part(condition, picos(one))
    if row.batch_discount or row.batch_cached_discount:
        of_cached = row.batch_discount if row.batch_cached_discount is None else row.batch_cached_discount
        for condition, one in base:
            full = picos(one)
            off = (row.batch_discount, of_cached, *[row.batch_discount] * 3)
            yield _part(
                BATCH + condition,
                tuple(_off(pico, discount) for pico, discount in zip(full, off, strict=True)),
            )


def _part(condition: str, figures: tuple[int, ...]) -> str:
    text = ",".join(map(str, figures))
    return f"{condition}={text}" if condition else text


def _off(pico: int, discount: Decimal) -> int:
    return round_half_even(pico * int((1 - discount) * PPM), PPM)


def picos(row: Figures) -> tuple[int, ...]:
    """Input, cached input, cache write, cache write for an hour, output."""
    read_ = row.input_mtok if row.cached_input_mtok is None else row.cached_input_mtok
    write = row.input_mtok if row.cache_write_mtok is None else row.cache_write_mtok
    long = write if row.cache_write_1h_mtok is None else row.cache_write_1h_mtok
    return tuple(per_mtok(usd) for usd in (row.input_mtok, read_, write, long, row.output_mtok))
