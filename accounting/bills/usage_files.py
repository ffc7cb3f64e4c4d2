"""What providers say was used, from the files that they give: lines of tokens, lines of money, or both.

| provider | files |
| --- | --- |
| openai | pages of ``/v1/organization/usage/completions`` and ``/v1/organization/costs``, and their CSV exports |
| anthropic | pages of ``/v1/organizations/usage_report/messages`` and ``…/cost_report``, the console's CSV exports |
| any other | CSV with ``date, model`` and some of the columns in ``GENERIC`` |

A page is one JSON document, several are a list of them or one on each line. Days are UTC days. One on which nothing was
used has a bucket without results, or a row that is empty but for its times: it belongs to the days that are compared.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from broker.money import nano
from broker.pricebook import book

INPUT, CACHED, WRITE, LONG, OUTPUT = range(5)
CLASSES = ("input", "cached input", "cache write", "cache write 1 h", "output")
CENT = Decimal("0.01")
FIRST_YEAR, LAST_YEAR = 2015, 2199  # in which models are sold by the token
MOST = 10**15  # tokens or dollars of a line
GENERIC = (
    "date", "model", "requests", "input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "output_tokens", "batch", "cost_usd",
)  # fmt: skip
#: When a row begins, as providers name it, and what else of a row says nothing of what was used.
_TIMES = ("start_time_iso", "start_time", "starting_at", "usage_date_utc", "date")
_AROUND = (
    *_TIMES, "end_time", "end_time_iso", "ending_at", "project_id", "project_name", "organization_id",
    "organization_name",
)  # fmt: skip
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Used:
    """One line of a provider's file. ``tokens`` by class, disjoint, a class that the file does not tell apart left out;
    None: a line of money alone. ``model`` "": not paid for tokens, ``what`` says for what; with nothing else either: a
    day without any use. ``batch``, ``requests`` and ``nano`` (nano-dollars) None: not said."""

    day: str
    model: str
    tokens: Mapping[int, int] | None = None
    batch: bool | None = None
    requests: int | None = None
    nano: int | None = None
    what: str = ""


def read(text: str, provider: str) -> list[Used]:
    """The lines of a file. Raises ValueError that names the line or the column that it has not."""
    text = text.lstrip("\ufeff")
    try:
        rows = list(_pages(text) if text.lstrip()[:1] in ("{", "[") else csv.DictReader(io.StringIO(text)))
    except (KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise ValueError(
            f"is neither pages of usage nor a CSV ({error!r}); save what {provider} answers as it is"
        ) from error
    reader = READERS.get(provider, _generic)
    lines = []
    for number, row in enumerate(rows, 1):
        said = {name for name, value in row.items() if value not in (None, "")}
        if not said:
            continue
        try:
            lines.append(reader(row) if said.difference(_AROUND) else Used(_day(row), ""))
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"line {number} of usage is none of {provider}'s: {what}") from error
    if not lines:
        raise ValueError("has no lines of usage")
    return lines


def _pages(text: str) -> Iterator[Row]:
    """The results of each bucket, with the bucket's times; of one without results these alone."""
    try:
        pages = [json.loads(text, parse_float=Decimal)]
    except json.JSONDecodeError:
        pages = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
    for page in pages[0] if isinstance(pages[0], list) else pages:
        for bucket in page["data"]:
            times = {key: value for key, value in bucket.items() if key not in ("results", "object")}
            results: list[Row] = bucket["results"] or [{}]
            yield from ({**times, **result} for result in results)


def _openai(row: Row) -> Used:
    day = _day(row)
    if (amount := _money_of(row)) is not None:
        if not (item := str(row.get("line_item") or "")):
            raise ValueError("no line_item; export the costs grouped by it")
        model = _model_of(item)
        return Used(day, model, nano=amount, what=item, batch=None)
    asked, cached = _count(row["input_tokens"]), _count(row.get("input_cached_tokens"))
    if cached > asked:
        raise ValueError(f"{cached} cached tokens are more than the input of {asked}, which has them")
    tokens = {INPUT: asked - cached, CACHED: cached, OUTPUT: _count(row["output_tokens"])}
    return Used(
        day, _named(row.get("model")), tokens, _flag(row.get("batch")), _count(row["num_model_requests"])
    )


def _money_of(row: Row) -> int | None:
    amount = row.get("amount")
    if isinstance(amount, Mapping):
        return _dollars(amount["value"], amount["currency"])
    if row.get("amount_value") not in (None, ""):
        return _dollars(row["amount_value"], row.get("amount_currency") or "usd")
    return None


_ITEM = re.compile(r"([\w ]+ \| )?(?P<model>[\w.:/-]+), .*(input|output|cache)", re.IGNORECASE)


def _model_of(item: str) -> str:
    """The model of a line of the bill such as ``gpt-4o-2024-08-06, cached input``, or ``priority | gpt-5.2, output``;
    "" for what is paid otherwise."""
    found = _ITEM.match(item)
    model = found["model"] if found else ""
    # Nearly all have a digit, and other things that are paid for have none.
    return model if any(map(str.isdigit, model)) or book().find(model, "openai") else ""


def _anthropic(row: Row) -> Used:
    day = _day(row)
    batch = {"batch": True, "message": None, "": None}.get(
        str(row.get("service_tier") or row.get("usage_type") or "").lower(), False
    )
    model = _id_of(str(row.get("model") or row.get("model_version") or ""))
    if row.get("amount") is not None:  # the API's amounts are in cents
        nanos = _dollars(_decimal(row["amount"]) * CENT, row.get("currency", "USD"))
        return _bill_line(day, model, nanos, batch, row.get("cost_type"), row.get("description"))
    if row.get("cost_usd") not in (None, ""):
        kind = row.get("cost_type") or ("tokens" if row.get("token_type") else "")
        return _bill_line(day, model, _dollars(row["cost_usd"], "USD"), batch, kind, row.get("token_type"))
    made = row.get("cache_creation") or {}
    fresh = (
        row["uncached_input_tokens"] if "uncached_input_tokens" in row else row["usage_input_tokens_no_cache"]
    )
    kept = row.get("usage_input_tokens_cache_write")  # as exports called it before there were two kinds
    tokens = {
        INPUT: _count(fresh),
        CACHED: _count(_either(row, "cache_read_input_tokens", "usage_input_tokens_cache_read")),
        WRITE: _count(
            made.get("ephemeral_5m_input_tokens", row.get("usage_input_tokens_cache_write_5m", kept))
        ),
        LONG: _count(made.get("ephemeral_1h_input_tokens", row.get("usage_input_tokens_cache_write_1h"))),
        OUTPUT: _count(_either(row, "output_tokens", "usage_output_tokens")),
    }
    return Used(day, _named(model), tokens, batch)


def _id_of(model: str) -> str:
    """The console's bills write ``Claude Haiku 4.5`` or ``Claude 3.5 Sonnet 2024-10-22`` for what all else calls
    ``claude-haiku-4-5`` and ``claude-3-5-sonnet-20241022``."""
    if " " not in model:
        return model
    undated = re.sub(r"(\d{4})-(\d\d)-(\d\d)$", r"\1\2\3", model)
    return re.sub(r"[ .]+", "-", undated).lower()


def _bill_line(day: str, model: str, nanos: int, batch: bool | None, kind: Any, said: Any) -> Used:
    if not (model or kind or said):
        raise ValueError("no description; export the costs grouped by it")
    paid_by_token = kind in (None, "", "token", "tokens") and bool(model)
    return Used(day, model if paid_by_token else "", None, batch, None, nanos, str(said or kind or ""))


def _generic(row: Row) -> Used:
    if None in row:  # where csv puts what the heading has no name for
        raise ValueError("it has more cells than the heading")
    unknown = sorted(set(row) - set(GENERIC))
    if unknown:
        raise ValueError(f"column {unknown[0]!r} is none of {', '.join(GENERIC)}")
    columns = (
        "input_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
    )
    told = {place: row[name] for place, name in enumerate(columns) if row.get(name) not in (None, "")}
    cost = row.get("cost_usd")
    requests = row.get("requests")
    model = str(row.get("model") or "")
    if not told and cost in (None, "") and requests in (None, ""):
        raise ValueError("it says neither tokens nor requests nor cost_usd")
    return Used(
        _day(row),
        model,
        {place: _count(count) for place, count in told.items()} if told else None,
        _flag(row.get("batch")),
        None if requests in (None, "") else _count(requests),
        None if cost in (None, "") else _dollars(cost, "USD"),
    )


#: The one line that a provider's own file takes.
READERS: dict[str, Callable[[Row], Used]] = {"openai": _openai, "anthropic": _anthropic}


def _either(row: Row, name: str, other: str) -> Any:
    return row[name] if name in row else row[other]


def _named(model: Any) -> str:
    if not model:
        raise ValueError("no model; export the usage grouped by model")
    return str(model)


def _day(row: Row) -> str:
    """The UTC day of a time in seconds since the epoch, of an ISO time, or of a day. Raises KeyError for a row without
    one, ValueError for one in which nobody was billed."""
    said = next((row[name] for name in _TIMES if row.get(name)), None)
    if said is None:
        raise KeyError("date")
    try:
        day = _utc(said)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{said!r} is no day; write it as 2026-01-31") from error
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"{said!r} is no day of a bill")
    return day.isoformat()


def _utc(said: Any) -> date:
    text = str(said)
    if isinstance(said, int) or (text.isdigit() and len(text) > len("20260131")):
        return datetime.fromtimestamp(int(text), tz=UTC).date()
    if len(text) <= len("2026-01-31"):
        return date.fromisoformat(text)
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).date()


def _decimal(said: Any) -> Decimal:
    try:
        number = Decimal(str(said))
    except InvalidOperation as error:
        raise ValueError(f"{said!r} is no number") from error
    if not number.is_finite() or abs(number) > MOST:
        raise ValueError(f"{said!r} is no number of a bill")
    return number


def _count(said: Any) -> int:
    if said in (None, ""):
        return 0
    count = _decimal(said)
    if count < 0 or count != int(count):
        raise ValueError(f"{said!r} is no number of tokens or calls")
    return int(count)


_FLAGS = {"true": True, "1": True, "yes": True, "batch": True, "false": False, "0": False, "no": False}


def _flag(said: Any) -> bool | None:
    if said in (None, ""):
        return None
    if str(said).lower() not in _FLAGS:
        raise ValueError(f"batch is {said!r}, and neither true nor false")
    return _FLAGS[str(said).lower()]


def _dollars(said: Any, currency: Any) -> int:
    if str(currency).upper() != "USD":
        raise ValueError(f"is in {currency}, and the ledger in USD")
    return nano(_decimal(said))
