"""What the limits on money and calls mean for a task: pure decisions over plain data.

The scripts refuse a call whose worst case does not fit; here is what follows from a refusal, and which limits a task
has of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.events import Attempted
from broker.money import nano, shown, text
from broker.purpose import AGAIN, HUMAN, MODEL_CALLS
from broker.settings.budgets import TaskBudget
from dispatcher.policy import Reprompt, Retry, Run, Step

#: Limits are raised and switches turned at any time, and a task that waits for one is told of neither: it asks again.
#: For a limit not sooner: a hundred thousand that wait for tomorrow ask three hundred times a second.
KILLED_WAIT_S = 30.0
LIMIT_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """A task's own limits; None leaves a side open. Money in nano-dollars; people's work is no part of it."""

    hard_nano: int | None = None
    soft_nano: int | None = None
    retry_nano: int | None = None
    llm_calls: int | None = None
    tool_calls: int | None = None
    same_tool_calls: int | None = None
    tokens: int | None = None
    failures: int | None = None
    wall_s: float | None = None


#: A loop of tool calls always has an end, whatever its tools and its model do.
GUARDS: Mapping[str, Any] = {"llm_calls": 30, "tool_calls": 50, "same_tool_calls": 3, "wall_s": 900.0}


def limits_of(
    of_type: TaskBudget, of_task: Mapping[str, Any], raised: Mapping[str, Any], *, guarded: bool = False
) -> Limits:
    """What an operator raised goes over what the producer said, and that over what the type says, side by side.

    ``guarded``: the task may use tools, and ``GUARDS`` hold where nobody says anything.
    """

    def said(name: str) -> Any:
        value = raised.get(name, of_task.get(name, getattr(of_type, name)))
        return GUARDS.get(name) if value is None and guarded else value

    def money(name: str) -> int | None:
        value = said(name)
        return None if value is None else nano(value)

    names = ("llm_calls", "tool_calls", "same_tool_calls", "tokens", "failures", "wall_s")
    counts = {name: said(name) for name in names}
    return Limits(money("hard_usd"), money("soft_usd"), money("retry_usd"), **counts)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call must not leave. ``kind`` is over, killed, closed or unpriced; ``scope`` may be ``task``.

    ``left_nano`` is what the scope has left and ``limit_nano`` its whole limit, None where that is not the point.
    """

    kind: str
    scope: str
    period: str = ""
    left_nano: int | None = None
    limit_nano: int | None = None


def parse_refusal(word: str) -> Refusal:
    """Of a script's word: ``over|workspace:acme|day|1200|5000``."""
    kind, scope, period, *amounts = [*word.split("|"), "", "", "", ""][:5]
    left, limit = (int(one) if one else None for one in amounts)
    return Refusal(kind, scope, period, left, limit)


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after ``delay_s``; ``why`` is what the task waits for."""

    delay_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Refused before anything was spent: a result with the estimate."""

    why: str


@dataclass(frozen=True, slots=True)
class ParkForBudget:
    """Money was spent already: the task keeps its state until its limit is raised."""

    why: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """This lane cannot be paid under limits, as nobody knows its price: the next one."""

    why: str


def refused(
    refusal: Refusal,
    *,
    mode: str,
    spent: bool,
    worst_nano: int | None,
    window_s: float | None,
    left_s: float | None,
) -> Wait | Exceeded | ParkForBudget | Unusable:
    """``spent``: a call was paid for this task already. ``window_s``: until the next window opens, None: never.
    ``left_s``: until the task's deadline, None: it has none."""
    why = explain(refusal, worst_nano)
    if refusal.kind == "unpriced":
        return Unusable(why)
    opens_s = KILLED_WAIT_S if refusal.kind == "killed" else window_s
    if refusal.limit_nano is not None and worst_nano is not None and worst_nano > refusal.limit_nano:
        opens_s = None  # it would fit in no window
    if mode == "async" and opens_s is not None and (left_s is None or opens_s < left_s):
        return Wait(min(opens_s, LIMIT_WAIT_S), f"{why}; waits until {_opened_by(refusal)}")
    return ParkForBudget(why) if spent else Exceeded(why)


def _opened_by(refusal: Refusal) -> str:
    operator = "its limit is raised" if refusal.kind == "over" else "it is switched on"
    return operator if refusal.kind == "killed" else f"{operator} or the next {refusal.period} in UTC begins"


def explain(refusal: Refusal, worst_nano: int | None, what: str = "the call may cost") -> str:
    """In words; ``what`` costs ``worst_nano``."""
    kind, _, name = refusal.scope.partition(":")
    where = f"the limit of task {name}" if name else "the task's own limit"
    if kind != "task":
        where = f"{refusal.scope} per {refusal.period}"
    estimate = (
        f"{what} {shown(text(worst_nano))}" if worst_nano is not None else "the call has no known price"
    )
    match refusal.kind:
        case "killed":
            return f"{refusal.scope} is switched off"
        case "closed":
            return f"{where} is closed: a provider used more than was reserved"
        case "unpriced":
            return f"{estimate}, and {where} is limited"
        case _:
            return f"{estimate}, {where} has {shown(text(refusal.left_nano or 0))} left"


def may_retry(limits: Limits, attempts: Sequence[Attempted], worst_nano: int | None) -> bool:
    """No retry begins whose estimate would take what retries have cost together above their limit."""
    if limits.retry_nano is None:
        return True
    spent = sum(one.cost_nano or 0 for one in attempts if one.purpose in AGAIN)
    return worst_nano is not None and spent + worst_nano <= limits.retry_nano


def stopped(limits: Limits, attempts: Sequence[Attempted], running_s: float) -> str | None:
    """Which limit was reached, so that no further call of a model begins; None where one may.

    ``running_s``: seconds since the task's first call, without the time that it waited for a person. Asked before
    each call, outside of every loop of calls that it is to end.
    """
    models = [one for one in attempts if one.purpose in MODEL_CALLS]
    used = sum(_tokens(one) for one in models)
    if limits.llm_calls is not None and len(models) >= limits.llm_calls:
        return f"its limit of {limits.llm_calls} model calls is reached"
    if limits.tokens is not None and used >= limits.tokens:
        return f"its limit of {limits.tokens} tokens is reached: it has used {used}"
    # How often a worker may be lost with a task is the fleet's limit, and a replayed task starts with none of it used.
    failed = sum(one.failure not in ("", "worker_lost") or one.verdict == "fail" for one in attempts)
    if limits.failures is not None and failed >= limits.failures:
        return f"its limit of {limits.failures} failures is reached"
    if limits.wall_s is not None and running_s >= limits.wall_s:
        return f"its limit of {limits.wall_s:g} s of running is reached"
    return None


def tool_stopped(limits: Limits, used: int, running_s: float) -> str | None:
    """Which limit was reached, so that no further tool is used after ``used`` calls; None where one may be."""
    if limits.tool_calls is not None and used >= limits.tool_calls:
        return f"its limit of {limits.tool_calls} tool calls is reached"
    if limits.wall_s is not None and running_s >= limits.wall_s:
        return f"its limit of {limits.wall_s:g} s of running is reached"
    return None


def _tokens(one: Attempted) -> int:
    return (
        one.input_tokens
        + one.cached_input_tokens
        + one.cache_write_tokens
        + one.output_tokens
        + one.reasoning_tokens
    )


def own_nano(booked_nano: int, attempts: Sequence[Attempted]) -> int:
    """What counts against the task's own limits: all that is booked for it but people's work."""
    return booked_nano - sum(one.cost_nano or 0 for one in attempts if one.purpose == HUMAN)


def over_soft(limits: Limits, booked_nano: int, attempts: Sequence[Attempted], last: Attempted) -> bool:
    """``booked_nano`` and ``attempts`` are from before the last call."""
    if limits.soft_nano is None:
        return False
    return own_nano(booked_nano, attempts) + (last.cost_nano or 0) + last.gate_cost_nano >= limits.soft_nano


def spare(
    step: Step, lane: str, chain: Sequence[str], attempts: Sequence[Attempted], unavailable: Mapping[str, str]
) -> Step:
    """Over its soft limit a task's next attempt is made on the cheapest lane that was not tried yet, where there is one
    below the lane that would have its turn. Else it goes on as it would."""
    match step:
        case Run(planned):
            pass
        case Retry() | Reprompt():
            planned = lane
        case _:
            return step
    below = chain[: chain.index(planned)] if planned in chain else ()
    tried = {one.lane for one in attempts}
    for name in below:
        if name not in tried and name not in unavailable:
            return Run(name, f"over its soft limit, so {name} before {planned}")
    return step
