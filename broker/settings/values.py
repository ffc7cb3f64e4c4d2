"""What stands in the tables: amounts, counts, days, patterns and addresses, checked where they are read."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from broker.money import MOST_USD

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError('is a float; write money in quotes, as "0.15"')
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    except (RecursionError, OverflowError) as error:
        raise ValueError("is nested too deeply or repeats too often for a regular expression") from error
    return value


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError("is no day; write it as 2026-01-31") from None


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is true or false; write a number")
    return value


COUNT_LIMIT = 2**31
_LARGEST = Decimal(10) ** 100

Usd = Annotated[Decimal, BeforeValidator(no_float), Field(ge=0, lt=MOST_USD, allow_inf_nan=False)]
#: Of a million tokens: no finer than a pico-dollar per token.
MtokUsd = Annotated[Usd, Field(decimal_places=6)]
Amount = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_truth), Field(ge=0, lt=COUNT_LIMIT)]
Number = Annotated[Decimal, BeforeValidator(_no_truth), Field(gt=-_LARGEST, lt=_LARGEST, allow_inf_nan=False)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_day)]
CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
#: What a US dollar is worth, in units of another currency.
Rate = Annotated[
    Decimal, BeforeValidator(no_float), Field(gt=0, lt=10**9, decimal_places=6, allow_inf_nan=False)
]
#: A row of the price book by its key: ``book:openai/gpt-4o``.
BOOK_KEY = re.compile(r"book:[^/*]+/[^*]+")
BookKey = Annotated[str, Field(pattern=f"^{BOOK_KEY.pattern}$")]
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def address(value: str | None, instead: str) -> str | None:
    """The same where it is a web address without a secret. ``instead`` is what to do with that."""
    url = urlsplit(value or "")
    if value and (not url.hostname or url.port == 0 or url.scheme not in ("http", "https")):
        raise ValueError("is no web address; write it as https://host/path")
    if url.username or url.password:
        raise ValueError(f"holds a password; {instead}")
    return value


def web_address(value: str | None, token: str) -> str | None:
    """The same where secrets may be sent there. ``token`` is the key for such a secret."""
    address(value, f"name its environment variable in {token}")
    url = urlsplit(value or "")
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise ValueError("is not encrypted; use https, or an address on this machine")
    return value


def _base_url(value: str) -> str:
    """Encrypted or not, as endpoints are within a private network too."""
    address(value, "name its environment variable in api_key_env")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Table(BaseModel):
    """A table of the file: frozen, and it refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)
