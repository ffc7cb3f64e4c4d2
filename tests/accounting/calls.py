"""Calls as a worker books them, in a nightly file."""

from __future__ import annotations

from itertools import count
from typing import Any

import pyarrow as pa

from accounting.files import ledger, schema
from accounting.files.ledger import LocalStore
from accounting.rollup import drafts
from broker.call import Usage
from broker.prices import TokenPrice, cost_nano, row_of
from broker.settings.lanes import Lane
from broker.tariff import price_of
from tests.accounting.reference_rows import AttemptRow, Tokens

DAY = "2026-11-24"
NOON_US = ledger.midnight_us(DAY) + 12 * 3_600_000_000
LANES = {
    "mid": Lane(engine="openai", model="gpt-4o-mini"),
    "cheap": Lane.model_validate(
        {"engine": "openai", "model": "m", "price": {"input_mtok": "1", "output_mtok": "3"}}
    ),
    "hourly": Lane.model_validate(
        {"engine": "openai", "model": "deepseek-flash", "base_url": "https://api.deepseek.com"}
    ),
    "new": Lane(engine="openai", model="gpt-4o"),
}
_numbers = count()


def row(lane: str, usage: Usage, **said: Any) -> AttemptRow:
    """A settled call of the lane, booked as a worker books it."""
    batch, ended_us = said.pop("batch", False), said.pop("ended_us", NOON_US)
    price = price_of(lane, LANES[lane], DAY) if lane in LANES else None
    held = row_of(price, usage, batch=batch, at_us=ended_us) if isinstance(price, TokenPrice) else None
    made = AttemptRow(
        f"a{next(_numbers)}", None, "t", 0, lane, "openai", LANES[lane].model if lane in LANES else "", None, "task",
        ended_us - 90_000, ended_us, ended_us, 0.0, 90.0, None,
        Tokens(
            usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens + usage.cache_write_1h_tokens,
            usage.output_tokens, usage.reasoning_tokens,
        ),
        cost_nano(held, usage, busy_ms=0), None, held.ref if held else None, batch, None, None, None, True,
        usage.cache_write_1h_tokens,
    )  # fmt: skip
    return made._replace(**said)


def batch_of(rows: list[AttemptRow]) -> Any:
    table = schema.table(schema.ATTEMPTS, [one.columns for one in rows])
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def written(store: LocalStore, rows: list[AttemptRow], day: str = DAY) -> None:
    """Of tasks that were submitted on that day."""
    data = drafts.encode(schema.table(schema.ATTEMPTS, [one.columns for one in rows]))
    store.put(f"{ledger.partition(ledger.ATTEMPTS, day)}/attempts.parquet", data)
