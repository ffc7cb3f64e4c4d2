"""`laneway compare`: the same cases with and without tools and context guards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from broker.errors import BadTask, ResultTimeout
from broker.money import round_half_even
from broker.purpose import MODEL_CALLS, TOOL
from broker.state import Record
from broker.task import new_task_id, reference
from laneway.cli.options import json_option
from laneway.cli.output import bar, emit, price, say, table, usd
from laneway.cli.taskfile import Row, opened
from laneway.client import BATCH, Client, Handle

#: Each way of doing the cases, with what it takes away from their type: no tools, or all guards but the named ones.
VARIANTS: Mapping[str, Row] = {
    "plain": {"tools": [], "guards": []},
    "tools": {"guards": []},
    "history": {"tools": [], "guards": ["history"]},
    "passages": {"tools": [], "guards": ["passages"]},
    "all": {},
}
PAGE = 100  # records in memory
FIGURES = (
    "tasks", "succeeded", "cost_usd", "usd_per_success", "llm_calls", "tool_calls", "input_tokens", "tokens_cut",
    "unused_tokens",
)  # fmt: skip


@click.command()
@click.option(
    "--file", "-f", "path", metavar="CASES.jsonl", required=True, help="As for submit, without task ids."
)
@click.option("--type", "task_type", help="For every case that does not say another.")
@click.option(
    "--variant",
    "names",
    type=click.Choice(list(VARIANTS)),
    multiple=True,
    help="Only these; may stand several times.",
)
@click.option("--workspace", default="compare", show_default=True, help="Where it is accounted.")
@click.option(
    "--wait", type=click.FloatRange(min=0, min_open=True), default=math.inf, help="Seconds at most."
)
@json_option
def compare(
    path: str, task_type: str | None, names: tuple[str, ...], workspace: str, wait: float, as_json: bool
) -> None:
    """The same cases with and without tools and context guards.

    Each case is really run in each variant, and booked as an evaluation run: plain (neither), tools, history and
    passages (one guard each), all (as the type is configured). Success is what the type's gate says; unused tokens are
    those of which the answer shows no trace.
    """
    with opened(path) as file:
        defaults = {"workspace": workspace, "role": "eval"} | ({"type": task_type} if task_type else {})
        cases = file.check(defaults)
        rows = list(file.rows(defaults))
    if any("task_id" in row for row in rows):
        raise BadTask(f"{path}: a case has a task_id", mend="take it out: each variant is a task of its own")
    chosen = list(dict.fromkeys(names)) or list(VARIANTS)
    client = Client()
    ran = {name: submitted(client, rows, VARIANTS[name]) for name in chosen}
    every = [handle for handles in ran.values() for handle in handles]
    _wait(client, every, wait)
    told = {name: figures(_records(client, handles)) for name, handles in ran.items()}
    if as_json:
        emit({"cases": cases, "variants": told})
    else:
        _tell(cases, told)


def submitted(client: Client, rows: Sequence[Row], variant: Row) -> list[Handle]:
    tasks = [{**row, **variant, "task_id": new_task_id()} for row in rows]
    return [one for at in range(0, len(tasks), BATCH) for one in client.submit_many(tasks[at : at + BATCH])]


def _wait(client: Client, handles: Sequence[Handle], wait: float) -> None:
    left = len(handles)
    with bar(left, "done") as advance:
        for _ in client.results(handles, None if math.isinf(wait) else wait):
            left -= 1
            advance(1)
    if left:
        raise ResultTimeout(
            f"{left} of {len(handles)} tasks have not ended within {wait:g} s", mend="give --wait more"
        )


def _records(client: Client, handles: Sequence[Handle]) -> Iterator[Record]:
    refs = [reference(one.workspace, one.task_id) for one in handles]
    for at in range(0, len(refs), PAGE):
        yield from client.store.records.many(refs[at : at + PAGE])


def figures(records: Iterable[Record]) -> dict[str, Any]:
    """What the tasks of one variant came to. Money as decimal strings; that of their sub-tasks is in it."""
    sums: Counter[str] = Counter()
    for record in records:
        sums.update(_of(record))
    cost, successes = sums["cost"], sums["succeeded"]
    money = {
        "cost_usd": usd(cost),
        "usd_per_success": usd(round_half_even(cost, successes)) if successes else None,
    }
    return {name: money[name] if name in money else sums[name] for name in FIGURES}


def _of(record: Record) -> dict[str, int]:
    progress, attempts = record.progress, record.progress.attempts
    models = [one for one in attempts if one.purpose in MODEL_CALLS]
    return {
        "tasks": 1,
        "succeeded": record.status == "succeeded",
        "cost": record.cost_nano + record.family_nano,
        "llm_calls": len(models),
        "tool_calls": sum(one.purpose == TOOL for one in attempts),
        "input_tokens": sum(
            one.input_tokens + one.cached_input_tokens + one.cache_write_tokens for one in models
        ),
        "tokens_cut": progress.history_tokens + progress.passages_tokens,
        "unused_tokens": progress.unused_tokens,
    }


def _tell(cases: int, told: Mapping[str, Mapping[str, Any]]) -> None:
    say(f"{cases} cases, each in {len(told)} variants")
    table(
        ("variant", *(name.removesuffix("_usd").replace("_", " ") for name in FIGURES)),
        ((name, *(_cell(figure, row[figure]) for figure in FIGURES)) for name, row in told.items()),
        right=tuple(name.removesuffix("_usd").replace("_", " ") for name in FIGURES),
    )


def _cell(figure: str, value: Any) -> str:
    if "usd" in figure:
        return "-" if value is None else price(value)
    return f"{value:,}"
