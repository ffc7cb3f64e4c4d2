"""Prices: calls priced one by one, against genai-prices in the same run, and a day of calls reckoned again.

The day is 10 million calls of 24 kinds (flat, tiered and hourly prices, singly and in batches) in one nightly file; its
repricing is held against only reading the same columns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price

from accounting.bills.reprice import CLASSES, NAMES, ROWS, Finder, again, columns_of, reprice
from accounting.files import ledger, schema
from accounting.files.ledger import LocalStore
from accounting.rollup import drafts
from broker.call import Usage
from broker.prices import TokenPrice, cost_nano
from broker.tariff import book_price

CALLS = int(os.environ.get("CALLS", "10000000"))
ONES, THEIR_ONES = 300_000, 3_000
DAY = "2026-11-24"
MODELS = {"flat": "gpt-4o-mini", "tiered": "claude-sonnet-4-5", "by the hour": "deepseek-flash"}
MORE = ("gpt-4o", "o1", "claude-haiku-4-5", "claude-opus-4-1", "gemini-2.5-pro")
READ = (*NAMES, *CLASSES, "attempt_id", "batch", "started_at", "ended_at", "cost_usd", "settled")


def rate(what: Callable[[Any], object], over: list[Any]) -> float:
    begun = time.perf_counter()
    for one in over:
        what(one)
    return len(over) / (time.perf_counter() - begun)


def one_by_one() -> None:
    chance = np.random.default_rng(1)
    counts = chance.integers(0, 4_000, (ONES, 4)).tolist()
    usages = [Usage(*row) for row in counts]
    theirs = [
        TheirUsage(input_tokens=row[0] + row[1], cache_read_tokens=row[1], output_tokens=row[3])
        for row in counts[:THEIR_ONES]
    ]
    at_us = ledger.midnight_us(DAY) + 7 * 3_600_000_000
    for name, model in MODELS.items():
        price = found(model)
        ours, other = [], []
        for _ in range(5):
            ours.append(rate(lambda one: cost_nano(price, one, busy_ms=0, at_us=at_us), usages))  # noqa: B023
            other.append(rate(lambda one: calc_price(one, model_ref="gpt-4o-mini"), theirs))
        print(
            f"one by one, {name}: {statistics.median(ours):,.0f} calls/s;"
            f" genai-prices {statistics.median(other):,.0f},"
            f" {statistics.median(a / b for a, b in zip(ours, other, strict=True)):,.0f} x"
        )


def found(model: str) -> TokenPrice:
    price = book_price(model, DAY)
    if price is None:
        sys.exit(f"the book has no {model}")
    return price


def made_day(calls: int) -> Iterator[Any]:
    """Rows of ``attempts`` as the rollup would write them: their cost is what our own arithmetic says."""
    prices = [found(model) for model in (*MODELS.values(), *MORE)]
    chance = np.random.default_rng(2)
    for start in range(0, calls, ROWS):
        count = min(ROWS, calls - start)
        kind = chance.integers(0, len(prices), count)
        batch = chance.random(count) < 0.2
        sizes = {"input_tokens": 250_000, "cached_input_tokens": 60_000, "output_tokens": 900}
        tokens = {name: chance.integers(0, sizes.get(name, 300), count) for name in CLASSES}
        tokens["cache_write_tokens"] = tokens["cache_write_tokens"] + tokens["cache_write_1h_tokens"]
        ended_us = ledger.midnight_us(DAY) + chance.integers(0, 86_400_000_000, count)
        rows = pa.table(
            {
                "attempt_id": pa.array([f"t{start + n:08x}-1" for n in range(count)]),
                "lane": pa.array(kind % 4).cast(pa.string()),
                "model": pa.array([(*MODELS.values(), *MORE)[one] for one in kind]),
                "price_ref": pa.array([prices[one].ref for one in kind]),
                "started_at": pa.array(ended_us).cast(schema.TIME),
                "ended_at": pa.array(ended_us).cast(schema.TIME),
                "batch": pa.array(batch),
                "settled": pa.array(np.ones(count, dtype=bool)),
                "cost_usd": pa.array([Decimal(0)] * count, schema.MONEY),
                **{name: pa.array(one) for name, one in tokens.items()},
            }
        )
        yield rows


def write(path: Path, calls: int) -> None:
    path.parent.mkdir(parents=True)
    writer = None
    for rows in made_day(calls):
        writer = writer or pq.ParquetWriter(
            path, rows.schema, compression="zstd", store_decimal_as_integer=True
        )
        writer.write_table(rows, row_group_size=drafts.GROUP_ROWS)
    if writer:
        writer.close()


def whole_day() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = LocalStore(Path(name))
        path = Path(name) / ledger.partition(ledger.ATTEMPTS, DAY) / "attempts.parquet"
        write(path, CALLS)
        read, done, alone = [], [], []
        for at in (DAY, DAY, DAY):
            begun = time.perf_counter()
            for _ in pq.ParquetFile(path, read_dictionary=list(NAMES)).iter_batches(ROWS, columns=list(READ)):
                pass
            read.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            made = reprice(store, [DAY], {}, at)
            done.append(time.perf_counter() - begun)
            alone.append(priced_alone(path, at))
        calls = sum(one.calls for one in made.kinds)
    print(
        f"a day of {calls:,} calls repriced: {min(done):.2f} s with reading it,"
        f" {min(alone):.2f} s without; reading alone {min(read):.2f} s"
        f" ({statistics.median(a / b for a, b in zip(done, read, strict=True)):.1f} x)"
    )


def priced_alone(path: Path, at: str) -> float:
    finds, seconds = Finder({}, at), 0.0
    for rows in pq.ParquetFile(path, read_dictionary=list(NAMES)).iter_batches(ROWS, columns=list(READ)):
        calls = columns_of(rows)
        begun = time.perf_counter()
        again(calls, finds)
        seconds += time.perf_counter() - begun
    return seconds


def main() -> None:
    one_by_one()
    whole_day()


if __name__ == "__main__":
    main()
