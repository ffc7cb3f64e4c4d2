"""`laneway review`: what waits for a person."""

from __future__ import annotations

from typing import Any

import click

from broker.connect import connect
from broker.settings import load
from broker.store import Record, Store
from laneway.cli.output import emit, json_option, moment, price, say, shorten, table, usd
from laneway.cli.story import story, tell
from laneway.client import Client

SHOWN = 1000


@click.group()
def review() -> None:
    """Tasks that wait for a person: list, show."""


@review.command("list")
@json_option
def list_parked(as_json: bool) -> None:
    """All of them, the longest waiting first."""
    rows = parked(connect(load()))
    if as_json:
        emit({"parked": rows})
        return
    if not rows:
        say("nothing waits for a person")
        return
    table(
        ("task", "type", "submitted", "cost", "why", "prompt"),
        (
            (
                f"{row['workspace']}/{row['task_id']}",
                row["type"],
                row["submitted_at"],
                price(row["cost_usd"]),
                shorten(row["why"], 80),
                shorten(row["prompt"], 60),
            )
            for row in rows
        ),
        right=("cost",),
    )


def parked(store: Store) -> list[dict[str, Any]]:
    return [_row(record) for record in store.records(store.parked(SHOWN))]


def _row(record: Record) -> dict[str, Any]:
    return {
        "task_id": record.task.task_id,
        "workspace": record.task.workspace,
        "type": record.progress.task_type,
        "submitted_at": moment(record.submitted_us),
        "cost_usd": usd(record.cost_nano),
        "why": record.outcome.reason if record.outcome else record.progress.why,
        "last_answer": record.progress.last_answer or None,
        "prompt": record.task.prompt,
    }


@review.command("show")
@click.argument("task_id")
@click.option("--workspace", help="Needed only where two workspaces have a task of that id.")
@json_option
def show_parked(task_id: str, workspace: str | None, as_json: bool) -> None:
    """One of them, with all that a person needs to take it over."""
    told = story(Client().record(task_id, workspace=workspace))
    if as_json:
        emit(told)
    else:
        tell(told)
