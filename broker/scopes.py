"""The scopes that a call's money counts in, the windows of their limits, and what is told of these."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker.clock import US_PER_S
from broker.task import Task

#: Per cent of a limit at which ``scripts/prelude.lua`` writes an alert: to the log, to operations, and all is used up.
LOG_LEVEL, OPERATIONS_LEVEL, USED_UP = 50, 80, 100


def scopes_of(task: Task, lane: str) -> tuple[str, ...]:
    """Widest first; a scope that the task does not name is not there. A ``lane`` of "" is no lane (classification)."""
    return scopes_named(task.workspace, task.workflow, task.pipeline, task.user, lane)


def scopes_named(workspace: str, workflow: str, pipeline: str, user: str, lane: str) -> tuple[str, ...]:
    """The same of what a task is attributed to."""
    named = (
        ("workspace", workspace),
        ("workflow", workflow),
        ("pipeline", pipeline),
        ("user", user),
        ("lane", lane),
    )
    return ("fleet", *(f"{kind}:{name}" for kind, name in named if name))


def next_window_s(period: str, now_us: int) -> float | None:
    """Seconds until the next UTC day or month begins; None for a period that never ends."""
    now = datetime.fromtimestamp(now_us / US_PER_S, tz=UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (today + timedelta(days=1) - now).total_seconds()
    if period == "month":
        return ((today.replace(day=1) + timedelta(days=32)).replace(day=1) - now).total_seconds()
    return None
