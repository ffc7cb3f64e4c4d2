"""What may be spent: of a task, and of a scope in a day, a month or in all."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from broker.settings.values import Count, Table, Usd

SCOPE = re.compile(r"fleet|(workspace|workflow|pipeline|user|lane):[A-Za-z0-9_.@-]{1,128}")


class SmallScale(Table):
    """Budgets in one line: of a task that nobody gives another limit, and of the whole fleet in a month."""

    task_usd: Usd
    month_usd: Usd


class TaskBudget(Table):
    """Limits of one task; None leaves a side open.

    ``failures`` is how many of its calls may fail, of tools or at a gate, before it is parked; one that was lost with
    its worker is none of them. ``llm_calls`` and ``tool_calls`` count calls, ``tokens`` all tokens of all its model
    calls, in and out, and ``same_tool_calls`` how often one tool may be called with the same arguments. ``wall_s`` is
    in seconds from its first call on, without the time that it waits for a person.
    """

    hard_usd: Usd | None = None
    soft_usd: Usd | None = None
    retry_usd: Usd | None = None
    llm_calls: Count | None = None
    tool_calls: Count | None = None
    same_tool_calls: Count | None = None
    tokens: Count | None = None
    failures: Count | None = None
    wall_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def over(self, other: TaskBudget) -> TaskBudget:
        """These limits, and the other's where these leave a side open."""
        said = {name: value for name in TaskBudget.model_fields if (value := getattr(self, name)) is not None}
        return other.model_copy(update=said)


class BudgetRow(Table):
    scope: str
    period: Literal["day", "month", "total"]
    usd: Usd

    @field_validator("scope")
    @classmethod
    def _known(cls, value: str) -> str:
        if not SCOPE.fullmatch(value):
            raise ValueError(
                f"unknown scope {value!r}; use fleet or workspace: workflow: pipeline: user: lane: and a name"
            )
        return value
