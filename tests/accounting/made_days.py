"""Sums by day of the report, made up, and which days among them are odd."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from accounting.files import schema
from accounting.reports import odd
from accounting.reports.tasks import ALL, DATE, GROUP, KIND, LANE, REASONS, WORKFLOW

CENT = 10**7


def day(number: int) -> str:
    return (date(2026, 1, 5) + timedelta(days=number)).isoformat()


def table(keys: tuple[str, ...], measures: tuple[str, ...], rows: list[dict[str, Any]]) -> Any:
    texts = {key: pa.array([str(row.get(key, "")) for row in rows], schema.TEXT) for key in keys}
    return pa.table(
        texts | {name: pa.array([row.get(name, 0) for row in rows], schema.COUNT) for name in measures}
    )


def kinds(rows: list[dict[str, Any]]) -> Any:
    return table((DATE, *KIND), ALL, rows)


def usual(number: int, **said: Any) -> dict[str, Any]:
    """A hundred tasks of a cent each, one call a task, recognised by their rule."""
    return {
        "date": day(number), "task_type": "intent", "final_lane": "local", "status": "succeeded",
        "classified_by": "regex", "tasks": 100, "judged": 100, "succeeded": 95, "attempts": 100, "llm_calls": 100,
        "cost": 100 * CENT, "inference": 100 * CENT, "input": 40_000, "output": 2_000, **said,
    }  # fmt: skip


def workflows(rows: list[dict[str, Any]]) -> Any:
    return table((DATE, WORKFLOW, LANE), (*GROUP, *REASONS), rows)


def found(rows: list[dict[str, Any]], flows: list[dict[str, Any]] | None = None) -> set[tuple[str, str, str]]:
    return {(one.day, one.kind, one.scope) for one in odd.odd(kinds(rows), workflows(flows or []))}
