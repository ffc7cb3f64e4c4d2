"""`laneway review`: what waits for a person, and what a person does about it."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from broker.clock import US_PER_S
from broker.connect import connect
from broker.errors import ReviewRefused
from broker.settings import Settings, load
from broker.settings.lanes import HUMAN
from broker.sights import Sights
from broker.state import Record
from broker.store import Store
from dispatcher.availability import unavailable
from dispatcher.budget import explain, parse_refusal
from dispatcher.gates import Verdict, gates_of, judge
from laneway.cli.amounts import amount
from laneway.cli.options import Command, in_order, json_option, one_task
from laneway.cli.output import emit, moment, price, say, shorten, span, table, usd
from laneway.cli.story import story, tell
from laneway.client import Client
from laneway.submission import MONEY_LIMIT_NANO
from workers.human import Word, Work, answered, approved, carry_out, lane_to_try, priced, rejected, sent_back

SHOWN = 1000
P = ParamSpec("P")
PAGE = 100  # records that are in memory at a time: each may be as large as a payload


@click.group()
def review() -> None:
    """Tasks that wait for a person: list, show, answer, approve, reject, retry, export.

    What a person does is booked on the task, priced by [human] in laneway.toml; the time that the task waited for them
    does not count against its deadline.
    """


@review.command("list")
@click.option(
    "--sort",
    type=click.Choice(["oldest", "priority"]),
    default="oldest",
    show_default=True,
    help="What has waited longest first, or what is most urgent.",
)
@json_option
def list_parked(sort: str, as_json: bool) -> None:
    """All of them, with how long each has waited."""
    found = parked(connect(load()))
    rows = list(found if as_json else map(_brief, found))
    if sort == "priority":
        rows.sort(key=lambda row: -row["priority"])
    if as_json:
        emit({"parked": rows})
        return
    if not rows:
        say("nothing waits for a person")
        return
    table(
        ("waits", "task", "type", "priority", "cost", "why", "prompt"),
        (
            (
                span(row["waiting_s"]),
                f"{row['workspace']}/{row['task_id']}",
                row["type"],
                str(row["priority"]),
                price(row["cost_usd"]),
                row["why"],
                row["prompt"],
            )
            for row in rows
        ),
        right=("waits", "priority", "cost"),
    )


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of it: a prompt may be as long as a payload."""
    return row | {"why": shorten(row["why"], 80), "prompt": shorten(row["prompt"], 60), "last_answer": None}


def parked(store: Store) -> Iterator[dict[str, Any]]:
    """The longest waiting first."""
    now_us = store.clock.now_us()
    for record in _paged(store, "parked", store.parked.refs(SHOWN)):
        yield _row(record, now_us)


def _paged(store: Store, status: str, refs: Sequence[str]) -> Iterator[Record]:
    """Those that are still kept and of this status, page by page."""
    for start in range(0, len(refs), PAGE):
        yield from store.records.that_are(status, refs[start : start + PAGE])


def _row(record: Record, now_us: int) -> dict[str, Any]:
    return {
        "task_id": record.task.task_id,
        "workspace": record.task.workspace,
        "type": record.progress.task_type,
        "priority": record.task.priority,
        "submitted_at": moment(record.submitted_us),
        "parked_at": moment(record.since_us),
        "waiting_s": max(0, now_us - record.since_us) / US_PER_S,
        "cost_usd": usd(record.cost_nano),
        "why": record.outcome.reason if record.outcome else record.progress.why,
        "last_answer": record.progress.last_answer or None,
        "prompt": record.task.prompt,
    }


@review.command("show")
@one_task
@json_option
def show_parked(task_id: str, workspace: str | None, as_json: bool) -> None:
    """One of them, with all that a person needs to take it over."""
    told = story(Client().record(task_id, workspace=workspace))
    if as_json:
        emit(told)
    else:
        tell(told)


def _minutes(_: click.Context, option: click.Parameter, value: str | None) -> Decimal | None:
    if value is None:
        return None
    try:
        minutes = Decimal(value)
    except InvalidOperation:
        minutes = Decimal(-1)
    if not (minutes.is_finite() and 0 <= minutes <= 7 * 24 * 60):
        raise click.BadParameter(f"{value!r} is no number of minutes")
    return minutes


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is said of every deed: to which task, and whose work it is."""

    task_id: str
    workspace: str | None
    minutes: Decimal | None
    by: str | None
    over: bool
    as_json: bool

    def desk(self) -> _Desk:
        """Raises ReviewRefused for a task that does not wait for a person, and where people's work is switched off."""
        client = Client()
        if client.store.limits.is_killed(f"lane:{HUMAN}"):
            raise ReviewRefused(
                "people's work is switched off", mend=f"laneway budget unkill lane:{HUMAN} switches it on"
            )
        record = client.record(self.task_id, workspace=self.workspace)
        if record.status != "parked":
            raise ReviewRefused(
                f"{record.task.ref} does not wait for a person: it is {record.status}",
                mend="laneway review list shows what does",
            )
        by, at_us = self.by or _account(), client.store.clock.now_us()
        work = priced(client.settings.human, by=by, at_us=at_us, minutes=self.minutes)
        return _Desk(client, record, work, self.as_json, self.over)


def _working(deed: Callable[Concatenate[_Asked, P], None]) -> Command:
    """The options that every deed has, which it is given as one."""

    @in_order(
        one_task,
        click.option("--minutes", callback=_minutes, metavar="M", help="How long it took."),
        click.option("--by", help="Who did it; this account's name where it is not said."),
        click.option(
            "--over-budget",
            "over",
            is_flag=True,
            help="Book the work also where a budget has no room for it.",
        ),
        json_option,
    )
    @wraps(deed)
    def command(
        task_id: str, workspace: str | None, minutes: Decimal | None, by: str | None, over: bool, as_json: bool,
        *args: P.args, **own: P.kwargs,
    ) -> None:  # fmt: skip
        deed(_Asked(task_id, workspace, minutes, by, over, as_json), *args, **own)

    return command


@dataclass(frozen=True, slots=True)
class _Desk:
    """What all the deeds need, and the way in which each is done."""

    client: Client
    record: Record
    work: Work
    as_json: bool
    over: bool

    @property
    def settings(self) -> Settings:
        return self.client.settings

    def do(self, word: Word, *, hard_nano: int | None = None) -> None:
        """Carry it out and tell what came of it. Raises ReviewRefused where the task has gone on meanwhile."""
        store, ref = self.client.store, self.record.task.ref
        came = carry_out(store, self.record, word, hard_nano=hard_nano, over=self.over)
        if came == "gone on":
            raise ReviewRefused(
                f"{ref} has gone on meanwhile; nothing was done",
                mend=f"look again: laneway review show {ref}",
            )
        if came != "done":
            why = explain(parse_refusal(came), self.work.cost_nano, "the work costs")
            raise ReviewRefused(
                f"{why}; nothing was done",
                mend="give the budget room (laneway budget set), or say --over-budget to book it all the same",
            )
        if self.as_json:
            emit(
                {
                    "task_id": self.record.task.task_id,
                    "workspace": self.record.task.workspace,
                    "status": word.status,
                    "lane": word.progress.lane if word.status == "queued" else HUMAN,
                    "by": self.work.by,
                    "human_usd": usd(self.work.cost_nano),
                    "verdict": word.fact.verdict,
                    "complaint": word.fact.complaint,
                }
            )
        else:
            where = f" on lane {word.progress.lane}" if word.status == "queued" else ""
            say(f"{ref}  {word.status}{where}  by {self.work.by}, {price(usd(self.work.cost_nano))}")
        if self.work.cost_nano is None:
            needed = (
                "say --minutes" if self.settings.human.usd_per_minute is not None else "set one in [human]"
            )
            click.echo(f"the work is booked as unpriced: no price is known; {needed}", err=True)


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in a container
        return f"uid-{os.getuid()}"


@review.command("answer")
@_working
@click.option("--text", help="The answer; - reads standard input.")
@click.option("--file", "path", type=click.Path(dir_okay=False), help="The answer is in this file.")
@click.option("--force", is_flag=True, help="Also where its gates do not let it pass.")
def answer(asked: _Asked, text: str | None, path: str | None, force: bool) -> None:
    """A person's answer becomes the task's output; its gates judge it as any other."""
    if (text is None) == (path is None):
        raise click.UsageError("give the answer as --text or --file")
    said = _read(path) if path else sys.stdin.read() if text == "-" else text or ""
    if not said.strip():
        raise click.UsageError("the answer is empty")
    desk = asked.desk()
    verdict = _judged(desk, said)
    if verdict.passed is False and not force:
        raise ReviewRefused(
            f"the answer does not pass its gate ({verdict.gate}): {verdict.complaint}",
            mend="correct the answer, or say --force where the gate is wrong",
        )
    if verdict.passed is False:
        click.echo(f"its gate ({verdict.gate}) is overruled: {verdict.complaint}", err=True)
    desk.do(answered(desk.record, desk.work, said, verdict))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReviewRefused(
            f"{path} cannot be read: {error}", mend="make it a readable UTF-8 file"
        ) from error


def _judged(desk: _Desk, text: str) -> Verdict:
    name, types = desk.record.progress.task_type, desk.settings.types
    if name not in types:
        raise ReviewRefused(
            f"the type {name!r} of this task is not in the configuration, and its gate neither",
            mend="put the type back; or approve, reject or retry the task",
        )
    return judge(gates_of(types[name], desk.record.task), text, desk.record.task)


@review.command("approve")
@_working
def approve(asked: _Asked) -> None:
    """The last model's answer is good: it becomes the output."""
    desk = asked.desk()
    if not desk.record.progress.last_answer:
        raise ReviewRefused(
            f"{desk.record.task.ref} has no answer to approve", mend="answer it, or retry it on another lane"
        )
    desk.do(approved(desk.record, desk.work))


@review.command("reject")
@_working
@click.option("--reason", default="", help="Why; it is kept with the task and in the ledger.")
def reject(asked: _Asked, reason: str) -> None:
    """The task ends as failed."""
    desk = asked.desk()
    desk.do(rejected(desk.record, desk.work, reason))


def _limit(_: click.Context, option: click.Parameter, value: str | None) -> int | None:
    return None if value is None else amount(value, MONEY_LIMIT_NANO)


@review.command("retry")
@_working
@click.option("--lane", help="A lane of its chain; the last one that tried where it is not said.")
@click.option("--instruction", default="", metavar="TEXT", help="What is said to the model besides.")
@click.option(
    "--hard-usd",
    "hard_nano",
    callback=_limit,
    metavar="N",
    help="The task's own limit from now on, what it has cost so far included.",
)
def retry(asked: _Asked, lane: str | None, instruction: str, hard_nano: int | None) -> None:
    """Back onto a lane of its chain, corrected; from there on it climbs as ever."""
    desk = asked.desk()
    named = lane or lane_to_try(desk.record)
    lanes = [one for one in desk.record.progress.chain if one in desk.settings.lanes]
    if named not in lanes:
        raise ReviewRefused(
            f"{named!r} is no lane of this task's chain", mend=f"name one of {', '.join(lanes) or 'none'}"
        )
    sights = Sights(desk.client.store)
    away = unavailable(desk.settings, sights.lanes(), sights.watched_s())
    if named in away:
        raise ReviewRefused(f"lane {named!r} cannot take it: {away[named]}", mend="see `laneway lanes`")
    desk.do(sent_back(desk.record, desk.work, named, instruction), hard_nano=hard_nano)


@review.command("export")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False), help="The file to write; - is standard output."
)
@click.option("--type", "task_type", help="Of this task type only.")
@json_option
def export(out: str, task_type: str | None, as_json: bool) -> None:
    """Answered and approved tasks as golden cases, one JSON object a line.

    From tasks whose records still live: prompt or messages, type, and the expected answer.
    """
    if as_json and out == "-":
        raise click.UsageError("--json and --out - would both write to standard output")
    cases = (case for case in golden(connect(load())) if task_type in (None, case["type"]))
    if out == "-":
        for case in cases:
            click.echo(json.dumps(case))
        return
    count = 0
    unfinished = Path(f"{out}.part")
    with unfinished.open("w", encoding="utf-8") as file:
        for case in cases:
            file.write(json.dumps(case) + "\n")
            count += 1
    unfinished.replace(out)
    if as_json:
        emit({"out": out, "cases": count})
    else:
        say(f"{count} cases in {out}")


def golden(store: Store) -> Iterator[dict[str, Any]]:
    """The oldest first."""
    for record in _paged(store, "succeeded", store.parked.reviewed()):
        if record.outcome and record.outcome.lane == HUMAN:
            yield _case(record)


def _case(record: Record) -> dict[str, Any]:
    messages = [dict(message) for message in record.task.messages]
    only = messages[0] if len(messages) == 1 else {}
    asked: dict[str, Any] = (
        {"prompt": only["content"]}
        if only.get("role") == "user" and isinstance(only.get("content"), str)
        else {"messages": messages}
    )
    expected = record.outcome.output if record.outcome else None
    return asked | {"type": record.progress.task_type, "expected": expected}
