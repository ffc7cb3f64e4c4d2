"""`laneway budget`: what may be spent, what was, and the switches."""

from __future__ import annotations

from typing import Any

import click

from broker.connect import connect
from broker.errors import ReviewRefused
from broker.limits import PERIODS
from broker.money import nano
from broker.settings import Settings, load
from broker.settings.budgets import SCOPE
from broker.settings.lanes import HUMAN
from broker.state import BudgetState
from broker.task import TERMINAL
from dispatcher.budget import own_nano
from laneway.cli.amounts import amount
from laneway.cli.options import json_option, workspace_option
from laneway.cli.output import emit, price, say, table, usd
from laneway.client import Client
from laneway.submission import MONEY_LIMIT_NANO

FILE = "-"  # in place of an amount: what the configuration says


@click.group()
def budget() -> None:
    """What may be spent: list, set, raise, kill, unkill.

    A SCOPE is fleet, or one of workspace: workflow: pipeline: user: lane: and a name, as workspace:acme or lane:human.
    """


def _scope(_: click.Context, option: click.Parameter, value: str) -> str:
    if not SCOPE.fullmatch(value):
        raise click.BadParameter(
            f"unknown scope {value!r}; write fleet, or one of workspace: workflow: pipeline: user: lane: and a name,"
            f" as workspace:{value if SCOPE.fullmatch(f'user:{value}') else 'acme'}"
        )
    return value


def _amount(_: click.Context, option: click.Parameter, value: str) -> int | None:
    """Nano-dollars; None for the configuration's word."""
    if value == FILE:
        return None
    return amount(value)


def _limit(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Nano-dollars; None where it is not said."""
    if value == FILE:
        raise click.BadParameter("a task's limit is an amount")
    return None if value is None else amount(value, MONEY_LIMIT_NANO)


scope_argument = click.argument("scope", callback=_scope)


@budget.command("list")
@json_option
def list_budgets(as_json: bool) -> None:
    """Every limit with what is spent, reserved and left in its present window."""
    settings = load()
    store = connect(settings)
    states, killed = store.limits.states(), store.limits.killed()
    limited = {one.scope for one in states}
    if as_json:
        emit({"budgets": [_row(one) for one in states], "killed": killed})
    elif states:
        table(
            ("scope", "per", "limit", "spent", "reserved", "left", "used", "alerts", "state"),
            (_cells(_row(one)) for one in states),
            right=("limit", "spent", "reserved", "left", "used"),
        )
    else:
        say("no limits")
    if not as_json:
        for scope in killed:
            if scope not in limited:
                say(f"{scope} is switched off")
    _tell_of_the_file(settings, states)


def _row(one: BudgetState) -> dict[str, Any]:
    used = one.spent_nano + one.reserved_nano
    return {
        "scope": one.scope,
        "period": one.period,
        "window": one.window,
        "limit_usd": usd(one.limit_nano),
        "configured_usd": usd(one.file_nano),
        "overridden": one.overridden,
        "spent_usd": usd(one.spent_nano),
        "reserved_usd": usd(one.reserved_nano),
        "left_usd": usd(one.left_nano),
        "used_share": round(used / one.limit_nano, 4) if one.limit_nano else None,
        "alerts": list(one.alerted),
        "closed": one.closed,
        "killed": one.killed,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    words = [
        "switched off" if row["killed"] else "",
        "closed by an overrun" if row["closed"] else "",
        f"the file says {_configured(row['configured_usd'])}" if row["overridden"] else "",
    ]
    return (
        row["scope"],
        row["period"],
        price(row["limit_usd"]),
        price(row["spent_usd"]),
        price(row["reserved_usd"]),
        price(row["left_usd"]),
        "-" if row["used_share"] is None else f"{row['used_share']:.0%}",
        ", ".join(f"{level}%" for level in row["alerts"]) or "-",
        "; ".join(filter(None, words)) or "open",
    )


def _configured(told: str | None) -> str:
    return "nothing" if told is None else price(told)


def _tell_of_the_file(settings: Settings, states: list[BudgetState]) -> None:
    """A node declares the file's limits when it starts; what was written since does not hold yet."""
    declared = {(one.scope, one.period): one.file_nano for one in states}
    for row in settings.budgets:
        limit_nano = nano(row.usd)
        if declared.get((row.scope, row.period)) != limit_nano:
            file = f"{row.scope} per {row.period}: the file's {price(usd(limit_nano))}"
            click.echo(f"{file} holds once a node has started with it", err=True)


@budget.command("set")
@scope_argument
@click.option("--period", type=click.Choice(PERIODS), required=True, help="In UTC.")
@click.option(
    "--usd", "limit_nano", required=True, callback=_amount, metavar="N", help="- is what the file says."
)
@json_option
def set_budget(scope: str, period: str, limit_nano: int | None, as_json: bool) -> None:
    """An operator's limit, over the file's, at once and fleet-wide. What waits for it asks again within 5 minutes."""
    settings = load()
    _known_lane(scope, settings)
    store = connect(settings)
    store.limits.override(scope, period, limit_nano)
    state = store.limits.state(scope, period)
    if as_json:
        emit({"budget": _row(state) if state else None})
    elif state is None:
        say(f"{scope} per {period} has no limit")
    else:
        say(f"{scope} per {period}: {price(usd(state.limit_nano))}, {price(usd(state.left_nano))} left")


@budget.command("raise")
@click.argument("task_id")
@click.option("--usd", "limit_nano", callback=_limit, metavar="N", help="The new hard limit, spend included.")
@click.option("--llm-calls", type=click.IntRange(min=1), help="How many model calls it may make in all.")
@click.option("--tool-calls", type=click.IntRange(min=1), help="How many tool calls it may make in all.")
@click.option(
    "--same-tool-calls", type=click.IntRange(min=1), help="How many of them with the same arguments."
)
@click.option("--tokens", type=click.IntRange(min=1), help="How many tokens its model calls may use in all.")
@click.option("--failures", type=click.IntRange(min=1), help="How many of its calls may fail.")
@click.option("--wall-s", type=click.FloatRange(min=0, min_open=True), help="How long it may run in all.")
@workspace_option
@json_option
def raise_budget(
    task_id: str, limit_nano: int | None, llm_calls: int | None, tool_calls: int | None,
    same_tool_calls: int | None, tokens: int | None, failures: int | None, wall_s: float | None,
    workspace: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Give one task other limits of its own; one that is parked at a limit goes on."""
    counts = {
        "llm_calls": llm_calls, "tool_calls": tool_calls, "same_tool_calls": same_tool_calls, "tokens": tokens,
        "failures": failures, "wall_s": wall_s,
    }  # fmt: skip
    others = {name: count for name, count in counts.items() if count is not None}
    if limit_nano is None and not others:
        raise click.UsageError("say which limit to raise, as --usd 1.50 or --llm-calls 60")
    client = Client()
    record = client.record(task_id, workspace=workspace)
    ref = record.task.ref
    if record.status in TERMINAL:
        raise ReviewRefused(
            f"{ref} has ended as {record.status}; no limit brings it back",
            mend="submit it again under a new id",
        )
    spent = own_nano(record.cost_nano - record.shares_nano, record.progress.attempts)
    if limit_nano is not None and limit_nano <= spent:
        raise ReviewRefused(
            f"{ref} has cost {price(usd(spent))} so far; it could not go on with {price(usd(limit_nano))}",
            mend="name more than it has cost",
        )
    money = [] if limit_nano is None else [price(usd(limit_nano))]
    limits = ", ".join([*money, *(f"{name} {count:g}" for name, count in others.items())])
    before = client.store.parked.raise_limits(ref, limit_nano, others)
    goes_on = before == "parked"
    reason = record.outcome.reason if record.outcome else ""
    if as_json:
        emit({"task_id": record.task.task_id, "workspace": record.task.workspace,
              "hard_usd": usd(limit_nano), **others,
              "before": before, "goes_on": goes_on, "why_parked": reason if goes_on else None})  # fmt: skip
    elif goes_on:
        say(f"{ref} goes on, with {limits} in all; it was parked: {reason}")
    elif before == HUMAN:
        say(f"{ref} now has {limits}, but it waits for a person: laneway review show {task_id}")
    else:
        say(f"{ref} is {before}; {limits} holds from its next call on")


@budget.command("kill")
@scope_argument
@json_option
def kill(scope: str, as_json: bool) -> None:
    """No call leaves under this scope any more, at once and fleet-wide; calls under way end."""
    _switch(scope, as_json, off=True)


@budget.command("unkill")
@scope_argument
@json_option
def unkill(scope: str, as_json: bool) -> None:
    """The switch is back, and what an overrun closed is open again. What waits for it asks again in 5 minutes."""
    _switch(scope, as_json, off=False)


def _switch(scope: str, as_json: bool, *, off: bool) -> None:
    settings = load()
    _known_lane(scope, settings)
    store = connect(settings)
    (store.limits.kill if off else store.limits.unkill)(scope)
    if as_json:
        emit({"scope": scope, "killed": off})
    else:
        say(f"{scope} is switched {'off' if off else 'on'}")


def _known_lane(scope: str, settings: Settings) -> None:
    """A mistyped lane would limit nothing and be noticed by nobody."""
    kind, _, name = scope.partition(":")
    if kind == "lane" and name not in (*settings.lanes, HUMAN):
        raise click.BadParameter(
            f"no lane {name!r}; there are {', '.join([*settings.lanes, HUMAN])}", param_hint="SCOPE"
        )
