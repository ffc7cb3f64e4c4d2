"""Hand in tasks, wait for them, stop them, say what they were worth."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import click

from broker.errors import LanewayError, ResultTimeout
from broker.task import MODES, new_task_id
from laneway.cli.options import in_order, json_option, one_task
from laneway.cli.output import bar, emit, price, say
from laneway.cli.taskfile import Row, opened, read_prompt
from laneway.client import BATCH, Client, Handle, Result, result_of
from laneway.submission import Budget, task_of

SHOWN_IDS = 3


class WaitCommand(click.Command):
    """``--wait`` may stand without its number: ``submit --wait "a prompt"`` waits for ever and takes the prompt."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for index in range(end):
            if args[index] == "--wait" and not (index + 1 < end and _is_number(args[index + 1])):
                args[index] = "--wait=inf"
        return super().parse_args(ctx, args)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


wait_option = click.option(
    "--wait", type=click.FloatRange(min=0), metavar="[S]", help="Wait, at most S seconds (default: for ever)."
)


def _json_or_file(_: click.Context, option: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        text = value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{value} is neither JSON nor a readable file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from error


def _gate(_: click.Context, option: click.Parameter, value: str | None) -> Any:
    if value is None or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from error


#: The options that are ``submit``'s keyword arguments.
_arguments = in_order(
    click.option("--type", "type", metavar="T", help="The task type (default: the dispatcher classifies)."),
    click.option("--mode", type=click.Choice(MODES), help="Default: sync."),
    click.option("--workspace", metavar="W", help="Whose task it is (default: default)."),
    click.option("--workflow", metavar="W"),
    click.option("--pipeline", metavar="P"),
    click.option("--user", metavar="U"),
    click.option("--priority", type=int, help="A higher one goes first within its queue."),
    click.option("--deadline-s", type=float, help="Seconds from now."),
    click.option(
        "--schema", callback=_json_or_file, metavar="FILE|JSON", help="A JSON Schema of the answer."
    ),
    click.option(
        "--gate", callback=_gate, metavar="KIND|JSON", help="A check of the answer, beside the type's."
    ),
    click.option("--value-usd", metavar="USD", help="What a success is worth."),
    click.option("--hard-usd", metavar="USD", help="The task stops before it costs more."),
    click.option(
        "--soft-usd",
        metavar="USD",
        help="Above it the next attempt is on a cheaper lane, and people are told.",
    ),
    click.option("--retry-usd", metavar="USD", help="What its retries may cost together."),
    click.option("--llm-calls", type=click.IntRange(min=0), help="How many model calls it may make."),
    click.option("--tool-calls", type=click.IntRange(min=0), help="How many tool calls it may make."),
    click.option(
        "--same-tool-calls", type=click.IntRange(min=0), help="How many of them with the same arguments."
    ),
    click.option(
        "--tokens", type=click.IntRange(min=0), help="No model call begins once it has used so many."
    ),
    click.option("--failures", type=click.IntRange(min=1), help="How many of its calls may fail."),
    click.option("--wall-s", type=float, help="How long it may run, from its first call on."),
    click.option("--callback-url", metavar="URL", help="Not in this version: ask for the result."),
    click.option("--role", type=click.Choice(("eval",)), help="Booked as an evaluation run."),
    click.option("--parent", metavar="TASK_ID", help="The task that this one is part of."),
)


def _row(options: dict[str, Any]) -> Row:
    """The keyword arguments of ``submit`` that were given."""
    given = {name: value for name, value in options.items() if value is not None}
    budget = {one.name: given.pop(one.name) for one in fields(Budget) if one.name in given}
    return {**given, "budget": budget} if budget else given


@click.command(cls=WaitCommand)
@click.argument("prompt", required=False)
@click.option(
    "--file", "-f", "path", metavar="TASKS.jsonl", help="One JSON object a line; - is standard input."
)
@click.option("--task-id", metavar="ID", help="Your own id: the same id with the same content is one task.")
@_arguments
@wait_option
@json_option
def submit(
    prompt: str | None,
    path: str | None,
    task_id: str | None,
    wait: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Queue one task, or a file of them.

    Prints the task ids; with --wait the results, one JSON line a task as they end. A line of the file holds the keyword
    arguments of submit ({"prompt": "…", "type": "…", …}); the options given here hold for every line that does not say
    otherwise. All lines are checked before anything is stored. PROMPT - reads standard input.

    With --wait the exit code is 0 once every task has its result, whatever that is, and 1 when the time was over first.
    """
    if (prompt is None) == (path is None):
        raise click.UsageError("give either a PROMPT or --file")
    if path is not None and task_id is not None:
        raise click.UsageError("--task-id is for a single PROMPT; in a file each line has its own task_id")
    row = _row(options)
    if path is None:
        row |= {"prompt": read_prompt(prompt or ""), "task_id": new_task_id() if task_id is None else task_id}
        task_of(row)  # what is wrong with it is said even where nothing can be reached
        client = Client()
        handles = [client.submit(**row)]
    else:
        with opened(path) as file:
            total = file.check(row)
            client = Client()
            handles = _stream(client, file.rows(row), total, file.name)
    if wait is not None:
        _results(client, handles, wait)
    elif as_json:
        emit({"tasks": [{"task_id": one.task_id, "workspace": one.workspace} for one in handles]})
    else:
        for one in handles:
            click.echo(one.task_id)


def _stream(client: Client, rows: Iterable[Row], total: int, name: str) -> list[Handle]:
    """Batch by batch; each task has its id before it leaves, so that a lost reply does not double it."""
    handles: list[Handle] = []
    left = iter(rows)
    with bar(total, "submitted") as advance:
        while batch := list(islice(left, BATCH)):
            for row in batch:
                row.setdefault("task_id", new_task_id())
            try:
                handles += client.submit_many(batch)
            except LanewayError as error:
                first = len(handles) + 1
                where = f"tasks {first} to {len(handles) + len(batch)} of {total} in {name}"
                stored = f"; those before them are stored, from {handles[0].task_id} on" if handles else ""
                raise type(error)(f"{where}: {error.message}{stored}", mend=error.mend) from error
            advance(len(batch))
    return handles


def _results(client: Client, handles: Sequence[Handle], wait: float) -> None:
    missing = {(one.workspace, one.task_id) for one in handles}
    total = len(missing)
    with bar(total, "done") as advance:
        for found in client.results(handles, None if math.isinf(wait) else wait):
            emit(found.as_dict())
            sys.stdout.flush()
            missing.discard((found.workspace, found.task_id))
            advance(1)
    if missing:
        some = ", ".join(sorted(task_id for _, task_id in missing)[:SHOWN_IDS])
        raise ResultTimeout(
            f"{len(missing)} of {total} tasks have not ended within {wait:g} s ({some}, …); they go on",
            mend="ask for each with `laneway result TASK_ID --wait`",
        )


@click.command(cls=WaitCommand)
@one_task
@wait_option
@json_option
def result(task_id: str, workspace: str | None, wait: float | None, as_json: bool) -> None:
    """What became of a task.

    Without --wait as it stands now. The exit code is 0 for every answer, whatever the task's status, and 1 where there
    is none.
    """
    client = Client()
    if wait is None:
        found = result_of(client.record(task_id, workspace=workspace))
    else:
        found = client.result(task_id, workspace=workspace, timeout_s=None if math.isinf(wait) else wait)
    if as_json:
        emit(found.as_dict())
    else:
        _tell(found)


def _tell(found: Result) -> None:
    row = found.as_dict()
    lanes = " → ".join(found.lanes) or found.lane or "no lane yet"
    calls = len(found.attempts)
    say(f"{found.status}  {lanes}  {price(row['cost_usd'])}  {calls} call{'' if calls == 1 else 's'}")
    if found.reason:
        say(f"reason: {found.reason}")
    if found.output is not None:
        say(found.output)


@click.command()
@one_task
@json_option
def cancel(task_id: str, workspace: str | None, as_json: bool) -> None:
    """Stop a task; what was spent is settled.

    Gives `cancelled`, `cancelling` (a call is under way and is broken off) or the end that it had reached before.
    """
    status = Client().cancel(task_id, workspace=workspace)
    if as_json:
        emit({"task_id": task_id, "status": status})
    else:
        say(status)


@click.command()
@one_task
@click.option("--ok/--not-ok", default=None, help="Whether the outcome was right.")
@click.option("--value-usd", metavar="USD", help="What it was worth.")
@click.option("--comment", default="", help="A word about it.")
@json_option
def feedback(
    task_id: str, workspace: str | None, ok: bool | None, value_usd: str | None, comment: str, as_json: bool
) -> None:
    """Say what a task's outcome was worth."""
    if ok is None and value_usd is None and not comment:
        raise click.UsageError("say --ok or --not-ok, --value-usd, or --comment")
    Client().feedback(task_id, workspace=workspace, ok=ok, value_usd=value_usd, comment=comment)
    if as_json:
        emit({"task_id": task_id, "ok": ok, "value_usd": value_usd, "comment": comment})
    else:
        say("noted")
