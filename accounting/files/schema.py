"""The columns of the ledger's four data sets, and the one way in which they are written.

Money is integer nano-dollars in our code and ``decimal128(18, 9)`` dollars in files, stored as INT64: exact, and as
small as an integer. Times are UTC microseconds. What a name is grouped by (workspace, pipeline, lane, …) is "" where
nothing was given, so that no reader's grouping drops money; what is unknown is null. The day stands in the folder's
name alone. Columns are added at the end and never renamed or retyped; a data set's version grows with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

MONEY = pa.decimal128(18, 9)
TIME = pa.timestamp("us", tz="UTC")
TEXT = pa.string()
COUNT = pa.int64()
REAL = pa.float64()
FLAG = pa.bool_()
TEXTS = pa.list_(TEXT)

_MONEY_LIMIT = 10**18


def _schema(dataset: str, columns: Sequence[tuple[str, Any]], version: int = 1) -> Any:
    return pa.schema(columns, metadata={"laneway.dataset": dataset, "laneway.v": str(version)})


#: A kind of tokens each; no token counts in two of them.
TOKENS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_TOKENS = [(name, COUNT) for name in TOKENS]

#: One row a fact, each field of it in a column of its own (``facts`` has the map). ``cost_usd`` is all the
#: money that the fact speaks of, of which ``gate_usd`` went into checking the answer; ``unpriced``: no price of the
#: call is known. ``fact`` holds the bytes of the wire where they say more than the columns. In version 1 they stand
#: in each row, and the columns after them are missing; version 2 ends with ``comment``.
EVENTS = _schema(
    "events",
    [
        ("workspace", TEXT),
        ("task_id", TEXT),
        ("seq", COUNT),
        ("at", TIME),
        ("submitted_at", TIME),
        ("kind", TEXT),
        ("attempt_id", TEXT),
        ("lane", TEXT),
        ("model", TEXT),
        ("purpose", TEXT),
        ("cost_usd", MONEY),
        ("verdict", TEXT),
        ("failure", TEXT),
        ("status", TEXT),
        ("fact", pa.binary()),
        ("mode", TEXT),
        ("workflow", TEXT),
        ("pipeline", TEXT),
        ("user_id", TEXT),
        ("task_type", TEXT),
        ("parent_task_id", TEXT),
        ("value_usd", MONEY),
        ("category", TEXT),
        ("by", TEXT),
        ("rule", TEXT),
        ("confidence", REAL),
        ("chain", TEXTS),
        ("why", TEXT),
        ("skipped", TEXTS),
        ("from_lane", TEXT),
        ("hop", COUNT),
        ("engine", TEXT),
        ("model_revision", TEXT),
        ("started_at", TIME),
        ("ended_at", TIME),
        ("queue_wait_ms", REAL),
        ("latency_ms", REAL),
        ("time_to_first_token_ms", REAL),
        *_TOKENS,
        ("cache_write_1h_tokens", COUNT),
        ("unpriced", FLAG),
        ("gate_usd", MONEY),
        ("marginal_usd", MONEY),
        ("price_ref", TEXT),
        ("parent_attempt_id", TEXT),
        ("batch", FLAG),
        ("gate", TEXT),
        ("complaint", TEXT),
        ("settled", FLAG),
        ("overrun", FLAG),
        ("node", TEXT),
        ("succeeded", FLAG),
        ("reason", TEXT),
        ("starts", COUNT),
        ("comment", TEXT),
        ("root_task_id", TEXT),
        ("avoided_usd", MONEY),
    ],
    version=3,
)

#: The parts that sum to ``cost_usd``, in the order of the columns.
PARTS = (
    "inference_usd",
    "retry_usd",
    "validation_usd",
    "reprompt_usd",
    "routing_usd",
    "tool_usd",
    "eval_usd",
    "human_usd",
    "data_usd",
    "orchestration_usd",
)
_COST = [("cost_usd", MONEY), *((part, MONEY) for part in PARTS)]

TASKS = _schema(
    "tasks",
    [
        ("task_id", TEXT),
        ("submitted_at", TIME),
        ("started_at", TIME),
        ("finished_at", TIME),
        ("workspace", TEXT),
        ("workflow", TEXT),
        ("pipeline", TEXT),
        ("user_id", TEXT),
        ("task_type", TEXT),
        ("category", TEXT),
        ("mode", TEXT),
        ("status", TEXT),
        ("succeeded", FLAG),
        ("classified_by", TEXT),
        ("confidence", REAL),
        ("first_lane", TEXT),
        ("final_lane", TEXT),
        ("lanes", TEXTS),
        ("models", TEXTS),
        ("hops", COUNT),
        ("attempts", COUNT),
        ("llm_calls", COUNT),
        ("tool_calls", COUNT),
        *_TOKENS,
        *_COST,
        ("overhead_share", REAL),
        ("avoided_usd", MONEY),
        ("batch", FLAG),
        ("queue_wait_ms", REAL),
        ("latency_ms", REAL),
        ("time_to_first_token_ms", REAL),
        ("unpriced_calls", COUNT),
        ("unsettled_calls", COUNT),
        ("value_usd", MONEY),
        ("parent_task_id", TEXT),
        # The task that it is a part of in the end, where its parent was one: it counts as a part of that one's.
        ("root_task_id", TEXT),
    ],
    version=2,
)

ATTEMPTS = _schema(
    "attempts",
    [
        ("attempt_id", TEXT),
        ("parent_attempt_id", TEXT),
        ("task_id", TEXT),
        ("hop", COUNT),
        ("lane", TEXT),
        ("engine", TEXT),
        ("model", TEXT),
        ("model_revision", TEXT),
        ("purpose", TEXT),
        ("started_at", TIME),
        ("ended_at", TIME),
        ("settled_at", TIME),
        ("queue_wait_ms", REAL),
        ("latency_ms", REAL),
        ("time_to_first_token_ms", REAL),
        *_TOKENS,
        ("cost_usd", MONEY),
        ("marginal_usd", MONEY),
        ("price_ref", TEXT),
        ("batch", FLAG),
        ("gate", TEXT),
        ("verdict", TEXT),
        ("failure", TEXT),
        ("settled", FLAG),
        # Of cache_write_tokens, those for an hour, which have their own price.
        ("cache_write_1h_tokens", COUNT),
        # A task's id is its own within it.
        ("workspace", TEXT),
    ],
    version=2,
)

#: Costs and tokens stand under the lane and model that caused them, a task under the lane and model that ended it.
DAILY = _schema(
    "daily",
    [
        ("workspace", TEXT),
        ("pipeline", TEXT),
        ("task_type", TEXT),
        ("lane", TEXT),
        ("model", TEXT),
        ("tasks", COUNT),
        ("judged", COUNT),
        ("successes", COUNT),
        ("attempts", COUNT),
        *_TOKENS,
        *_COST,
        ("rated", COUNT),
        ("satisfied", COUNT),
        # Of tasks, judged and successes those that are parts of another task.
        ("part_tasks", COUNT),
        ("part_judged", COUNT),
        ("part_successes", COUNT),
        # Tasks that were on the lane, under the model of their first call there.
        ("visits", COUNT),
    ],
    version=2,
)


def table(schema: Any, rows: Sequence[Sequence[Any]]) -> Any:
    """The rows as a table: money as nano-dollars, times as microseconds since the epoch.

    Raises ValueError (or pyarrow's own subclasses of it), TypeError or OverflowError for what does not fit.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.Table.from_arrays(
        [_array(field.type, column) for field, column in zip(schema, columns, strict=True)], schema=schema
    )


def _array(kind: Any, values: Sequence[Any]) -> Any:
    return money(pa.array(values, pa.int64())) if kind == MONEY else pa.array(values, kind)


def money(nanos: Any) -> Any:
    """Integers as decimals without a detour over text: 16 bytes each, little-endian, two's complement.

    Raises OverflowError for what does not fit.
    """
    low = nanos.fill_null(0).to_numpy(zero_copy_only=False)
    if len(low) and not -_MONEY_LIMIT < low.min() <= low.max() < _MONEY_LIMIT:
        raise OverflowError(
            "an amount of a thousand million dollars or more does not fit into decimal128(18, 9)"
        )
    words = np.empty((len(low), 2), dtype="<i8")
    words[:, 0] = low
    words[:, 1] = low >> 63
    valid = nanos.is_valid() if nanos.null_count else None
    bits = pa.array(valid).buffers()[1] if valid is not None else None
    return pa.Array.from_buffers(MONEY, len(low), [bits, pa.py_buffer(words)])


def nanos(column: Any) -> Any:
    """A money column as a numpy array of integer nano-dollars; null counts as 0."""
    column = in_one(column)
    if column.null_count == len(column):
        return np.zeros(len(column), dtype=np.int64)
    words = np.frombuffer(column.buffers()[1], dtype="<i8").reshape(-1, 2)
    low = words[column.offset : column.offset + len(column), 0]
    if not column.null_count:
        return low
    return np.where(column.is_valid().to_numpy(zero_copy_only=False), low, 0)


def in_one(column: Any) -> Any:
    """The column as one array, without copying where it is one."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def micros(column: Any) -> Any:
    """A time column as integers, microseconds since the epoch."""
    return column.cast(pa.int64())
